"""How packets are carried to a cache and back: what it returns, segment sizes, what is too big, fragments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import pytest

from tests.contract.kernel_stage import (
    CACHE_MAC,
    NO_CACHE,
    PEER_MAC,
    ROUTER_MAC,
    KernelStage,
    fate_on_the_wires,
    frame_of,
    is_the_same,
)
from tests.contract.stage import FARM, NOWHERE, OUT, PASSED, Fate, answer_to, everything_to, fresh, redirected
from tests.contract.wires import (
    ACK,
    GRE,
    ICMP,
    PLAIN,
    SYN,
    Details,
    Seen,
    craft,
    ethernet,
    has_right_tcp_checksum,
    in_fragments,
    ip_packet,
    joined,
    mss_of,
    plain_gre,
    wccp_gre,
)
from tests.support.plans import (
    CACHES,
    EVERYTHING,
    FIRST,
    INGRESS,
    NOBODY,
    ROUTER_ID,
    SECOND,
    SPOKE,
    evenly,
    hashed,
    plan,
    service,
)
from wccpd.plan.decide import Packet
from wccpd.plan.hashes import HASH_FUNCTIONS
from wccpd.plan.redirect import TCP, UDP, HashFields, Mode
from wccpd.plan.verdict import Verdict
from wccpd.wire.enums import ForwardingMethod

WIRE_MTU_BYTES = 1500
FITTING_MTU_BYTES = WIRE_MTU_BYTES - 28
"""Less an IP header, the GRE header and the redirect header (draft 4.12.1)."""
FITTING_MSS = FITTING_MTU_BYTES - 40
WIRE_MSS = WIRE_MTU_BYTES - 40
HEADERS = [0x01460007, 0x00000000, 0x04000000, None]
"""With which a cache returns a packet: the one it came with, none (draft 4.13), one that says so; plain GRE."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A packet as it came out."""

    device: str
    mac: bytes
    """To whom the frame is."""
    header: int | None
    """The redirect header, where it came by GRE."""
    packet: Seen
    """Without its GRE clothes."""
    outer_bytes: int


def crafted(stage: KernelStage, packet: Packet, details: Details = PLAIN) -> Seen:
    return Seen(b"", b"", craft(packet, stage.network.new_identification(), details))


def in_gre(stage: KernelStage, cache: IPv4Address, inner: Seen, header: int | None) -> tuple[str, bytes]:
    """The frame in which a cache, or who takes himself for one, returns a packet."""
    body = plain_gre(inner.ip) if header is None else wccp_gre(header, inner.ip)
    outer = ip_packet(cache, ROUTER_ID, GRE, body, identification=stage.network.new_identification())
    return FARM, ethernet(CACHE_MAC.get(cache, PEER_MAC[FARM]), ROUTER_MAC[FARM], outer)


def all_carried(seen: Sequence[tuple[str, Seen]]) -> Iterator[Carried]:
    for device, each in seen:
        header, packet = each.gre_payload or (None, each)
        yield Carried(device, each.destination_mac, header, packet, len(each.ip))


def of(sent: Seen, seen: Sequence[tuple[str, Seen]]) -> list[Carried]:
    """What came out of a packet: itself, or its fragments."""
    return [each for each in all_carried(seen) if is_the_same(sent, each.packet)]


def errors_about(sent: Seen, seen: Sequence[tuple[str, Seen]]) -> list[tuple[Carried, int]]:
    """Every "fragmentation needed" about a packet, and the MTU that it tells (RFC 1191)."""
    return [
        (each, int.from_bytes(each.packet.body[6:8]))
        for each in all_carried(seen)
        if each.packet.protocol == ICMP
        and each.packet.body[:2] == bytes([3, 4])
        and is_the_same(sent, each.packet.quoted)
    ]


# --- returns


def returned(stage: KernelStage, cache: IPv4Address, packet: Packet, header: int | None) -> tuple[Fate, str]:
    """The fate of a packet that a cache gives back, and the device by which it left."""
    sent = crafted(stage, packet)
    seen = stage.network.exchange([in_gre(stage, cache, sent, header)])
    return fate_on_the_wires(packet, sent, seen), "".join(each.device for each in of(sent, seen))


def count_of_returned(stage: KernelStage, cache: IPv4Address) -> int:
    found = stage.observe().counters.returned.get(cache)
    return found.packets if found else 0


def test_what_a_usable_cache_returns_is_routed_on_counted_and_not_redirected_again(
    tunnelled: KernelStage,
) -> None:
    stage = tunnelled
    made = everything_to(stage, "70", FIRST, match=EVERYTHING, mode=Mode.CLOSED)
    stage.bring_to(plan(made, ingress=(INGRESS, FARM, OUT)))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    for number, header in enumerate(HEADERS):
        assert returned(stage, FIRST, flow, header) == (PASSED, OUT), header
        assert returned(stage, FIRST, answer_to(flow), header) == (PASSED, INGRESS), header
        assert count_of_returned(stage, FIRST) == 2 * number + 2


