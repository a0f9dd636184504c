"""From a packet to its service: verdict maps on protocol and port, layered by priority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.plan import names
from wccpd.plan.layers import layered, matches_overlap
from wccpd.plan.model import NftMap, NftRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wccpd.plan.redirect import PacketMatch, ServicePlan

HAS_PORTS = "th dport >= 0"
"""nft text, true of a packet whose ports are there: a rule that cannot read what it asks for is passed over."""
_KEYS = {
    "destination": "meta l4proto . th dport",
    "source": "meta l4proto . th sport",
    "protocol": "meta l4proto",
}


@dataclass(frozen=True, slots=True)
class DispatchObjects:
    """Rules of the chain that looks for the service, and their maps."""

    rules: tuple[NftRule, ...]
    maps: tuple[NftMap, ...]


def dispatch_objects(services: Sequence[ServicePlan]) -> DispatchObjects:
    """Compile the look-up of services, which are in the order in which they are to be asked."""
    rules: list[NftRule] = []
    maps: list[NftMap] = []
    layers = layered(services, lambda one, other: matches_overlap(one.match, other.match))
    for depth, layer in enumerate(layers):
        for side, expression in _KEYS.items():
            elements = {
                key: _verdict(service)
                for service in layer
                if _side(service.match) == side
                for key in _elements(service.match)
            }
            if elements:
                name = names.dispatch(depth, side)
                maps.append(NftMap(name, f"typeof {expression} : verdict;", elements))
                guard = f"{HAS_PORTS} " if side == "source" else ""
                rules.append(NftRule(f"{guard}{expression} vmap @{name}", f"by {side}"))
        rules += [
            NftRule(_verdict(service), f"every protocol: service {service.name}")
            for service in layer
            if service.match.protocol is None
        ]
    return DispatchObjects(tuple(rules), tuple(maps))


def _side(match: PacketMatch) -> str:
    if match.protocol is None:
        return "every"
    if not match.ports:
        return "protocol"
    return "source" if match.source_ports else "destination"


def _elements(match: PacketMatch) -> Iterator[str]:
    if not match.ports:
        yield str(match.protocol)
    for port in match.ports:
        yield f"{match.protocol} . {port}"


def _verdict(service: ServicePlan) -> str:
    """A packet that falls through comes back to be offered to the next service."""
    return f"{'jump' if service.fallthrough else 'goto'} {names.service(service.name)}"
