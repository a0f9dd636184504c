"""The two commands as a shell sees them: output, exit codes, and what they must not import."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import config
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

    def run(settings: config.Config, path: Path, text: str) -> int:
        calls.append(("run", settings, path, text))
        return 7

    def cleanup(settings: config.Config) -> int:
        calls.append(("cleanup", settings))
        return 0

    fake.run, fake.cleanup = run, cleanup  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wccpd.daemon.app", fake)
    monkeypatch.setattr("wccpd.daemon.app", fake, raising=False)
    return calls


def test_check_says_ok_in_one_line() -> None:
    result = shell.invoke(cli.app, ["check", str(EXAMPLE)])
    assert result.exit_code == ExitCode.OK
    assert result.output == (
        f"{EXAMPLE}: ok: router 10.100.1.10; services: web-cache; tunnels: tgw-a; BGP: AS 65010 to AS 64512\n"
    )


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
    assert daemon == [("run", config.load(EXAMPLE), EXAMPLE.absolute(), EXAMPLE.read_text())]


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
