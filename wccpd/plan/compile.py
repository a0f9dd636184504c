"""From the redirect plan to the desired kernel state of the netlink plane.

    spokes -> ingress device -> prerouting: service, bucket, mark -> ip rule -> table of the path
           -> its GRE device, or the cache on the segment
           -> postrouting: GRE key becomes redirect header -> cache

Every path has a slot: its mark bits, its routing table, its rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import collapse_addresses
from typing import TYPE_CHECKING

from gre.header import GRE_PROTOCOL_IPV4, KEYED_IPV4_HEADER, WCCP_HEADER
from gre.tunnel import redirect_device, redirect_device_name
from wccpd.plan import names
from wccpd.plan.counter_names import exempt_name, outcome_name, returned_name
from wccpd.plan.dispatch import dispatch_objects
from wccpd.plan.mark_rules import inherit, leave_no_mark, pin_uninspected
from wccpd.plan.model import (
    LAYOUT,
    DesiredState,
    MarkRule,
    NftChain,
    NftMap,
    NftRule,
    NftSet,
    NftTable,
    TableRoute,
)
from wccpd.plan.pages import allocate_pages
from wccpd.plan.redirect import UDP, Mode
from wccpd.plan.service_chains import ServiceObjects
from wccpd.plan.verdict import Exemption, Reason
from wccpd.wire.enums import WCCP_PORT, ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from ipaddress import IPv4Address, IPv4Network

    from gre.tunnel import GreDevice
    from wccpd.plan.acl import LineCounter
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import Path, RedirectPlan

assert KEYED_IPV4_HEADER & 0xFFFF == GRE_PROTOCOL_IPV4
TCP_AND_IP_HEADER_BYTES = 40
"""Without options: what MSS leaves out (RFC 6691)."""
_ABOUT_THE_CLIENTS = "ct state related ct direction original"
"""nft text: an error on its way from client to server."""
BASE_CHAIN = "type {kind} hook {hook} priority -150; policy accept;"
"""-150 is `mangle`: after connection tracking, before NAT."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel says of the host that the plan has to go by."""

    links: Mapping[IPv4Address, str] = field(default_factory=dict)
    """Device on whose segment a cache is; absent where a router is in between."""
    macs: Mapping[IPv4Address, tuple[str, str]] = field(default_factory=dict)
    """Device and link-layer address of neighbours that answered."""
    mtu_bytes: Mapping[str, int] = field(default_factory=dict)
    """By device."""
    has_tproxy: bool = True
    """Whether nft's tproxy statement is to be had."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The desired state, and how to read it again."""

    state: DesiredState
    acl_lines: Mapping[str, tuple[tuple[LineCounter, ...], ...]]
    """By service: where each line of its redirect list is counted, the sum of which it is."""


def without_paths(plan: RedirectPlan, missing: Collection[Path]) -> RedirectPlan:
    """The plan in which nobody is sent the missing paths: packets of their owners are in the service's mode."""
    services = (
        replace(service, paths={cache: path for cache, path in service.paths.items() if path not in missing})
        for service in plan.services
    )
    return replace(plan, services=tuple(services))


def compile_state(
    plan: RedirectPlan, tunnels: tuple[GreDevice, ...], settings: KernelSettings, facts: Facts
) -> Compiled:
    """The whole desired state; L2 paths to caches on no segment of ours get no route."""
    paths = sorted(plan.slots, key=lambda path: plan.slots[path])
    made = (*tunnels, *_redirect_devices(plan, settings))
    routes = (_route(path, plan.slots[path], settings, facts) for path in paths)
    table = _Table(plan, settings, facts)
    return Compiled(
        DesiredState(
            devices=made,
            rules=tuple(
                MarkRule(
                    priority=settings.rule_priority + plan.slots[path],
                    mark=settings.marks.mark(slot=plan.slots[path]),
                    mask=settings.marks.slot_mask,
                    table=settings.table_base + plan.slots[path],
                )
                for path in paths
            ),
            routes=tuple(route for route in routes if route is not None),
            nft=table.compile(),
        ),
        {each.service.name: each.line_counters() for each in table.services if each.service.acl},
    )


