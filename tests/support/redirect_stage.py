"""A router whose caches are reached by L2, with a spoke and a way past the caches; and `wccpctl` beside it.

    spoke 10.1.0.10 --- 10.1.0.1 router 10.100.1.10 --- .21, .22 caches
                                 router 10.9.0.1 ------ 10.9.0.2 far, the way past the caches

Counters in the caches' and in the far namespace tell where packets to UDP ports 53 and 54 came out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

ROUTER_ID = IPv4Address("10.100.1.10")
FIRST, SECOND = IPv4Address("10.100.1.21"), IPv4Address("10.100.1.22")
SPOKE = "10.1.0.10"
SERVER = "203.0.113.10"
SOURCE_PORT = 49152
DNS = ServiceInfo.dynamic(53, 200, 17, ServiceFlags.DESTINATION_IP_HASH | ServiceFlags.PORTS_DEFINED, (53,))
L2 = Capabilities(
    forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.L2
)


@contextmanager
def again_and_again(damage: Callable[[], object]) -> Iterator[None]:
    """The damage is done all the time: the daemon repairs it within milliseconds of hearing of it."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            with suppress(AssertionError):  # what is not there at the moment cannot be damaged
                damage()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Stage:
    """The namespaces and what runs in them; `config` has `{directory}` for the test's own folder."""

    def __init__(self, namespaces: dict[str, Namespace], directory: Path, config: str) -> None:
        self.spoke, self.router = namespaces["spoke"], namespaces["router"]
        self.caches, self.far = namespaces["caches"], namespaces["far"]
        self.directory = directory
        self.config = directory / "wccpd.yaml"
        self.config.write_text(config.format(directory=directory))
        self.daemon = Daemon(self.router, self.config).ready()
        self.joined: list[NetworkCache] = []

    def cache(self, address: IPv4Address, **details: object) -> NetworkCache:
        """A cache of service 53 that has said nothing yet."""
        made = {"router_address": ROUTER_ID, "service": DNS, "capabilities": L2, **details}
        self.joined.append(NetworkCache(self.caches, ScriptedCache(address=address, **made)))  # type: ignore[arg-type]
        return self.joined[-1]

    def join(self, *addresses: IPv4Address, **details: object) -> None:
        for address in addresses:
            self.cache(address, **details).join()

    def wccpctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it in the router's namespace, as an operator on the router does."""
        command = ["ip", "netns", "exec", self.router.name, sys.executable, "-c"]
        command += ["from wccpd.ctl import main; main()", "--socket", str(self.directory / "control.sock")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    def explain(self, *words: str) -> dict[str, Any]:
        """The answer of `wccpctl explain` about a flow of the spoke's."""
        done = self.wccpctl("explain", SPOKE, *words, "-o", "json")
        assert done.returncode in {0, 1}, done.stderr
        return dict(json.loads(done.stdout))

    def doctor(self) -> list[dict[str, Any]]:
        """The findings of `wccpctl doctor`."""
        done = self.wccpctl("doctor", "-o", "json", "--config", str(self.config))
        assert done.stdout, done.stderr
        return list(json.loads(done.stdout)["findings"])

    def counts(self) -> tuple[int, int]:
        """Questions that came to the caches, and past them."""
        counter = ("nft", "list", "counter", "ip", "count", "questions")
        listings = [where.run(*counter) for where in (self.caches, self.far)]
        there, past = (int(listing.split("packets ")[1].split()[0]) for listing in listings)
        return there, past

    def send(self, server: str, port: int, source_port: int = SOURCE_PORT) -> str:
        """Send one packet, and say where it came out."""
        before = self.counts()
        self.spoke.call(lambda: ask(server, port, source_port))
        try:
            wait_for(lambda: self.counts() != before, "it comes out", seconds=0.5)
        except AssertionError:
            return "dropped"
        after = self.counts()
        return "redirected" if after[0] > before[0] else "forwarded"

    def close(self) -> None:
        for cache in self.joined:
            cache.close()
        self.daemon.stop(signal.SIGKILL)


def ask(server: str, port: int, source_port: int) -> None:
    """One UDP packet from the namespace that this runs in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((SPOKE, source_port))
        sock.sendto(b"question", (server, port))


@contextmanager
def redirect_stage(directory: Path, config: str) -> Iterator[Stage]:
    """Make the network, start the daemon; take all of it away afterwards."""
    with (
        Namespace("spoke") as spoke,
        Namespace("router") as router,
        Namespace("caches") as caches,
        Namespace("far") as far,
    ):
        spoke.connect("uplink", f"{SPOKE}/24", router, "spokes", "10.1.0.1/24")
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
                f"add rule ip count pre ip saddr {SPOKE} udp dport 53-54 counter name questions",
            )
        made = Stage({"spoke": spoke, "router": router, "caches": caches, "far": far}, directory, config)
        try:
            yield made
        finally:
            made.close()
