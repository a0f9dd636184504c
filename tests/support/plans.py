"""Redirect plans for tests, and the network that they are about.

spoke 10.1.0.10 ---[spokes 10.1.0.1  router  10.9.0.1 out]--- 10.9.0.2 far side: every other address
                             10.2.0.1 farm
                                   |
                   10.2.0.21   10.2.0.22   10.2.0.23     caches
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from wccpd.plan.decide import Packet
from wccpd.plan.redirect import (
    TCP,
    AclLine,
    Action,
    HashAssignment,
    HashFields,
    PacketMatch,
    Path,
    RedirectPlan,
    ServicePlan,
)
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

INGRESS = "spokes"
SPOKE = IPv4Address("10.1.0.10")
ROUTER_INSIDE = IPv4Address("10.1.0.1")
ROUTER_ID = IPv4Address("10.2.0.1")
FIRST, SECOND, THIRD = CACHES = tuple(IPv4Address(f"10.2.0.{host}") for host in (21, 22, 23))
FAR = IPv4Address("10.9.0.2")
SERVER = IPv4Address("203.0.113.7")

TO_WEB = PacketMatch(TCP, (80,))
FROM_WEB = PacketMatch(TCP, (80,), source_ports=True)
EVERYTHING = PacketMatch(None)
BY_DESTINATION = HashFields(destination_address=True)
BY_SOURCE = HashFields(source_address=True)

Owners = tuple[IPv4Address | None, ...]
NOBODY: Owners = (None,) * 256


def path(cache: IPv4Address, forwarding: ForwardingMethod = ForwardingMethod.L2) -> Path:
    return Path(cache, forwarding)


def paths_to(
    caches: Iterable[IPv4Address], forwarding: ForwardingMethod = ForwardingMethod.L2
) -> dict[IPv4Address, Path]:
    return {cache: Path(cache, forwarding) for cache in caches}


def evenly(*caches: IPv4Address) -> Owners:
    """Buckets dealt out in turn."""
    return tuple(caches[bucket % len(caches)] for bucket in range(256)) if caches else NOBODY


def hashed(owners: Sequence[IPv4Address | None], primary: HashFields = BY_DESTINATION) -> HashAssignment:
    return HashAssignment(primary, tuple(owners))


def service(
    name: str = "web-cache",
    *caches: IPv4Address,
    forwarding: ForwardingMethod = ForwardingMethod.L2,
    **details: object,
) -> ServicePlan:
    """A service whose buckets are dealt out to `caches`; `details` are fields of ServicePlan."""
    standard = name == "web-cache"
    made: dict[str, object] = {
        "name": name,
        "dynamic": not standard,
        "service_id": 0 if standard else int(name),
        "match": TO_WEB,
        "assignment": hashed(evenly(*caches)),
        "paths": paths_to(caches, forwarding),
        **details,
    }
    return ServicePlan(**made)  # type: ignore[arg-type]


def plan(*services: ServicePlan, **details: object) -> RedirectPlan:
    """A plan in which every path has a slot, and each cache returns by the method by which it is sent."""
    ways = sorted({way for each in services for way in each.paths.values()}, key=str)
    made: dict[str, object] = {
        "router_id": ROUTER_ID,
        "ingress": (INGRESS,),
        "services": services,
        "caches": frozenset(CACHES),
        "returns": {way.cache: frozenset({PacketReturnMethod(way.forwarding)}) for way in ways},
        "slots": {way: slot_of(way) for way in ways},
        **details,
    }
    return RedirectPlan(**made)  # type: ignore[arg-type]


def slot_of(way: Path) -> int:
    """A path has the same number in every plan, as it has in the field while it is there."""
    return (int(way.cache) & 0x7F) << 1 | (way.forwarding is ForwardingMethod.GRE)


def permit(**match: object) -> AclLine:
    return AclLine(Action.PERMIT, **match)  # type: ignore[arg-type]


def deny(**match: object) -> AclLine:
    return AclLine(Action.DENY, **match)  # type: ignore[arg-type]


def network(text: str) -> IPv4Network:
    return IPv4Network(text)


def packet(destination: IPv4Address = SERVER, port: int = 80, **details: object) -> Packet:
    """A TCP packet of the spoke's to port 80 of the server, but for what is said otherwise."""
    return replace(Packet(INGRESS, SPOKE, destination, TCP, 40000, port), **details)
