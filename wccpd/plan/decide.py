"""What any data plane must do with a packet: the specification of the redirect, as a function.

`explain` asks it, the fake plane carries packets by it, and the tests hold the real planes against it.

**What is looked at.** IPv4 packets that come in by a device of `plan.ingress`; all others are routed as if there
were no redirect. The kernel reassembles fragments before we look, so there are no later fragments. A packet that is
neither TCP nor UDP, or that ends before its ports, has none, which counts as ports 0. One that ends within its
transport header belongs to no flow.

**Services** are asked in the plan's order. The first whose match takes the packet decides. Only if that service has
`fallthrough`, and would forward the packet because its list denies it, because nobody owns it in mode open, or
because it is an established connection, are the services further down asked. If none of them takes it, it is
forwarded as the last that took it said. Each service that let it through has counted it.

**Exemptions** hold before anything that a service says, and whatever its mode: an exempt packet is left to the
kernel's routing. They are looked at only for packets that some service takes, in the order of `Exemption`. A packet
is *from* a cache if its source is that of a known cache and the route back leads out of the device it came in by,
so that no spoke gets past inspection under a cache's address; or if its frame came from the hardware address of a
usable cache. For L2 that is the draft's own rule (2.01, 3.12.2 and 3.13.3); a cache that is sent GRE, but asks servers
under its clients' addresses, would else be sent its own packets. WCCP passes to port 2048 of a known router, and from
port 2048 of one that is where it comes from, so that a cache can join another router through this one; nobody else's
port 2048 is anything special. Between a router and a known cache the cache's address exempts it.

**Redirect list.** The first line that matches decides; what none matches is denied. A denied packet is forwarded
whatever the mode.

**Lease.** When it has run out, the service's mode decides, pinned flows included (`Reason.LAPSED`). Nothing falls
through to other services then, since theirs has run out too.

**Affinity** (where the service has it). A flow is pinned by what happened to its first packet:

- to a cache. While the service that pinned it has a path to that cache, the flow goes there, by whatever method it
  is reached now and whatever the buckets say. If the cache has a path in the service that takes this packet, that one
  is used, with this service's header and counter: of a pair of services, each sees one direction of the same
  connection. Else the packet is labelled and counted as the service's that pinned the flow.
- to a cache that the service has lost: with `LostFlows.RESET` a TCP packet is rejected (`Reason.LOST`). Else it is
  as a new flow.
- as forwarded: a TCP connection that was not pinned when a service in mode open had it forwarded, as unassigned or
  denied, and no service further down wanted it. While that service and the one that takes the packet are in mode
  open, it stays forwarded (`Reason.ESTABLISHED`), since redirecting it now would break it.

How long a flow lives that is silent, or was reset, is the plane's affair; connection tracking forgets a connection 10 s
after its reset.

An ICMP error about a flow that is pinned to a cache, on its way from client to server, goes there too as long as
the lease is running, without exemptions, match or list, so that path MTU discovery of the proxy works. Any other ICMP
error is an ordinary packet, and none ever pins.

**New flows.** Hash: the owner of the primary bucket; or, if that has the A flag, the owner of the bucket of the
alternate hash, whose own flag is ignored. Ports that a packet does not have are left out of the hash. Mask: the owner
of the first value that the packet equals, set by set. Nobody, or a cache without a path: the mode decides. OPEN
forwards (`Reason.UNASSIGNED`), CLOSED drops, REJECT answers with a TCP reset or ICMP "administratively prohibited".

**Redirect header**, of GRE only (protocol.md 5.1): dynamic flag, service ID, primary bucket, and where the A flag
sent the packet on, the alternate flag and bucket; with masks both buckets are 0. A pinned flow's header has the
buckets that pinned it if it is the pinning service's header, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from gre.header import redirect_header
from wccpd.plan.hashes import FlowFields
from wccpd.plan.redirect import (
    PORT_PROTOCOLS,
    TCP,
    UDP,
    Action,
    HashAssignment,
    LostFlows,
    MaskFields,
    Mode,
    Path,
)
from wccpd.plan.verdict import Exemption, Outcome, Reason, Verdict
from wccpd.wire.enums import WCCP_PORT, ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address

    from wccpd.plan.hashes import HashFunction
    from wccpd.plan.redirect import (
        AclLine,
        HashFields,
        MaskAssignment,
        PacketMatch,
        RedirectPlan,
        ServicePlan,
    )

ICMP = 1
PORTS_OCTETS = 4
"""Both ports, with which TCP and UDP headers begin."""
_TRANSPORT_HEADER_OCTETS = {TCP: 20, UDP: 8, ICMP: 8}
"""Without options; connection tracking has no flow for a packet that ends within it."""


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet as it comes in, with what the host knows of it. By default an ordinary one of a spoke's."""

    device: str
    source: IPv4Address
    destination: IPv4Address
    protocol: int = TCP
    source_port: int = 0
    destination_port: int = 0
    """Ports of packets that have none are ignored."""
    ttl: int = 64
    unicast: bool = True
    """Whether the host would route it to somebody else's unicast address."""
    reverse_device: str | None = None
    """The device that the route to its source leads out of; None: the one it came in by."""
    sender: IPv4Address | None = None
    """The cache whose hardware address its frame came from, if any."""
    icmp_error: bool = False
    """It is an ICMP error about the connection whose pin is given, in the direction from client to server."""
    transport_octets: int | None = None
    """Behind the IP header there are only so many; None: everything that should be."""

    @property
    def has_ports(self) -> bool:
        """Whether there are ports to be read."""
        there = self.transport_octets is None or self.transport_octets >= PORTS_OCTETS
        return there and self.protocol in PORT_PROTOCOLS

    @property
    def has_flow(self) -> bool:
        """Whether it is of a flow: its transport header is whole."""
        there = self.transport_octets
        return there is None or there >= _TRANSPORT_HEADER_OCTETS.get(self.protocol, 0)

    @property
    def fields(self) -> FlowFields:
        """What hashes and masks see."""
        return FlowFields(
            int(self.source),
            int(self.destination),
            self.source_port if self.has_ports else 0,
            self.destination_port if self.has_ports else 0,
        )


