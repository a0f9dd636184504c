"""A service's redirect list as nft look-ups: a verdict map per layer, with a counter in each element.

A layer of one line is a plain rule with a named counter. Only fields that some line of the layer restricts are
part of its key. A key of ranges has two fields at least: for those the kernel uses pipapo, which is faster than
the tree it uses for ranges of one field (performance.md 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2s
from ipaddress import IPv4Address, summarize_address_range
from typing import TYPE_CHECKING

from wccpd.plan.layers import EVERYTHING, Box, acl_box, layered_boxes
from wccpd.plan.model import NftMap, NftRule
from wccpd.plan.redirect import EVERY_PORT, Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wccpd.plan.redirect import AclLine, PacketMatch

FIELDS = ("ip saddr", "ip daddr", "meta l4proto", "th sport", "th dport")
"""nft expressions of the fields of a `Box`, in its order."""
_ADDRESSES = 2
"""The first fields of a box are addresses."""
_PROTOCOL = 2


@dataclass(frozen=True, slots=True)
class LineCounter:
    """Where the packets of one line are counted: a named counter, or an element of a map."""

    counter: str = ""
    map: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class AclObjects:
    """A redirect list in nft."""

    rules: tuple[NftRule, ...]
    maps: tuple[NftMap, ...]
    counters: tuple[LineCounter | None, ...]
    """By line; None for a line that can match no packet of the service, or repeats an earlier one."""
    looks_at_ports: bool


@lru_cache(maxsize=512)  # asked several times in each round; a list is as the configuration has it
def acl_objects(
    service: str,
    match: PacketMatch,
    lines: tuple[AclLine, ...],
    permitted: str,
    denied: str,
    *,
    portless: bool = False,
) -> AclObjects:
    """Compile a redirect list.

    Args:
        service: The service's name, part of the names of maps and counters.
        match: What the service takes; lines of other protocols are left out.
        lines: In order.
        permitted: The chain for permitted packets.
        denied: The chain for denied ones; also for those that no line matches.
        portless: For packets whose ports cannot be read, and so count as 0.
    """
    prefix = f"acl-{service}-portless" if portless else f"acl-{service}"
    rules: list[NftRule] = []
    maps: list[NftMap] = []
    counters: list[LineCounter | None] = [None] * len(lines)
    seen: set[Box] = set()
    items = []
    for number, line in enumerate(lines):
        box = _within(match, acl_box(line))
        if portless:
            box = _of_portless(box)
        if box is not None and box not in seen:
            seen.add(box)
            items.append((number, box, permitted if line.action is Action.PERMIT else denied))
    for depth, layer in enumerate(layered_boxes(items, lambda item: item[1])):
        if len(layer) == 1:
            ((number, box, target),) = layer
            counter = f"{prefix}-{_digest(box)}"
            counters[number] = LineCounter(counter=counter)
            rules.append(
                NftRule(_condition(box) + f"counter name {counter} goto {target}", _words(lines[number]))
            )
            continue
        fields = _key_fields([box for _, box, _ in layer])
        exact = all(box[field][0] == box[field][1] for _, box, _ in layer for field in fields)
        # The name says the key's form: a map cannot change its form in place.
        name = f"{prefix}-{depth}-{''.join(map(str, fields))}{'' if exact else 'r'}"
        keys = {number: _key(box, fields) for number, box, _ in layer}
        for number, key in keys.items():
            counters[number] = LineCounter(map=name, key=key)
        expression = " . ".join(FIELDS[field] for field in fields)
        flags = "" if exact else " flags interval;"
        maps.append(
            NftMap(
                name,
                f"typeof {expression} : verdict;{flags} counter;",
                {keys[number]: f"goto {target}" for number, _, target in layer},
            )
        )
        rules.append(NftRule(f"{expression} vmap @{name}", f"{len(layer)} lines of the redirect list"))
    rules.append(NftRule(f"goto {denied}", "no line matches"))
    looks_at_ports = any(
        (box.source_ports, box.destination_ports) != (EVERY_PORT, EVERY_PORT) for _, box, _ in items
    )
    return AclObjects(tuple(rules), tuple(maps), tuple(counters), looks_at_ports)


def _within(match: PacketMatch, box: Box) -> Box | None:
    """The box without a protocol that the service's packets have anyway; None if they can never be in it."""
    if match.protocol is None:
        return box
    if not box.protocol[0] <= match.protocol <= box.protocol[1]:
        return None
    return box._replace(protocol=EVERYTHING.protocol)


def _of_portless(box: Box | None) -> Box | None:
    """The box for packets whose ports count as 0; None if none of them is in it."""
    if box is None or box.source_ports[0] or box.destination_ports[0]:
        return None
    return box._replace(source_ports=EVERY_PORT, destination_ports=EVERY_PORT)


def _key_fields(boxes: Sequence[Box]) -> tuple[int, ...]:
    """The fields that some box restricts; of ranges at least two."""
    fields = {field for field in range(len(FIELDS)) if any(box[field] != EVERYTHING[field] for box in boxes)}
    ranges = any(box[field][0] != box[field][1] for box in boxes for field in fields)
    if ranges and len(fields) == 1:
        fields.add(_PROTOCOL)
    return tuple(sorted(fields))


def _key(box: Box, fields: tuple[int, ...]) -> str:
    return " . ".join(_value(box, field) for field in fields)


def _condition(box: Box) -> str:
    """The box as nft text, with a blank behind it; empty for everything."""
    restricted = [field for field in range(len(FIELDS)) if box[field] != EVERYTHING[field]]
    return "".join(f"{FIELDS[field]} {_value(box, field)} " for field in restricted)


def _value(box: Box, field: int) -> str:
    """A range as nft lists it."""
    first, last = box[field]
    if field >= _ADDRESSES:
        return str(first) if first == last else f"{first}-{last}"
    (network,) = summarize_address_range(IPv4Address(first), IPv4Address(last))
    return str(network.network_address) if first == last else str(network)


def _digest(box: Box) -> str:
    return blake2s(repr(tuple(box)).encode(), digest_size=5).hexdigest()


def _words(line: AclLine) -> str:
    return f"{line.action} {line.source} to {line.destination}"
