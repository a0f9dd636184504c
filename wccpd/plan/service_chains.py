"""The nft chains of one service: from a packet that the service takes to a mark, or to the service's mode.

    service-S      exemptions, then the redirect list (listed-S where it looks at ports that a packet may lack):
                   -> permitted-S or denied-S
    permitted-S    lease, pinned flows, then the assignment: buckets or values -> chosen-S, else unassigned-S
    chosen-S       pin the connection to the path -> count
    to-S-CACHE     mark by constants: where a map's mark would destroy foreign bits, and for values of masks

nft before kernel 6.13 cannot merge two registers. So a packet or connection without foreign mark bits takes the
fast way, the mark out of a map; one with foreign bits goes through a chain that keeps them and sets ours by
constants. Such a packet's redirect header shows bucket 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gre.header import redirect_header
from wccpd.plan import names
from wccpd.plan.acl import acl_objects
from wccpd.plan.counter_names import outcome_name
from wccpd.plan.dispatch import HAS_PORTS
from wccpd.plan.expressions import (
    EXPRESSIONS,
    bucket_expression,
    form_name,
    mask_form,
    mask_has_ports,
    masked,
    matching,
    number_text,
    without_ports,
)
from wccpd.plan.mark_rules import inherit, leave_no_mark, pin_uninspected
from wccpd.plan.model import NftChain, NftMap, NftRule
from wccpd.plan.redirect import (
    PORT_PROTOCOLS,
    TCP,
    HashAssignment,
    HashFields,
    LostFlows,
    MaskAssignment,
    Mode,
)
from wccpd.plan.verdict import Outcome, Reason, Verdict
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.acl import AclObjects, LineCounter
    from wccpd.plan.marks import MarkLayout
    from wccpd.plan.pages import Pages
    from wccpd.plan.redirect import MaskSet, Path, ServicePlan


@dataclass(frozen=True, slots=True)
class ServiceObjects:
    """Everything of one service in the nft table."""

    service: ServicePlan
    pages: Pages
    marks: MarkLayout
    slots: Mapping[Path, int]
    meanings: Mapping[int, IPv4Address]
    """See `RedirectPlan.meanings`."""

    # -- paths ---------------------------------------------------------------------------------------

    @property
    def page(self) -> int:
        """The service's own page."""
        return self.pages.of_service(self.service.name)

    def caches(self) -> tuple[IPv4Address, ...]:
        """Caches with a path, by address."""
        return tuple(sorted(self.service.paths, key=int))

    def slot(self, cache: IPv4Address) -> int:
        """The slot of a cache's path in this service."""
        return self.slots[self.service.paths[cache]]

    def mark(self, cache: IPv4Address, bucket: int = 0, page: int | None = None) -> int:
        """The mark that sends a packet to a cache."""
        return self.marks.mark(slot=self.slot(cache), page=self.page if page is None else page, bucket=bucket)

    def path_keys(self) -> dict[str, IPv4Address]:
        """Page and slot of everything that goes to a cache of this service, as a map's key."""
        return {
            str(self.mark(cache, page=page)): cache
            for cache in self.caches()
            for page in self.pages.all_of(self.service.name)
        }

    def heirs(self) -> dict[str, int]:
        """Page and slot in connection marks that mean a cache by another slot than its present one here."""
        present = {cache: self.slot(cache) for cache in self.caches()}
        return {
            str(self.marks.mark(page=page, slot=slot)): present[cache]
            for slot, cache in sorted(self.meanings.items())
            if cache in present and slot != present[cache]
            for page in self.pages.all_of(self.service.name)
        }

    @property
    def begins_uninspected(self) -> bool:
        """Whether a TCP connection that the service forwards is pinned to that."""
        return self.service.affinity and self.service.mode is Mode.OPEN

    # -- objects -------------------------------------------------------------------------------------

    def lists(self) -> tuple[AclObjects, ...]:
        """The redirect list, if there is one, and before it that for packets without the ports it looks at."""
        if not self.service.acl:
            return ()
        name = self.service.name
        of_all, of_portless = (
            acl_objects(
                name,
                self.service.match,
                self.service.acl,
                names.permitted(name),
                names.denied(name),
                portless=portless,
            )
            for portless in (False, True)
        )
        return (of_portless, of_all) if self._may_lack_ports and of_all.looks_at_ports else (of_all,)

    def line_counters(self) -> tuple[tuple[LineCounter, ...], ...]:
        """By line of the redirect list: where its packets are counted."""
        counted = zip(*(each.counters for each in self.lists()), strict=True)
        return tuple(tuple(place for place in places if place is not None) for places in counted)

    def outcomes(self) -> Iterator[Outcome]:
        """Everything that is counted for this service, lines of the redirect list aside."""
        name, service = self.service.name, self.service
        verdict = _VERDICTS[service.mode]
        for cache in self.caches():
            yield Outcome(name, Verdict.REDIRECTED, None, cache)
        yield Outcome(name, verdict, Reason.UNASSIGNED)
        yield Outcome(name, verdict, Reason.LAPSED)
        if service.acl:
            yield Outcome(name, Verdict.FORWARDED, Reason.DENIED)
        if service.affinity and service.mode is Mode.OPEN:
            yield Outcome(name, Verdict.FORWARDED, Reason.ESTABLISHED)
        if service.affinity and service.lost_flows is LostFlows.RESET:
            yield Outcome(name, Verdict.REJECTED, Reason.LOST)

    def headers(self) -> dict[str, str]:
        """Bucket and page in a mark to the redirect header."""
        if not self.service.paths and not self.service.probed:
            return {}
        found = {}
        primaries = range(BUCKETS) if isinstance(self.service.assignment, HashAssignment) else (0,)
        for bucket in primaries:
            found[self._header_key(self.page, bucket)] = self._header(bucket)
        for page, primary in self.pages.alternates_of(self.service.name):
            for bucket in range(BUCKETS):
                found[self._header_key(page, bucket)] = self._header(primary, bucket)
        return found

    def maps(self, others: tuple[ServiceObjects, ...]) -> Iterator[NftMap]:
        """All maps of the service; `others` are all services, this one included."""
        name = self.service.name
        for each in self.lists():
            yield from each.maps
        if self.service.affinity:
            yield NftMap(names.pinned(name), "typeof ct mark : verdict;", self._pinned(others))
            turns = {
                str(self.marks.mark(slot=slot)): f"goto {names.turn(name, cache)}"
                for slot, cache in sorted(self.meanings.items())
                if cache in self.service.paths
            }
            yield NftMap(names.turns(name), "typeof ct mark : verdict;", turns)
        assignment = self.service.assignment
        if isinstance(assignment, HashAssignment):
            yield from self._hash_maps(assignment)
        else:
            for number, mask_set in enumerate(assignment.sets):
                yield from self._value_maps(number, mask_set)

    def chains(self, *, some_inherit: bool) -> Iterator[NftChain]:
        """All chains of the service, each after those that it goes to.

        Args:
            some_inherit: Whether any service has `heirs`.
        """
        name, service = self.service.name, self.service
        yield self._unassigned()
        yield self._lapsed()
        if service.acl:
            yield self._forwarded(names.denied(name), Reason.DENIED, "the redirect list denies it")
        if service.affinity and service.mode is Mode.OPEN:
            yield NftChain(
                names.established(name),
                rules=(self._forward(Reason.ESTABLISHED, "it began uninspected"),),
            )
        if service.affinity:
            for cache in self.caches():
                yield self._constant_chain(names.pin(name, cache), "ct mark", cache)
        yield self._chosen()
        for cache in self.caches():
            yield self._constant_chain(names.to(name, cache), "meta mark", cache, names.chosen(name))
            if service.affinity:
                yield self._constant_chain(names.turn(name, cache), "meta mark", cache)
        if isinstance(service.assignment, HashAssignment):
            for bucket in self._alternate_buckets():
                yield from self._alternate_chains(service.assignment, bucket)
        yield from self._permitted(some_inherit=some_inherit)
        yield from self._entry()

    # -- chains --------------------------------------------------------------------------------------

    def _entry(self) -> Iterator[NftChain]:
        name = self.service.name
        exempt = NftRule(f"jump {names.EXEMPT}", "what no service may take")
        match self.lists():
            case ():
                rules: tuple[NftRule, ...] = (NftRule(f"goto {names.permitted(name)}", "no redirect list"),)
            case (of_all,):
                rules = of_all.rules
            case (of_portless, of_all):
                yield NftChain(names.listed(name), rules=of_all.rules)
                has_ports = NftRule(f"{HAS_PORTS} goto {names.listed(name)}", "the list looks at ports")
                rules = (has_ports, *of_portless.rules)
        yield NftChain(names.service(name), rules=(exempt, *rules))

    def _permitted(self, *, some_inherit: bool) -> Iterator[NftChain]:
        name, service, marks = self.service.name, self.service, self.marks
        rules = [
            NftRule(f"meta mark & {marks.mask:#x} == {marks.lapsed:#x} goto {names.lapsed(name)}", "no lease")
        ]
        if service.affinity:
            pin = f"ct mark & {marks.path_mask:#x}"
            pinned = NftRule(
                f"{pin} vmap @{names.pinned(name)}", "pinned by this service, or to being forwarded"
            )
            rules.append(pinned)
            if some_inherit:
                rules += [inherit(marks), pinned]
            rules += [
                NftRule(
                    f"{pin} @{names.LIVE} ct mark & {marks.slot_mask:#x} vmap @{names.turns(name)}",
                    "pinned by another service to a cache of this one",
                ),
                NftRule(f"{pin} @{names.LIVE} goto {names.KEEP}", "pinned by another service"),
            ]
            if service.lost_flows is LostFlows.RESET:
                counter = outcome_name(Outcome(name, Verdict.REJECTED, Reason.LOST))
                rules.append(
                    NftRule(
                        f"ct mark & {marks.slot_mask:#x} != 0 meta l4proto {TCP} counter name {counter} "
                        f"{leave_no_mark(marks)} reject with tcp reset",
                        "its cache is gone",
                    )
                )
        match service.assignment:
            case HashAssignment() as table:
                yield from self._deciding(
                    names.permitted(name),
                    rules,
                    looks_at_ports=table.primary != without_ports(table.primary),
                    by=partial(self._hash_rules, table),
                )
            case MaskAssignment() as table:
                yield from self._deciding(
                    names.permitted(name),
                    rules,
                    looks_at_ports=any(mask_has_ports(each) for each in table.sets),
                    by=partial(self._mask_rules, table),
                )

    def _deciding(
        self,
        chain: str,
        first: Iterable[NftRule],
        *,
        looks_at_ports: bool,
        by: Callable[[bool], Iterator[NftRule]],
    ) -> Iterator[NftChain]:
        """A chain that decides about new flows: the first rules, and then those of `by`.

        Where a packet may lack the ports that these look at, it is told apart before: those with ports go to a
        chain of their own.

        Args:
            chain: Its name.
            first: The rules before the decision.
            looks_at_ports: Whether the decision depends on ports, where there are any.
            by: Makes the rules for packets with or without ports.
        """
        nobodys = NftRule(f"goto {names.unassigned(self.service.name)}", "nobody's")
        if looks_at_ports and self._may_lack_ports:
            ported = names.ported(chain)
            yield NftChain(ported, rules=(*by(True), nobodys))
            which = "" if self.service.match.protocol is not None else "meta l4proto { 6, 17 } "
            has_ports = NftRule(f"{which}{HAS_PORTS} goto {ported}", "ports decide")
            yield NftChain(chain, rules=(*first, has_ports, *by(False), nobodys))
        else:
            yield NftChain(chain, rules=(*first, *by(self._may_have_ports), nobodys))

    def _hash_rules(self, table: HashAssignment, with_ports: bool) -> Iterator[NftRule]:
        name = self.service.name
        fields = table.primary if with_ports else without_ports(table.primary)
        if self._alternate_buckets():
            yield NftRule(
                f"{bucket_expression(fields)} vmap @{names.alternates(name)}", "buckets with the A flag"
            )
        yield from self._marking(fields, names.buckets(name))

    def _marking(self, fields: HashFields, marks_map: str) -> Iterator[NftRule]:
        """Mark by the bucket and go; a packet beside a foreign mark takes one look-up more."""
        name, foreign = self.service.name, f"meta mark & {self.marks.foreign_mask:#x}"
        yield NftRule(
            f"{foreign} == 0 meta mark set {bucket_expression(fields)} map @{marks_map}", "bucket to mark"
        )
        yield NftRule(f"meta mark & {self.marks.path_mask:#x} != 0 goto {names.chosen(name)}", "to a cache")
        yield NftRule(
            f"{foreign} != 0 {bucket_expression(fields)} vmap @{names.owners(name)}", "beside a foreign mark"
        )

    def _alternate_chains(self, table: HashAssignment, bucket: int) -> Iterator[NftChain]:
        """A bucket with the A flag: the alternate hash decides (draft 4.11.1)."""
        chain = names.alternate(self.service.name, bucket)
        fields, portless = table.alternate, without_ports(table.alternate)
        yield from self._deciding(
            chain,
            (),
            looks_at_ports=fields != portless,
            by=lambda with_ports: self._marking(fields if with_ports else portless, chain),
        )

    def _mask_rules(self, table: MaskAssignment, with_ports: bool) -> Iterator[NftRule]:
        for number, each in enumerate(table.sets):
            form = mask_form(each, with_ports=with_ports)
            values = matching(each, form)
            if not values:
                continue
            if not form:
                target = self._value_target(each.owners[values[0]])
                yield NftRule(target, "a mask of no bits matches every packet")
            else:
                name = names.values(self.service.name, number, form_name(form))
                yield NftRule(f"{masked(each.mask, form)} vmap @{name}", f"values of mask {number}")

    def _chosen(self) -> NftChain:
        name, marks = self.service.name, self.marks
        rules = []
        if self.service.affinity:
            rules += [
                NftRule(
                    f"ct mark & {marks.foreign_mask:#x} == 0 ct mark set meta mark & {marks.mask:#x} "
                    f"goto {names.COUNT}",
                    "pin the flow",
                ),
                NftRule(
                    f"meta mark & {marks.path_mask:#x} vmap @{names.PINS}", "the same beside a foreign mark"
                ),
            ]
        rules.append(NftRule(f"goto {names.COUNT}", "on its way"))
        return NftChain(names.chosen(name), rules=tuple(rules))

    def _unassigned(self) -> NftChain:
        name = self.service.name
        if self.service.mode is Mode.OPEN:
            return self._forwarded(names.unassigned(name), Reason.UNASSIGNED, "nobody owns it: forwarded")
        rules = list(self.refuse(Reason.UNASSIGNED))
        if self.service.mode is Mode.REJECT:
            rules.insert(0, NftRule(leave_no_mark(self.marks), "not to be seen in an answer"))
        return NftChain(names.unassigned(name), rules=tuple(rules))

    def _lapsed(self) -> NftChain:
        name = self.service.name
        clean = NftRule(leave_no_mark(self.marks), "not to be seen outside")
        if self.service.mode is not Mode.OPEN:
            return NftChain(names.lapsed(name), rules=(clean, *self.refuse(Reason.LAPSED)))
        counter = outcome_name(Outcome(name, Verdict.FORWARDED, Reason.LAPSED))
        return NftChain(
            names.lapsed(name),
            rules=(clean, NftRule(f"counter name {counter} accept", "no lease: forwarded")),
        )

    def _forwarded(self, chain: str, reason: Reason, words: str) -> NftChain:
        """Forward, and let a TCP connection that began so go on so.

        Where a packet falls through, its connection is pinned only if no service further down redirects it.
        """
        rules = []
        if self.begins_uninspected and self.service.fallthrough:
            marks = self.marks
            rules.append(
                NftRule(
                    f"meta mark & {marks.mask:#x} != {marks.lapsed:#x} "
                    f"meta mark set meta mark & {marks.foreign_mask:#x} | {marks.fallen:#x}",
                    "falls through",
                )
            )
        elif self.begins_uninspected:
            rules.append(pin_uninspected(self.marks, self.page))
        return NftChain(chain, rules=(*rules, self._forward(reason, words)))

    def _forward(self, reason: Reason, words: str) -> NftRule:
        counter = outcome_name(Outcome(self.service.name, Verdict.FORWARDED, reason))
        verdict = "return" if self.service.fallthrough else f"{leave_no_mark(self.marks)} accept"
        return NftRule(f"counter name {counter} {verdict}", words)

    def refuse(self, reason: Reason) -> Iterator[NftRule]:
        """What a mode that is not open does with a packet."""
        verdict = _VERDICTS[self.service.mode]
        counter = f"counter name {outcome_name(Outcome(self.service.name, verdict, reason))}"
        if verdict is Verdict.DROPPED:
            yield NftRule(f"{counter} drop", "mode closed")
            return
        yield NftRule(f"meta l4proto {TCP} {counter} reject with tcp reset", "mode reject")
        yield NftRule(f"{counter} reject with icmp type admin-prohibited", "mode reject")

    def _constant_chain(
        self, chain: str, target: str, cache: IPv4Address, goes_to: str = names.COUNT
    ) -> NftChain:
        """Set our bits of the packet or connection mark, and leave the others."""
        text = f"{target} set {target} & {self.marks.foreign_mask:#x} | {self.mark(cache):#x}"
        return NftChain(
            chain, rules=(NftRule(text, f"{target} for {cache}"), NftRule(f"goto {goes_to}", "on its way"))
        )

    # -- contents of maps ----------------------------------------------------------------------------

    def _pinned(self, others: tuple[ServiceObjects, ...]) -> dict[str, str]:
        """Flows that this service has pinned, and connections that any has pinned to being forwarded."""
        found = dict.fromkeys(self.path_keys(), f"goto {names.KEEP}")
        if self.service.mode is Mode.OPEN:
            for other in others:
                if other.service.mode is Mode.OPEN:
                    forwarded = str(self.marks.mark(page=other.page))
                    found[forwarded] = f"goto {names.established(self.service.name)}"
        return found

    def _hash_maps(self, table: HashAssignment) -> Iterator[NftMap]:
        name = self.service.name
        flagged = set(self._alternate_buckets())
        assigned = self._assigned(table)
        # `typeof meta length` is any 32-bit integer in host order, which is what jhash yields; a map
        # declared with `typeof jhash` makes nft 1.0.6 crash when somebody lists the ruleset.
        plain = {bucket: owner for bucket, owner in assigned.items() if bucket not in flagged}
        yield self._mark_map(names.buckets(name), plain, self.page)
        yield NftMap(
            names.owners(name),
            "typeof meta length : verdict;",
            {str(bucket): f"goto {names.to(name, owner)}" for bucket, owner in assigned.items()},
        )
        if flagged:
            yield NftMap(
                names.alternates(name),
                "typeof meta length : verdict;",
                {str(bucket): f"goto {names.alternate(name, bucket)}" for bucket in flagged},
            )
        for bucket in flagged:
            page = self.pages.of_alternate(name, bucket)
            yield self._mark_map(names.alternate(name, bucket), assigned, page)

    def _mark_map(self, name: str, owners: Mapping[int, IPv4Address], page: int) -> NftMap:
        elements = {str(bucket): str(self.mark(owner, bucket, page)) for bucket, owner in owners.items()}
        return NftMap(name, "typeof meta length : meta mark;", elements)

    def _assigned(self, table: HashAssignment) -> dict[int, IPv4Address]:
        """Buckets of caches that have a path."""
        return {
            bucket: owner
            for bucket, owner in enumerate(table.owners)
            if owner is not None and owner in self.service.paths
        }

    def _alternate_buckets(self) -> tuple[int, ...]:
        table = self.service.assignment
        return tuple(sorted(table.alternate_buckets)) if isinstance(table, HashAssignment) else ()

    def _value_maps(self, number: int, each: MaskSet) -> Iterator[NftMap]:
        variants = {with_ports for with_ports in (True, False) if self._is_met(with_ports=with_ports)}
        for form in sorted({mask_form(each, with_ports=with_ports) for with_ports in variants}):
            values = matching(each, form)
            if not form or not values:
                continue
            types = " . ".join(EXPRESSIONS[field] for field in form)
            elements = {
                " . ".join(number_text(value[field], field) for field in form): self._value_target(
                    each.owners[value]
                )
                for value in values
            }
            name = names.values(self.service.name, number, form_name(form))
            yield NftMap(name, f"typeof {types} : verdict;", elements)

    def _value_target(self, owner: IPv4Address | None) -> str:
        name = self.service.name
        known = owner is not None and owner in self.service.paths
        return f"goto {names.to(name, owner) if known and owner is not None else names.unassigned(name)}"

    # -- ports that may be absent --------------------------------------------------------------------

    @property
    def _may_have_ports(self) -> bool:
        """Whether any packet that the service takes has ports."""
        return self.service.match.protocol is None or self.service.match.protocol in PORT_PROTOCOLS

    @property
    def _may_lack_ports(self) -> bool:
        """Whether it also takes packets without them, of other protocols or cut short; a port list leaves these out."""
        return self._may_have_ports and not self.service.match.ports

    def _is_met(self, *, with_ports: bool) -> bool:
        """Whether the service takes such packets."""
        return self._may_have_ports if with_ports else self._may_lack_ports or not self._may_have_ports

    # -- redirect header -----------------------------------------------------------------------------

    def _header_key(self, page: int, bucket: int) -> str:
        return str(self.marks.mark(page=page, bucket=bucket))

    def _header(self, primary: int, alternate: int | None = None) -> str:
        return str(
            redirect_header(
                dynamic=self.service.dynamic,
                service_id=self.service.service_id,
                bucket=primary,
                alternate_bucket=alternate,
            )
        )


_VERDICTS = {Mode.OPEN: Verdict.FORWARDED, Mode.CLOSED: Verdict.DROPPED, Mode.REJECT: Verdict.REJECTED}
