"""What becomes of traffic while the daemon restarts, hangs, or is gone, with real packets over L2.

    spoke 10.1.0.10 --- 10.1.0.1 router 10.100.1.10 --- .21, .22 caches (they answer whatever they get)
                                 router 10.9.0.1 ------ 10.9.0.2 far, the way past the caches

A stream of UDP packets goes through a service of UDP port 53. Each arrives at a cache, at `far`, or nowhere; the
network counts all of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

pytestmark = pytest.mark.netns

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

    def start(self, mode: str = "open", lease_seconds: int = 30) -> Daemon:
        config = self.directory / "wccpd.yaml"
        config.write_text(CONFIG.format(directory=self.directory, mode=mode, lease_seconds=lease_seconds))
        self.daemons.append(Daemon(self.router, config))
        return self.daemons[-1].ready()

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


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
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
        made = Stage(spoke, router, caches, far, tmp_path)
        yield made
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


def test_a_daemon_that_is_killed_and_started_again_within_the_lease_loses_no_packet(stage: Stage) -> None:
    first = stage.start()
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    past_before = stage.arrived(stage.far)
    for _ in range(2):
        first.stop(signal.SIGKILL)
        first = stage.start()
        for cache in stage.joined:
            cache.hello()
    assert redirected_all(stage, stream)
    sent, there, past = settled(stage, stream)
    assert past == past_before, "nothing went past the caches"
    assert sent == there + past, "nothing was lost"


def test_a_daemon_that_hangs_longer_than_the_lease_leaves_the_kernel_in_mode_open(stage: Stage) -> None:
    daemon = stage.start(lease_seconds=3)
    stage.join(FIRST)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    stopped, past = time.monotonic(), stage.arrived(stage.far)
    wait_for(lambda: stage.arrived(stage.far) > past, "the kernel forwards by itself", seconds=10)
    assert time.monotonic() - stopped <= 3 + 1
    os.kill(daemon.process.pid, signal.SIGCONT)
    wait_for(lambda: redirected_all(stage, stream), "the daemon has renewed the lease")
    sent, there, past = settled(stage, stream)
    assert sent == there + past, "nothing was lost"


def test_a_closed_service_lets_nothing_past_whatever_happens_to_the_daemon(stage: Stage) -> None:
    stage.stream()
    wait_for(lambda: stage.arrived(stage.far), "without a daemon packets pass")
    daemon = stage.start("closed", lease_seconds=3)
    wait_for(lambda: daemon.status()["services"][0]["not_redirected"], "packets are dropped and counted")
    past = stage.arrived(stage.far)
    stage.join(FIRST)
    wait_for(lambda: stage.arrived(stage.caches), "the stream is redirected")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    there = -1
    while there != stage.arrived(stage.caches):  # the lease runs out
        there = stage.arrived(stage.caches)
        time.sleep(0.5)
    os.kill(daemon.process.pid, signal.SIGCONT)
    wait_for(lambda: stage.arrived(stage.caches) > there, "it is redirected again")
    daemon.stop(signal.SIGKILL)
    daemon = stage.start("closed", lease_seconds=3)
    assert daemon.stop(signal.SIGTERM) == 0
    time.sleep(0.5)
    assert stage.arrived(stage.far) == past


def test_a_cache_that_comes_takes_no_flow_of_another(stage: Stage) -> None:
    stage.start()
    stage.join(FIRST)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    wait_for(lambda: stream.sent > 100, "every flow is pinned")
    stage.join(SECOND)
    daemon = stage.daemons[-1]
    wait_for(
        lambda: (
            {cache["address"]: cache["buckets"] for cache in daemon.status()["caches"]}
            == {str(FIRST): 128, str(SECOND): 128}
        ),
        "both have half of the buckets",
    )
    before = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    wait_for(lambda: stream.sent > 300, "the stream flows on")
    after = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    assert after[str(SECOND)] == before[str(SECOND)] == 0
    assert after[str(FIRST)] > before[str(FIRST)]


def test_a_drained_cache_keeps_its_flows_gets_no_new_ones_and_stays_drained_over_a_restart(
    stage: Stage,
) -> None:
    daemon = stage.start()
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    wait_for(lambda: stream.sent > 100, "every flow is pinned")
    flows = command_line(stage, "drain", str(FIRST), "--wait", "--timeout", "0").stdout
    assert int(flows.splitlines()[1].split()[0]) > 0, "its flows live on"
    before = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    sent = stream.sent
    wait_for(lambda: stream.sent > sent + 60, "the old flows go on")
    after = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    assert after[str(FIRST)] > before[str(FIRST)]
    daemon.stop(signal.SIGKILL)
    daemon = stage.start()
    stage.stream()  # flows of its own
    assert [cache["draining"] for cache in daemon.status()["caches"]] == [True, False]
    wait_for(
        lambda: redirected_to(daemon, SECOND) > redirected_to(daemon, FIRST) + 50,
        "new flows go to the other cache",
    )
    assert command_line(stage, "undrain", str(FIRST)).returncode == 0
    assert [cache["draining"] for cache in daemon.status()["caches"]] == [False, False]
    assert "no cache 10.9.9.9" in command_line(stage, "drain", "10.9.9.9").stderr


def redirected_to(daemon: Daemon, address: IPv4Address) -> int:
    return sum(
        cache["packets_redirected"] for cache in daemon.status()["caches"] if cache["address"] == str(address)
    )


def command_line(stage: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `wccpctl`."""
    command = [sys.executable, "-c", "from wccpd.ctl import main; main()"]
    return subprocess.run(
        [*command, "--socket", str(stage.directory / "control.sock"), *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
