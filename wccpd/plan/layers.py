"""Ordered conditions as few look-ups: what does not overlap can be asked at once.

nftables looks a packet up in a set of a thousand entries as fast as in one of ten, but a set has no order and no
overlaps. So ordered items go into layers: each into the first one behind all the earlier items that it overlaps.
Items of one layer exclude each other, so their order is of no matter; layers are asked in order. A list of a
thousand hosts with a final "permit any" is two layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from wccpd.plan.redirect import EVERY_ADDRESS, EVERY_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wccpd.plan.redirect import AclLine, PacketMatch, PortRange

EVERY_PROTOCOL = (0, 255)
_Item = TypeVar("_Item")


class Box(NamedTuple):
    """Ranges of packet fields, first and last value of each; a packet is in it if all its fields are."""

    source: tuple[int, int]
    destination: tuple[int, int]
    protocol: tuple[int, int]
    source_ports: PortRange
    destination_ports: PortRange

    def overlaps(self, other: Box) -> bool:
        """Whether any packet is in both."""
        return all(
            first[0] <= second[1] and second[0] <= first[1] for first, second in zip(self, other, strict=True)
        )


EVERYTHING = Box(
    (0, int(EVERY_ADDRESS.broadcast_address)),
    (0, int(EVERY_ADDRESS.broadcast_address)),
    EVERY_PROTOCOL,
    EVERY_PORT,
    EVERY_PORT,
)


def acl_box(line: AclLine) -> Box:
    """The packets that a line of a redirect list matches."""
    return Box(
        (int(line.source.network_address), int(line.source.broadcast_address)),
        (int(line.destination.network_address), int(line.destination.broadcast_address)),
        EVERY_PROTOCOL if line.protocol is None else (line.protocol, line.protocol),
        line.source_ports,
        line.destination_ports,
    )


def matches_overlap(first: PacketMatch, second: PacketMatch) -> bool:
    """Whether any packet is taken by both services."""
    if None not in (first.protocol, second.protocol) and first.protocol != second.protocol:
        return False
    if not first.ports or not second.ports or first.source_ports != second.source_ports:
        return True
    return not set(first.ports).isdisjoint(second.ports)


def layered(items: Sequence[_Item], overlap: Callable[[_Item, _Item], bool]) -> tuple[tuple[_Item, ...], ...]:
    """Split ordered items into layers; see the module."""
    layers: list[list[_Item]] = []
    for item in items:
        place = len(layers)
        while place > 0 and not any(overlap(item, other) for other in layers[place - 1]):
            place -= 1
        if place == len(layers):
            layers.append([])
        layers[place].append(item)
    return tuple(map(tuple, layers))
