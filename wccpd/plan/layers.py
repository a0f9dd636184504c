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
    from collections.abc import Callable, Iterator, Sequence

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


class _Boxes:
    """Boxes of one layer whose addresses are networks, found by what their prefixes share with a given one."""

    def __init__(self) -> None:
        self._by_size: dict[_Bits, list[Box]] = {}
        self._by_prefix: dict[tuple[_Bits, _Bits], dict[_Bits, list[Box]]] = {}

    def add(self, box: Box) -> None:
        """Take a box into the layer."""
        size = _host_bits(box)
        self._by_size.setdefault(size, []).append(box)
        for (other, common), places in self._by_prefix.items():
            if other == size:
                places.setdefault(_prefixes(box, common), []).append(box)

    def overlap(self, box: Box) -> bool:
        """Whether a box overlaps one of the layer: two networks do if they agree in the shorter prefix."""
        return any(box.overlaps(other) for other in self._candidates(box))

    def _candidates(self, box: Box) -> Iterator[Box]:
        mine = _host_bits(box)
        for size, boxes in self._by_size.items():
            common = max(mine[0], size[0]), max(mine[1], size[1])
            places = self._by_prefix.get((size, common))
            if places is None:
                places = self._by_prefix[size, common] = {}
                for each in boxes:
                    places.setdefault(_prefixes(each, common), []).append(each)
            yield from places.get(_prefixes(box, common), ())


_Bits = tuple[int, int]
"""Of source and destination."""


def _host_bits(box: Box) -> _Bits:
    return (box.source[1] ^ box.source[0]).bit_length(), (
        box.destination[1] ^ box.destination[0]
    ).bit_length()


def _prefixes(box: Box, host_bits: _Bits) -> _Bits:
    return box.source[0] >> host_bits[0], box.destination[0] >> host_bits[1]


def layered_boxes(items: Sequence[_Item], box_of: Callable[[_Item], Box]) -> tuple[tuple[_Item, ...], ...]:
    """As `layered`, of boxes whose addresses are networks: in time that does not grow with the square."""
    layers: list[tuple[list[_Item], _Boxes]] = []
    for item in items:
        box, place = box_of(item), len(layers)
        while place > 0 and not layers[place - 1][1].overlap(box):
            place -= 1
        if place == len(layers):
            layers.append(([], _Boxes()))
        layers[place][0].append(item)
        layers[place][1].add(box)
    return tuple(tuple(members) for members, _ in layers)


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