def _redirect_devices(plan: RedirectPlan, settings: KernelSettings) -> Iterator[GreDevice]:
    """One GRE device for each cache that is sent GRE, or may return it."""
    wanted = {path.cache for path in plan.slots if path.forwarding is ForwardingMethod.GRE}
    wanted |= {cache for cache, methods in plan.returns.items() if PacketReturnMethod.GRE in methods}
    for cache in sorted(wanted, key=int):
        yield redirect_device(settings.device_prefix, plan.router_id, cache)


def _route(path: Path, slot: int, settings: KernelSettings, facts: Facts) -> TableRoute | None:
    table = settings.table_base + slot
    if path.forwarding is ForwardingMethod.GRE:
        device = redirect_device_name(settings.device_prefix, path.cache)
        return TableRoute(table, device, settings.route_protocol)
    link = facts.links.get(path.cache)
    return None if link is None else TableRoute(table, link, settings.route_protocol, path.cache)


class _Table:
    """The nft table."""

    def __init__(self, plan: RedirectPlan, settings: KernelSettings, facts: Facts) -> None:
        self._plan, self._settings, self._facts = plan, settings, facts
        self._marks = settings.marks
        pages = allocate_pages(plan.services, settings.services, plan.alternate_pages)
        self.services = tuple(
            ServiceObjects(service, pages, settings.marks, plan.slots, plan.meanings)
            for service in plan.services
        )
        self._heirs: dict[str, int] = {}
        for each in self.services:
            self._heirs |= each.heirs()
        self._dispatch = dispatch_objects(plan.services)
        self._affinity = any(service.affinity for service in plan.services)
        self._takes_gre = any(_redirect_devices(plan, settings))
        self._gre_slots = {
            plan.slots[path]: redirect_device_name(settings.device_prefix, path.cache)
            for path in plan.slots
            if path.forwarding is ForwardingMethod.GRE
        }

    def compile(self) -> NftTable:
        """All of it."""
        return NftTable(
            name=self._settings.nft_table,
            counters=frozenset(self._counters()),
            sets=tuple(self._sets()),
            maps=(
                *(made for service in self.services for made in service.maps(self.services)),
                *self._dispatch.maps,
                *self._common_maps(),
            ),
            chains=(
                NftChain(LAYOUT),
                *self._leaf_chains(),
                *(
                    chain
                    for service in self.services
                    for chain in service.chains(some_inherit=bool(self._heirs))
                ),
                *self._entry_chains(),
            ),
        )

    def _counters(self) -> Iterator[str]:
        for service in self.services:
            yield from map(outcome_name, service.outcomes())
            for places in service.line_counters():
                yield from (place.counter for place in places if place.counter)
        yield from map(exempt_name, Exemption)
        yield from (returned_name(cache) for cache in self._counted_neighbours())

    def _neighbours(self) -> dict[IPv4Address, str]:
        """Usable caches behind an ingress device, with that and their MAC: elsewhere no packet is looked at."""
        return {
            cache: " . ".join(self._facts.macs[cache])
            for cache in sorted(self._plan.returns, key=int)
            if cache in self._facts.macs and self._facts.macs[cache][0] in self._plan.ingress
        }

    def _counted_neighbours(self) -> dict[IPv4Address, str]:
        """Those whose frames count as returned."""
        known = self._neighbours()
        return {cache: frame for cache, frame in known.items() if self._plan.counts_frames_of(cache)}

    def _sets(self) -> Iterator[NftSet]:
        yield NftSet(names.CACHES, "type ipv4_addr;", frozenset(map(str, self._plan.caches)))
        yield NftSet(names.NEVER, "type ipv4_addr; flags interval;", _networks(self._plan.never))
        yield NftSet(names.SPOKES, "type ifname;", frozenset(self._plan.ingress))
        live = {key for service in self.services for key in service.path_keys()}
        yield NftSet(names.LIVE, "typeof ct mark;", frozenset(live))
        yield NftSet(names.ROUTERS, "type ipv4_addr;", frozenset(map(str, self._plan.routers)))
        frames = frozenset(self._neighbours().values())
        yield NftSet(names.CACHE_MACS, "type ifname . ether_addr;", frames)

    def _common_maps(self) -> Iterator[NftMap]:
        yield NftMap(names.LEASE, "type ifname : verdict; flags timeout;", None)
        yield NftMap(
            names.INGRESS,
            "type ifname : verdict;",
            dict.fromkeys(self._plan.ingress, f"goto {names.LAPSED}"),
        )
        paths = {
            key: (service.service, cache)
            for service in self.services
            for key, cache in service.path_keys().items()
        }
        yield NftMap(
            names.SLOTS,
            "type mark : ipv4_addr;",
            {str(slot): str(cache) for slot, cache in self._plan.meanings.items()},
        )
        yield NftMap(
            names.HEIRS,
            "typeof ct mark : verdict;",
            {key: f"jump {names.heir(slot)}" for key, slot in self._heirs.items()},
        )
        yield NftMap(
            names.REDIRECTED,
            "type mark : counter;",
            {key: f"redirected-{service.name}-{cache}" for key, (service, cache) in paths.items()},
        )
        yield NftMap(
            names.PATHS,
            "typeof meta mark : verdict;",
            {
                key: f"goto {(names.turn if service.affinity else names.to)(service.name, cache)}"
                for key, (service, cache) in paths.items()
            },
        )
        yield NftMap(
            names.PINS,
            "typeof meta mark : verdict;",
            {
                key: f"goto {names.pin(service.name, cache)}"
                for key, (service, cache) in paths.items()
                if service.affinity
            },
        )
        headers: dict[str, str] = {}
        for each in self.services:
            headers |= each.headers()
        yield NftMap(names.HEADERS, "typeof meta mark : @th,32,32;", headers)
        yield NftMap(names.MSS, "typeof ct mark : tcp option maxseg size;", self._mss())
        yield NftMap(
            names.RETURNED,
            "type ifname . ether_addr : counter;",
            {frame: returned_name(cache) for cache, frame in self._counted_neighbours().items()},
        )

    def _mss(self) -> dict[str, str]:
        """The greatest segments that fit through the redirect devices, by slot."""
        if not self._plan.clamp_mss:
            return {}
        known = ((slot, self._facts.mtu_bytes.get(device)) for slot, device in self._gre_slots.items())
        return {
            str(self._marks.mark(slot=slot)): str(mtu - TCP_AND_IP_HEADER_BYTES)
            for slot, mtu in known
            if mtu is not None
        }

    # -- chains that everything goes to --------------------------------------------------------------

    def _leaf_chains(self) -> Iterator[NftChain]:
        marks = self._marks
        path_mark = f"meta mark & {marks.path_mask:#x}"
        count = [NftRule(f"counter name {path_mark} map @{names.REDIRECTED}", "redirected")]
        if self._plan.clear_df:
            count.insert(0, NftRule("ip frag-off set ip frag-off & 0xbfff", "let it be fragmented"))
        yield NftChain(names.COUNT, rules=(*count, NftRule("accept", "on its way")))
        if self._affinity:
            yield NftChain(
                names.KEEP,
                rules=(
                    NftRule(
                        f"meta mark & {marks.foreign_mask:#x} == 0 "
                        f"meta mark set ct mark & {marks.mask:#x} goto {names.COUNT}",
                        "as the connection is marked",
                    ),
                    NftRule(f"ct mark & {marks.path_mask:#x} vmap @{names.PATHS}", "beside a foreign mark"),
                ),
            )
        else:
            yield NftChain(names.REASSEMBLE, rules=(self._reassembly(),))
        for slot in sorted(set(self._heirs.values())):
            others = 0xFFFFFFFF ^ marks.slot_mask
            text = f"ct mark set ct mark & {others:#x} | {marks.mark(slot=slot):#x}"
            yield NftChain(names.heir(slot), rules=(NftRule(text, "the path that its cache has now"),))
        yield NftChain(names.EXEMPT, rules=tuple(self._exemptions()))
        if self._affinity:
            yield NftChain(
                names.ERRORS,
                rules=(
                    NftRule(f"jump {names.EXEMPT}", "what no service may take"),
                    NftRule(f"goto {names.KEEP}", "to the cache that it is about"),
                ),
            )

    def _reassembly(self) -> NftRule:
        """A rule that no packet meets: that it exists makes the kernel reassemble fragments before we look.

        Later fragments have no ports: unassembled they would go another way than the first. Connection tracking
        reassembles; without it a tproxy statement (`nft_tproxy_init`, net/netfilter/nft_tproxy.c) is the cheapest
        that does.
        """
        if self._facts.has_tproxy:
            return NftRule("meta l4proto tcp tproxy to :1", "never met: makes the kernel reassemble")
        return NftRule("ct state new", "never met: makes the kernel track, and so reassemble")

    def _exemptions(self) -> Iterator[NftRule]:
        def rule(condition: str, exemption: Exemption, words: str) -> NftRule:
            return NftRule(f"{condition} counter name {exempt_name(exemption)} {unseen} accept", words)

        unseen = leave_no_mark(self._marks)

        yield rule(
            "fib daddr type != unicast", Exemption.NOT_UNICAST, "to the router, broadcast or multicast"
        )
        if self._plan.caches:
            yield rule(
                f"ip saddr @{names.CACHES} fib saddr . iif oif exists",
                Exemption.FROM_CACHE,
                "from a cache, and from where it is",
            )
        if self._counted_neighbours():
            yield NftRule(f"counter name iifname . ether saddr map @{names.RETURNED}", "returned by L2")
        if self._neighbours():
            yield rule(
                f"iifname . ether saddr @{names.CACHE_MACS}", Exemption.FROM_CACHE, "in a frame of a cache"
            )
        if self._plan.caches:
            yield rule(f"ip daddr @{names.CACHES}", Exemption.TO_CACHE, "to a cache")
        if self._plan.never:
            yield rule(f"ip daddr @{names.NEVER}", Exemption.NEVER, "redirect.never")
        yield rule("ip ttl < 2", Exemption.NO_HOP_LEFT, "no hop left")
        if self._plan.routers and any(
            service.match.protocol in {None, UDP} for service in self._plan.services
        ):
            yield rule(
                f"meta l4proto {UDP} th dport {WCCP_PORT} ip daddr @{names.ROUTERS}",
                Exemption.WCCP,
                "WCCP to another router",
            )
            yield rule(
                f"meta l4proto {UDP} th sport {WCCP_PORT} ip saddr @{names.ROUTERS} fib saddr . iif oif exists",
                Exemption.WCCP,
                "WCCP of another router, and from where it is",
            )

    # -- chains that hooks lead to -------------------------------------------------------------------

    def _entry_chains(self) -> Iterator[NftChain]:
        marks = self._marks
        ours, foreign = f"meta mark & {marks.mask:#x}", f"meta mark & {marks.foreign_mask:#x}"
        yield NftChain(
            names.CLASSIFY,
            rules=(*self._forgeries(), *self._errors(), *self._dispatch.rules, *self._fallen()),
        )
        yield NftChain(
            names.FRESH,
            rules=(
                NftRule(f"{ours} != 0 meta mark set {foreign}", "our mark bits are nobody else's to set"),
                NftRule(f"goto {names.CLASSIFY}", "which service?"),
            ),
        )
        yield NftChain(
            names.LAPSED,
            rules=(
                NftRule(
                    f"meta mark set {foreign} | {marks.lapsed:#x}", "no lease: every service is in its mode"
                ),
                NftRule(f"jump {names.CLASSIFY}", "which service?"),
                NftRule(leave_no_mark(marks), "no service took it"),
            ),
        )
        yield NftChain(
            names.PREROUTING,
            BASE_CHAIN.format(kind="filter", hook="prerouting"),
            (
                NftRule(f"iifname vmap @{names.LEASE}", "from the spokes, while the daemon lives"),
                NftRule(f"iifname vmap @{names.INGRESS}", "from the spokes, while it does not"),
            ),
        )
        for hook, rules in (
            ("forward", (*self._strays(), *self._clamp())),
            ("postrouting", tuple(self._header_rewriting())),
            ("output", tuple(self._output())),
        ):
            if rules:  # a hook costs every packet something, even with nothing to do
                kind = "route" if hook == "output" else "filter"
                yield NftChain(hook, BASE_CHAIN.format(kind=kind, hook=hook), rules)

    def _fallen(self) -> Iterator[NftRule]:
        """What fell through all services is forwarded."""
        letting = [each for each in self.services if each.service.fallthrough and each.begins_uninspected]
        if letting:
            marks = self._marks
            ours = f"meta mark & {marks.mask:#x}"
            yield NftRule(f"{ours} != {marks.fallen:#x} return", "no service took it")
            yield NftRule(leave_no_mark(marks), "not to be seen outside")
            yield pin_uninspected(marks, letting[-1].page)

    def _forgeries(self) -> Iterator[NftRule]:
        """GRE of a spoke under the address of a cache: our device would take it for returned, and pass it on."""
        if self._takes_gre:
            yield NftRule(
                f"ip protocol gre ip saddr @{names.CACHES} fib saddr . iif oif missing counter drop",
                "returned by a cache, it says, and comes from elsewhere",
            )

    def _errors(self) -> Iterator[NftRule]:
        """ICMP errors about what a cache sent go to the cache: path MTU discovery works through the redirect."""
        if self._affinity:
            yield from self._inherited_errors()
            yield NftRule(
                f"ip protocol icmp meta mark & {self._marks.mask:#x} == 0 {self._related()} goto {names.ERRORS}",
                "ICMP about what a cache sent",
            )

    def _output(self) -> Iterator[NftRule]:
        """The same for errors that this host reports itself, e.g. "fragmentation needed" (RFC 1191)."""
        if self._affinity:
            yield from self._inherited_errors()
            yield NftRule(
                f"ip protocol icmp {self._related()} meta mark & {self._marks.foreign_mask:#x} == 0 "
                f"meta mark set ct mark & {self._marks.mask:#x}",
                "our own ICMP about what a cache sent",
            )

    def _inherited_errors(self) -> Iterator[NftRule]:
        if self._heirs:
            yield inherit(self._marks, f"ip protocol icmp {_ABOUT_THE_CLIENTS} ")

    def _related(self) -> str:
        return f"{_ABOUT_THE_CLIENTS} ct mark & {self._marks.path_mask:#x} @{names.LIVE}"

    def _strays(self) -> Iterator[NftRule]:
        """Packets of services that are not open whose path is gone: a device that goes down takes its route along."""
        marks = self._marks
        for each in self.services:
            devices = {self._way_out(path) for path in each.service.paths.values()}
            if each.service.mode is Mode.OPEN or not devices:
                continue
            pages = ", ".join(f"{marks.mark(page=page):#x}" for page in each.pages.all_of(each.service.name))
            ways = ", ".join(f'"{device}"' for device in sorted(devices))
            condition = (
                f"meta mark & {marks.path_mask ^ marks.slot_mask:#x} {{ {pages} }} oifname != {{ {ways} }}"
            )
            for rule in each.refuse(Reason.UNASSIGNED):
                yield NftRule(f"{condition} {rule.text}", "marked, but its path is gone")

    def _way_out(self, path: Path) -> str:
        if path.forwarding is ForwardingMethod.GRE:
            return redirect_device_name(self._settings.device_prefix, path.cache)
        return self._facts.links.get(path.cache, "")

    def _clamp(self) -> Iterator[NftRule]:
        """Lower the MSS that client and cache tell each other to what fits through the redirect (RFC 879)."""
        sizes = self._mss()
        if not sizes:
            return
        slot = f"{self._marks.slot_mask:#x}"
        yield NftRule(
            f"meta mark & {slot} != 0 tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",
            "what the client may be sent",
        )
        if self._affinity:
            yield NftRule(
                "tcp flags & (syn | ack) == (syn | ack) ct direction reply "
                f"tcp option maxseg size set ct mark & {slot} map @{names.MSS}",
                "what the cache may be sent",
            )
        if not all(service.affinity for service in self._plan.services):
            least = min(map(int, sizes.values()))
            yield NftRule(
                f"oifname @{names.SPOKES} tcp flags & (syn | ack) == (syn | ack) "
                f"tcp option maxseg size set {least}",
                "what the cache may be sent; unpinned, so for all",
            )

    def _header_rewriting(self) -> Iterator[NftRule]:
        if not self._gre_slots:
            return
        # The source tells our own outer packet from a redirected one that is itself keyed GRE.
        marks = self._marks
        yield NftRule(
            f"meta mark & {marks.slot_mask:#x} != 0 ip saddr {self._plan.router_id} ip protocol gre "
            f"@th,0,32 {KEYED_IPV4_HEADER:#x} @th,0,32 set {WCCP_HEADER:#x} "
            f"@th,32,32 set meta mark & {marks.header_mask:#x} map @{names.HEADERS}",
            "the GRE key becomes the WCCP redirect header",
        )


def _networks(networks: Iterable[IPv4Network]) -> frozenset[str]:
    """Networks as nft lists them: merged, single addresses without a length."""
    return frozenset(
        str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        for network in collapse_addresses(networks)
    )
