"""What a data plane is shown on: something that can be brought to a plan, and carries packets.

A stage has the network of tests/support/plans.py. A test brings its plane to a plan, sends a packet, and is told its
fate: where it came out, and in which clothes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from tests.support.plans import CACHES, INGRESS, ROUTER_ID, ROUTER_INSIDE, SERVER, SPOKE, service
from wccpd.dataplane.port import Applied, Observation
from wccpd.plan.decide import Decision, Packet
from wccpd.plan.redirect import TCP, Path, RedirectPlan, ServicePlan
from wccpd.plan.verdict import Verdict
from wccpd.wire.enums import ForwardingMethod

FARM = "farm"
OUT = "out"
NETWORKS = {
    INGRESS: IPv4Network("10.1.0.0/24"),
    FARM: IPv4Network("10.2.0.0/24"),
    OUT: IPv4Network("10.9.0.0/24"),
}
BEYOND_THE_SPOKE = IPv4Network("10.64.0.0/16")
"""Routed to the spoke, as networks behind a Transit Gateway are."""
LOCAL = frozenset({ROUTER_INSIDE, ROUTER_ID, IPv4Address("10.9.0.1")})
LEASE_SECONDS = 120.0
_ports = itertools.count(20000)


class Place(Enum):
    """Where a packet came out."""

    CACHE = "redirected to"
    PASSED = "forwarded"
    """Where the router's routing leads."""
    RESET = "answered with a TCP reset"
    PROHIBITED = "answered with ICMP administratively prohibited"
    EXPIRED = "answered with ICMP time exceeded"
    TOO_BIG = "answered with ICMP fragmentation needed"
    UNREACHABLE = "answered with another ICMP unreachable"
    NOWHERE = "dropped"


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a packet."""

    place: Place
    path: Path | None = None
    header: int | None = None
    """The redirect header, where it came by GRE."""

    @property
    def cache(self) -> IPv4Address | None:
        """Where it was redirected to."""
        return self.path.cache if self.path else None

    def __str__(self) -> str:
        how = "" if self.header is None else f" with {self.header:08x}"
        return f"{self.place.value} {self.path}{how}" if self.path else self.place.value


PASSED = Fate(Place.PASSED)
RESET = Fate(Place.RESET)
PROHIBITED = Fate(Place.PROHIBITED)
EXPIRED = Fate(Place.EXPIRED)
NOWHERE = Fate(Place.NOWHERE)


def fate_of(decision: Decision, packet: Packet) -> Fate:
    """What a host that does as it is told does with a packet to somebody else."""
    match decision.verdict:
        case Verdict.REDIRECTED:
            return Fate(Place.CACHE, decision.path, decision.header)
        case Verdict.DROPPED:
            return NOWHERE
        case Verdict.REJECTED:
            if packet.protocol == TCP:
                return RESET if packet.has_flow else NOWHERE
            return PROHIBITED
        case Verdict.FORWARDED:
            return EXPIRED if packet.ttl <= 1 else PASSED


class Stage(Protocol):
    """A data plane and the network that it is in."""

    @property
    def hash_function(self) -> str:
        """Of the plane."""
        ...

    @property
    def forwarding(self) -> ForwardingMethod:
        """The method by which the stage's caches can be reached."""
        ...

    def bring_to(self, plan: RedirectPlan, *, leased: bool = True, faults: int = 0) -> Applied:
        """Have the plane make it so with so many faults, and renew the lease if wished."""
        ...

    def preview(self, plan: RedirectPlan) -> tuple[str, ...]: ...

    def reconfigure(self, services: tuple[str, ...]) -> None:
        """Tell the plane the names of all configured services, in the order of their pages."""
        ...

    def observe(self) -> Observation: ...

    def renew_lease(self, seconds: float = LEASE_SECONDS) -> None: ...

    def let_the_lease_run_out(self) -> None: ...

    def forget(self) -> None:
        """Have the plane take nothing for granted: the next look reads everything."""
        ...

    def restart(self) -> None:
        """Close the plane and open another on what is there."""
        ...

    def send(self, packet: Packet) -> Fate:
        """Send one packet from where it says that it comes in, and wait for what becomes of it."""
        ...

    def send_all(self, packets: Sequence[Packet]) -> list[Fate]:
        """Send packets of different flows one after the other, and wait for what becomes of each."""
        ...

    def send_error(self, about: Packet) -> Fate:
        """Have the sender of a packet complain by ICMP about the answer."""
        ...

    def live_flows(self) -> Mapping[IPv4Address, int]: ...

    def refuse(self, path: Path) -> None:
        """See to it that an L2 path to an address beyond the far side cannot be made."""
        ...

    def damage(self, what: str) -> None:
        """Take away or replace a part of what is there: one of `damages`."""
        ...

    @property
    def damages(self) -> tuple[str, ...]: ...

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied: ...


def redirected(
    stage: Stage, made: ServicePlan, cache: IPv4Address, bucket: int = 0, alternate: int | None = None
) -> Fate:
    """The fate of a packet that a service redirects, with the header that it ought to have."""
    header = None
    if stage.forwarding is ForwardingMethod.GRE:
        flags = int(made.dynamic) | (2 if alternate is not None else 0)
        header = flags << 24 | made.service_id << 16 | (alternate or 0) << 8 | bucket
    return Fate(Place.CACHE, Path(cache, stage.forwarding), header)


def everything_to(stage: Stage, name: str, cache: IPv4Address, **details: object) -> ServicePlan:
    """A service whose buckets are all one cache's."""
    return service(name, cache, forwarding=stage.forwarding, **details)


def fresh(destination: IPv4Address = SERVER, port: int = 80, **details: object) -> Packet:
    """The first packet of a flow that there has not been yet: TCP, from the spoke, to port 80 of the server."""
    source_port = 20000 + next(_ports) % 40000
    return replace(Packet(INGRESS, SPOKE, destination, TCP, source_port, port), **details)  # type: ignore[arg-type]


def as_known_to_the_host(packet: Packet) -> Packet:
    """The packet with what the routing of the stage's router knows of it."""
    broadcasts = {network.broadcast_address for network in NETWORKS.values()}
    unicast = packet.destination not in LOCAL | broadcasts | {IPv4Address("255.255.255.255")}
    networks = [*NETWORKS.items(), (INGRESS, BEYOND_THE_SPOKE)]
    back = next((device for device, network in networks if packet.source in network), OUT)
    return replace(packet, unicast=unicast, reverse_device=back)


def answer_to(packet: Packet, device: str = OUT) -> Packet:
    """A packet of the other direction of the same flow."""
    return replace(
        packet,
        device=device,
        source=packet.destination,
        destination=packet.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
        sender=None,
    )


assert all(cache in NETWORKS[FARM] for cache in CACHES)
