"""What the kernel should hold of one flow on the netlink plane, and where what it holds differs.

The objects are those of `plan.compile`; a packet of the flow meets them in this order: the lease and ingress maps,
the look-up of its service, that service's chains and bucket, the rule of the mark, the routing table, the device,
the redirect header.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from gre.tunnel import redirect_device, redirect_device_name
from wccpd.plan import names
from wccpd.plan.decide import HashLookup, Pin
from wccpd.plan.dispatch import dispatch_objects
from wccpd.plan.model import MarkRule
from wccpd.plan.pages import allocate_pages
from wccpd.plan.service_chains import ServiceObjects
from wccpd.plan.verdict import Verdict
from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gre.tunnel import ObservedGre
    from wccpd.plan.compile import Compiled
    from wccpd.plan.decide import Decision, Packet
    from wccpd.plan.diff import ObservedTable
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import RedirectPlan

GONE = IPv4Address(0)
"""Stands for a path that the plan has no more: a connection mark tells its slot, and no longer whose it was."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the kernel does not hold as it should."""

    obj: str
    should: str
    found: str

    def __str__(self) -> str:
        return f"{self.obj}: should be {self.should}, is {self.found}"


@dataclass(frozen=True, slots=True)
class Way:
    """Where the kernel's routing sends a packet."""

    device: str
    gateway: IPv4Address | None = None
    mtu_bytes: int | None = None

    def __str__(self) -> str:
        via = f"via {self.gateway} " if self.gateway is not None else ""
        return f"{via}by device {self.device}"


@dataclass(frozen=True, slots=True)
class Held:
    """What the kernel holds that bears on one flow."""

    table: ObservedTable | None
    rules: frozenset[MarkRule]
    devices: Mapping[str, ObservedGre]
    way: Way | None
    """Of a packet with the flow's mark, from its ingress device."""
    no_way: str = ""
    """The kernel's words where it has none."""
    neighbour: str | None = None
    """Hardware address of an L2 cache; None: not asked, or not known."""
    foreign_rules: tuple[str, ...] = ()
    """Rules of others that come before ours, in words."""
    links: Mapping[IPv4Address, str] = field(default_factory=dict)
    """Device on whose segment a cache of the plan is."""


def flow_mark(plan: RedirectPlan, decision: Decision, settings: KernelSettings) -> int:
    """The packet mark of a redirected packet; 0 of all others."""
    said = decision.said
    if said is None or said.path is None or said.path not in plan.slots or said.outcome is None:
        return 0
    pages = allocate_pages(plan.services, settings.services, plan.alternate_pages)
    carrier = said.outcome.service
    page, bucket = pages.of_service(carrier), 0
    lookup = said.lookup
    pin = decision.pin
    if isinstance(lookup, HashLookup):
        number, alternate = lookup.bucket, lookup.alternate_bucket
    elif lookup is None and pin is not None and pin.service == carrier:
        number, alternate = pin.bucket, pin.alternate_bucket
    else:
        number, alternate = 0, None
    if alternate is None:
        bucket = number
    else:
        page, bucket = pages.of_alternate(carrier, number), alternate
    return settings.marks.mark(slot=plan.slots[said.path], page=page, bucket=bucket)


def pin_of(mark: int, plan: RedirectPlan, settings: KernelSettings) -> Pin | None:
    """What a connection mark holds its flow to; None without bits of ours."""
    bits = (mark & settings.marks.mask) >> settings.marks.shift
    slot, page, bucket = bits & 0xFF, bits >> 8 & 0xFF, bits >> 16
    if not slot and not page:
        return None
    pages = allocate_pages(plan.services, settings.services, plan.alternate_pages)
    own = {number: name for name, number in pages.services.items()}
    flagged = {number: key for key, number in pages.alternates.items()}
    service, primary = flagged.get(page, (own.get(page, ""), bucket))
    alternate = bucket if page in flagged else None
    if not slot:
        return Pin(service)
    return Pin(service, plan.meanings.get(slot, GONE), primary, alternate)


def differences(
    plan: RedirectPlan,
    packet: Packet,
    decision: Decision,
    compiled: Compiled,
    settings: KernelSettings,
    held: Held,
) -> tuple[Difference, ...]:
    """Everything that the kernel does not hold as it should for a packet of this flow.

    Args:
        plan: The one in force.
        packet: The packet.
        decision: What is to be done with it.
        compiled: What the plan compiles to, for the host as it is.
        settings: How our objects are recognised.
        held: What there is.
    """
    if packet.device not in plan.ingress:
        return ()
    return tuple(_Comparison(plan, packet, decision, compiled, settings, held).all())


