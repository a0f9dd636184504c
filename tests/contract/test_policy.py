"""What the operator decides: modes, redirect lists, fall-through, what is never redirected."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.contract.stage import (
    EXPIRED,
    NOWHERE,
    OUT,
    PASSED,
    PROHIBITED,
    RESET,
    Fate,
    Place,
    Stage,
    answer_to,
    everything_to,
    fresh,
    redirected,
)
from tests.support.plans import (
    CACHES,
    EVERYTHING,
    FIRST,
    INGRESS,
    NOBODY,
    SECOND,
    SERVER,
    SPOKE,
    THIRD,
    deny,
    evenly,
    hashed,
    network,
    paths_to,
    permit,
    plan,
    service,
)
from wccpd.plan.decide import Packet
from wccpd.plan.redirect import TCP, UDP, AclLine, HashFields, Mode, PacketMatch, RedirectPlan
from wccpd.plan.verdict import Count, Exemption, Outcome, Reason, Verdict
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

ICMP, ESP = 1, 50
FATES = [(Mode.OPEN, PASSED, PASSED), (Mode.CLOSED, NOWHERE, NOWHERE), (Mode.REJECT, RESET, PROHIBITED)]


# --- modes


@pytest.mark.parametrize(("mode", "of_tcp", "of_others"), FATES)
def test_the_mode_decides_about_what_nobody_owns(
    stage: Stage, mode: Mode, of_tcp: Fate, of_others: Fate
) -> None:
    stage.bring_to(plan(service("70", assignment=hashed(NOBODY), match=EVERYTHING, mode=mode)))
    packets = [fresh(protocol=protocol) for protocol in (TCP, UDP, ICMP, ESP)]
    assert stage.send_all(packets) == [of_tcp, of_others, of_others, of_others]


@pytest.mark.parametrize(("mode", "of_tcp", "of_others"), FATES)
def test_an_owner_whose_path_is_missing_is_nobody(
    stage: Stage, mode: Mode, of_tcp: Fate, of_others: Fate
) -> None:
    orphaned = replace(everything_to(stage, "70", FIRST, mode=mode, match=EVERYTHING), paths={})
    stage.bring_to(plan(orphaned))
    assert stage.send_all([fresh(), fresh(protocol=UDP)]) == [of_tcp, of_others]


@pytest.mark.parametrize(("mode", "of_tcp", "of_others"), FATES)
def test_a_change_of_mode_holds_at_once(stage: Stage, mode: Mode, of_tcp: Fate, of_others: Fate) -> None:
    idle = service("70", assignment=hashed(NOBODY), match=EVERYTHING)
    for before in Mode:
        stage.bring_to(plan(replace(idle, mode=before)))
        stage.bring_to(plan(replace(idle, mode=mode)))
        assert stage.send(fresh()) == of_tcp


def test_every_mode_redirects_what_somebody_owns(stage: Stage) -> None:
    for mode in Mode:
        stage.bring_to(plan(everything_to(stage, "70", FIRST, mode=mode)))
        assert stage.send(fresh()).cache == FIRST


# --- exemptions


def strict(stage: Stage, **details: object) -> RedirectPlan:
    """A service that takes everything and lets nothing pass."""
    made = service("70", assignment=hashed(NOBODY), match=EVERYTHING, mode=Mode.CLOSED)
    usable = {FIRST: frozenset({PacketReturnMethod.L2})}
    return plan(made, **{"returns": usable, "ingress": ("spokes", "farm"), **details})


def exempt(stage: Stage, kind: Exemption) -> int:
    return stage.observe().counters.exempt.get(kind, Count()).packets


def test_packets_to_the_router_itself_and_to_many_are_not_redirected(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, match=PacketMatch(UDP))))
    destinations = ["10.1.0.1", "10.2.0.1", "10.1.0.255", "255.255.255.255", "239.1.1.1"]
    fates = stage.send_all([fresh(IPv4Address(each), protocol=UDP) for each in destinations])
    assert not [fate for fate in fates if fate.place is Place.CACHE]
    assert exempt(stage, Exemption.NOT_UNICAST) == len(destinations)


def test_what_comes_from_a_cache_passes(stage: Stage) -> None:
    stage.bring_to(strict(stage))
    before = exempt(stage, Exemption.FROM_CACHE)
    assert stage.send_all([fresh(device="farm", source=cache) for cache in (FIRST, THIRD)]) == [PASSED] * 2
    assert exempt(stage, Exemption.FROM_CACHE) == before + 2


def test_nobody_passes_under_the_address_of_a_cache_that_is_elsewhere(stage: Stage) -> None:
    stage.bring_to(strict(stage))
    assert stage.send(fresh(source=FIRST)) == NOWHERE


def test_frames_of_a_cache_that_returns_by_l2_pass_whatever_their_source(stage: Stage) -> None:
    stage.bring_to(strict(stage))
    returned = fresh(device="farm", source=SPOKE, sender=FIRST)
    assert stage.send(returned) == PASSED
    assert stage.observe().counters.returned[FIRST].packets == 1
    assert stage.send(fresh(device="farm", source=SPOKE)) == NOWHERE
    assert stage.send(fresh(device="farm", source=SPOKE, sender=THIRD)) == NOWHERE


def test_a_cache_that_spoofs_its_clients_is_not_sent_its_own_packets(stage: Stage) -> None:
    everything = everything_to(stage, "70", FIRST, match=EVERYTHING)
    usable = {FIRST: frozenset()}
    stage.bring_to(plan(everything, returns=usable, ingress=("spokes", "farm")))
    before = exempt(stage, Exemption.FROM_CACHE)
    assert stage.send(fresh(device="farm", source=SPOKE, sender=FIRST)) == PASSED
    assert exempt(stage, Exemption.FROM_CACHE) == before + 1
    assert stage.send(fresh(device="farm", source=SPOKE)).cache == FIRST
    assert stage.send(fresh(device="farm", source=SPOKE, sender=SECOND)).cache == FIRST


def test_frames_of_a_cache_that_is_not_sent_and_does_not_return_l2_do_not_count_as_returned(
    stage: Stage,
) -> None:
    stage.bring_to(strict(stage, returns={FIRST: frozenset()}))
    assert stage.send(fresh(device="farm", source=SPOKE, sender=FIRST)) == PASSED
    assert stage.observe().counters.returned.get(FIRST, Count()) == Count()


def test_what_goes_to_a_cache_passes(stage: Stage) -> None:
    stage.bring_to(strict(stage))
    assert stage.send_all([fresh(FIRST), fresh(THIRD)]) == [PASSED] * 2
    assert exempt(stage, Exemption.TO_CACHE) == 2


def test_destinations_that_are_never_redirected_pass(stage: Stage) -> None:
    never = (network("198.51.100.128/25"), network("198.51.100.7/32"), network("192.0.2.0/24"))
    stage.bring_to(strict(stage, never=never))
    there = ["198.51.100.7", "198.51.100.128", "198.51.100.255", "192.0.2.9"]
    assert stage.send_all([fresh(IPv4Address(each)) for each in there]) == [PASSED] * 4
    assert exempt(stage, Exemption.NEVER) == 4
    assert (
        stage.send_all([fresh(IPv4Address(each)) for each in ("198.51.100.8", "192.0.3.1")]) == [NOWHERE] * 2
    )


def test_networks_that_contain_each_other_are_no_harm(stage: Stage) -> None:
    never = (network("10.0.0.0/8"), network("10.3.0.0/16"), network("10.3.7.1/32"))
    stage.bring_to(strict(stage, never=never))
    assert stage.send_all([fresh(IPv4Address(each)) for each in ("10.3.7.1", "10.200.0.1")]) == [PASSED] * 2


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_packet_at_its_last_hop_is_the_routers_own_to_answer(stage: Stage, ttl: int) -> None:
    stage.bring_to(strict(stage))
    assert stage.send(fresh(ttl=ttl)) == EXPIRED
    assert exempt(stage, Exemption.NO_HOP_LEFT) == 1
    assert stage.send(fresh(ttl=2)) == NOWHERE


def test_wccp_to_and_from_other_routers_passes(stage: Stage) -> None:
    stage.bring_to(strict(stage, routers=frozenset({SERVER}), ingress=(INGRESS, OUT)))
    hello = fresh(port=2048, protocol=UDP)
    assert stage.send_all([hello, answer_to(hello)]) == [PASSED] * 2
    assert exempt(stage, Exemption.WCCP) == 2
    others = [fresh(port=2048), fresh(port=2049, protocol=UDP), fresh(source_port=2048, protocol=UDP)]
    assert stage.send_all(others) == [NOWHERE] * 3


def test_to_port_2048_of_anybody_else_nobody_passes(stage: Stage) -> None:
    stage.bring_to(strict(stage, routers=frozenset({SERVER + 1})))
    ports = [(40000, 2048), (2048, 2048), (2048, 40000)]
    packets = [fresh(source_port=source, port=port, protocol=UDP) for source, port in ports]
    forged = fresh(SERVER + 2, source=SERVER + 1, source_port=2048, protocol=UDP)
    assert stage.send_all([*packets, forged]) == [NOWHERE] * 4
    assert exempt(stage, Exemption.WCCP) == 0


def test_exemptions_are_counted_only_for_what_a_service_takes(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST), never=(network("0.0.0.0/0"),)))
    assert stage.send_all([fresh(port=443), fresh(port=80)]) == [PASSED] * 2
    assert exempt(stage, Exemption.NEVER) == 1


# --- redirect lists


def lines_of(stage: Stage, name: str = "70") -> list[int]:
    return [count.packets for count in stage.observe().counters.acl_lines[name]]


def test_the_first_line_that_matches_decides_and_counts(stage: Stage) -> None:
    lines = (
        deny(destination=network("203.0.113.16/28")),
        permit(source=network("10.64.1.0/24"), destination=network("203.0.113.0/24")),
        deny(source=network("10.64.0.0/16")),
        permit(),
    )
    stage.bring_to(plan(everything_to(stage, "70", FIRST, acl=lines)))

    def each(source: str, destination: str) -> bool:
        packet = fresh(IPv4Address(destination), source=IPv4Address(source))
        return stage.send(packet).cache == FIRST

    assert not each("10.64.1.1", "203.0.113.17")
    assert each("10.64.1.1", "203.0.113.7")
    assert not each("10.64.1.1", "198.51.100.1")
    assert not each("10.64.2.1", "203.0.113.7")
    assert each("10.1.0.10", "203.0.113.7")
    assert lines_of(stage) == [1, 1, 2, 1]


def test_a_list_looks_at_protocol_and_ports(stage: Stage) -> None:
    lines = (
        deny(protocol=TCP, destination_ports=(8000, 8999)),
        permit(protocol=TCP, source_ports=(1024, 65535)),
        permit(protocol=UDP, destination_ports=(53, 53)),
        permit(protocol=ESP),
    )
    stage.bring_to(plan(everything_to(stage, "70", FIRST, acl=lines, match=EVERYTHING)))
    packets = [
        fresh(port=8000), fresh(port=8999), fresh(port=7999), fresh(port=9000), fresh(source_port=1023),
        fresh(port=53, protocol=UDP), fresh(port=54, protocol=UDP), fresh(protocol=ESP), fresh(protocol=ICMP),
    ]  # fmt: skip
    permitted = [fate.cache is not None for fate in stage.send_all(packets)]
    assert permitted == [False, False, True, True, False, True, False, True, False]
    assert lines_of(stage) == [2, 2, 1, 1]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("lines", [(deny(),), (permit(protocol=UDP),)], ids=["denied", "by no line"])
def test_what_is_denied_is_forwarded_whatever_the_mode(
    stage: Stage, mode: Mode, lines: tuple[AclLine, ...]
) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, acl=lines, mode=mode)))
    assert stage.send(fresh()) == PASSED
    denied = Outcome("70", Verdict.FORWARDED, Reason.DENIED)
    assert stage.observe().counters.outcomes[denied].packets == 1


def test_a_thousand_lines_are_as_good_as_one(stage: Stage) -> None:
    hosts = [IPv4Address("203.0.113.0") + 3 * number for number in range(1000)]
    lines = (*(deny(destination=network(f"{host}/32")) for host in hosts), permit())
    stage.bring_to(plan(everything_to(stage, "70", FIRST, acl=lines)))
    destinations = [IPv4Address("203.0.113.0") + number for number in (0, 1, 2, 3, 2997, 2998)]
    fates = stage.send_all([fresh(destination) for destination in destinations])
    assert [fate.cache is None for fate in fates] == [True, False, False, True, True, False]
    counted = lines_of(stage)
    assert [counted[0], counted[1], counted[999], counted[1000]] == [1, 1, 1, 3]


def test_a_changed_list_holds_at_once_and_a_line_that_stays_keeps_its_count(stage: Stage) -> None:
    first, second = deny(destination=network("203.0.113.7/32")), deny(destination=network("203.0.113.8/32"))
    made = everything_to(stage, "70", FIRST, acl=(first, permit()))
    stage.bring_to(plan(made))
    assert stage.send(fresh()) == PASSED
    stage.bring_to(plan(replace(made, acl=(second, permit()))))
    assert stage.send(fresh()).cache == FIRST
    assert stage.send(fresh(IPv4Address("203.0.113.8"))) == PASSED


# --- packets that end early

ENDS_EARLY = [(ESP, 0), (ESP, 2), (ICMP, 3), (TCP, 0), (TCP, 3), (TCP, 8), (UDP, 2)]
"""Protocol, and how many octets follow the IP header."""


def early(protocol: int, octets: int, **details: object) -> Packet:
    return fresh(protocol=protocol, transport_octets=octets, **details)


@pytest.mark.parametrize("protocol", [None, TCP, UDP, ICMP, ESP])
def test_a_packet_that_ends_before_its_ports_does_not_pass_a_closed_service(
    stage: Stage, protocol: int | None
) -> None:
    lines = (
        deny(destination=network("192.0.2.0/25"), protocol=TCP, destination_ports=(8000, 8999)),
        deny(destination=network("192.0.2.128/25"), protocol=UDP, destination_ports=(53, 53)),
        permit(destination=network("203.0.113.0/24")),
    )
    match = PacketMatch(protocol)
    stage.bring_to(plan(service("70", assignment=hashed(NOBODY), match=match, acl=lines, mode=Mode.CLOSED)))
    packets = [early(*each) for each in ENDS_EARLY if protocol in {None, each[0]}]
    assert stage.send_all(packets) == [NOWHERE] * len(packets)
    assert lines_of(stage) == [0, 0, len(packets)]


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_to_a_list_a_packet_that_ends_before_its_ports_has_ports_0(stage: Stage, protocol: int) -> None:
    lines = (
        permit(protocol=protocol, source_ports=(1, 65535)),
        deny(destination=network("203.0.113.128/25")),
        permit(protocol=protocol, source_ports=(0, 0), destination_ports=(0, 79)),
    )
    stage.bring_to(plan(everything_to(stage, "70", FIRST, acl=lines, match=EVERYTHING)))
    assert stage.send(early(protocol, 3)).cache == FIRST
    assert stage.send(early(protocol, 3, destination=IPv4Address("203.0.113.128"))) == PASSED
    assert stage.send(fresh(protocol=protocol)).cache == FIRST
    assert lines_of(stage) == [1, 1, 1]


def test_a_packet_that_ends_before_its_ports_has_no_source_port(stage: Stage) -> None:
    match = PacketMatch(TCP, (80,), source_ports=True)
    stage.bring_to(plan(everything_to(stage, "70", FIRST, match=match)))
    packets = [fresh(source_port=80, port=1234, transport_octets=octets) for octets in (3, 4)]
    assert [fate.cache for fate in stage.send_all(packets)] == [None, FIRST]


def test_a_packet_that_ends_early_is_of_no_flow(stage: Stage) -> None:
    by_port = HashFields(source_port=True, destination_port=True)
    made = everything_to(stage, "70", FIRST, match=EVERYTHING, paths=paths_to(CACHES[:2], stage.forwarding))
    stage.bring_to(plan(replace(made, assignment=hashed(evenly(FIRST), by_port))))
    packets = [early(*each) for each in ENDS_EARLY]
    assert {fate.cache for fate in stage.send_all(packets)} == {FIRST}
    stage.bring_to(plan(replace(made, assignment=hashed(evenly(SECOND), by_port))))
    later = stage.send_all(packets)
    for packet, fate in zip(packets, later, strict=True):
        assert fate.cache == (FIRST if packet.protocol == ESP else SECOND), packet


# --- fall-through


def test_a_denied_packet_falls_through_to_the_next_service(stage: Stage) -> None:
    picky = everything_to(stage, "70", FIRST, acl=(permit(source=network("10.64.0.0/16")),), fallthrough=True)
    stage.bring_to(plan(picky, everything_to(stage, "80", SECOND)))
    assert stage.send(fresh()).cache == SECOND
    assert stage.send(fresh(source=IPv4Address("10.64.0.1"))).cache == FIRST
    outcomes = stage.observe().counters.outcomes
    assert outcomes[Outcome("70", Verdict.FORWARDED, Reason.DENIED)].packets == 1
    assert outcomes[Outcome("80", Verdict.REDIRECTED, cache=SECOND)].packets == 1


def test_without_fallthrough_a_denied_packet_is_offered_to_nobody(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, acl=(deny(),)), everything_to(stage, "80", SECOND)))
    assert stage.send(fresh()) == PASSED


@pytest.mark.parametrize("mode", Mode)
def test_what_nobody_owns_falls_through_in_mode_open_only(stage: Stage, mode: Mode) -> None:
    idle = service("70", assignment=hashed(NOBODY), fallthrough=True, mode=mode)
    stage.bring_to(plan(idle, everything_to(stage, "80", SECOND)))
    assert (stage.send(fresh()).cache == SECOND) is (mode is Mode.OPEN)


def test_what_falls_through_every_service_is_forwarded(stage: Stage) -> None:
    idle = service("70", assignment=hashed(NOBODY), fallthrough=True)
    stage.bring_to(plan(idle, replace(idle, name="80", service_id=80)))
    assert stage.send(fresh()) == PASSED


# --- refused paths


def test_a_path_that_is_refused_costs_its_own_cache_only(stage: Stage) -> None:
    far_away = IPv4Address("192.0.2.77")
    owners = [FIRST if number % 2 else far_away for number in range(256)]
    way = {**paths_to([FIRST], stage.forwarding), **paths_to([far_away], ForwardingMethod.L2)}
    made = service("70", assignment=hashed(owners), paths=way, mode=Mode.CLOSED)
    stage.refuse(way[far_away])
    applied = stage.bring_to(plan(made), faults=1)
    assert applied.refused == {way[far_away]}
    fates = set(stage.send_all([fresh(IPv4Address("203.0.113.0") + number) for number in range(30)]))
    assert {fate.cache for fate in fates} == {FIRST, None}
    assert all(fate == NOWHERE for fate in fates if fate.cache is None)
    assert redirected(stage, made, FIRST).path in {fate.path for fate in fates}
