"""From the engine's view and the operator's policy to the desired kernel state of the netlink plane.

    spokes -> ingress device -> prerouting: service, bucket, mark -> ip rule -> table of the cache
           -> its GRE device -> postrouting: key becomes redirect header -> cache

Every usable cache has a slot: its mark bits, its routing table, its rule. Slots are kept as long as the
cache is usable anywhere, so that a change of one cache leaves the others' objects alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import collapse_addresses
from typing import TYPE_CHECKING

from gre.header import GRE_PROTOCOL_IPV4, KEYED_IPV4_HEADER, WCCP_HEADER, redirect_header
from gre.tunnel import redirect_device, redirect_device_name
from wccpd.plan.marks import MAX_SLOT, MarkLayout
from wccpd.plan.match import ServiceMatch, by_priority, is_standard, service_match, service_name
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
from wccpd.protocol.view import CacheState
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Network

    from gre.tunnel import GreDevice
    from wccpd.protocol.view import GroupView, RouterView
    from wccpd.wire.elements import ServiceKey

HASH_SEED = 0x57434350
"""Seed of jhash; fixed, so that every wccpd router of a group puts a flow into the same bucket."""

assert KEYED_IPV4_HEADER & 0xFFFF == GRE_PROTOCOL_IPV4


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided that bears on the kernel."""

    router_id: IPv4Address
    services: tuple[ServiceKey, ...]
    """In the order of the configuration: the position is the service slot."""
    tunnels: tuple[GreDevice, ...] = ()
    ingress: tuple[str, ...] = ()
    """Devices whose packets are redirected."""
    never: tuple[IPv4Network, ...] = ()
    """Destinations that are never redirected."""
    device_prefix: str = "wccp-"
    marks: MarkLayout = field(default_factory=MarkLayout)
    table_base: int = 18800
    """Cache slot s routes by table `table_base + s`."""
    rule_priority: int = 18800
    """Cache slot s has rule priority `rule_priority + s`."""
    route_protocol: int = 118
    nft_table: str = "wccpd"


def allocate_slots(
    previous: Mapping[IPv4Address, int], caches: Iterable[IPv4Address]
) -> dict[IPv4Address, int]:
    """Give each cache a slot, 1 to 255: the one it had, else the lowest free one.

    Raises:
        ValueError: There are more than 255 caches; the engine admits 32 per group.
    """
    wanted = sorted(set(caches), key=int)
    slots = {cache: previous[cache] for cache in wanted if cache in previous}
    free = (slot for slot in range(1, MAX_SLOT + 1) if slot not in set(slots.values()))
    for cache in wanted:
        if cache not in slots:
            try:
                slots[cache] = next(free)
            except StopIteration:
                raise ValueError(f"more than {MAX_SLOT} caches") from None
    return slots


def usable_caches(view: RouterView) -> frozenset[IPv4Address]:
    """Caches that are usable in at least one group."""
    return frozenset(
        cache.address for group in view.groups for cache in group.caches if cache.state is CacheState.USABLE
    )


def compile_state(view: RouterView, policy: Policy, slots: Mapping[IPv4Address, int]) -> DesiredState:
    """The whole desired state.

    Args:
        view: The engine's picture.
        policy: The operator's decisions.
        slots: From `allocate_slots`. A cache without a slot has no path; its buckets count as nobody's.
    """
    caches = sorted(slots, key=int)
    return DesiredState(
        devices=(
            *policy.tunnels,
            *(redirect_device(policy.device_prefix, policy.router_id, cache) for cache in caches),
        ),
        rules=tuple(
            MarkRule(
                priority=policy.rule_priority + slots[cache],
                mark=policy.marks.mark(cache_slot=slots[cache]),
                mask=policy.marks.cache_mask,
                table=policy.table_base + slots[cache],
            )
            for cache in caches
        ),
        routes=tuple(
            TableRoute(
                policy.table_base + slots[cache],
                redirect_device_name(policy.device_prefix, cache),
                policy.route_protocol,
            )
            for cache in caches
        ),
        nft=_table(view, policy, slots),
    )


def _table(view: RouterView, policy: Policy, slots: Mapping[IPv4Address, int]) -> NftTable:
    services = tuple(
        _Service(group, match, policy.services.index(group.key) + 1, policy.marks, slots)
        for group, match in by_priority((group, service_match(group)) for group in view.groups)
    )
    known = {str(cache.address) for group in view.groups for cache in group.caches}
    paths = {mark: name for service in services for mark, name in service.paths().items()}
    return NftTable(
        name=policy.nft_table,
        counters=frozenset({*paths.values(), *(service.unassigned_counter for service in services)}),
        sets=(
            NftSet("ingress", "type ifname;", frozenset(policy.ingress)),
            NftSet("caches", "type ipv4_addr;", frozenset(known)),
            NftSet("never", "type ipv4_addr; flags interval;", _networks(policy.never)),
        ),
        maps=(
            *(made for service in services for made in service.maps()),
            NftMap("redirected", "type mark : counter;", paths),
            NftMap(
                "headers",
                "typeof meta mark : @th,32,32;",
                {key: value for service in services for key, value in service.headers().items()},
            ),
        ),
        chains=(
            NftChain(LAYOUT),
            *(chain for service in services for chain in service.chains()),
            _prerouting(services, policy.marks),
            _postrouting(policy),
        ),
    )


