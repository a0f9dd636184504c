"""The two commands as a shell sees them: output, exit codes, and what they must not import."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import config
from config.reference import settings
from config.schema import schema
from wccpd import __version__, cli, ctl
from wccpd.exit_codes import ExitCode

EXAMPLE = Path(config.__file__).parent / "examples" / "one-router.yaml"
HEAVY = {"grpc", "pyroute2", "aiohttp", "pydantic", "yaml", "nftables", "rich", "asyncio", "wccpd.daemon.app"}

shell = CliRunner()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text("router:\n  id: 10.100.1.10\nservces: []\n")
    return path


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Stands in for the daemon and notes how it was called."""
    calls: list[tuple[object, ...]] = []
    fake = types.ModuleType("wccpd.daemon.app")

    def run(settings: config.Config, path: Path, text: str, warnings: tuple[str, ...]) -> int:
        calls.append(("run", settings, path, text, warnings))
        return 7

    def cleanup(settings: config.Config) -> int:
        calls.append(("cleanup", settings))
        return 0

    fake.run, fake.cleanup = run, cleanup  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wccpd.daemon.app", fake)
    monkeypatch.setattr("wccpd.daemon.app", fake, raising=False)
    return calls


def test_check_says_in_a_few_lines_what_a_file_means_and_what_to_look_at_again() -> None:
    result = shell.invoke(cli.app, ["check", str(EXAMPLE)])
    assert result.exit_code == ExitCode.OK
    assert result.stdout == (
        f"""\
{EXAMPLE}: ok, with 1 warning
  router    10.100.1.10
  tunnel    wccp-tgw-a: 10.100.1.10 to 10.99.0.1, inside 169.254.6.1/29, MTU 8476
  BGP       AS 65010 to AS 64512, 2 sessions (169.254.6.2, 169.254.6.3); advertises 0.0.0.0/0, \
advertise_when: forwarding
  service   web-cache: TCP port 80; mode open: forwarded uninspected while no cache can have it
              joined by caches of 10.100.1.0/24 without a password
              offers forwarding gre, return gre, assignment hash by the caches, else by the router
  redirect  netlink, what comes in through wccp-tgw-a
"""
    )
    assert result.stderr == (
        f"{EXAMPLE}:20:17: warning: services[0].group_list: without a password any host in group_list can pass as a "
        "cache and is sent the traffic; add password_file, here and in the proxies\n"
    )


def test_check_says_of_every_kind_of_setting_what_it_means(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        """\
router: {id: 10.100.1.10, addresses: [10.100.2.10], zone: a}
redirect: {interfaces: [ens6, ens7], never: [10.0.0.0/8], dataplane: auto}
services:
  - {service: 80, password_environment: WCCP_TEST_NOT_SET}
  - service: 90
    group_list: [10.100.1.0/24]
    mode: reject
    match: {protocol: udp, ports: [53, 123], ports_are: source}
    forwarding: [gre, l2]
    assignment: router
    redirect_list: [{action: permit}]
  - {service: 91, group_list: [10.100.1.0/24], mode: closed, match: {protocol: any}}
  - {service: 92, group_list: [10.100.1.0/24], match: {protocol: 47}}
"""
    )
    lines = shell.invoke(cli.app, ["check", str(path)]).stdout.splitlines()
    assert lines[1:] == [
        "  router    10.100.1.10, also 10.100.2.10, zone a",
        "  service   80: whatever its first cache says; mode open: forwarded uninspected while no cache can have it",
        "              joined by all caches that know the password",
        "              offers forwarding gre, return gre, assignment hash by the caches, else by the router",
        "  service   90: UDP source ports 53, 123; "
        "mode reject: refused with a reset or ICMP while no cache can have it",
        "              joined by caches of 10.100.1.0/24 without a password",
        "              offers forwarding gre, l2, return gre, assignment hash by the router",
        "              redirect list of 1 line; what none matches is not redirected",
        "  service   91: every protocol; mode closed: dropped while no cache can have it",
        "              joined by caches of 10.100.1.0/24 without a password",
        "              offers forwarding gre, return gre, assignment hash by the caches, else by the router",
        "  service   92: all protocol 47; mode open: forwarded uninspected while no cache can have it",
        "              joined by caches of 10.100.1.0/24 without a password",
        "              offers forwarding gre, return gre, assignment hash by the caches, else by the router",
        "  redirect  auto, what comes in through ens6, ens7, never what goes to 10.0.0.0/8",
    ]