def test_what_strangers_and_caches_that_are_not_usable_return_goes_nowhere(tunnelled: KernelStage) -> None:
    stage = tunnelled
    made = everything_to(stage, "70", FIRST)
    stage.bring_to(plan(made))
    flow = fresh(port=443)
    for sender in (NO_CACHE, SECOND):
        for header in HEADERS:
            assert returned(stage, sender, flow, header) == (NOWHERE, ""), (sender, header)
    assert returned(stage, FIRST, flow, 0) == (PASSED, OUT)
    stage.bring_to(plan(replace(made, paths={}, assignment=hashed(NOBODY))))
    for header in HEADERS:
        assert returned(stage, FIRST, flow, header) == (NOWHERE, ""), header


def test_nobody_returns_packets_under_the_address_of_a_cache_that_is_elsewhere(
    tunnelled: KernelStage,
) -> None:
    stage = tunnelled
    stage.bring_to(plan(everything_to(stage, "70", FIRST, match=EVERYTHING, mode=Mode.CLOSED)))
    for header in HEADERS:
        forged = crafted(stage, fresh())
        _, frame = in_gre(stage, FIRST, forged, header)
        as_a_spoke = PEER_MAC[INGRESS], ROUTER_MAC[INGRESS], frame[14:]
        assert of(forged, stage.network.exchange([(INGRESS, ethernet(*as_a_spoke))])) == [], header
    assert count_of_returned(stage, FIRST) == 0


# --- segment sizes


def offered(
    stage: KernelStage, packet: Packet, details: Details, by: IPv4Address | None = None
) -> int | None:
    """The MSS with which a segment comes out, which its sender, or a cache by GRE, put in."""
    sent = crafted(stage, packet, details)
    frame = frame_of(packet, sent.ip) if by is None else in_gre(stage, by, sent, 0)
    (carried,) = of(sent, stage.network.exchange([frame]))
    assert has_right_tcp_checksum(carried.packet)
    return mss_of(carried.packet)


@pytest.mark.parametrize("affinity", [True, False], ids=["affinity", "no affinity"])
def test_the_segments_of_a_redirected_connection_fit_both_ways(
    tunnelled: KernelStage, affinity: bool
) -> None:
    stage = tunnelled
    stage.bring_to(plan(everything_to(stage, "70", FIRST, affinity=affinity)))
    flow = fresh()
    assert offered(stage, flow, Details(mss=WIRE_MSS)) == FITTING_MSS
    answer = Details(SYN | ACK, mss=WIRE_MSS)
    assert offered(stage, answer_to(flow), answer, by=FIRST) == FITTING_MSS
    by_itself = replace(answer_to(flow, FARM), sender=FIRST)
    assert offered(stage, by_itself, answer) == FITTING_MSS


def test_segments_that_fit_and_those_of_other_connections_are_left_alone(tunnelled: KernelStage) -> None:
    stage = tunnelled
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    small, other = fresh(), fresh(port=443)
    assert offered(stage, small, Details(mss=536)) == 536
    assert offered(stage, answer_to(small), Details(SYN | ACK, mss=536), by=FIRST) == 536
    assert offered(stage, other, Details(mss=WIRE_MSS)) == WIRE_MSS
    assert offered(stage, answer_to(other), Details(SYN | ACK, mss=WIRE_MSS)) == WIRE_MSS


def test_without_clamping_segments_are_left_alone(tunnelled: KernelStage) -> None:
    stage = tunnelled
    stage.bring_to(plan(everything_to(stage, "70", FIRST), clamp_mss=False))
    flow = fresh()
    assert offered(stage, flow, Details(mss=WIRE_MSS)) == WIRE_MSS
    assert offered(stage, answer_to(flow), Details(SYN | ACK, mss=WIRE_MSS), by=FIRST) == WIRE_MSS


# --- what is too big