def _prerouting(services: tuple[_Service, ...], marks: MarkLayout) -> NftChain:
    never = (
        NftRule("iifname != @ingress return", "only packets from the spokes"),
        NftRule(
            f"meta mark & {marks.mask:#x} != 0 meta mark set meta mark & {marks.foreign_mask:#x}",
            "our mark bits are nobody else's to set",
        ),
        NftRule("fib daddr type != unicast return", "to the router itself, broadcast or multicast"),
        NftRule("ip saddr @caches return", "from a cache"),
        NftRule("ip daddr @never return", "redirect.never"),
        NftRule("ip ttl < 2 return", "no hop left"),
    )
    return NftChain(
        "prerouting",
        "type filter hook prerouting priority -150; policy accept;",
        (*never, *(service.rule() for service in services)),
    )


def _postrouting(policy: Policy) -> NftChain:
    # The source tells our own outer packet from a redirected one that is itself keyed GRE.
    marks = policy.marks
    rule = NftRule(
        f"meta mark & {marks.mask:#x} != 0 ip saddr {policy.router_id} ip protocol gre @th,0,32 {KEYED_IPV4_HEADER:#x} "
        f"@th,0,32 set {WCCP_HEADER:#x} @th,32,32 set meta mark & {marks.header_mask:#x} map @headers",
        "the GRE key becomes the WCCP redirect header",
    )
    return NftChain("postrouting", "type filter hook postrouting priority -150; policy accept;", (rule,))


@dataclass(frozen=True, slots=True)
class _Service:
    """The nft objects of one service group that has a definition."""

    group: GroupView
    match: ServiceMatch
    slot: int
    marks: MarkLayout
    cache_slots: Mapping[IPv4Address, int]

    @property
    def name(self) -> str:
        return service_name(self.group.key)

    @property
    def unassigned_counter(self) -> str:
        return f"unassigned-{self.name}"

    def owners(self) -> tuple[IPv4Address, ...]:
        """Caches that own a bucket and have a path, by address."""
        return tuple(sorted({owner for _, owner in self.assigned()}, key=int))

    def assigned(self) -> tuple[tuple[int, IPv4Address], ...]:
        """Buckets of caches that have a path."""
        owners = enumerate(self.group.bucket_owners)
        return tuple(
            (bucket, owner) for bucket, owner in owners if owner is not None and owner in self.cache_slots
        )

    def path_mark(self, cache: IPv4Address, bucket: int = 0) -> int:
        return self.marks.mark(cache_slot=self.cache_slots[cache], service_slot=self.slot, bucket=bucket)

    def paths(self) -> dict[str, str]:
        """Mark of each (service, cache) with the name of its counter."""
        return {str(self.path_mark(cache)): f"redirected-{self.name}-{cache}" for cache in self.owners()}

    def maps(self) -> tuple[NftMap, NftMap]:
        """Bucket to mark, and for packets with a foreign mark, bucket to chain."""
        assigned = self.assigned()
        # `typeof meta length` is any 32-bit integer in host order, which is what jhash yields; a map
        # declared with `typeof jhash` makes nft 1.0.6 crash when somebody lists the ruleset.
        return (
            NftMap(
                f"buckets-{self.name}",
                "typeof meta length : meta mark;",
                {str(bucket): str(self.path_mark(owner, bucket)) for bucket, owner in assigned},
            ),
            NftMap(
                f"owners-{self.name}",
                "typeof meta length : verdict;",
                {str(bucket): f"jump {self._mark_chain(owner)}" for bucket, owner in assigned},
            ),
        )

    def headers(self) -> dict[str, str]:
        """Bucket and service slot in a mark to the redirect header."""
        if not self.owners():
            return {}
        return {
            str(self.marks.mark(service_slot=self.slot, bucket=bucket)): str(
                redirect_header(
                    dynamic=not is_standard(self.group.key),
                    service_id=self.group.key.service_id,
                    bucket=bucket,
                )
            )
            for bucket in range(BUCKETS)
        }

    def chains(self) -> tuple[NftChain, ...]:
        foreign = f"meta mark & {self.marks.foreign_mask:#x}"
        bucket = f"jhash {self.match.hash_key} mod {BUCKETS} seed {HASH_SEED:#x}"
        path_mask = f"{self.marks.path_mask:#x}"
        rules = (
            NftRule(f"{foreign} == 0 meta mark set {bucket} map @buckets-{self.name}", "bucket to mark"),
            # nft before kernel 6.13 cannot merge two registers, hence a chain per cache with constants.
            NftRule(f"{foreign} != 0 {bucket} vmap @owners-{self.name}", "the same beside a foreign mark"),
            NftRule(
                f"meta mark & {path_mask} != 0 counter name meta mark & {path_mask} map @redirected accept",
                "redirected",
            ),
            NftRule(f"counter name {self.unassigned_counter} accept", "nobody owns the bucket: forwarded"),
        )
        return (
            *(self._mark_chain_of(cache) for cache in self.owners()),
            NftChain(f"service-{self.name}", rules=rules),
        )

    def rule(self) -> NftRule:
        return NftRule(f"{self.match.condition} goto service-{self.name}", self.match.words)

    def _mark_chain(self, cache: IPv4Address) -> str:
        return f"mark-{self.name}-{cache}"

    def _mark_chain_of(self, cache: IPv4Address) -> NftChain:
        text = f"meta mark set meta mark & {self.marks.foreign_mask:#x} | {self.path_mark(cache):#x}"
        return NftChain(self._mark_chain(cache), rules=(NftRule(text, f"to {cache}"),))


def _networks(networks: Iterable[IPv4Network]) -> frozenset[str]:
    """Networks as nft lists them: merged, single addresses without a length."""
    return frozenset(
        str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        for network in collapse_addresses(networks)
    )
