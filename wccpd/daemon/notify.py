"""sd_notify(3): tell systemd that we are ready, alive, or stopping. Silent where systemd is not."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """The notification socket of this service, if there is one."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = dict(os.environ) if environment is None else environment
        path = env.get("NOTIFY_SOCKET", "")
        # A leading @ means the abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        microseconds = env.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdigit() else None
        """systemd's patience; None when it does not watch us."""

    def reloading(self) -> None:
        """Say that the configuration is read again; systemd waits for the next `READY=1`."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def send(self, *fields: str) -> None:
        """Send fields such as `READY=1`. Failing is not worth stopping for: systemd will notice by itself."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto("\n".join(fields).encode(), self._address)
            except OSError:
                return
