"""Each sentence of plan.decide, on small plans. The hash is the draft's, where the bucket can be reckoned by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address

import pytest

from tests.support.plans import (
    BY_DESTINATION,
    BY_SOURCE,
    CACHES,
    EVERYTHING,
    FAR,
    FIRST,
    FROM_WEB,
    NOBODY,
    SECOND,
    SERVER,
    SPOKE,
    THIRD,
    deny,
    evenly,
    hashed,
    network,
    packet,
    path,
    paths_to,
    permit,
    plan,
    service,
)
from wccpd.plan import decide as specification
from wccpd.plan.decide import Asked, Decision, HashLookup, MaskLookup, Missed, Packet, Pin
from wccpd.plan.hashes import HashFunction, jhash_bucket, xor_bucket
from wccpd.plan.redirect import (
    NO_FIELDS,
    TCP,
    UDP,
    HashAssignment,
    HashFields,
    LostFlows,
    MaskAssignment,
    MaskFields,
    MaskSet,
    Mode,
    PacketMatch,
)
from wccpd.plan.verdict import Exemption, Outcome, Reason, Verdict
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

ICMP = 1
GRE = ForwardingMethod.GRE
L2 = ForwardingMethod.L2
FORWARDED = Pin("web-cache")
"""The pin of a connection that service web-cache had forwarded."""
decide = partial(specification.decide, hash_function=xor_bucket)
SERVER_BUCKET = 203 ^ 0 ^ 113 ^ 7
TO_FIRST = service("web-cache", FIRST)
OF_NOBODY = service("web-cache", FIRST, assignment=hashed(NOBODY))


def sent_to(decision: Decision) -> IPv4Address | None:
    return decision.path.cache if decision.path else None


# --- what is looked at


def test_packets_of_other_devices_are_not_looked_at() -> None:
    decision = decide(plan(TO_FIRST), packet(device="out"))
    assert (decision.verdict, decision.asked) == (Verdict.FORWARDED, ())


def test_a_packet_of_the_service_goes_to_the_owner_of_its_bucket() -> None:
    owners = [FIRST] * 256
    owners[SERVER_BUCKET] = SECOND
    decision = decide(plan(service("web-cache", FIRST, SECOND, assignment=hashed(owners))), packet())
    assert (decision.verdict, decision.path) == (Verdict.REDIRECTED, path(SECOND))
    assert decision.said is not None
    assert decision.said.lookup == HashLookup(packet().fields, SERVER_BUCKET, None, SECOND)


# --- services


def test_the_first_service_that_takes_the_packet_decides() -> None:
    decision = decide(plan(service("70", FIRST), service("80", SECOND)), packet())
    assert sent_to(decision) == FIRST
    assert decision.asked[1] == Asked("80", Missed.NOT_ASKED)


def test_why_a_service_does_not_take_a_packet_is_told() -> None:
    services = (service("70", FIRST, match=PacketMatch(UDP)), service("80", match=PacketMatch(TCP, (443,))))
    decision = decide(plan(*services), packet())
    assert [each.missed for each in decision.asked] == [Missed.PROTOCOL, Missed.PORT]
    assert (decision.verdict, decision.said, decision.outcomes) == (Verdict.FORWARDED, None, ())


@pytest.mark.parametrize("ports", [{"source_port": 80, "destination_port": 5000}, {}])
def test_a_list_of_source_ports_means_source_ports(ports: dict[str, int]) -> None:
    decision = decide(plan(service("90", FIRST, match=FROM_WEB)), packet(**ports))
    assert (decision.verdict is Verdict.REDIRECTED) is bool(ports)


@pytest.mark.parametrize("function", [xor_bucket, jhash_bucket])
def test_the_ports_of_packets_that_have_none_are_left_out_of_the_hash(function: HashFunction) -> None:
    fields = HashFields(True, True, True, True)
    every = service("70", FIRST, match=EVERYTHING, assignment=hashed(evenly(FIRST), fields))
    decision = specification.decide(plan(every), packet(protocol=ICMP), hash_function=function)
    assert decision.said is not None
    assert isinstance(decision.said.lookup, HashLookup)
    assert decision.said.lookup.bucket == function(HashFields(True, True), packet().fields)


# --- exemptions


@pytest.mark.parametrize(
    ("exemption", "details"),
    [
        (Exemption.NOT_UNICAST, {"unicast": False}),
        (Exemption.NOT_UNICAST, {"destination": IPv4Address("239.1.1.1")}),
        (Exemption.FROM_CACHE, {"source": THIRD}),
        (Exemption.FROM_CACHE, {"sender": FIRST}),
        (Exemption.TO_CACHE, {"destination": THIRD}),
        (Exemption.NEVER, {"destination": IPv4Address("198.51.100.200")}),
        (Exemption.NO_HOP_LEFT, {"ttl": 1}),
        (Exemption.NO_HOP_LEFT, {"ttl": 0}),
        (Exemption.WCCP, {"protocol": UDP, "destination": FAR, "destination_port": 2048}),
        (Exemption.WCCP, {"protocol": UDP, "source": FAR, "source_port": 2048}),
    ],
)
@pytest.mark.parametrize("leased", [True, False])
def test_exempt_packets_are_forwarded_whatever_mode_list_and_lease_say(
    exemption: Exemption, details: dict[str, object], leased: bool
) -> None:
    strict = service("70", FIRST, match=EVERYTHING, mode=Mode.CLOSED, acl=(deny(),))
    wanted = plan(strict, never=(network("198.51.100.0/24"),), routers=frozenset({FAR}))
    decision = decide(wanted, packet(**details), leased=leased)
    assert (decision.verdict, decision.exemption) == (Verdict.FORWARDED, exemption)
    assert (decision.outcomes, decision.pin) == ((), None)


def test_of_several_exemptions_the_first_counts() -> None:
    wanted = plan(TO_FIRST, never=(network("10.2.0.0/24"),))
    decision = decide(wanted, packet(FIRST, source=SECOND, ttl=1))
    assert decision.exemption is Exemption.FROM_CACHE


def test_exemptions_are_looked_at_only_for_packets_that_some_service_takes() -> None:
    decision = decide(plan(TO_FIRST), packet(port=443, ttl=1))
    assert (decision.exemption, decision.verdict) == (None, Verdict.FORWARDED)


def test_a_packet_with_the_address_of_a_cache_that_lives_elsewhere_is_none_of_the_caches() -> None:
    decision = decide(plan(TO_FIRST), packet(source=THIRD, reverse_device="farm"))
    assert decision.verdict is Verdict.REDIRECTED


@pytest.mark.parametrize(
    "details",
    [
        {"destination_port": 2048},
        {"destination": FAR, "destination_port": 2049},
        {"destination": FAR, "source_port": 2048},
        {"source": FAR, "source_port": 2048, "reverse_device": "out"},
        {"protocol": TCP, "destination": FAR, "destination_port": 2048},
    ],
)
def test_port_2048_is_wccps_only_of_a_known_router_that_is_where_it_comes_from(
    details: dict[str, object],
) -> None:
    every = service("70", FIRST, match=EVERYTHING)
    asked = packet(**{"protocol": UDP, **details})
    assert decide(plan(every, routers=frozenset({FAR})), asked).verdict is Verdict.REDIRECTED


@pytest.mark.parametrize("returns", PacketReturnMethod)
@pytest.mark.parametrize("forwarding", ForwardingMethod)
def test_frames_of_a_usable_cache_are_its_own_and_count_as_returned_with_l2(
    returns: PacketReturnMethod, forwarding: ForwardingMethod
) -> None:
    wanted = plan(service("70", FIRST, forwarding=forwarding), returns={FIRST: frozenset({returns})})
    assert decide(wanted, packet(sender=FIRST)).exemption is Exemption.FROM_CACHE
    assert wanted.counts_frames_of(FIRST) is (returns is PacketReturnMethod.L2 or forwarding is L2)


def test_frames_of_a_cache_that_is_not_usable_are_as_anybody_elses() -> None:
    assert decide(plan(TO_FIRST), packet(sender=THIRD)).verdict is Verdict.REDIRECTED


# --- redirect list


def test_the_first_line_that_matches_decides() -> None:
    lines = (permit(source=network("10.1.0.0/24")), deny(destination=network("203.0.113.0/24")))
    decision = decide(plan(replace(TO_FIRST, acl=lines)), packet())
    assert decision.verdict is Verdict.REDIRECTED
    assert decision.said is not None
    assert decision.said.acl_line == 0


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("lines", "index"), [((deny(),), 0), ((permit(protocol=UDP),), None)])
def test_what_a_line_denies_or_no_line_matches_is_forwarded_whatever_the_mode(
    mode: Mode, lines: tuple, index: int | None
) -> None:
    decision = decide(plan(replace(TO_FIRST, mode=mode, acl=lines)), packet())
    assert (decision.verdict, decision.reason) == (Verdict.FORWARDED, Reason.DENIED)
    assert decision.said is not None
    assert decision.said.acl_line == index


@pytest.mark.parametrize(
    ("line", "permitted"),
    [
        (permit(source=network("10.1.0.10/32")), True),
        (permit(source=network("10.1.0.11/32")), False),
        (permit(destination=network("203.0.112.0/23")), True),
        (permit(destination=network("203.0.112.0/24")), False),
        (permit(protocol=TCP), True),
        (permit(protocol=TCP, destination_ports=(80, 80)), True),
        (permit(protocol=TCP, destination_ports=(0, 79)), False),
        (permit(protocol=TCP, destination_ports=(81, 65535)), False),
        (permit(protocol=TCP, source_ports=(40000, 50000)), True),
        (permit(protocol=TCP, source_ports=(0, 39999)), False),
    ],
)
def test_a_line_matches_addresses_protocol_and_ports(line: object, permitted: bool) -> None:
    decision = decide(plan(replace(TO_FIRST, acl=(line,))), packet())
    assert (decision.verdict is Verdict.REDIRECTED) is permitted


# --- fall-through


def test_a_denied_packet_falls_through_to_the_next_service_and_each_counts_it() -> None:
    strict = service("70", FIRST, acl=(deny(),), fallthrough=True)
    decision = decide(plan(strict, service("80", SECOND)), packet())
    assert sent_to(decision) == SECOND
    assert decision.outcomes == (
        Outcome("70", Verdict.FORWARDED, Reason.DENIED),
        Outcome("80", Verdict.REDIRECTED, cache=SECOND),
    )


@pytest.mark.parametrize("mode", Mode)
def test_a_packet_of_nobodys_bucket_falls_through_in_mode_open_only(mode: Mode) -> None:
    idle = service("70", mode=mode, fallthrough=True)
    decision = decide(plan(idle, service("80", SECOND)), packet())
    assert sent_to(decision) == (SECOND if mode is Mode.OPEN else None)


def test_a_packet_that_falls_through_everything_is_forwarded_as_the_last_said() -> None:
    services = (service("70", fallthrough=True), service("80", acl=(deny(),), fallthrough=True))
    decision = decide(plan(*services), packet())
    assert (decision.verdict, decision.reason) == (Verdict.FORWARDED, Reason.DENIED)


def test_nothing_falls_through_when_the_lease_has_run_out() -> None:
    services = (service("70", FIRST, fallthrough=True), service("80", SECOND, mode=Mode.CLOSED))
    decision = decide(plan(*services), packet(), leased=False)
    assert (decision.verdict, decision.reason) == (Verdict.FORWARDED, Reason.LAPSED)


# --- assignment and modes

BY_MODE = [
    (Mode.OPEN, Verdict.FORWARDED),
    (Mode.CLOSED, Verdict.DROPPED),
    (Mode.REJECT, Verdict.REJECTED),
]


@pytest.mark.parametrize(("mode", "verdict"), BY_MODE)
def test_the_mode_decides_about_a_bucket_of_nobody(mode: Mode, verdict: Verdict) -> None:
    decision = decide(plan(replace(OF_NOBODY, mode=mode)), packet())
    assert (decision.verdict, decision.reason) == (verdict, Reason.UNASSIGNED)


@pytest.mark.parametrize(("mode", "verdict"), BY_MODE)
def test_an_owner_without_a_path_is_nobody(mode: Mode, verdict: Verdict) -> None:
    decision = decide(plan(replace(TO_FIRST, paths={}, mode=mode)), packet())
    assert (decision.verdict, decision.reason) == (verdict, Reason.UNASSIGNED)


@pytest.mark.parametrize(("mode", "verdict"), BY_MODE)
@pytest.mark.parametrize("pinned", [None, FORWARDED, Pin("web-cache", FIRST)])
def test_without_a_lease_the_mode_decides_about_every_flow(
    mode: Mode, verdict: Verdict, pinned: Pin | None
) -> None:
    decision = decide(plan(replace(TO_FIRST, mode=mode)), packet(), leased=False, pinned=pinned)
    assert (decision.verdict, decision.reason, decision.pin) == (verdict, Reason.LAPSED, pinned)


def test_a_bucket_with_the_a_flag_goes_by_the_alternate_hash_whose_own_flag_is_ignored() -> None:
    source_bucket = 10 ^ 1 ^ 0 ^ 10
    owners = [FIRST] * 256
    owners[source_bucket] = SECOND
    assignment = HashAssignment(
        BY_DESTINATION, tuple(owners), BY_SOURCE, frozenset({SERVER_BUCKET, source_bucket})
    )
    decision = decide(plan(service("70", FIRST, SECOND, forwarding=GRE, assignment=assignment)), packet())
    assert sent_to(decision) == SECOND
    assert decision.header == 0x03460000 | source_bucket << 8 | SERVER_BUCKET


def test_without_alternate_fields_the_alternate_bucket_is_0() -> None:
    owners = [FIRST] * 256
    owners[0] = SECOND
    assignment = HashAssignment(BY_DESTINATION, tuple(owners), NO_FIELDS, frozenset({SERVER_BUCKET}))
    decision = decide(plan(service("70", FIRST, SECOND, assignment=assignment)), packet())
    assert sent_to(decision) == SECOND


def mask_set(mask: MaskFields, owners: dict[MaskFields, IPv4Address | None]) -> MaskSet:
    return MaskSet(mask, owners)


LOW_BIT = MaskFields(0, 1, 0, 0)
PORT = MaskFields(0, 0, 0, 0xFFFF)


def masked(*sets: MaskSet, **details: object) -> MaskAssignment:
    return MaskAssignment(sets)


def test_the_first_set_with_an_equal_value_decides() -> None:
    first = mask_set(LOW_BIT, {MaskFields(0, 0, 0, 0): FIRST})
    second = mask_set(PORT, {MaskFields(0, 0, 0, 80): SECOND, MaskFields(0, 0, 0, 81): THIRD})
    wanted = plan(service("70", *CACHES, assignment=masked(first, second)))
    odd, even = decide(wanted, packet()), decide(wanted, packet(SERVER + 1))
    assert (sent_to(odd), sent_to(even)) == (SECOND, FIRST)
    assert odd.said is not None
    assert odd.said.lookup == MaskLookup(packet().fields, 1, MaskFields(0, 0, 0, 80), SECOND)


def test_a_value_of_nobody_ends_the_search() -> None:
    first = mask_set(LOW_BIT, {MaskFields(0, 1, 0, 0): None})
    second = mask_set(PORT, {MaskFields(0, 0, 0, 80): SECOND})
    decision = decide(plan(service("70", *CACHES, assignment=masked(first, second))), packet())
    assert (decision.verdict, decision.reason) == (Verdict.FORWARDED, Reason.UNASSIGNED)


def test_a_packet_that_equals_no_value_is_unassigned() -> None:
    only = mask_set(PORT, {MaskFields(0, 0, 0, 81): FIRST})
    decision = decide(plan(service("70", FIRST, assignment=masked(only), mode=Mode.CLOSED)), packet())
    assert (decision.verdict, decision.reason) == (Verdict.DROPPED, Reason.UNASSIGNED)


def test_a_mask_of_zeros_takes_every_packet_and_a_value_outside_its_mask_none() -> None:
    outside = mask_set(LOW_BIT, {MaskFields(0, 2, 0, 0): FIRST})
    zeros = mask_set(MaskFields(0, 0, 0, 0), {MaskFields(0, 0, 0, 0): SECOND})
    decision = decide(plan(service("70", *CACHES, assignment=masked(outside, zeros))), packet())
    assert sent_to(decision) == SECOND


# --- redirect header


def test_the_header_of_a_standard_service_has_its_bucket_alone() -> None:
    decision = decide(plan(service("web-cache", FIRST, forwarding=GRE)), packet())
    assert decision.header == SERVER_BUCKET


def test_with_masks_the_buckets_of_the_header_are_0() -> None:
    zeros = mask_set(MaskFields(0, 0, 0, 0), {MaskFields(0, 0, 0, 0): FIRST})
    wanted = plan(service("70", FIRST, forwarding=GRE, assignment=masked(zeros)))
    assert decide(wanted, packet()).header == 0x01460000


def test_l2_has_no_header() -> None:
    assert decide(plan(TO_FIRST), packet()).header is None


# --- affinity


def test_a_flow_is_pinned_to_its_path_with_its_bucket() -> None:
    assert decide(plan(TO_FIRST), packet()).pin == Pin("web-cache", FIRST, SERVER_BUCKET)


def test_later_packets_of_a_flow_have_the_header_of_the_first() -> None:
    flagged = HashAssignment(BY_DESTINATION, evenly(FIRST), BY_SOURCE, frozenset({SERVER_BUCKET}))
    wanted = plan(service("70", FIRST, forwarding=GRE, assignment=flagged))
    first = decide(wanted, packet())
    assert first.header == 0x03460000 | 1 << 8 | SERVER_BUCKET
    assert decide(wanted, packet(), pinned=first.pin).header == first.header


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_pinned_flow_keeps_its_cache_whatever_the_buckets_say(protocol: int) -> None:
    moved = service("70", FIRST, SECOND, match=EVERYTHING, assignment=hashed(evenly(SECOND)), forwarding=GRE)
    pinned = Pin("70", FIRST, 9)
    decision = decide(plan(moved), packet(protocol=protocol), pinned=pinned)
    assert (sent_to(decision), decision.pin) == (FIRST, pinned)
    assert decision.header == 0x01460009


def test_without_affinity_the_buckets_decide_about_every_packet_and_nothing_is_pinned() -> None:
    moved = service("70", FIRST, SECOND, assignment=hashed(evenly(SECOND)), affinity=False)
    assert sent_to(decide(plan(moved), packet(), pinned=Pin("70", FIRST))) == SECOND
    assert decide(plan(moved), packet()).pin is None


def test_the_other_direction_of_a_pinned_flow_has_the_header_and_counter_of_its_own_service() -> None:
    forward = service("80", FIRST, SECOND, forwarding=GRE)
    back = service("90", FIRST, SECOND, match=FROM_WEB, forwarding=GRE, assignment=hashed(evenly(SECOND)))
    answer = packet(source=SERVER, destination=SPOKE, source_port=80, destination_port=40000)
    decision = decide(plan(forward, back), answer, pinned=Pin("80", FIRST, 9))
    assert (sent_to(decision), decision.header) == (FIRST, 0x015A0000)
    assert decision.outcomes == (Outcome("90", Verdict.REDIRECTED, cache=FIRST),)


def test_the_other_direction_uses_the_method_of_its_own_service() -> None:
    forward = service("80", FIRST)
    back = service("90", FIRST, match=FROM_WEB, forwarding=GRE)
    answer = packet(source=SERVER, destination=SPOKE, source_port=80, destination_port=40000)
    decision = decide(plan(forward, back), answer, pinned=Pin("80", FIRST))
    assert decision.path == path(FIRST, GRE)


def test_a_pin_to_a_cache_that_the_service_lacks_is_carried_and_counted_by_the_service_that_pinned() -> None:
    forward = service("80", FIRST, forwarding=GRE)
    back = service("90", SECOND, match=FROM_WEB, forwarding=GRE)
    answer = packet(source=SERVER, destination=SPOKE, source_port=80, destination_port=40000)
    decision = decide(plan(back, forward), answer, pinned=Pin("80", FIRST, 9))
    assert (sent_to(decision), decision.header) == (FIRST, 0x01500009)
    assert decision.outcomes == (Outcome("80", Verdict.REDIRECTED, cache=FIRST),)


def test_a_pin_is_lost_with_the_path_of_the_service_that_pinned() -> None:
    services = (service("70", SECOND), service("80", FIRST, match=FROM_WEB))
    assert sent_to(decide(plan(*services), packet(), pinned=Pin("70", FIRST))) == SECOND
    assert sent_to(decide(plan(*services), packet(), pinned=Pin("60", FIRST))) == SECOND


def test_a_flow_whose_path_is_lost_is_as_a_new_one() -> None:
    decision = decide(plan(service("70", SECOND)), packet(), pinned=Pin("70", FIRST))
    assert sent_to(decision) == SECOND
    assert decision.pin == Pin("70", SECOND, SERVER_BUCKET)


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("mode", Mode)
def test_a_tcp_connection_whose_path_is_lost_is_reset_if_so_wished(protocol: int, mode: Mode) -> None:
    wanted = plan(service("70", SECOND, match=EVERYTHING, lost_flows=LostFlows.RESET, mode=mode))
    decision = decide(wanted, packet(protocol=protocol), pinned=Pin("70", FIRST))
    if protocol == TCP:
        assert (decision.verdict, decision.reason) == (Verdict.REJECTED, Reason.LOST)
    else:
        assert sent_to(decision) == SECOND


@pytest.mark.parametrize("affected", [OF_NOBODY, replace(TO_FIRST, acl=(deny(),))])
def test_a_tcp_connection_that_began_without_a_cache_is_pinned_as_forwarded(affected: object) -> None:
    assert decide(plan(affected), packet()).pin == FORWARDED


def test_other_flows_than_tcp_are_never_pinned_as_forwarded() -> None:
    idle = service("70", match=EVERYTHING)
    assert decide(plan(idle), packet(protocol=UDP)).pin is None


def test_a_pin_is_not_overwritten_by_a_later_denial() -> None:
    pinned = Pin("web-cache", FIRST)
    assert decide(plan(replace(TO_FIRST, acl=(deny(),))), packet(), pinned=pinned).pin == pinned


@pytest.mark.parametrize("mode", Mode)
def test_a_connection_that_was_forwarded_stays_so_in_mode_open_only(mode: Mode) -> None:
    decision = decide(plan(replace(TO_FIRST, mode=mode)), packet(), pinned=FORWARDED)
    if mode is Mode.OPEN:
        assert (decision.verdict, decision.reason) == (Verdict.FORWARDED, Reason.ESTABLISHED)
        assert decision.pin == FORWARDED
    else:
        assert sent_to(decision) == FIRST
        assert decision.pin == Pin("web-cache", FIRST, SERVER_BUCKET)


def test_an_established_connection_falls_through_too() -> None:
    first = service("70", FIRST, fallthrough=True)
    second = service("80", SECOND, mode=Mode.CLOSED)
    assert sent_to(decide(plan(first, second), packet(), pinned=Pin("70"))) == SECOND


@pytest.mark.parametrize("mode", Mode)
def test_the_pin_as_forwarded_counts_while_the_service_that_wrote_it_is_open(mode: Mode) -> None:
    services = (service("70", FIRST), service("80", SECOND, match=FROM_WEB, mode=mode))
    decision = decide(plan(*services), packet(), pinned=Pin("80"))
    assert (decision.reason is Reason.ESTABLISHED) is (mode is Mode.OPEN)


def test_a_service_that_is_not_open_pins_nothing_as_forwarded() -> None:
    strict = replace(TO_FIRST, mode=Mode.CLOSED, acl=(deny(),))
    assert decide(plan(strict), packet()).pin is None


def test_the_flow_that_fell_through_is_pinned_by_the_service_that_has_it() -> None:
    strict = service("70", FIRST, acl=(deny(),), fallthrough=True)
    assert decide(plan(strict, service("80", SECOND)), packet()).pin == Pin("80", SECOND, SERVER_BUCKET)


# --- ICMP errors

ERROR = packet(protocol=ICMP, icmp_error=True)


def test_an_icmp_error_about_a_pinned_flow_goes_along_with_it() -> None:
    permits_web = service("70", FIRST, SECOND, acl=(permit(protocol=TCP),), forwarding=GRE)
    decision = decide(plan(permits_web), ERROR, pinned=Pin("70", SECOND, 9))
    assert (sent_to(decision), decision.header) == (SECOND, 0x01460009)
    assert decision.outcomes == (Outcome("70", Verdict.REDIRECTED, cache=SECOND),)


@pytest.mark.parametrize("pinned", [None, FORWARDED, Pin("70", THIRD)])
def test_any_other_icmp_error_is_an_ordinary_packet_and_pins_nothing(pinned: Pin | None) -> None:
    assert decide(plan(service("70", FIRST)), ERROR, pinned=pinned).said is None
    every = decide(plan(service("70", FIRST, match=EVERYTHING)), ERROR, pinned=pinned)
    assert (sent_to(every), every.pin) == (FIRST, pinned)


def test_without_a_lease_an_icmp_error_is_an_ordinary_packet() -> None:
    wanted = plan(service("70", FIRST, mode=Mode.CLOSED))
    assert decide(wanted, ERROR, pinned=Pin("70", FIRST), leased=False).said is None


def test_a_draining_cache_keeps_its_flows_and_gets_no_new_ones() -> None:
    draining = service("70", SECOND, paths=paths_to((FIRST, SECOND)))
    assert sent_to(decide(plan(draining), packet(), pinned=Pin("70", FIRST))) == FIRST
    assert sent_to(decide(plan(draining), packet())) == SECOND


def test_a_packet_is_an_ordinary_one_of_a_spokes_by_default() -> None:
    assert Packet("spokes", SPOKE, SERVER).fields == (int(SPOKE), int(SERVER), 0, 0)