@dataclass(frozen=True, slots=True)
class _Comparison:
    plan: RedirectPlan
    packet: Packet
    decision: Decision
    compiled: Compiled
    settings: KernelSettings
    held: Held

    def all(self) -> Iterator[Difference]:
        """In the order in which a packet meets them."""
        if self.held.table is None:
            yield Difference(f"nft table ip {self.settings.nft_table}", "there", "not there")
        else:
            yield from self._chains(self.held.table)
            yield from self._elements(self.held.table)
        if self.decision.verdict is Verdict.REDIRECTED:
            yield from self._path()

    # -- nft -----------------------------------------------------------------------------------------

    def _chains(self, table: ObservedTable) -> Iterator[Difference]:
        """Chains on the packet's way whose rules are not those that were programmed."""
        assert self.compiled.state.nft is not None
        wanted = {chain.name: chain for chain in self.compiled.state.nft.chains}
        for name in self._chain_names():
            if name not in wanted:
                continue
            comments = tuple(rule.comment for rule in wanted[name].rules)
            present = table.chains.get(name)
            if present is None:
                yield Difference(f"nft chain {name}", f"{len(comments)} rules", "not there")
            elif present != comments:
                foreign = [each or "a rule without comment" for each in present if each not in comments]
                missing = [each for each in comments if each not in present]
                found = "; ".join(
                    (
                        *(f"foreign: {each}" for each in foreign),
                        *(f"missing: {each}" for each in missing),
                    )
                )
                yield Difference(f"nft chain {name}", f"{len(comments)} rules", found or "in another order")

    def _chain_names(self) -> Iterator[str]:
        yield names.PREROUTING
        yield names.FRESH
        yield names.CLASSIFY
        for asked in self.decision.asked:
            if asked.missed is None:
                yield names.service(asked.service)
                yield names.permitted(asked.service)
                yield names.chosen(asked.service)
        yield names.COUNT
        yield names.KEEP
        yield "postrouting"

    def _elements(self, table: ObservedTable) -> Iterator[Difference]:
        for name, key, should in self._wanted_elements():
            found = table.maps.get(name, {}).get(key)
            if found != should:
                yield Difference(f"nft map {name}, element {key}", should, found or "not there")

    def _wanted_elements(self) -> Iterator[tuple[str, str, str]]:
        """Map, key and value of what the packet's look-ups must find."""
        yield names.INGRESS, self.packet.device, f"goto {names.LAPSED}"
        protocol, fields = self.packet.protocol, self.packet.fields
        sides = {
            "destination": f"{protocol} . {fields.destination_port}",
            "source": f"{protocol} . {fields.source_port}",
            "protocol": str(protocol),
        }
        for made in dispatch_objects(self.plan.services).maps:
            key = sides[made.name.rpartition("-")[2]]
            if made.elements is not None and key in made.elements:
                yield made.name, key, made.elements[key]
        pages = allocate_pages(self.plan.services, self.settings.services, self.plan.alternate_pages)
        for asked in self.decision.asked:
            service = next(each for each in self.plan.services if each.name == asked.service)
            objects = ServiceObjects(service, pages, self.settings.marks, self.plan.slots, self.plan.meanings)
            if isinstance(asked.lookup, HashLookup) and asked.path is not None:
                yield from self._bucket(objects, asked.lookup, asked.path.cache)
        mark = flow_mark(self.plan, self.decision, self.settings)
        if mark:
            marks = self.settings.marks
            said = self.decision.said
            assert said is not None
            assert said.outcome is not None
            counter = f"redirected-{said.outcome.service}-{said.outcome.cache}"
            yield names.REDIRECTED, str(mark & marks.path_mask), counter
            if self.decision.header is not None:
                yield names.HEADERS, str(mark & marks.header_mask), str(self.decision.header)

    @staticmethod
    def _bucket(
        objects: ServiceObjects, lookup: HashLookup, cache: IPv4Address
    ) -> Iterator[tuple[str, str, str]]:
        name = objects.service.name
        if lookup.alternate_bucket is None:
            mark = objects.mark(cache, lookup.bucket)
            yield names.buckets(name), str(lookup.bucket), str(mark)
            return
        page = objects.pages.of_alternate(name, lookup.bucket)
        mark = objects.mark(cache, lookup.alternate_bucket, page)
        chain = names.alternate(name, lookup.bucket)
        yield names.alternates(name), str(lookup.bucket), f"goto {chain}"
        yield chain, str(lookup.alternate_bucket), str(mark)

    # -- routing -------------------------------------------------------------------------------------

    def _path(self) -> Iterator[Difference]:
        path = self.decision.path
        assert path is not None
        slot = self.plan.slots[path]
        settings = self.settings
        rule = MarkRule(
            settings.rule_priority + slot,
            settings.marks.mark(slot=slot),
            settings.marks.slot_mask,
            settings.table_base + slot,
        )
        if rule not in self.held.rules:
            words = f"fwmark {rule.mark:#x}/{rule.mask:#x} lookup {rule.table}"
            yield Difference(f"ip rule {rule.priority}", words, "not there")
        if path.forwarding is ForwardingMethod.GRE:
            yield from self._device(path.cache)
            should = Way(redirect_device_name(settings.device_prefix, path.cache))
        else:
            link = self.held.links.get(path.cache)
            if link is None:
                yield Difference(f"route to {path.cache}", "on a segment of this host", "not there")
                return
            should = Way(link, path.cache)
            if self.held.neighbour is None:
                yield Difference(f"neighbour {path.cache} dev {link}", "a hardware address", "not known")
        yield from self._routing(should)

    def _routing(self, should: Way) -> Iterator[Difference]:
        way = self.held.way
        obj = f"route of {self.packet.destination} with the mark"
        if way is None:
            yield Difference(obj, str(should), self.held.no_way or "none")
        elif (way.device, way.gateway) != (should.device, should.gateway):
            before = (
                f" (before our rules: {'; '.join(self.held.foreign_rules)})"
                if self.held.foreign_rules
                else ""
            )
            yield Difference(obj, str(should), f"{way}{before}")

    def _device(self, cache: IPv4Address) -> Iterator[Difference]:
        wanted = redirect_device(self.settings.device_prefix, self.plan.router_id, cache)
        present = self.held.devices.get(wanted.name)
        if present is None:
            yield Difference(f"device {wanted.name}", f"GRE to {cache}", "not there")
        elif not present.up:
            yield Difference(f"device {wanted.name}", "up", "down")
        elif not present.is_like(wanted):
            is_now = f"GRE from {present.local} to {present.remote}, key {present.output_key}"
            yield Difference(f"device {wanted.name}", "as configured", is_now)