def of_size(octets: int, protocol: int = TCP) -> Details:
    """What makes an unfragmentable packet so big."""
    return Details(ACK, payload=bytes(octets - (40 if protocol == TCP else 28)), fragmentable=False)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_the_sender_of_a_packet_that_is_too_big_is_told_what_fits(
    tunnelled: KernelStage, protocol: int
) -> None:
    stage = tunnelled
    stage.bring_to(plan(everything_to(stage, "70", FIRST, match=EVERYTHING)))
    flow = fresh(protocol=protocol)
    if protocol == TCP:
        assert stage.send(flow).cache == FIRST
    big = crafted(stage, flow, of_size(WIRE_MTU_BYTES, protocol))
    seen = stage.network.exchange([frame_of(flow, big.ip)])
    assert of(big, seen) == []
    ((error, told),) = errors_about(big, seen)
    assert (error.device, error.packet.destination, told) == (INGRESS, SPOKE, FITTING_MTU_BYTES)
    fitting = crafted(stage, flow, of_size(FITTING_MTU_BYTES, protocol))
    (carried,) = of(fitting, stage.network.exchange([frame_of(flow, fitting.ip)]))
    assert (carried.mac, carried.outer_bytes) == (CACHE_MAC[FIRST], WIRE_MTU_BYTES)


def test_a_packet_that_is_too_big_is_fragmented_where_df_is_cleared(tunnelled: KernelStage) -> None:
    stage = tunnelled
    made = everything_to(stage, "70", FIRST)
    stage.bring_to(plan(made, clear_df=True))
    flow = fresh()
    wanted = stage.send(flow)
    assert wanted.cache == FIRST
    big = crafted(stage, flow, of_size(WIRE_MTU_BYTES))
    seen = stage.network.exchange([frame_of(flow, big.ip)])
    assert errors_about(big, seen) == []
    fragments = of(big, seen)
    assert len(fragments) == 2
    assert {(each.mac, each.header) for each in fragments} == {(CACHE_MAC[FIRST], wanted.header)}
    assert joined([each.packet for each in fragments]) == big.body
    assert max(each.outer_bytes for each in fragments) <= WIRE_MTU_BYTES


@contextmanager
def narrow(stage: KernelStage, device: str, mtu_bytes: int) -> Iterator[None]:
    router = stage.network.router
    router.run("ip", "link", "set", device, "mtu", str(mtu_bytes))
    try:
        yield
    finally:
        router.run("ip", "link", "set", device, "mtu", str(WIRE_MTU_BYTES))


def test_the_cache_is_told_what_fits_of_what_it_sent_to_the_client(kernel: KernelStage) -> None:
    stage = kernel
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    flow = fresh()
    there = stage.send(flow)
    assert there.cache == FIRST
    answer = replace(answer_to(flow, FARM), sender=FIRST)
    with narrow(stage, INGRESS, 1300):
        for by_gre in {False, stage.forwarding is ForwardingMethod.GRE}:
            big = crafted(stage, answer, of_size(1400))
            frame = in_gre(stage, FIRST, big, 0) if by_gre else frame_of(answer, big.ip)
            seen = stage.network.exchange([frame])
            assert of(big, seen) == []
            ((error, told),) = errors_about(big, seen)
            assert (error.device, error.mac, error.header) == (FARM, CACHE_MAC[FIRST], there.header)
            assert (error.packet.destination, told) == (flow.destination, 1300)


def test_a_server_is_told_what_fits_of_what_it_sent_on_a_connection_of_no_cache(kernel: KernelStage) -> None:
    stage = kernel
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    flow = fresh(port=443)
    assert stage.send(flow) == PASSED
    with narrow(stage, INGRESS, 1300):
        big = crafted(stage, answer_to(flow), of_size(1400))
        ((error, told),) = errors_about(big, stage.network.exchange([frame_of(answer_to(flow), big.ip)]))
    assert (error.device, error.header, told) == (OUT, None, 1300)


# --- fragments


@pytest.mark.parametrize("affinity", [True, False], ids=["affinity", "no affinity"])
def test_all_fragments_of_a_packet_go_to_the_cache_of_its_ports(kernel: KernelStage, affinity: bool) -> None:
    stage, fields = kernel, HashFields(True, True, True, True)
    made = service(
        "70", *CACHES, forwarding=stage.forwarding, affinity=affinity,
        assignment=hashed(evenly(*CACHES), fields),
    )  # fmt: skip
    stage.bring_to(plan(made))
    for number, order in enumerate((1, -1, 1, -1), start=1):
        flow = fresh()
        bucket = HASH_FUNCTIONS[stage.hash_function](fields, flow.fields)
        wanted = redirected(stage, made, evenly(*CACHES)[bucket] or FIRST, bucket)
        assert wanted.cache is not None
        sent = crafted(stage, flow, Details(ACK, payload=bytes(range(256)) * 8))
        pieces = in_fragments(sent.ip, 1200)[::order]
        seen = stage.network.exchange([frame_of(flow, piece) for piece in pieces])
        parts = of(sent, seen)
        assert {(each.mac, each.header) for each in parts} == {(CACHE_MAC[wanted.cache], wanted.header)}
        assert joined([each.packet for each in parts]) == sent.body
        counted = stage.observe().counters.total("70", Verdict.REDIRECTED)
        assert counted.packets == number, "one packet, in however many pieces"
