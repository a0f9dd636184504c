"""A stream of packets through one service of a running daemon, in tests/support/counted_network.py's network.

The stream goes through a service of UDP port 53, and the caches answer whatever they get. Each of its packets arrives
at a cache, at `far`, or nowhere.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from tests.support.counted_network import L2, ROUTER_ID, SERVER, CountedNetwork, arrived, counted_network
from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ServiceFlags

DNS = ServiceInfo.dynamic(53, 200, 17, ServiceFlags.SOURCE_PORT_HASH | ServiceFlags.PORTS_DEFINED, (53,))
CONFIG = """\
router: {{id: 10.100.1.10}}
services:
  - service: 53
    group_list: [10.100.1.0/24]
    assignment: router
    mode: {mode}
    match: {{protocol: udp, ports: [53], hash: [source_port]}}
    forwarding: [l2]
    packet_return: [l2]
redirect: {{interfaces: [spokes], lease_seconds: {lease_seconds}}}
control: {{socket: {directory}/control.sock}}
state_directory: {directory}/state
"""


class Stream:
    """Packets from many flows, one every few milliseconds, until it is stopped."""

    def __init__(self, spoke: Namespace) -> None:
        self.sent = 0
        self._over = threading.Event()
        self._sockets = spoke.call(
            lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.004):
            self._sockets[self.sent % len(self._sockets)].sendto(b"question", (SERVER, 53))
            self.sent += 1

    def go_on(self, packets: int = 200) -> None:
        """Return after so many more packets."""
        until = self.sent + packets
        wait_for(lambda: self.sent >= until, "the stream goes on")

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()


class Stage:
    """The namespaces and what runs in them."""

    def __init__(self, network: CountedNetwork, directory: Path) -> None:
        self.router, self.caches, self.far = network.router, network.caches, network.far
        self.spoke = network.spoke
        self.directory = directory
        self.daemons: list[Daemon] = []
        self.streams: list[Stream] = []
        self.joined: list[NetworkCache] = []

    def start(self, mode: str = "open", lease_seconds: int = 30, kernel: str = "") -> Daemon:
        config = self.configure(mode, lease_seconds, kernel)
        self.daemons.append(Daemon(self.router, config))
        return self.daemons[-1].ready()

    def configure(self, mode: str = "open", lease_seconds: int = 30, kernel: str = "") -> Path:
        """Write the configuration; `kernel` is its section of that name, `{...}`."""
        config = self.directory / "wccpd.yaml"
        text = CONFIG.format(directory=self.directory, mode=mode, lease_seconds=lease_seconds)
        config.write_text(text + (f"kernel: {kernel}\n" if kernel else ""))
        return config

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `wccpd` with these words in the router's namespace."""
        return subprocess.run(
            ["ip", "netns", "exec", self.router.name, sys.executable, "-m", "wccpd", *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def join(self, *addresses: IPv4Address) -> None:
        for address in addresses:
            scripted = ScriptedCache(address=address, router_address=ROUTER_ID, service=DNS, capabilities=L2)
            self.joined.append(NetworkCache(self.caches, scripted))
            self.joined[-1].join()

    def stream(self) -> Stream:
        self.streams.append(Stream(self.spoke))
        return self.streams[-1]

    def close(self) -> None:
        for stream in self.streams:
            stream.stop()
        for cache in self.joined:
            cache.close()
        for daemon in self.daemons:
            daemon.stop(signal.SIGKILL)


@contextmanager
def stream_stage(directory: Path) -> Iterator[Stage]:
    """Everything in namespaces of its own, without a daemon yet."""
    with counted_network() as network:
        made = Stage(network, directory)
        try:
            yield made
        finally:
            made.close()


def redirected_all(stage: Stage, stream: Stream) -> bool:
    """Whether what is sent now comes to the caches, and to nobody else."""
    there, past = arrived(stage.caches), arrived(stage.far)
    stream.go_on(25)
    return arrived(stage.far) == past and arrived(stage.caches) > there


def settled(stage: Stage, stream: Stream) -> tuple[int, int, int]:
    """Sent, at the caches, past them; after the stream has ended and everything has arrived."""
    stream.stop()
    time.sleep(0.2)
    return stream.sent, arrived(stage.caches), arrived(stage.far)
