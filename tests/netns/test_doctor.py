"""A router that works is broken in every way that people break them, and `wccpctl doctor` must name the cause.

Each way first sees the router healthy, so that a finding that is always there would not do. What only a GRE device can
show is in tests/lab; BGP's part is at the end.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.support.counted_network import FIRST, SECOND, SERVER
from tests.support.daemon import wait_for
from tests.support.redirect_stage import Stage, again_and_again, ask, redirect_stage
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags
from wccpd.wire.masks import Mask

pytestmark = pytest.mark.netns

PASSWORD = b"sesame"
CONFIG = """\
router: {{id: 10.100.1.10}}
services:
  - service: 53
    password_file: wccp.password
    group_list: [10.100.1.0/28, 10.100.1.16/28]
    assignment: router
    match: {{protocol: udp, ports: [53], hash: [destination_ip], priority: 200}}
    forwarding: [l2]
    packet_return: [l2]
redirect: {{interfaces: [spokes], lease_seconds: 3}}
control: {{socket: {directory}/control.sock}}
state_directory: {directory}/state
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "wccp.password").write_bytes(PASSWORD)
    (tmp_path / "state").mkdir()
    # A file system of its own, small enough to be filled.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "wt-state", str(tmp_path / "state")],
        check=True,
        timeout=20,
    )
    try:
        with redirect_stage(tmp_path, CONFIG) as made:
            made.join(FIRST, password=PASSWORD)
            yield made
    finally:
        subprocess.run(["umount", str(tmp_path / "state")], check=True, timeout=20)


Findings = list[dict[str, Any]]


def broken(findings: Findings) -> Findings:
    return [each for each in findings if each["severity"] in {"fault", "warning"}]


def names(findings: Findings, cause: str) -> bool:
    """Whether what is wrong is said, with something to do about it."""
    return any(cause in each["measured"] and each["remedy"] for each in broken(findings))


@dataclass(frozen=True)
class Way:
    """How a router is broken, and what must be said of it."""

    breaking: Callable[[Stage], object]
    cause: str
    again: bool = False
    """The daemon repairs it within seconds: broken anew each time before the doctor is asked."""
    seconds: float = 20.0


def in_router(*commands: str) -> Callable[[Stage], object]:
    return lambda stage: [stage.router.run("sh", "-c", command) for command in commands]


def nft(rules: str) -> Callable[[Stage], object]:
    return lambda stage: stage.router.run("nft", rules)


def hello_of(**details: object) -> Callable[[Stage], object]:
    """A second cache says HERE_I_AM, and is or is not answered."""

    def speak(stage: Stage) -> None:
        cache = stage.cache(SECOND, **{"password": PASSWORD, **details})
        for _ in range(2):
            cache.send(cache.cache.here_i_am())

    return speak


def join_incompatibly(**details: object) -> Callable[[Stage], object]:
    return lambda stage: stage.join(SECOND, password=PASSWORD, **details)


def from_outside_the_list(stage: Stage) -> None:
    stage.caches.run("ip", "address", "add", "10.100.1.99/24", "dev", "eth0")
    cache = stage.cache(IPv4Address("10.100.1.99"), password=PASSWORD)
    cache.send(cache.cache.here_i_am())


def swallow(stage: Stage) -> None:
    """Packets reach the proxy, which has no interception and forwards nothing."""

    def questions() -> None:
        for number in range(40):
            ask(SERVER, 53, 30000 + number % 20)

    before = stage.counts()[0]
    stage.spoke.call(questions)
    wait_for(lambda: stage.counts()[0] >= before + 40, "all came to the cache")


