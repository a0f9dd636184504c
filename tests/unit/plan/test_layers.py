"""Layers: as few look-ups as overlaps allow, and never another decision than the list's."""

from __future__ import annotations

import random
from ipaddress import IPv4Network

import pytest

from wccpd.plan.layers import Box, acl_box, layered, layered_boxes, matches_overlap
from wccpd.plan.redirect import AclLine, Action, PacketMatch


def overlap(first: AclLine, second: AclLine) -> bool:
    return acl_box(first).overlaps(acl_box(second))


def deny(network: str) -> AclLine:
    return AclLine(Action.DENY, destination=IPv4Network(network))


def test_a_thousand_hosts_and_a_final_permit_are_two_layers() -> None:
    hosts = [deny(f"10.{number // 250}.{number % 250}.1/32") for number in range(1000)]
    layers = layered([*hosts, AclLine(Action.PERMIT)], overlap)
    assert [len(layer) for layer in layers] == [1000, 1]


def test_a_line_goes_behind_every_earlier_line_that_it_overlaps_and_no_further() -> None:
    lines = [
        deny("10.0.0.0/8"),
        deny("192.0.2.0/24"),
        deny("10.1.0.0/16"),
        deny("10.1.1.0/24"),
        deny("192.0.3.0/24"),
    ]
    assert layered(lines, overlap) == (
        (lines[0], lines[1], lines[4]),
        (lines[2],),
        (lines[3],),
    )


def test_first_match_in_layers_is_first_match_in_the_list() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(200):
        lines = [random_line(chance) for _ in range(chance.randrange(1, 20))]
        layers = layered(lines, overlap)
        assert sorted(map(id, lines)) == sorted(id(line) for layer in layers for line in layer)
        for _ in range(50):
            point = acl_box(random_line(chance, host=True))
            hit = next((line for line in lines if acl_box(line).overlaps(point)), None)
            layered_hits = [[line for line in layer if acl_box(line).overlaps(point)] for layer in layers]
            assert all(len(hits) <= 1 for hits in layered_hits), f"seed {seed}"
            first = next((hits[0] for hits in layered_hits if hits), None)
            assert first is hit, f"seed {seed}"


def test_layers_of_boxes_are_those_of_comparing_all_pairs() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(200):
        lines = [random_line(chance) for _ in range(chance.randrange(1, 40))]
        assert layered_boxes(lines, acl_box) == layered(lines, overlap), f"seed {seed}"


def test_a_long_list_is_not_compared_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    overlaps = Box.overlaps

    def count(one: Box, other: Box) -> bool:
        nonlocal compared
        compared += 1
        return overlaps(one, other)

    monkeypatch.setattr(Box, "overlaps", count)
    hosts = [deny(f"10.{number // 250}.{number % 250}.1/32") for number in range(2000)]
    networks = [deny(f"11.{number // 250}.{number % 250}.0/24") for number in range(2000)]
    layered_boxes([*hosts, *networks, AclLine(Action.PERMIT)], acl_box)
    assert compared < 4001


def random_line(chance: random.Random, *, host: bool = False) -> AclLine:
    """A line in a small world, so that lines overlap; a host's is a single packet."""

    def network() -> IPv4Network:
        length = 32 if host else chance.choice((0, 29, 30, 31, 32))
        return IPv4Network((0x0A000000 + chance.randrange(8), length), strict=False)

    def ports() -> tuple[int, int]:
        first = chance.randrange(4)
        return (first, first) if host else (first, chance.randrange(first, 4))

    protocol = chance.choice((6, 17)) if host else chance.choice((None, 6, 17))
    ranges = (ports(), ports()) if protocol else ((0, 0xFFFF), (0, 0xFFFF))
    return AclLine(chance.choice(list(Action)), network(), network(), protocol, *ranges)


@pytest.mark.parametrize(
    ("first", "second", "overlapping"),
    [
        (PacketMatch(6, (80,)), PacketMatch(6, (443, 8443)), False),
        (PacketMatch(6, (80, 443)), PacketMatch(6, (443,)), True),
        (PacketMatch(6, (80,)), PacketMatch(17, (80,)), False),
        (PacketMatch(6, (80,)), PacketMatch(6, (80,), source_ports=True), True),
        (PacketMatch(6, (80,)), PacketMatch(6), True),
        (PacketMatch(None), PacketMatch(47), True),
    ],
)
def test_services_overlap_if_a_packet_can_be_both(
    first: PacketMatch, second: PacketMatch, overlapping: bool
) -> None:
    assert matches_overlap(first, second) is overlapping
    assert matches_overlap(second, first) is overlapping
