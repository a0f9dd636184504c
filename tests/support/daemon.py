"""A wccpd process in a namespace, and caches that talk to it over a real network."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.protocol.outputs import Send
from wccpd.status.client import UnreachableError, fetch

WCCP_PORT = 2048


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20.0) -> Any:
    """Poll until the condition is true; fail with `what` when it never is."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Daemon:
    """One run of `wccpd run`."""

    def __init__(self, namespace: Namespace, config: Path) -> None:
        self._log = config.with_suffix(".log")
        self.socket_path = config.with_name("control.sock")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    namespace.name,
                    sys.executable,
                    "-m",
                    "wccpd",
                    "run",
                    "--config",
                    str(config),
                ],
                stderr=log,
                stdout=log,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )

    def ready(self, seconds: float = 20.0) -> Daemon:
        wait_for(lambda: self._alive() and self.try_status(), "the control socket answers", seconds)
        return self

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"wccpd ended: {self._log.read_text()}"
        return True

    def try_status(self) -> dict[str, Any] | None:
        try:
            return dict(fetch(self.socket_path, "/v1/status"))  # type: ignore[call-overload]
        except UnreachableError:
            return None

    def status(self) -> dict[str, Any]:
        status = self.try_status()
        assert status is not None, self._log.read_text()
        return status

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def log_text(self) -> str:
        return self._log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log() if entry["event"] == name]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


class NetworkCache:
    """A scripted cache with a socket in a namespace."""

    def __init__(self, namespace: Namespace, cache: ScriptedCache) -> None:
        self.cache = cache
        self._socket = namespace.call(self._open)

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((str(self.cache.address), WCCP_PORT))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        sock.settimeout(2)
        return sock

    def send(self, datagram: bytes, router: IPv4Address | None = None) -> None:
        self._socket.sendto(datagram, (str(router or self.cache.router_address), WCCP_PORT))

    def hello(self) -> None:
        """One HERE_I_AM and its answer, which must come from the address that was asked."""
        self.send(self.cache.here_i_am())
        datagram, (source, port) = self._socket.recvfrom(65535)
        assert (source, port) == (str(self.cache.router_address), WCCP_PORT)
        self.cache.hear(Send(datagram, self.cache.router_address, self.cache.address, WCCP_PORT))

    def join(self) -> None:
        self.hello()
        self.hello()

    def close(self) -> None:
        self._socket.close()
