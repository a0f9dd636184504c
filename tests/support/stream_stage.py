"""A router with caches by L2 and a stream of packets through one service; each packet is counted where it arrives.

    spoke 10.1.0.10 --- 10.1.0.1 router 10.100.1.10 --- .21, .22 caches (they answer whatever they get)
                                 router 10.9.0.1 ------ 10.9.0.2 far, the way past the caches

A stream of UDP packets goes through a service of UDP port 53. Each arrives at a cache, at `far`, or nowhere; the
network counts all of them.
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

from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

ROUTER_ID = IPv4Address("10.100.1.10")
FIRST, SECOND = IPv4Address("10.100.1.21"), IPv4Address("10.100.1.22")
DNS = ServiceInfo.dynamic(53, 200, 17, ServiceFlags.SOURCE_PORT_HASH | ServiceFlags.PORTS_DEFINED, (53,))
L2 = Capabilities(
    forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.L2
)
SERVER = "203.0.113.10"
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

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()


class Stage:
    """The namespaces and what runs in them."""

    def __init__(
        self, spoke: Namespace, router: Namespace, caches: Namespace, far: Namespace, directory: Path
    ) -> None:
        self.spoke, self.router, self.caches, self.far = spoke, router, caches, far
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

    def arrived(self, where: Namespace) -> int:
        """Packets of the stream that came to the caches, or to `far`."""
        listing = where.run("nft", "list", "counter", "ip", "count", "questions")
        return int(listing.split("packets ")[1].split()[0])

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
    with (
        Namespace("spoke") as spoke,
        Namespace("router") as router,
        Namespace("caches") as caches,
        Namespace("far") as far,
    ):
        spoke.connect("uplink", "10.1.0.10/24", router, "spokes", "10.1.0.1/24")
        router.connect("farm", f"{ROUTER_ID}/24", caches, "eth0", f"{FIRST}/24")
        router.connect("out", "10.9.0.1/24", far, "in", "10.9.0.2/24")
        caches.run("ip", "address", "add", f"{SECOND}/24", "dev", "eth0")
        spoke.run("ip", "route", "add", "default", "via", "10.1.0.1")
        router.run("ip", "route", "add", "default", "via", "10.9.0.2")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for where in (caches, far):
            where.run(
                "nft",
                "add table ip count; add counter ip count questions; "
                "add chain ip count pre { type filter hook prerouting priority -300; };"
                f"add rule ip count pre ip daddr {SERVER} udp dport 53 counter name questions",
            )
        made = Stage(spoke, router, caches, far, directory)
        try:
            yield made
        finally:
            made.close()


def redirected_all(stage: Stage, stream: Stream) -> bool:
    """Whether what is sent now comes to the caches, and to nobody else."""
    sent, there, past = stream.sent, stage.arrived(stage.caches), stage.arrived(stage.far)
    wait_for(lambda: stream.sent >= sent + 25, "the stream flows")
    return stage.arrived(stage.far) == past and stage.arrived(stage.caches) > there


def settled(stage: Stage, stream: Stream) -> tuple[int, int, int]:
    """Sent, at the caches, past them; after the stream has ended and everything has arrived."""
    stream.stop()
    time.sleep(0.2)
    return stream.sent, stage.arrived(stage.caches), stage.arrived(stage.far)