PROBLEM_KEYS = ["file", "line", "column", "key", "message", "found", "expected", "hint"]


def test_check_as_json_has_the_settings_of_a_good_file_with_all_defaults() -> None:
    result = shell.invoke(cli.app, ["check", str(EXAMPLE), "-o", "json"])
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (ExitCode.OK, "")
    assert list(document) == ["version", "file", "usable", "problems", "warnings", "settings"]
    assert (document["version"], document["file"], document["usable"]) == (1, str(EXAMPLE), True)
    assert document["problems"] == []
    assert [list(each) for each in document["warnings"]] == [PROBLEM_KEYS]
    assert document["settings"] == config.redacted(config.load(EXAMPLE))


def test_check_as_json_has_every_problem_of_a_bad_file_and_ends_with_2(broken: Path) -> None:
    broken.write_text(
        broken.read_text() + "services:\n  - {service: web-cache, mode: opne, group_list: [10.0.0.0/8]}\n"
    )
    result = shell.invoke(cli.app, ["check", str(broken), "-o", "json"])
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (ExitCode.CONFIG, "")
    assert (document["usable"], document["settings"], document["warnings"]) == (False, None, [])
    assert [list(each) for each in document["problems"]] == [PROBLEM_KEYS] * 2
    assert document["problems"][1] == {
        "file": str(broken),
        "line": 5,
        "column": 32,
        "key": "services[0].mode",
        "message": "must be one of the words allowed",
        "found": "'opne'",
        "expected": "open, closed, reject",
        "hint": "did you mean 'open'?",
    }