@dataclass(frozen=True, slots=True)
class Pin:
    """What a flow is held to while it lives."""

    service: str
    """The service that pinned it."""
    cache: IPv4Address | None = None
    """None: it was forwarded."""
    bucket: int = 0
    """The primary bucket that it was in; 0 with masks."""
    alternate_bucket: int | None = None
    """The alternate one, if the primary one had the A flag."""


class Missed(StrEnum):
    """Why a service does not take a packet."""

    PROTOCOL = "protocol"
    PORT = "port"
    NOT_ASKED = "not asked"
    """A service further up has decided."""


@dataclass(frozen=True, slots=True)
class HashLookup:
    """How a hash assignment found an owner."""

    fields: FlowFields
    bucket: int
    alternate_bucket: int | None
    """None where the primary bucket has no A flag."""
    owner: IPv4Address | None


@dataclass(frozen=True, slots=True)
class MaskLookup:
    """How mask/value sets found an owner."""

    fields: FlowFields
    set_index: int | None
    """Which set has an equal value; None: no set."""
    value: MaskFields | None
    owner: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What one service said to a packet."""

    service: str
    missed: Missed | None = None
    """Why it does not take the packet; nothing else is set then."""
    exemption: Exemption | None = None
    """Why it may not have the packet that it would take; nothing else is set then."""
    acl_line: int | None = None
    """Index of the first line of its redirect list that matches; None: there is no list, or no line matches."""
    lookup: HashLookup | MaskLookup | None = None
    """Set if the flow counted as a new one."""
    outcome: Outcome | None = None
    """What is done and counted. Of a pinned flow it may be that of the service that pinned it."""
    path: Path | None = None
    header: int | None = None
    """The redirect header, 32 bits; None with L2."""
    falls_through: bool = False
    """Services further down were asked as well."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a packet, and why."""

    asked: tuple[Asked, ...] = ()
    """Every service in the plan's order; empty if the packet is not looked at."""
    pin: Pin | None = None
    """What the flow is held to from now on."""

    @property
    def said(self) -> Asked | None:
        """The last service that took the packet; None if none did."""
        return next((each for each in reversed(self.asked) if each.missed is None), None)

    @property
    def verdict(self) -> Verdict:
        """What is done with the packet."""
        return self._outcome.verdict if self._outcome else Verdict.FORWARDED

    @property
    def reason(self) -> Reason | None:
        """Why the service that took the packet did not redirect it."""
        return self._outcome.reason if self._outcome else None

    @property
    def exemption(self) -> Exemption | None:
        """Why the service that takes the packet may not have it."""
        return self.said.exemption if self.said else None

    @property
    def path(self) -> Path | None:
        """Where it is redirected to."""
        return self.said.path if self.said else None

    @property
    def header(self) -> int | None:
        """The redirect header with which it goes, 32 bits; None if it is not redirected by GRE."""
        return self.said.header if self.said else None

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What it is counted as: one for each service that took it."""
        return tuple(each.outcome for each in self.asked if each.outcome is not None)

    @property
    def _outcome(self) -> Outcome | None:
        return self.said.outcome if self.said else None


def decide(
    plan: RedirectPlan,
    packet: Packet,
    *,
    hash_function: HashFunction,
    leased: bool = True,
    pinned: Pin | None = None,
) -> Decision:
    """Say what is to be done with a packet; the module's text says by which rules.

    Args:
        plan: Services, assignments and paths.
        packet: The packet.
        hash_function: The one that the data plane uses, of `plan.hashes.HASH_FUNCTIONS`.
        leased: Whether the lease is running.
        pinned: What the packet's flow is held to so far.
    """
    if packet.device not in plan.ingress:
        return Decision(pin=pinned)
    case = _Case(plan, packet, hash_function, leased, pinned if packet.has_flow else None)
    asked = tuple(case.ask_about_error() or case.ask_in_turn())
    said = Decision(asked).said
    return Decision(asked, case.new_pin(said) if said else pinned)


def exemption(plan: RedirectPlan, packet: Packet) -> Exemption | None:
    """Why no service may have the packet: the first reason in the order of `Exemption` (protocol.md 4.4)."""
    return next((each for each in Exemption if _is_exempt(each, plan, packet)), None)


def _is_exempt(kind: Exemption, plan: RedirectPlan, packet: Packet) -> bool:
    match kind:
        case Exemption.NOT_UNICAST:
            return not packet.unicast or packet.destination.is_multicast
        case Exemption.FROM_CACHE:
            return (packet.source in plan.caches and _is_straight(packet)) or packet.sender in plan.returns
        case Exemption.TO_CACHE:
            return packet.destination in plan.caches
        case Exemption.NEVER:
            return any(packet.destination in network for network in plan.never)
        case Exemption.NO_HOP_LEFT:
            return packet.ttl <= 1
        case Exemption.WCCP:
            to_router = packet.destination in plan.routers and packet.fields.destination_port == WCCP_PORT
            from_router = packet.source in plan.routers and packet.fields.source_port == WCCP_PORT
            return packet.protocol == UDP and (to_router or (from_router and _is_straight(packet)))


def _is_straight(packet: Packet) -> bool:
    """Whether the route back to its source leads out of the device that it came in by."""
    return packet.reverse_device in {None, packet.device}


@dataclass(frozen=True, slots=True)
class _Case:
    """One packet before one plan."""

    plan: RedirectPlan
    packet: Packet
    hash_function: HashFunction
    leased: bool
    pinned: Pin | None

    def ask_in_turn(self) -> Iterator[Asked]:
        """Ask the services until one decides."""
        decided = False
        for service in self.plan.services:
            missed = Missed.NOT_ASKED if decided else _missed(service.match, self.packet)
            if missed is not None:
                yield Asked(service.name, missed)
                continue
            answer = self._ask(service)
            decided = not answer.falls_through
            yield answer

    def ask_about_error(self) -> tuple[Asked, ...]:
        """Where an ICMP error about a pinned flow goes; empty if the packet is no such error."""
        pin = self.pinned
        if not self.packet.icmp_error or not self.leased or pin is None or pin.cache is None:
            return ()
        carrier = self._service_with(pin.service, pin.cache)
        if carrier is None:
            return ()
        return tuple(
            self._redirected(service, service.paths[pin.cache], None, pin)
            if service is carrier
            else Asked(service.name, Missed.NOT_ASKED)
            for service in self.plan.services
        )

    def new_pin(self, said: Asked) -> Pin | None:
        """What the flow is held to after `said` was done."""
        service = next(each for each in self.plan.services if each.name == said.service)
        outcome = said.outcome
        has_flow = self.packet.has_flow and not self.packet.icmp_error
        if outcome is None or not service.affinity or not has_flow:
            return self.pinned
        if said.lookup is not None and said.path is not None:
            return Pin(service.name, said.path.cache, *_buckets(said.lookup))
        goes_on = service.mode is Mode.OPEN and outcome.reason in {Reason.UNASSIGNED, Reason.DENIED}
        if goes_on and self.pinned is None and self.packet.protocol == TCP:
            return Pin(service.name)
        return self.pinned

    def _ask(self, service: ServicePlan) -> Asked:
        """A service that takes the packet: exemptions, list, lease, affinity, assignment."""
        if (exempt := self._exempt(service)) is not None:
            return exempt
        line = _first_line(service.acl, self.packet)
        if service.acl and (line is None or service.acl[line].action is Action.DENY):
            return self._not_redirected(service, Verdict.FORWARDED, Reason.DENIED, line)
        return (
            self._lapsed(service, line)
            or (self._ask_pinned(service, line) if service.affinity else None)
            or self._ask_assignment(service, line)
        )

    def _exempt(self, service: ServicePlan) -> Asked | None:
        found = exemption(self.plan, self.packet)
        return Asked(service.name, exemption=found) if found is not None else None

    def _lapsed(self, service: ServicePlan, line: int | None) -> Asked | None:
        if self.leased:
            return None
        return self._not_redirected(service, _VERDICTS[service.mode], Reason.LAPSED, line)

    def _ask_pinned(self, service: ServicePlan, line: int | None) -> Asked | None:
        """Where the flow's pin leads; None if it leads nowhere, so that the flow counts as new."""
        pin, is_tcp = self.pinned, self.packet.protocol == TCP
        if pin is None or self.packet.icmp_error:
            return None
        if pin.cache is None:
            if service.mode is Mode.OPEN and self._is_open(pin.service):
                return self._not_redirected(service, Verdict.FORWARDED, Reason.ESTABLISHED, line)
            return None
        carrier = self._service_with(pin.service, pin.cache)
        if carrier is None:
            if is_tcp and service.lost_flows is LostFlows.RESET:
                return self._not_redirected(service, Verdict.REJECTED, Reason.LOST, line)
            return None
        if carrier is not service and pin.cache in service.paths:
            return self._redirected(service, service.paths[pin.cache], line, Pin(service.name))
        return replace(self._redirected(carrier, carrier.paths[pin.cache], line, pin), service=service.name)

    def _ask_assignment(self, service: ServicePlan, line: int | None) -> Asked:
        """A new flow."""
        lookup: HashLookup | MaskLookup
        if isinstance(service.assignment, HashAssignment):
            lookup = _look_up_bucket(service.assignment, self.packet, self.hash_function)
        else:
            lookup = _look_up_value(service.assignment, self.packet.fields)
        path = service.paths.get(lookup.owner) if lookup.owner is not None else None
        if path is None:
            verdict = _VERDICTS[service.mode]
            return self._not_redirected(service, verdict, Reason.UNASSIGNED, line, lookup)
        return self._redirected(service, path, line, lookup)

    def _service_with(self, name: str, cache: IPv4Address) -> ServicePlan | None:
        """The service of that name, if it has a path to the cache."""
        return next((each for each in self.plan.services if each.name == name and cache in each.paths), None)

    def _is_open(self, name: str) -> bool:
        return any(each.name == name and each.mode is Mode.OPEN for each in self.plan.services)

    def _redirected(
        self, service: ServicePlan, path: Path, line: int | None, why: HashLookup | MaskLookup | Pin
    ) -> Asked:
        header = None
        if path.forwarding is ForwardingMethod.GRE:
            bucket, alternate_bucket = _buckets(why)
            header = redirect_header(
                dynamic=service.dynamic,
                service_id=service.service_id,
                bucket=bucket,
                alternate_bucket=alternate_bucket,
            )
        return Asked(
            service.name,
            acl_line=line,
            lookup=None if isinstance(why, Pin) else why,
            outcome=Outcome(service.name, Verdict.REDIRECTED, cache=path.cache),
            path=path,
            header=header,
        )

    def _not_redirected(
        self,
        service: ServicePlan,
        verdict: Verdict,
        reason: Reason,
        line: int | None,
        lookup: HashLookup | MaskLookup | None = None,
    ) -> Asked:
        return Asked(
            service.name,
            acl_line=line,
            lookup=lookup,
            outcome=Outcome(service.name, verdict, reason),
            falls_through=service.fallthrough
            and verdict is Verdict.FORWARDED
            and reason is not Reason.LAPSED,
        )


