"""The systemd units: systemd itself accepts them, and they keep the promises that other parts rely on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
from wccpd.cli import DEFAULT_CONFIG
from wccpd.ctl import app
from wccpd.ctl.application import COMMAND_SECONDS
from wccpd.exit_codes import ExitCode

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = ("wccpd.service", "gobgpd-wccpd.service", "wccpd-guard.service")


def settings_of(name: str) -> dict[str, list[str]]:
    """Every `Key=value` of a unit, in order."""
    settings: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units_without_a_warning(tmp_path: Path) -> None:
    for name in NAMES:
        text = (UNITS / name).read_text()
        here = text.replace("/opt/wccpd/bin/python", sys.executable)
        here = here.replace("/opt/wccpd/bin/wccpctl", "/bin/true").replace("/usr/bin/gobgpd", "/bin/true")
        (tmp_path / name).write_text(here)
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=yes",
            *(str(tmp_path / name) for name in NAMES),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "wccpd" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(("name", "most"), [(NAMES[0], 35), (NAMES[1], 30), (NAMES[2], 30)])
def test_systemd_finds_little_exposed(name: str, most: int) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={most}", str(UNITS / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


def test_wccpd_is_run_isolated_with_the_default_configuration() -> None:
    (command,) = settings_of("wccpd.service")["ExecStart"]
    assert command.split()[1:] == ["-I", "-m", "wccpd", "run", "--config", str(DEFAULT_CONFIG)]


def test_a_reload_waits_for_the_daemons_answer_and_no_longer_than_the_command_does() -> None:
    settings = settings_of("wccpd.service")
    (reload,) = settings["ExecReload"]
    program, verb = reload.split()
    (start,) = settings["ExecStart"]
    assert Path(program) == Path(start.split()[0]).with_name("wccpctl")
    assert verb in {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    assert float(settings["TimeoutStartSec"][0]) >= COMMAND_SECONDS


def test_wccpd_is_restarted_unless_its_configuration_is_broken() -> None:
    settings = settings_of("wccpd.service")
    assert settings["Restart"] == ["always"]
    assert settings["RestartPreventExitStatus"] == [str(int(ExitCode.CONFIG))]
    assert settings["Type"] == ["notify"]
    assert int(settings["WatchdogSec"][0]) > 0


def test_wccpd_may_do_what_it_must_and_no_more() -> None:
    settings = settings_of("wccpd.service")
    assert settings["CapabilityBoundingSet"] == [
        "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_BPF CAP_PERFMON"
    ]
    assert "AF_NETLINK" in settings["RestrictAddressFamilies"][0].split()
    assert settings["ProtectKernelTunables"] == ["no"]
    assert "PrivateNetwork" not in settings


def test_the_guard_is_up_before_any_interface_and_after_what_flushes_the_ruleset() -> None:
    settings = settings_of("wccpd-guard.service")
    assert settings["ExecStart"][0].split()[1:] == ["-I", "-m", "wccpd", "guard", str(DEFAULT_CONFIG)]
    assert "network-pre.target" in settings["Before"][0].split()
    assert settings["After"] == ["nftables.service"]
    assert settings["DefaultDependencies"] == ["no"]
    assert settings["RemainAfterExit"] == ["yes"]
    for relation in ("Wants", "After"):
        assert "wccpd-guard.service" in settings_of("wccpd.service")[relation][0].split()


def test_gobgpd_offers_its_api_on_the_configured_unix_socket_only() -> None:
    settings = settings_of("gobgpd-wccpd.service")
    socket = config.Bgp(asn=65010, peer_asn=64512).gobgp_socket
    command = settings["ExecStart"][0].split()
    assert command[command.index("--api-hosts") + 1] == f"unix://{socket}"
    assert "--pprof-disable" in command
    assert settings["ExecStartPre"] == [f"/bin/rm -f {socket}"]


def test_directories_of_both_units_hold_the_default_paths_and_survive_each_other() -> None:
    for name in NAMES[:2]:
        settings = settings_of(name)
        assert settings["RuntimeDirectory"] == [config.Control().socket.parent.name]
        assert settings["RuntimeDirectoryPreserve"] == ["yes"]
    state = config.load(Path(config.__file__).parent / "examples" / "one-router.yaml").state_directory
    assert Path("/var/lib", *settings_of("wccpd.service")["StateDirectory"]) == state
