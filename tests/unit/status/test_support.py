"""The archive for whoever is to help: what is in it, and that no password is."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wccpd import ctl, support
from wccpd.exit_codes import ExitCode
from wccpd.status.control import ControlServer
from wccpd.status.events import EventLog
from wccpd.status.view import Status

SECRETS = ("s3cr3t-A", "s3cr3t-B")
CONFIG = """\
router:
  id: 10.100.1.10
services:
  - service: web-cache
    password_file: now
    previous_password_file: before
redirect:
  interfaces: [eth0]
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    for name, secret in zip(("now", "before"), SECRETS, strict=True):
        (tmp_path / name).write_text(secret + "\n")
    path = tmp_path / "wccpd.yaml"
    path.write_text(CONFIG)
    return path


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            found[Path(member.name).name] = content.read()
        return found


def test_no_password_is_in_it_although_a_command_and_a_file_say_them(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talkative = tmp_path / "talkative"
    talkative.write_text(f"digest of {SECRETS[0]} does not match\n")
    monkeypatch.setitem(support.FILES, "talkative.txt", str(talkative))
    monkeypatch.setitem(support.COMMANDS, "command.txt", ("echo", *SECRETS))
    archive = tmp_path / "made.tar.gz"
    shown = CliRunner().invoke(
        ctl.app,
        [
            "--socket",
            str(tmp_path / "none"),
            "tech-support",
            "-f",
            str(archive),
            "--config",
            str(config_file),
        ],
    )
    assert shown.exit_code == ExitCode.OK, shown.output
    parts = read(archive)
    assert parts["talkative.txt"] == b"digest of [hidden] does not match\n"
    assert parts["command.txt"].endswith(b"\n[hidden] [hidden]\n")
    for name, content in parts.items():
        assert not [secret for secret in SECRETS if secret.encode() in content], name
    assert json.loads(parts["config.json"])["services"][0]["service"] == "web-cache"
    assert archive.stat().st_mode & 0o777 == 0o600


async def test_what_the_daemon_knows_is_in_it(tmp_path: Path, healthy: Status) -> None:
    socket, archive = tmp_path / "control.sock", tmp_path / "made.tar.gz"
    events = EventLog("run")
    events.add("cache_usable", "info", "now", {"service": "web-cache"})

    async def newest() -> Status:
        return healthy

    async with ControlServer(newest, socket, events=events):
        shown = await asyncio.to_thread(
            CliRunner().invoke, ctl.app, ["--socket", str(socket), "tech-support", "-f", str(archive)]
        )
    assert shown.stdout == f"{archive}\n"
    parts = read(archive)
    assert json.loads(parts["status.json"])["inspecting"] is True
    assert json.loads(parts["events.json"])["events"][0]["event"] == "cache_usable"
    assert {"ip-route.txt", "ip-rule.txt", "nft-table.txt", "sysctl.txt", "versions.txt"} <= parts.keys()
    assert b"net.ipv4.ip_forward = " in parts["sysctl.txt"]
    assert b"pyroute2 " in parts["versions.txt"]


def test_what_cannot_be_had_is_said_and_keeps_nothing_else_back(tmp_path: Path) -> None:
    archive = tmp_path / "made.tar.gz"
    shown = CliRunner().invoke(
        ctl.app, ["--socket", str(tmp_path / "none"), "tech-support", "-f", str(archive)]
    )
    assert shown.exit_code == ExitCode.OK
    assert "status.json is not there: wccpd is not running" in shown.stderr
    assert "config.json is not there: the daemon does not say where it is" in shown.stderr
    assert read(archive)["os-release.txt"]


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(support, "COMMAND_SECONDS", 0.2)
    monkeypatch.setattr(support, "COMMANDS", {"hangs.txt": ("sleep", "20")})
    bundle = support.gather(tmp_path / "none")
    assert bundle.parts["hangs.txt"] == b"not there: sleep 20 took over 0.2 s\n"


def test_an_archive_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    archive = tmp_path / "made.tar.gz"
    archive.write_text("precious")
    shown = CliRunner().invoke(
        ctl.app, ["--socket", str(tmp_path / "none"), "tech-support", "-f", str(archive)]
    )
    assert (shown.exit_code, archive.read_text()) == (ExitCode.FAILURE, "precious")
    assert "file exists" in shown.stderr
