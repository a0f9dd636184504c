"""Why a flow fares as it does: the decision of `plan.decide` in words, step by step.

Nothing is decided here. `decide` says what any plane must do; this module names each of its steps, adds what the
operator knows the objects by (lines of the configuration, drained caches), and what the kernel was seen to hold of
the flow. `plan.held` compares that with what it should hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wccpd.plan.decide import HashLookup, MaskLookup, Missed
from wccpd.plan.match import service_name
from wccpd.plan.redirect import PORT_PROTOCOLS, TCP, UDP, HashAssignment, Mode
from wccpd.plan.verdict import Exemption, Reason, Verdict
from wccpd.protocol.view import CacheState
from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.decide import Asked, Decision, Packet, Pin
    from wccpd.plan.held import Difference, Way
    from wccpd.plan.policy import Policy
    from wccpd.plan.redirect import HashFields, PacketMatch, RedirectPlan, ServicePlan
    from wccpd.protocol.view import GroupView, RouterView

TCP_AND_IP_HEADER_BYTES = 40
_FIELDS = ("source address", "destination address", "source port", "destination port")
_PROTOCOLS = {TCP: "tcp", UDP: "udp", 1: "icmp", 47: "gre", 50: "esp"}

_EXEMPTIONS = {
    Exemption.NOT_UNICAST: "its destination is this host, or a broadcast or multicast address",
    Exemption.FROM_CACHE: "it comes from a cache",
    Exemption.TO_CACHE: "it goes to a cache",
    Exemption.NEVER: "its destination is in redirect.never",
    Exemption.NO_HOP_LEFT: "its TTL leaves no hop",
    Exemption.WCCP: "it is WCCP itself",
}
_MODES = {
    Mode.OPEN: "mode open: forwarded without inspection",
    Mode.CLOSED: "mode closed: dropped",
    Mode.REJECT: "mode reject: answered with a TCP reset or ICMP",
}
_REASONS = {
    Reason.UNASSIGNED: "no cache that can have it",
    Reason.DENIED: "the service's redirect list denies it",
    Reason.ESTABLISHED: "the connection began uninspected, and redirecting it now would break it",
    Reason.LAPSED: "the lease has run out, so every service is in its mode",
    Reason.LOST: "the cache that had the connection is gone, and lost_flows is reset",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the decision, in words."""

    step: str
    """ingress, service, exemption, lease, list, pin, hash, cache, method, header, mtu, verdict or way."""
    words: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the plan."""

    policy: Policy
    view: RouterView
    leased: bool
    pinned: Pin | None = None
    pin_words: str = ""
    """Why the pin is not known; empty if it is, or if there is none."""
    drained: Collection[IPv4Address] = ()
    refused: Collection[IPv4Address] = ()
    """Caches whose path the kernel refused."""
    device_assumed: bool = False
    source_port_assumed: bool = False
    way: Way | None = None
    """Where the kernel sends such a packet."""
    mtu_bytes: int | None = None
    """Of the device by which it leaves."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to `wccpctl explain`."""

    packet: Packet
    verdict: Verdict
    service: str
    """That decided; empty if none took the packet."""
    reason: str
    """Of what `plan.verdict` names: why it is not redirected; empty if it is."""
    cache: IPv4Address | None
    forwarding: ForwardingMethod | None
    bucket: int | None
    alternate_bucket: int | None
    acl_line: int | None
    """Of the configuration, from 0."""
    header: int | None
    mtu_bytes: int | None
    steps: tuple[Step, ...]
    differences: tuple[Difference, ...] = field(default=())


def explain(
    plan: RedirectPlan,
    packet: Packet,
    decision: Decision,
    known: Known,
    differences: tuple[Difference, ...] = (),
) -> Explanation:
    """Put a decision into words.

    Args:
        plan: The one that decided.
        packet: The packet that it decided about.
        decision: Of `decide`, with the pin and the lease that `known` has.
        known: What else is known.
        differences: Where the kernel does not hold what it should for this flow.
    """
    teller = _Teller(plan, packet, decision, known)
    said = decision.said
    lookup = said.lookup if said is not None else None
    pin = decision.pin
    bucket = lookup.bucket if isinstance(lookup, HashLookup) else None
    alternate = lookup.alternate_bucket if isinstance(lookup, HashLookup) else None
    if lookup is None and said is not None and said.path is not None and pin is not None:
        bucket, alternate = pin.bucket, pin.alternate_bucket
    return Explanation(
        packet=packet,
        verdict=decision.verdict,
        service=said.service if said is not None else "",
        reason=teller.reason(),
        cache=decision.path.cache if decision.path is not None else None,
        forwarding=decision.path.forwarding if decision.path is not None else None,
        bucket=bucket,
        alternate_bucket=alternate,
        acl_line=teller.configured_line(said),
        header=decision.header,
        mtu_bytes=known.mtu_bytes,
        steps=tuple(teller.steps()),
        differences=differences,
    )


