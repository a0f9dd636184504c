"""What systemd is told."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from wccpd.daemon.notify import Notifier


def test_a_reload_begins_with_its_time_and_ends_with_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        fields = dict(line.split("=", 1) for line in systemd.recv(1000).decode().splitlines())
        assert fields.keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert fields["RELOADING"] == "1"
        assert before <= int(fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        notifier.send("READY=1")
        assert systemd.recv(1000) == b"READY=1"


def test_without_systemd_nothing_is_said() -> None:
    Notifier({}).reloading()