def fill_the_disk(stage: Stage) -> None:
    with (stage.directory / "state" / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass


def fill_conntrack(stage: Stage) -> None:
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    if limit > 1 << 19:
        pytest.skip(f"net.netfilter.nf_conntrack_max is {limit}: it would take too long to fill")
    stage.router.call(lambda: track(limit * 4 // 5))


def track(count: int) -> None:
    """Make so many connections known to the kernel (nfnetlink_conntrack.h, IPCTNL_MSG_CT_NEW)."""
    import socket

    def attribute(kind: int, payload: bytes) -> bytes:
        length = 4 + len(payload)
        return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)

    def tuple_of(source: bytes, destination: bytes, ports: tuple[int, int]) -> bytes:
        addresses = attribute(1, source) + attribute(2, destination)
        layer4 = attribute(1, b"\x11") + b"".join(
            attribute(kind, struct.pack("!H", port)) for kind, port in zip((2, 3), ports, strict=True)
        )
        return attribute(0x8001, addresses) + attribute(0x8002, layer4)

    server = bytes([203, 0, 113, 1])
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        batch = b""
        for number in range(count):
            client = bytes([10, 1 + (number >> 16), number >> 8 & 0xFF, number & 0xFF])
            body = struct.pack("=BBH", socket.AF_INET, 0, 0)
            body += attribute(0x8001, tuple_of(client, server, (40000, 9)))
            body += attribute(0x8002, tuple_of(server, client, (9, 40000)))
            body += attribute(7, struct.pack("!I", 600))
            batch += struct.pack("=IHHII", 16 + len(body), 1 << 8, 0x1 | 0x400, number, 0) + body
            if len(batch) > 60000 or number == count - 1:
                sock.send(batch)
                batch = b""


def hang(stage: Stage) -> None:
    os.kill(stage.daemon.process.pid, signal.SIGSTOP)


def fall_silent(stage: Stage) -> None:
    """Nothing is done: the cache of the stage says nothing more."""


OTHER_PORTS = ServiceInfo.dynamic(
    53, 200, 17, ServiceFlags.DESTINATION_IP_HASH | ServiceFlags.PORTS_DEFINED, (53, 5353)
)
GRE = Capabilities(
    forwarding=ForwardingMethod.GRE, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.L2
)
BY_MASK = Capabilities(
    forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.MASK, packet_return=PacketReturnMethod.L2
)
A_MASK = Mask(IPv4Address(0x1741), IPv4Address(0), 0, 0)
DROP = "type filter hook {} priority 0; policy {};"

WAYS: dict[str, Way] = {
    "wrong password": Way(hello_of(password=b"guess"), "authentication_wrong"),
    "no password": Way(hello_of(password=None), "authentication_missing"),
    "not in the group list": Way(from_outside_the_list, "not_in_group_list"),
    "service defined differently": Way(hello_of(service=OTHER_PORTS), "definition_differs"),
    "unknown service": Way(
        hello_of(service=ServiceInfo.dynamic(99, 1, 17, ServiceFlags(0))), "unknown_service"
    ),
    "GRE asked for where L2 is offered": Way(
        join_incompatibly(capabilities=GRE), "it asks for forwarding GRE, this group offers L2"
    ),
    "mask asked for where hash is offered": Way(
        join_incompatibly(capabilities=BY_MASK, mask=A_MASK),
        "it asks for assignment mask, this group offers hash",
    ),
    "proxy silent": Way(fall_silent, "silent for", seconds=40),
    "missing interception on the proxy": Way(swallow, "it does not take L2 packets in"),
    "drained cache": Way(lambda stage: stage.wccpctl("drain", str(FIRST)), "every usable cache is drained"),
    "ip_forward": Way(in_router("sysctl -qw net.ipv4.ip_forward=0"), "net.ipv4.ip_forward is 0"),
    "rp_filter": Way(in_router("sysctl -qw net.ipv4.conf.farm.rp_filter=1"), "farm.rp_filter is 1 (strict)"),
    "MTU": Way(
        in_router("ip link set farm mtu 1400"), "packets up to 1500 bytes come in, 1400 fit through farm"
    ),
    "firewall route missing": Way(in_router("ip route del default"), "no default route"),
    "default route leads back": Way(
        in_router("ip route replace default via 10.1.0.10"), "leads out by spokes, where traffic comes in"
    ),
    "ingress device down": Way(in_router("ip link set spokes down"), "ingress device spokes is down"),
    "ingress device gone": Way(in_router("ip link del spokes"), "ingress device spokes is not there"),
    "foreign table drops": Way(
        nft(f"add table inet fw; add chain inet fw onward {{ {DROP.format('forward', 'drop')} }}"),
        "chain onward of table inet fw (forward, priority 0) drops packets",
    ),
    "foreign table drops what is invalid": Way(
        nft(
            f"add table ip fw; add chain ip fw onward {{ {DROP.format('forward', 'accept')} }};"
            "add rule ip fw onward ct state invalid drop"
        ),
        "drops what is `ct state invalid`",
    ),
    "foreign table filters reverse paths": Way(
        nft(
            "add table inet raw; add chain inet raw pre { type filter hook prerouting priority -300; };"
            "add rule inet raw pre fib saddr . iif oif missing drop"
        ),
        "whose source is not routed back",
    ),
    "foreign table marks": Way(
        nft(
            "add table ip m; add chain ip m pre { type filter hook prerouting priority -100; };"
            "add rule ip m pre iifname spokes meta mark set 0x1"
        ),
        "of the packet mark, which are ours",
    ),
    "foreign table marks connections": Way(
        nft(
            "add table ip m; add chain ip m pre { type filter hook prerouting priority -200; };"
            "add rule ip m pre ct mark set 0x100"
        ),
        "of the connection mark, which are ours",
    ),
    "local firewall": Way(
        nft(
            f"add table inet fw; add chain inet fw inp {{ {DROP.format('input', 'drop')} }};"
            "add rule inet fw inp iif lo accept; add rule inet fw inp tcp dport 22 accept"
        ),
        "may drop UDP port 2048, WCCP",
    ),
    "foreign ip rule": Way(
        in_router("ip rule add priority 100 fwmark 0x1/0xff lookup 99"),
        "ip rule 100 (from all with fwmark 0x1/0xff",
    ),
    "foreign ip rule for a network": Way(
        in_router("ip rule add priority 100 from 10.1.0.0/24 lookup 99"), "ip rule 100 (from 10.1.0.0/24"
    ),
    "lease lapsed": Way(in_router("nft flush map ip wccpd lease"), "the lease is not running", again=True),
    "our table deleted": Way(in_router("nft delete table ip wccpd"), "somebody changed our objects"),
    "our rule deleted": Way(in_router("ip rule del priority 18801"), "add rule 18801"),
    "disk full": Way(fill_the_disk, "the disk is full"),
    "conntrack full": Way(fill_conntrack, "connections tracked"),
    "daemon dead": Way(lambda stage: stage.daemon.stop(signal.SIGKILL), "wccpd is not running"),
    "daemon hangs": Way(hang, "wccpd did not answer"),
}


def test_a_router_that_works_has_nothing_wrong_and_the_doctor_is_quick(stage: Stage) -> None:
    started = time.monotonic()
    found = stage.doctor()
    assert time.monotonic() - started < 5, "far more than it takes, but not to be hung on"
    # The machine's clock is not the router's fault.
    assert [each for each in broken(found) if each["check"] != "clock"] == []
    assert {"forwarding", "rp_filter", "modules", "mtu", "default route", "nftables", "ip rules", "udp 2048",
            "conntrack", "clock", "disk", "ena", "source/destination check", "data plane", "service 53",
            "addresses", "devices"} <= {each["check"] for each in found}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_cause_is_named(stage: Stage, name: str) -> None:
    way = WAYS[name]
    assert not names(stage.doctor(), way.cause), "a healthy router has it, too"

    def named() -> bool:
        return names(stage.doctor(), way.cause)

    try:
        with again_and_again(lambda: way.breaking(stage)) if way.again else nullcontext(way.breaking(stage)):
            wait_for(named, f"named, instead of {broken(stage.doctor())}", seconds=way.seconds)
    finally:
        if stage.daemon.process.poll() is None:
            stage.daemon.process.send_signal(signal.SIGCONT)


def test_the_exit_code_says_how_bad_it_is(stage: Stage) -> None:
    stage.router.run("ip", "link", "set", "farm", "mtu", "1400")
    assert stage.wccpctl("doctor").returncode == 4
    stage.router.run("ip", "route", "del", "default")
    done = stage.wccpctl("doctor")
    assert done.returncode == 1
    assert done.stdout.startswith("FAULT    default route: ")
    assert "remedy: ip route add default via FIREWALL" in done.stdout
    assert "as it should be" in done.stdout.splitlines()[-1]


def test_without_daemon_and_configuration_nothing_is_examined(stage: Stage) -> None:
    stage.daemon.stop(signal.SIGKILL)
    done = stage.wccpctl("doctor", "--config", "/nonexistent/wccpd.yaml")
    assert done.returncode == 3
    assert "wccpd is not running" in done.stderr