@dataclass(frozen=True, slots=True)
class _Teller:
    """Tells one decision."""

    plan: RedirectPlan
    packet: Packet
    decision: Decision
    known: Known

    def steps(self) -> Iterator[Step]:
        """Everything in order."""
        yield self._ingress()
        if self.packet.device in self.plan.ingress:
            yield from self._undefined()
            for asked in self.decision.asked:
                yield from self._service(asked)
        yield self._verdict()
        yield from self._way()

    def reason(self) -> str:
        """One word of why it is not redirected."""
        if self.packet.device not in self.plan.ingress:
            return "not-ingress"
        if self.decision.said is None:
            return "no-service"
        if self.decision.exemption is not None:
            return self.decision.exemption.value
        return self.decision.reason.value if self.decision.reason is not None else ""

    def configured_line(self, asked: Asked | None) -> int | None:
        """The line of the configuration that one of the plan's comes from."""
        if asked is None or asked.acl_line is None:
            return None
        return self._redirect_list(asked.service)[0][asked.acl_line]

    # -- before the services -------------------------------------------------------------------------

    def _ingress(self) -> Step:
        device = self.packet.device
        how = " (assumed: the route back to the source leads there)" if self.known.device_assumed else ""
        if device in self.plan.ingress:
            return Step("ingress", f"comes in by {device}{how}, whose packets are looked at")
        looked_at = ", ".join(self.plan.ingress) or "no device"
        return Step(
            "ingress", f"comes in by {device or 'no device'}{how}; looked at are those of {looked_at}"
        )

    def _undefined(self) -> Iterator[Step]:
        """Services of the configuration that take nothing, since nobody has said what they are."""
        planned = {service.name for service in self.plan.services}
        for each in self.known.policy.services:
            name = service_name(each.key)
            if name not in planned:
                yield Step("service", f"{name}: takes nothing, no cache has said what it redirects")

    # -- one service ---------------------------------------------------------------------------------

    def _service(self, asked: Asked) -> Iterator[Step]:
        service = self._plan_of(asked.service)
        takes = f"{asked.service} takes {match_words(service.match)}"
        if asked.missed is Missed.NOT_ASKED:
            yield Step("service", f"{takes}: not asked, a service before it has decided")
            return
        if asked.missed is not None:
            yield Step(
                "service", f"{takes}: not this packet, whose {asked.missed} is {self._missing(service)}"
            )
            return
        yield Step("service", f"{takes}, and so this packet")
        if asked.exemption is not None:
            yield Step(
                "exemption", f"{_EXEMPTIONS[asked.exemption]} ({asked.exemption}): no service may have it"
            )
            return
        yield from self._list(service, asked)
        if asked.outcome is not None and asked.outcome.reason is Reason.DENIED:
            yield from self._fell_through(asked)
            return
        yield Step("lease", "running: the daemon renews it" if self.known.leased else _REASONS[Reason.LAPSED])
        if self.known.leased:
            yield from self._pin(service, asked)
            yield from self._assignment(service, asked)
        if asked.path is not None:
            yield from self._carrying(asked)
        elif asked.outcome is not None and asked.outcome.reason in {Reason.UNASSIGNED, Reason.LAPSED}:
            yield Step("mode", _MODES[service.mode])
        yield from self._fell_through(asked)

    def _missing(self, service: ServicePlan) -> str:
        if service.match.protocol is not None and service.match.protocol != self.packet.protocol:
            return protocol_name(self.packet.protocol)
        fields = self.packet.fields
        return (
            f"{fields.source_port} (source)" if service.match.source_ports else str(fields.destination_port)
        )

    def _list(self, service: ServicePlan, asked: Asked) -> Iterator[Step]:
        if not service.acl:
            yield Step("list", "there is no redirect list: every packet may be redirected")
            return
        origins, words = self._redirect_list(service.name)
        if asked.acl_line is None:
            yield Step("list", f"none of {len(words)} lines of the redirect list matches: denied")
            return
        number = origins[asked.acl_line]
        yield Step("list", f"line {number + 1} of the redirect list matches first: {words[number]}")

    def _redirect_list(self, service: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """For each line of the plan its place in the configuration, and the configuration's lines."""
        mine = next(each for each in self.known.policy.services if service_name(each.key) == service)
        return mine.redirect_list.origins, mine.redirect_list.words

    def _pin(self, service: ServicePlan, asked: Asked) -> Iterator[Step]:
        if not service.affinity:
            yield Step("pin", "affinity is off: every packet is decided by the assignment")
            return
        pinned = self.known.pinned
        if self.known.pin_words:
            yield Step("pin", self.known.pin_words)
        elif pinned is None:
            yield Step("pin", "the flow is not tracked as pinned: it counts as a new one")
        elif pinned.cache is None:
            stays = asked.outcome is not None and asked.outcome.reason is Reason.ESTABLISHED
            what = _REASONS[Reason.ESTABLISHED] if stays else "and that does not count in this mode"
            yield Step("pin", f"service {pinned.service} let the connection pass uninspected: {what}")
        elif asked.lookup is None and asked.path is not None:
            bucket = f", bucket {pinned.bucket}" if pinned.bucket else ""
            yield Step(
                "pin",
                f"the flow exists and is pinned to {pinned.cache} by service {pinned.service}{bucket}, "
                "whatever the buckets say now",
            )
        else:
            yield Step("pin", "the flow was pinned to a cache that is gone")

    def _assignment(self, service: ServicePlan, asked: Asked) -> Iterator[Step]:
        match asked.lookup:
            case HashLookup() as lookup:
                yield from self._bucket(service, lookup)
                yield from self._owner(service, lookup.owner, self._engine_owner(service, lookup))
            case MaskLookup() as lookup:
                if lookup.value is None:
                    yield Step("mask", "equals no value of any mask")
                    return
                yield Step("mask", f"equals value {_mask_words(lookup.value)} of set {lookup.set_index}")
                yield from self._owner(service, lookup.owner, None)
            case None:
                return

    def _bucket(self, service: ServicePlan, lookup: HashLookup) -> Iterator[Step]:
        assert isinstance(service.assignment, HashAssignment)
        primary = self._hash_words(service.assignment.primary)
        if lookup.alternate_bucket is None:
            yield Step("hash", f"{primary} is bucket {lookup.bucket}")
            return
        alternate = self._hash_words(service.assignment.alternate)
        yield Step(
            "hash",
            f"{primary} is bucket {lookup.bucket}, which has the A flag; "
            f"{alternate} is alternate bucket {lookup.alternate_bucket}",
        )

    def _hash_words(self, fields: HashFields) -> str:
        if self.packet.protocol not in PORT_PROTOCOLS:
            fields = fields._replace(source_port=False, destination_port=False)
        flow = self.packet.fields
        values = (self.packet.source, self.packet.destination, flow.source_port, flow.destination_port)
        chosen = [f"{name} {value}" for name, value, on in zip(_FIELDS, values, fields, strict=True) if on]
        assumed = fields.source_port and self.known.source_port_assumed
        return f"hash of {', '.join(chosen) or 'nothing'}{' (assumed)' if assumed else ''}"

    def _engine_owner(self, service: ServicePlan, lookup: HashLookup) -> IPv4Address | None:
        group = self._group(service.name)
        number = lookup.bucket if lookup.alternate_bucket is None else lookup.alternate_bucket
        return group.bucket_owners[number] if group is not None else None

    def _owner(
        self, service: ServicePlan, owner: IPv4Address | None, assigned: IPv4Address | None
    ) -> Iterator[Step]:
        """Who is sent it, and why that is not the one to whom it was assigned."""
        group = self._group(service.name)
        by = f" (assigned by the {group.assigned_by})" if group is not None else ""
        if owner is None:
            yield Step("cache", f"nobody owns it{self._why_nobody(group)}")
        elif owner not in service.paths:
            yield Step(
                "cache", f"it is {owner}'s, to which there is no path{self._why_left_out(owner, group)}"
            )
        elif assigned not in {None, owner}:
            why = self._why_left_out(assigned, group) if assigned is not None else ""
            yield Step("cache", f"it is {assigned}'s{why}; covered by {owner}")
        else:
            yield Step("cache", f"it is {owner}'s{by}")

    def _why_nobody(self, group: GroupView | None) -> str:
        if group is None or not group.caches:
            return ": no cache has sent a HERE_I_AM"
        usable = [cache.address for cache in group.caches if cache.state is CacheState.USABLE]
        if not usable:
            first = group.caches[0]
            return f": no cache is usable; {first.address}: {first.reason}"
        if all(address in self.known.drained for address in usable):
            return ": every usable cache is drained"
        return ": it is not assigned"

    def _why_left_out(self, cache: IPv4Address | None, group: GroupView | None) -> str:
        if cache in self.known.drained:
            return ", which is drained"
        if cache in self.known.refused:
            return ", whose path the kernel refused"
        usable = group is not None and any(
            each.address == cache and each.state is CacheState.USABLE for each in group.caches
        )
        return ", of another zone" if usable else ", which is not usable"

    def _carrying(self, asked: Asked) -> Iterator[Step]:
        path = asked.path
        assert path is not None
        router = self.plan.router_id
        if path.forwarding is ForwardingMethod.GRE:
            yield Step("method", f"GRE from {router} to {path.cache}")
        else:
            yield Step("method", f"L2: to the hardware address of {path.cache}")
        if asked.header is not None:
            yield Step("header", f"redirect header {header_words(asked.header)}")
        mtu = self.known.mtu_bytes
        if mtu is not None:
            clamped = path.forwarding is ForwardingMethod.GRE and self.plan.clamp_mss
            mss = f"; the MSS of TCP is lowered to {mtu - TCP_AND_IP_HEADER_BYTES}" if clamped else ""
            bigger = (
                "is fragmented" if self.plan.clear_df else "is fragmented, or refused by ICMP if it has DF"
            )
            yield Step("mtu", f"packets up to {mtu} bytes fit; what is bigger {bigger}{mss}")

    @staticmethod
    def _fell_through(asked: Asked) -> Iterator[Step]:
        if asked.falls_through:
            yield Step("fallthrough", f"{asked.service} lets it fall through to the services after it")

    # -- the end -------------------------------------------------------------------------------------

    def _verdict(self) -> Step:
        decision = self.decision
        if decision.verdict is Verdict.REDIRECTED and decision.path is not None:
            return Step("verdict", f"REDIRECTED to {decision.path.cache}")
        if self.packet.device not in self.plan.ingress:
            why = "its ingress device is not looked at"
        elif decision.exemption is not None:
            why = _EXEMPTIONS[decision.exemption]
        elif decision.reason is not None:
            why = _REASONS[decision.reason]
        else:
            why = "no service takes it"
        return Step("verdict", f"{decision.verdict.value.upper()}, not redirected: {why}")

    def _way(self) -> Iterator[Step]:
        if self.known.way is not None and self.decision.verdict in {Verdict.REDIRECTED, Verdict.FORWARDED}:
            yield Step("way", f"the kernel sends it {self.known.way}")

    def _plan_of(self, name: str) -> ServicePlan:
        return next(each for each in self.plan.services if each.name == name)

    def _group(self, name: str) -> GroupView | None:
        return next((each for each in self.known.view.groups if service_name(each.key) == name), None)


def match_words(match: PacketMatch) -> str:
    """What a service takes, e.g. `tcp to port 80, 443`."""
    if match.protocol is None:
        return "every protocol"
    ports = ", ".join(map(str, match.ports))
    side = "from" if match.source_ports else "to"
    return protocol_name(match.protocol) + (f" {side} port {ports}" if ports else "")


def protocol_name(number: int) -> str:
    """A protocol as people write it."""
    return _PROTOCOLS.get(number, f"protocol {number}")


def header_words(header: int) -> str:
    """A redirect header as octets and as what they say (draft 4.12.1)."""
    octets = header.to_bytes(4).hex(" ")
    kind = "dynamic" if header >> 24 & 1 else "standard"
    alternate = f", alternate bucket {header >> 8 & 0xFF}" if header >> 24 & 2 else ""
    return f"{octets} ({kind} service {header >> 16 & 0xFF}, bucket {header & 0xFF}{alternate})"


def _mask_words(value: tuple[int, int, int, int]) -> str:
    return "/".join(f"{part:#x}" for part in value)


def document(explanation: Explanation, extra: Mapping[str, object] | None = None) -> dict[str, object]:
    """The explanation as plain JSON values; keys are stable."""
    packet = explanation.packet
    has_ports = packet.protocol in PORT_PROTOCOLS
    return {
        "version": 1,
        "source": str(packet.source),
        "destination": str(packet.destination),
        "protocol": protocol_name(packet.protocol),
        "source_port": packet.source_port if has_ports else None,
        "destination_port": packet.destination_port if has_ports else None,
        "device": packet.device,
        "verdict": explanation.verdict.value,
        "reason": explanation.reason,
        "service": explanation.service,
        "acl_line": explanation.acl_line,
        "bucket": explanation.bucket,
        "alternate_bucket": explanation.alternate_bucket,
        "cache": str(explanation.cache) if explanation.cache is not None else None,
        "forwarding": explanation.forwarding.name.lower() if explanation.forwarding else None,  # type: ignore[union-attr]
        "header": f"{explanation.header:08x}" if explanation.header is not None else None,
        "mtu_bytes": explanation.mtu_bytes,
        "steps": [{"step": each.step, "words": each.words} for each in explanation.steps],
        "differences": [
            {"object": each.obj, "should": each.should, "is": each.found} for each in explanation.differences
        ],
        **(extra or {}),
    }
