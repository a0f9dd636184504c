"""Which cache gets a packet, and in which clothes: services, hashes, masks, headers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.contract.stage import PASSED, Stage, everything_to, fresh, redirected
from tests.support.plans import (
    BY_DESTINATION,
    BY_SOURCE,
    CACHES,
    EVERYTHING,
    FIRST,
    FROM_WEB,
    NOBODY,
    SECOND,
    SERVER,
    THIRD,
    evenly,
    hashed,
    plan,
    service,
)
from wccpd.plan.decide import Packet
from wccpd.plan.hashes import HASH_FUNCTIONS
from wccpd.plan.redirect import (
    TCP,
    UDP,
    HashAssignment,
    HashFields,
    MaskAssignment,
    MaskFields,
    MaskSet,
    PacketMatch,
)

ICMP, ESP = 1, 50
SERVERS = [SERVER + number for number in range(60)]
FIELDS = [
    HashFields(destination_address=True),
    HashFields(source_address=True),
    HashFields(True, True),
    HashFields(True, True, True, True),
    HashFields(source_port=True),
    HashFields(destination_port=True),
]


def bucket(stage: Stage, fields: HashFields, packet: Packet) -> int:
    return HASH_FUNCTIONS[stage.hash_function](fields, packet.fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("web-cache", FIELDS[0]), *(("70", fields) for fields in FIELDS)],
    ids=lambda each: each if isinstance(each, str) else "".join("01"[flag] for flag in each),
)
def test_a_packet_goes_to_the_owner_of_its_bucket(stage: Stage, name: str, fields: HashFields) -> None:
    made = service(name, *CACHES, assignment=hashed(evenly(*CACHES), fields), forwarding=stage.forwarding)
    stage.bring_to(plan(made))
    packets = [fresh(server) for server in SERVERS]
    packets = [replace(each, source=IPv4Address("10.64.7.0") + number) for number, each in enumerate(packets)]
    wanted = [
        redirected(stage, made, evenly(*CACHES)[found], found)
        for found in (bucket(stage, fields, packet) for packet in packets)
    ]
    assert stage.send_all(packets) == wanted


def test_without_any_field_every_packet_is_in_bucket_0(stage: Stage) -> None:
    owners = (SECOND, *[FIRST] * 255)
    made = service("70", FIRST, SECOND, assignment=hashed(owners, HashFields()), forwarding=stage.forwarding)
    stage.bring_to(plan(made))
    assert (
        stage.send_all([fresh(server) for server in SERVERS[:5]]) == [redirected(stage, made, SECOND, 0)] * 5
    )


def test_a_bucket_of_nobody_is_forwarded(stage: Stage) -> None:
    packets = [fresh(server) for server in SERVERS]
    owners = [FIRST] * 256
    owners[bucket(stage, BY_DESTINATION, packets[0])] = None
    made = service("70", FIRST, assignment=hashed(owners), forwarding=stage.forwarding)
    stage.bring_to(plan(made))
    wanted = [
        PASSED if owners[found] is None else redirected(stage, made, FIRST, found)
        for found in (bucket(stage, BY_DESTINATION, packet) for packet in packets)
    ]
    assert stage.send_all(packets) == wanted


@pytest.mark.parametrize("flags", ["few", "many"])
def test_a_bucket_with_the_a_flag_goes_by_the_alternate_hash_whose_own_flag_is_ignored(
    stage: Stage, flags: str
) -> None:
    packets = [
        replace(fresh(server), source=IPv4Address("10.64.9.0") + n) for n, server in enumerate(SERVERS)
    ]
    few = (bucket(stage, BY_DESTINATION, packet) for packet in packets[:3])
    flagged = frozenset(few if flags == "few" else range(0, 256, 3))
    owners = evenly(*CACHES)
    assignment = HashAssignment(BY_DESTINATION, owners, BY_SOURCE, flagged)
    made = service("70", *CACHES, assignment=assignment, forwarding=stage.forwarding)
    stage.bring_to(plan(made))
    wanted = []
    for packet in packets:
        primary, alternate = bucket(stage, BY_DESTINATION, packet), bucket(stage, BY_SOURCE, packet)
        decisive, shown = (alternate, alternate) if primary in flagged else (primary, None)
        wanted.append(redirected(stage, made, owners[decisive] or FIRST, primary, shown))
    assert {fate.header is None or fate.header >> 24 for fate in wanted} in ({True}, {1, 3})
    assert stage.send_all(packets) == wanted


def test_mask_sets_are_asked_in_order_and_the_first_equal_value_decides(stage: Stage) -> None:
    low = MaskSet(MaskFields(0, 1, 0, 0), {MaskFields(0, 0, 0, 0): FIRST})
    port = MaskSet(
        MaskFields(0, 0, 0, 0xFFFF), {MaskFields(0, 0, 0, 80): SECOND, MaskFields(0, 0, 0, 443): THIRD}
    )
    made = service(
        "70",
        *CACHES,
        assignment=MaskAssignment((low, port)),
        match=PacketMatch(TCP),
        forwarding=stage.forwarding,
    )
    stage.bring_to(plan(made))
    even, odd = IPv4Address("203.0.113.8"), IPv4Address("203.0.113.9")
    packets = [fresh(even), fresh(odd), fresh(even, 443), fresh(odd, 443), fresh(odd, 8080)]
    wanted = [redirected(stage, made, cache, 0) for cache in (FIRST, SECOND, FIRST, THIRD)]
    assert stage.send_all(packets) == [*wanted, PASSED]


def test_masks_look_at_addresses_and_ports_at_once(stage: Stage) -> None:
    mask = MaskFields(0xF, 0xF, 0x1, 0x2)
    owners = {
        MaskFields(source, destination, sport, dport): CACHES[(source + destination + sport + dport) % 3]
        for source in range(16)
        for destination in range(16)
        for sport in (0, 1)
        for dport in (0, 2)
    }
    made = service(
        "70", *CACHES, assignment=MaskAssignment((MaskSet(mask, owners),)), match=PacketMatch(TCP),
        forwarding=stage.forwarding,
    )  # fmt: skip
    stage.bring_to(plan(made))
    packets = [
        replace(fresh(server, 80 + n % 4), source=IPv4Address("10.64.3.0") + n)
        for n, server in enumerate(SERVERS)
    ]
    wanted = [
        redirected(
            stage, made, owners[MaskFields(*(f & m for f, m in zip(each.fields, mask, strict=True)))], 0
        )
        for each in packets
    ]
    assert stage.send_all(packets) == wanted


@pytest.mark.parametrize("match", [EVERYTHING, PacketMatch(TCP)], ids=["every protocol", "tcp"])
def test_a_packet_that_ends_before_its_ports_has_none_to_hash(stage: Stage, match: PacketMatch) -> None:
    fields = HashFields(True, True, True, True)
    made = service(
        "70", *CACHES, assignment=hashed(evenly(*CACHES), fields), match=match, forwarding=stage.forwarding
    )
    stage.bring_to(plan(made))
    packets = [fresh(server, transport_octets=3) for server in SERVERS[:20]]
    found = [bucket(stage, HashFields(True, True), packet) for packet in packets]
    assert stage.send_all(packets) == [redirected(stage, made, evenly(*CACHES)[each], each) for each in found]


@pytest.mark.parametrize("match", [EVERYTHING, PacketMatch(TCP)], ids=["every protocol", "tcp"])
def test_to_masks_a_packet_that_ends_before_its_ports_has_ports_0(stage: Stage, match: PacketMatch) -> None:
    first = MaskSet(MaskFields(0, 1, 0, 1), {MaskFields(0, 0, 0, 0): FIRST, MaskFields(0, 0, 0, 1): THIRD})
    second = MaskSet(MaskFields(0, 0, 1, 0), {MaskFields(0, 0, 0, 0): SECOND})
    made = service(
        "70",
        *CACHES,
        assignment=MaskAssignment((first, second)),
        match=match,
        forwarding=stage.forwarding,
    )
    stage.bring_to(plan(made))
    even, odd = IPv4Address("203.0.113.8"), IPv4Address("203.0.113.9")
    packets = [fresh(even, 81, transport_octets=3), fresh(odd, 81, transport_octets=3), fresh(even, 81)]
    wanted = [redirected(stage, made, cache, 0) for cache in (FIRST, SECOND, THIRD)]
    assert stage.send_all(packets) == wanted


def test_a_value_of_nobody_is_forwarded_and_later_sets_are_not_asked(stage: Stage) -> None:
    first = MaskSet(MaskFields(0, 1, 0, 0), {MaskFields(0, 1, 0, 0): None})
    everything = MaskSet(MaskFields(0, 0, 0, 0), {MaskFields(0, 0, 0, 0): SECOND})
    made = service("70", *CACHES, assignment=MaskAssignment((first, everything)), forwarding=stage.forwarding)
    stage.bring_to(plan(made))
    assert stage.send(fresh(IPv4Address("203.0.113.9"))) == PASSED
    assert stage.send(fresh(IPv4Address("203.0.113.8"))) == redirected(stage, made, SECOND, 0)


def test_packets_without_ports_have_ports_0_for_masks_and_none_for_hashes(stage: Stage) -> None:
    port = MaskFields(0, 0, 0, 0xFFFF)
    by_mask = service(
        "70", FIRST, SECOND, match=EVERYTHING, forwarding=stage.forwarding, affinity=False,
        assignment=MaskAssignment(
            (MaskSet(port, {MaskFields(0, 0, 0, 0): FIRST, MaskFields(0, 0, 0, 80): SECOND}),)
        ),
    )  # fmt: skip
    stage.bring_to(plan(by_mask))
    protocols = [TCP, UDP, ICMP, ESP]
    wanted = [redirected(stage, by_mask, cache, 0) for cache in (SECOND, SECOND, FIRST, FIRST)]
    assert stage.send_all([fresh(protocol=protocol) for protocol in protocols]) == wanted

    every = HashFields(True, True, True, True)
    by_hash = service(
        "70", *CACHES, match=EVERYTHING, forwarding=stage.forwarding, affinity=False,
        assignment=hashed(evenly(*CACHES), every),
    )  # fmt: skip
    stage.bring_to(plan(by_hash))
    packets = [fresh(protocol=protocol) for protocol in protocols]
    buckets = [bucket(stage, every, packet) for packet in packets[:2]]
    buckets += [bucket(stage, HashFields(True, True), packet) for packet in packets[2:]]
    assert stage.send_all(packets) == [
        redirected(stage, by_hash, evenly(*CACHES)[found], found) for found in buckets
    ]


# --- services


def test_the_first_service_that_takes_a_packet_decides(stage: Stage) -> None:
    several = (
        everything_to(stage, "70", FIRST, match=PacketMatch(TCP, (80, 8080))),
        everything_to(stage, "80", SECOND, match=PacketMatch(TCP)),
        everything_to(stage, "90", THIRD, match=EVERYTHING),
    )
    stage.bring_to(plan(*several))
    packets = [fresh(), fresh(port=8080), fresh(port=443), fresh(protocol=UDP), fresh(protocol=ICMP)]
    caches = [fate.cache for fate in stage.send_all(packets)]
    assert caches == [FIRST, FIRST, SECOND, THIRD, THIRD]


def test_a_service_that_is_asked_first_hides_a_narrower_one(stage: Stage) -> None:
    stage.bring_to(
        plan(everything_to(stage, "70", FIRST, match=EVERYTHING), everything_to(stage, "80", SECOND))
    )
    assert stage.send(fresh()).cache == FIRST


def test_a_service_takes_its_protocol_and_ports_only(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, match=PacketMatch(UDP, (53, 123)))))
    packets = [
        fresh(port=53, protocol=UDP),
        fresh(port=53),
        fresh(port=54, protocol=UDP),
        fresh(protocol=ESP),
    ]
    assert [fate.cache for fate in stage.send_all(packets)] == [FIRST, None, None, None]


def test_a_service_of_a_protocol_without_ports_takes_all_of_it(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, match=PacketMatch(ESP))))
    assert [fate.cache for fate in stage.send_all([fresh(protocol=ESP), fresh()])] == [FIRST, None]


def test_source_ports_are_looked_at_where_the_service_says_so(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "90", FIRST, match=FROM_WEB)))
    packets = [fresh(port=9999, source_port=80), fresh()]
    assert [fate.cache for fate in stage.send_all(packets)] == [FIRST, None]


def test_packets_of_other_devices_are_not_looked_at(stage: Stage) -> None:
    everything = everything_to(stage, "70", FIRST, match=EVERYTHING)
    stage.bring_to(plan(everything))
    assert stage.send(fresh(device="farm", source=IPv4Address("10.2.0.99"))) == PASSED
    stage.bring_to(plan(everything, ingress=("spokes", "farm")))
    assert stage.send(fresh(device="farm", source=IPv4Address("10.2.0.99"))).cache == FIRST


def test_without_services_everything_is_forwarded(stage: Stage) -> None:
    stage.bring_to(plan())
    assert stage.send(fresh()) == PASSED


def test_a_service_without_caches_forwards_everything(stage: Stage) -> None:
    stage.bring_to(plan(service("70", assignment=hashed(NOBODY))))
    assert stage.send(fresh()) == PASSED
