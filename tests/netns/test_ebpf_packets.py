"""The eBPF plane with packets that the contract has not: fragments, options, what is too big, what comes back.

The stage is that of the contract; see tests/contract/kernel_stage.py.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.contract.kernel_stage import (
    CACHE_MAC,
    PACKET_IGNORE_OUTGOING,
    PEER_MAC,
    ROUTER_MAC,
    SOL_PACKET,
    KernelStage,
    Network,
)
from tests.contract.stage import FARM, OUT, Place, answer_to, everything_to, fresh
from tests.contract.wires import (
    ACK,
    DONT_FRAGMENT,
    GRE,
    SYN,
    Details,
    Seen,
    checksum,
    craft,
    ethernet,
    ip_packet,
    mss_of,
    plain_gre,
    read_frame,
    wccp_gre,
)
from tests.support.namespaces import Namespace
from tests.support.plans import EVERYTHING, FIRST, INGRESS, NOBODY, ROUTER_ID, SECOND, hashed, plan, service
from wccpd.dataplane.ebpf.plane import EbpfDataPlane
from wccpd.plan.policy import KernelSettings
from wccpd.plan.redirect import UDP, Mode
from wccpd.plan.verdict import Count
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

pytestmark = pytest.mark.netns
MORE_FRAGMENTS = 0x2000
MTU = 1500
OUTER = 28
PACKET_VNET_HDR = 15
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Namespace("router") as router, Namespace("world") as world:
        made = Network(router, world)
        yield made
        made.close()


@pytest.fixture
def stage(network: Network) -> Iterator[KernelStage]:
    settings = KernelSettings(services=("60", "70", "80"))
    made = KernelStage(network, lambda: EbpfDataPlane(settings), ForwardingMethod.GRE)
    yield made
    made.remove()
    made.close()
    assert not any(made.objects().values())


def dropped(stage: KernelStage, reason: str) -> int:
    return stage.observe().counters.dropped.get(reason, Count()).packets


def from_the_spoke(stage: KernelStage, *packets: bytes) -> list[tuple[str, Seen]]:
    frames = [(INGRESS, ethernet(PEER_MAC[INGRESS], ROUTER_MAC[INGRESS], each)) for each in packets]
    return stage.network.exchange(frames)


def from_cache(stage: KernelStage, cache: IPv4Address, packet: bytes) -> list[tuple[str, Seen]]:
    return stage.network.exchange([(FARM, ethernet(CACHE_MAC[cache], ROUTER_MAC[FARM], packet))])


def fragments_of(packet: bytes, octets: int) -> tuple[bytes, bytes]:
    """Two fragments; the first has so many octets behind the header."""

    def part(body: bytes, field: int) -> bytes:
        header = packet[:2] + (20 + len(body)).to_bytes(2) + packet[4:6] + field.to_bytes(2) + packet[8:10]
        header += bytes(2) + packet[12:20]
        return header[:10] + checksum(header) + header[12:] + body

    body = packet[20:]
    return part(body[:octets], MORE_FRAGMENTS), part(body[octets:], octets // 8)


# --- fragments


def test_later_fragments_follow_the_first(stage: KernelStage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    first, second = fragments_of(craft(fresh(), 77, Details(payload=bytes(range(200)))), 64)
    seen = from_the_spoke(stage, first, second)
    inner = [carried[1] for _, each in seen if (carried := each.gre_payload) is not None]
    assert [each.body for each in inner] == [first[20:], second[20:]]
    assert {each.destination for _, each in seen} == {FIRST}


def test_a_later_fragment_alone_is_dropped_and_counted(stage: KernelStage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    _, second = fragments_of(craft(fresh(), 78, Details(payload=bytes(200))), 64)
    assert from_the_spoke(stage, second) == []
    assert dropped(stage, "stray-fragment") == 1


def test_fragments_that_no_service_takes_pass(stage: KernelStage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    for packet in (fresh(port=443), fresh(protocol=UDP)):
        seen = from_the_spoke(stage, *fragments_of(craft(packet, 79, Details(payload=bytes(200))), 64))
        assert [device for device, _ in seen] == [OUT, OUT]


# --- sizes


@pytest.mark.parametrize("fragmentable", [True, False])
def test_what_does_not_fit_is_answered_with_the_mtu_that_does(stage: KernelStage, fragmentable: bool) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    fits = Details(payload=bytes(MTU - OUTER - 40), fragmentable=False)
    assert stage.send_all([fresh()], fits)[0].cache == FIRST
    packet = craft(fresh(), 80, Details(payload=bytes(MTU - OUTER - 39), fragmentable=fragmentable))
    ((device, answer),) = from_the_spoke(stage, packet)
    assert (device, answer.source, answer.body[:2]) == (INGRESS, ROUTER_ID, b"\3\4")
    assert int.from_bytes(answer.body[6:8]) == MTU - OUTER
    assert checksum(answer.body) == bytes(2)
    assert answer.quoted.ip == packet[:28]
    assert dropped(stage, "too-big") == 1


def test_the_mss_is_lowered_both_ways(stage: KernelStage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    client = fresh()
    ((_, there),) = from_the_spoke(stage, craft(client, 81, Details(mss=1460)))
    assert there.gre_payload is not None
    inner = there.gre_payload[1]
    assert mss_of(inner) == MTU - OUTER - 40
    assert checksum(inner.ip[12:20] + b"\0\6" + len(inner.body).to_bytes(2) + inner.body) == bytes(2)
    answer = craft(answer_to(client, FARM), 82, Details(flags=SYN | ACK, mss=1460))
    ((device, back),) = from_cache(stage, FIRST, answer)
    assert (device, mss_of(back)) == (INGRESS, MTU - OUTER - 40)
    ((_, other),) = from_cache(
        stage, FIRST, craft(answer_to(fresh(port=443), FARM), 83, Details(flags=SYN | ACK, mss=1460))
    )
    assert mss_of(other) == 1460


# --- odd packets


def test_options_of_ip_travel_along(stage: KernelStage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    plain = craft(fresh(), 84)
    header = (
        b"\x46"
        + plain[1:2]
        + (len(plain) + 4).to_bytes(2)
        + plain[4:10]
        + bytes(2)
        + plain[12:20]
        + b"\1\1\1\0"
    )
    packet = header[:10] + checksum(header) + header[12:] + plain[20:]
    ((_, seen),) = from_the_spoke(stage, packet)
    assert seen.gre_payload is not None
    inner = seen.gre_payload[1]
    assert (inner.ip[20:24], inner.body) == (b"\1\1\1\0", plain[20:])
    assert checksum(inner.ip[:24]) == bytes(2)


# --- what comes back


def returning(stage: KernelStage, mode: Mode = Mode.CLOSED) -> None:
    made = everything_to(stage, "70", FIRST, mode=mode)
    returns = {FIRST: frozenset({PacketReturnMethod.GRE}), SECOND: frozenset({PacketReturnMethod.L2})}
    stage.bring_to(plan(made, returns=returns, ingress=(INGRESS, FARM)))


@pytest.mark.parametrize("kind", ["wccp", "plain", "wccp version 1"])
def test_what_a_cache_returns_by_gre_is_unpacked_and_routed_on(stage: KernelStage, kind: str) -> None:
    returning(stage)
    inner = craft(fresh(), 85, Details(payload=b"x" * 100))
    body = {
        "wccp": wccp_gre(0x01460000, inner),
        "plain": plain_gre(inner),
        "wccp version 1": b"\0\0\x88\x3e" + inner,
    }
    seen = from_cache(stage, FIRST, ip_packet(FIRST, ROUTER_ID, GRE, body[kind], fragment=DONT_FRAGMENT))
    ((device, back),) = seen
    assert (device, back.ttl, back.body) == (OUT, 63, inner[20:])
    assert stage.observe().counters.returned[FIRST] == Count(1, len(inner))


def test_gre_of_strangers_is_left_to_the_kernel(stage: KernelStage) -> None:
    returning(stage)
    inner = craft(fresh(), 86)
    for stranger in (SECOND, IPv4Address("10.2.0.99")):
        frame = ip_packet(stranger, ROUTER_ID, GRE, wccp_gre(0, inner))
        seen = stage.network.exchange([(FARM, ethernet(PEER_MAC[FARM], ROUTER_MAC[FARM], frame))])
        assert not [each for device, each in seen if device == OUT]
    assert stage.observe().counters.returned == {}


def test_gre_of_a_cache_with_nothing_useful_in_it_is_dropped_and_counted(stage: KernelStage) -> None:
    returning(stage)
    for body in (b"\0\0\x88\x3e" + bytes(30), b"\x20\0\x88\x3e" + bytes(40), b"\0\0\x65\x58" + bytes(40)):
        assert from_cache(stage, FIRST, ip_packet(FIRST, ROUTER_ID, GRE, body)) == []
    assert dropped(stage, "bad-return") == 3


# --- neighbours


def test_a_cache_whose_hardware_address_is_not_known_yet_is_asked_for(stage: KernelStage) -> None:
    router = stage.network.router
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    router.run("ip", "neigh", "del", str(FIRST), "dev", FARM)
    try:
        sent = craft(fresh(), 87)
        assert from_the_spoke(stage, sent) == []
        router.run("ip", "neigh", "replace", str(FIRST), "lladdr", CACHE_MAC[FIRST].hex(":"), "dev", FARM)
        assert stage.send(fresh()).place is Place.CACHE
    finally:
        router.run(
            "ip",
            "neigh",
            "replace",
            str(FIRST),
            "lladdr",
            CACHE_MAC[FIRST].hex(":"),
            "dev",
            FARM,
            "nud",
            "permanent",
        )


def test_a_slot_that_another_path_gets_takes_no_flows_along(stage: KernelStage) -> None:
    before = everything_to(stage, "70", FIRST)
    first = plan(before)
    stage.bring_to(first)
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    after = plan(everything_to(stage, "70", SECOND))
    (slot,) = first.slots.values()
    stage.bring_to(replace(after, slots=dict.fromkeys(after.slots, slot)))
    assert stage.send(flow).cache == SECOND


# --- super-packets


def test_a_super_packet_leaves_in_segments_that_fit_each_with_its_headers(stage: KernelStage) -> None:
    """As a driver that aggregates (GRO) hands it to us; the outgoing device cannot segment, so the kernel must."""
    router, world = stage.network.router, stage.network.world
    router.run("ip", "link", "set", FARM, "gso_max_size", "2000")  # longer ones the kernel cuts itself
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    data = bytes(number % 251 for number in range(4000))
    flow, segment = fresh(), 1400
    ip = craft(flow, 90, Details(flags=ACK, payload=data, fragmentable=False))
    pseudo = ip[12:20] + b"\0\6" + (len(ip) - 20).to_bytes(2)
    left_to_do = bytes(octet ^ 0xFF for octet in checksum(pseudo))
    ip = ip[:36] + left_to_do + ip[38:]
    frame = ethernet(PEER_MAC[INGRESS], ROUTER_MAC[INGRESS], ip)
    needs_checksum, tcp4 = 1, 1
    header = struct.pack("=BBHHHH", needs_checksum, tcp4, 54, segment, 34, 16)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.bind((INGRESS, 3))
            sock.send(header + frame)

    listener = world.call(lambda: _listener(FARM))
    world.call(send)
    received = [listener.recv(65536) for _ in range(3)]
    listener.close()
    carried = []
    for octets in received:
        flags, kind, _, _, begin, offset = struct.unpack_from("=BBHHHH", octets)
        # A device of this kind computes no checksums: it says where one is missing.
        assert (flags & needs_checksum, kind, begin, offset) == (needs_checksum, 0, 14 + OUTER + 20, 16)
        each = read_frame(octets[10:])
        assert each is not None
        assert len(each.ip) <= MTU
        assert checksum(each.ip[:20]) == bytes(2)
        assert each.destination == FIRST
        assert each.gre_payload is not None
        inner = each.gre_payload[1]
        assert inner.ttl == 63
        assert checksum(inner.ip[:20]) == bytes(2)
        body = inner.body[:16] + checksum(inner.body) + inner.body[18:]
        assert checksum(inner.ip[12:20] + b"\0\6" + len(body).to_bytes(2) + body) == bytes(2)
        carried.append(inner.body[20:])
    assert [len(each) for each in carried] == [1400, 1400, 1200]
    assert b"".join(carried) == data


def _listener(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.settimeout(10)
    sock.bind((device, 0x0800))
    return sock


# --- other kinds of devices


def test_packets_from_a_device_without_link_layer_are_redirected_and_answered(stage: KernelStage) -> None:
    router = stage.network.router

    def open_tun() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", b"tunnel", IFF_TUN | IFF_NO_PI))
        return fd

    fd = router.call(open_tun)
    try:
        router.run("sysctl", "-qw", "net.ipv6.conf.tunnel.disable_ipv6=1")
        router.run("ip", "link", "set", "tunnel", "up")
        redirecting = everything_to(stage, "70", FIRST)
        rejecting = service("80", assignment=hashed(NOBODY), match=EVERYTHING, mode=Mode.REJECT)
        stage.bring_to(plan(redirecting, rejecting, ingress=("tunnel",)))
        packet = craft(fresh(), 91)
        listener = stage.network.world.call(lambda: _listener(FARM))
        os.write(fd, packet)
        seen = read_frame(listener.recv(65536)[10:])
        listener.close()
        assert seen is not None
        assert seen.gre_payload is not None
        assert (seen.destination, seen.gre_payload[1].body) == (FIRST, packet[20:])
        os.write(fd, craft(fresh(port=443), 92))
        answer = Seen(b"", b"", os.read(fd, 2048))
        assert (answer.protocol, answer.body[13]) == (6, 0x14)  # RST and ACK
    finally:
        os.close(fd)


def test_tagged_packets_are_none_of_the_untagged_devices(stage: KernelStage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    frame = ethernet(PEER_MAC[INGRESS], ROUTER_MAC[INGRESS], craft(fresh(), 93))
    tagged = frame[:12] + b"\x81\x00\x00\x0a" + frame[12:]
    assert stage.network.exchange([(INGRESS, tagged)]) == []
    assert stage.observe().counters.outcomes == {}
    assert [device for device, _ in stage.network.exchange([(INGRESS, frame)])] == [FARM]