def test_run_hands_over_the_warnings_and_needs_every_password_that_check_and_cleanup_do_not_miss(
    tmp_path: Path, daemon: list[tuple[object, ...]]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(EXAMPLE.read_text() + "    password_environment: WCCP_TEST_NOT_SET\n")
    shell.invoke(cli.app, ["run", "-c", str(EXAMPLE)])
    ((_, _, _, _, warnings),) = daemon
    assert [each.partition(": ")[0] for each in warnings] == [f"{EXAMPLE}:20:17"]
    assert shell.invoke(cli.app, ["run", "-c", str(path)]).exit_code == ExitCode.CONFIG
    assert shell.invoke(cli.app, ["cleanup", "-c", str(path)]).exit_code == ExitCode.OK
    assert [call[0] for call in daemon] == ["run", "cleanup"]
    checked = shell.invoke(cli.app, ["check", str(path)])
    assert checked.exit_code == ExitCode.OK
    assert (
        "warning: services[0].password_environment: not checked: this environment variable is not set"
        in checked.stderr
    )


def test_explain_config_tells_all_about_one_key() -> None:
    result = shell.invoke(cli.app, ["explain-config", "bgp.hold_time_seconds"])
    assert (result.exit_code, result.stdout) == (
        ExitCode.OK,
        """\
bgp.hold_time_seconds
  whole number, 3 to 65535, in seconds
  default: 30

  BGP hold time: how long a dead path may go unnoticed. The lower of both sides' counts,
  and the Transit Gateway offers 30. At least three keepalives.

  Example:
    bgp:
      hold_time_seconds: 30
""",
    )


def test_explain_config_takes_the_key_that_an_error_names() -> None:
    (first, *_) = shell.invoke(cli.app, ["explain-config", "services[0].mode"]).stdout.splitlines()
    assert first == "services.mode"


def test_explain_config_lists_the_keys_of_a_section_and_without_a_key_all() -> None:
    section = shell.invoke(cli.app, ["explain-config", "log"]).stdout.splitlines()
    assert section[0] == "log"
    assert section[-2:] == [
        "log.level   The least severe event that is logged",
        "log.format  How events are written",
    ]
    everything = shell.invoke(cli.app, ["explain-config"]).stdout.splitlines()
    assert [line.split()[0] for line in everything] == [each.key for each in settings()]


def test_explain_config_of_an_unknown_key_says_which_was_meant_and_ends_with_2() -> None:
    result = shell.invoke(cli.app, ["explain-config", "servces.mode"])
    assert (result.exit_code, result.stdout) == (ExitCode.CONFIG, "")
    assert result.stderr == "wccpd: there is no key 'servces.mode'\ndid you mean services.mode?\n"


def test_explain_config_as_json_is_a_list_with_stable_keys() -> None:
    (document,) = json.loads(shell.invoke(cli.app, ["explain-config", "services.mode", "-o", "json"]).stdout)
    assert list(document) == ["key", "accepts", "unit", "required", "default", "description", "example"]
    assert (document["accepts"], document["default"]) == ("one of open, closed, reject", "open")


def test_schema_prints_the_json_schema() -> None:
    assert json.loads(shell.invoke(cli.app, ["schema"]).stdout) == schema()


@pytest.mark.parametrize("command", [["check"], ["run", "--config"], ["cleanup", "--config"]])
def test_a_broken_file_ends_every_command_with_2_before_the_daemon_is_called(
    command: list[str], broken: Path, daemon: list[tuple[object, ...]]
) -> None:
    result = shell.invoke(cli.app, [*command, str(broken)])
    assert result.exit_code == ExitCode.CONFIG == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{broken}:3:1: servces: is not a known key")
    assert result.stderr.endswith("1 problem; nothing was changed\n")
    assert daemon == []


def test_run_hands_the_settings_and_the_file_to_the_daemon_and_returns_its_code(
    daemon: list[tuple[object, ...]],
) -> None:
    result = shell.invoke(cli.app, ["run", "--config", str(EXAMPLE)])
    assert result.exit_code == 7
    ((verb, settings, file, text, _),) = daemon
    assert (verb, settings, file) == ("run", config.load(EXAMPLE), EXAMPLE.absolute())
    assert text == EXAMPLE.read_text()


def test_cleanup_hands_the_settings_to_the_daemon(daemon: list[tuple[object, ...]]) -> None:
    result = shell.invoke(cli.app, ["cleanup", "--config", str(EXAMPLE)])
    assert result.exit_code == ExitCode.OK
    assert daemon == [("cleanup", config.load(EXAMPLE))]


def test_version_is_printed() -> None:
    assert shell.invoke(cli.app, ["version"]).output == f"wccpd {__version__}\n"


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    result = shell.invoke(cli.app, ["check", str(tmp_path / "none.yaml")])
    assert result.exit_code == ExitCode.CONFIG
    assert "none.yaml: cannot be read: no such file or directory" in result.stderr


@pytest.mark.parametrize("module", ["wccpd.cli", "wccpd.ctl"])
def test_help_imports_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module} as command\n"
        "try:\n    command.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Commands:" in done.stdout
    assert HEAVY & set(done.stderr.split()) == set()


def test_python_m_wccpd_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wccpd", "version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"wccpd {__version__}\n"


def test_wccpctl_asks_where_the_daemon_listens_by_default() -> None:
    assert config.Control().socket == ctl.application.DEFAULT_SOCKET


def test_wccpctl_without_a_daemon_ends_with_3_and_says_why(tmp_path: Path) -> None:
    result = shell.invoke(ctl.app, ["--socket", str(tmp_path / "none.sock"), "status"])
    assert result.exit_code == ExitCode.UNREACHABLE == 3
    assert result.stdout == ""
    assert result.stderr == f"wccpctl: wccpd is not running (no socket at {tmp_path / 'none.sock'})\n"


def test_wccpctl_takes_its_socket_from_the_environment(tmp_path: Path) -> None:
    path = str(tmp_path / "other.sock")
    result = shell.invoke(ctl.app, ["status"], env={"WCCPD_CONTROL_SOCKET": path})
    assert path in result.stderr