_VERDICTS = {
    Mode.OPEN: Verdict.FORWARDED,
    Mode.CLOSED: Verdict.DROPPED,
    Mode.REJECT: Verdict.REJECTED,
}


def _buckets(why: HashLookup | MaskLookup | Pin) -> tuple[int, int | None]:
    """The primary and the alternate bucket that a redirect header shows."""
    return (0, None) if isinstance(why, MaskLookup) else (why.bucket, why.alternate_bucket)


def _missed(match: PacketMatch, packet: Packet) -> Missed | None:
    """Why a service does not take a packet; None if it does."""
    if match.protocol is not None and match.protocol != packet.protocol:
        return Missed.PROTOCOL
    port = packet.fields.source_port if match.source_ports else packet.fields.destination_port
    if match.ports and port not in match.ports:
        return Missed.PORT
    return None


def _first_line(acl: tuple[AclLine, ...], packet: Packet) -> int | None:
    """Index of the first line that matches."""
    fields = packet.fields
    for index, line in enumerate(acl):
        (first_source, last_source), (first, last) = line.source_ports, line.destination_ports
        if (
            line.protocol in {None, packet.protocol}
            and packet.source in line.source
            and packet.destination in line.destination
            and first_source <= fields.source_port <= last_source
            and first <= fields.destination_port <= last
        ):
            return index
    return None


def _look_up_bucket(assignment: HashAssignment, packet: Packet, hash_function: HashFunction) -> HashLookup:
    def bucket_by(fields: HashFields) -> int:
        if not packet.has_ports:
            fields = fields._replace(source_port=False, destination_port=False)
        return hash_function(fields, packet.fields)

    bucket = bucket_by(assignment.primary)
    if bucket not in assignment.alternate_buckets:
        return HashLookup(packet.fields, bucket, None, assignment.owners[bucket])
    alternate = bucket_by(assignment.alternate)
    return HashLookup(packet.fields, bucket, alternate, assignment.owners[alternate])


def _look_up_value(assignment: MaskAssignment, fields: FlowFields) -> MaskLookup:
    for index, each in enumerate(assignment.sets):
        value = MaskFields(*(field & mask for field, mask in zip(fields, each.mask, strict=True)))
        if value in each.owners:
            return MaskLookup(fields, index, value, each.owners[value])
    return MaskLookup(fields, None, None, None)
