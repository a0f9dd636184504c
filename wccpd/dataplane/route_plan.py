"""From the learnt routes that should be there to the changes that lead there. Pure.

Works on sets of prefixes, of which there are as many as ways out, and looks at single prefixes only where they are
written: a lost tunnel costs a few set operations, however many routes use it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from bgp.events import IPNetwork, NextHop, RouteSet
from wccpd.dataplane import rtnetlink
from wccpd.dataplane.rtnetlink import Hop, HopGroup, Link, Request, RouteEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wccpd.dataplane.rtnetlink import TableRoute, WayOut

TABLE_MAIN: Final = 254
ROUTE_PROTOCOL: Final = 118
HOP_ID_BASE: Final = 118_000_000
_IPV6_METRIC: Final = 1024
"""What the kernel makes of an IPv6 route without metric."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How our routes are recognised and where they go."""

    protocol: int = ROUTE_PROTOCOL
    """Route protocol number, 5 to 255; nobody else's on this host."""
    table: int = TABLE_MAIN
    metric: int = 0
    """0: the kernel's default, which is 0 for IPv4 and 1024 for IPv6."""
    hop_id_base: int = HOP_ID_BASE
    """Ids of our next-hop objects count up from here, past those already taken."""

    def metric_of(self, prefix: IPNetwork) -> int:
        """The metric of our route for `prefix` as the kernel will know it."""
        return self.metric or (_IPV6_METRIC if prefix.version == 6 else 0)

    def encoder(self) -> RouteEncoder:
        """Makes the requests for our routes."""
        return RouteEncoder(self.table, self.protocol, self.metric)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is really in the kernel; only our own objects, and all ids taken."""

    links: Mapping[str, Link]
    hops: Mapping[int, Hop]
    groups: Mapping[int, HopGroup]
    routes: Mapping[int, frozenset[IPNetwork]]
    """Group -> prefixes of our routes into it."""
    pins: Mapping[IPNetwork, WayOut] = field(default_factory=lambda: MappingProxyType({}))
    """Our routes that lead elsewhere than into one of our groups."""
    misplaced: frozenset[tuple[IPNetwork, int]] = frozenset()
    """Our routes with another metric than the present one: prefix and metric."""
    hosts: tuple[TableRoute, ...] = ()
    """The routes that are not ours."""
    taken_ids: frozenset[int] = frozenset()

    def route_set(self) -> RouteSet:
        """The same in the RIB's words, for `Rib.adopt`; routes that lead nowhere are left out."""
        names = {link.index: link.name for link in self.links.values()}
        found: dict[IPNetwork, frozenset[NextHop]] = {}
        for group_id, prefixes in self.routes.items():
            group = self.groups.get(group_id)
            members = (self.hops[each] for each in group.members if each in self.hops) if group else ()
            ways = frozenset(
                NextHop(names[hop.device_index], hop.gateway) for hop in members if hop.device_index in names
            )
            if ways:
                found.update(dict.fromkeys(prefixes, ways))
        return RouteSet.of(found)


class Change(NamedTuple):
    """One request, and what it makes of our routes if it succeeds."""

    request: Request
    prefix: IPNetwork | None = None
    """The learnt route that it writes or removes; None for next hops, groups and pins."""
    group_id: int | None = None
    """The group that the route then has; None: it is then gone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes that lead from what is there to what is wanted, in order."""

    hops: tuple[tuple[NextHop, Request], ...]
    """Next-hop objects to create first; if one is refused, plan again without it."""
    changes: tuple[Change, ...]
    unusable: Mapping[str, str]
    """Interface -> why no route can use it now."""


class _Way(NamedTuple):
    """One next hop for one IP version: next-hop objects belong to a version."""

    version: int
    hop: NextHop


def plan_changes(
    wanted: RouteSet, observed: Observed, settings: Settings, refused: Mapping[NextHop, str] | None = None
) -> Plan:
    """Find the changes, pins aside; pure.

    Args:
        wanted: All routes that should be there.
        observed: What is there.
        settings: How ours are recognised.
        refused: Next hops that the kernel would not take just now, with its reason: routes do without them.
    """
    return _Planner(observed, settings, refused or {}).plan(wanted)


class _Planner:
    """One planning run; the module's docstring says what it is after."""

    def __init__(self, observed: Observed, settings: Settings, refused: Mapping[NextHop, str]) -> None:
        self._observed = observed
        self._settings = settings
        self._encoder = settings.encoder()
        self._refused = refused
        self._taken = set(observed.taken_ids) | set(observed.hops) | set(observed.groups)
        self._unusable: dict[str, str] = {}
        self._hop_ids: dict[_Way, int | None] = {}
        self._new_hops: list[tuple[NextHop, Request]] = []

    def plan(self, wanted: RouteSet) -> Plan:
        """See `plan_changes`."""
        by_members: dict[frozenset[int], frozenset[IPNetwork]] = {}
        for (version, hops), prefixes in wanted.ways.items():
            members = self._members(version, hops)
            if members:
                by_members[members] = by_members.get(members, frozenset()) | prefixes
        group_of = self._assign_groups(by_members)
        added, changed = self._group_changes(group_of)
        early, late = self._route_writes(by_members, group_of, changed)
        removed = self._removals(frozenset().union(*by_members.values()))
        steps = (added.values(), early, removed, changed.values(), late)
        leftovers = self._leftovers(set(group_of.values()))
        changes = tuple(each for step in (*steps, leftovers) for each in step)
        return Plan(tuple(self._new_hops), changes, MappingProxyType(self._unusable))

    def _members(self, version: int, hops: frozenset[NextHop]) -> frozenset[int]:
        """Ids of the next-hop objects for a set of tunnels, less those that cannot be used."""
        ids = (self._hop_id(_Way(version, hop)) for hop in sorted(hops, key=str))
        return frozenset(each for each in ids if each is not None)

    def _hop_id(self, way: _Way) -> int | None:
        if way not in self._hop_ids:
            self._hop_ids[way] = self._find_or_add_hop(way)
        return self._hop_ids[way]

    def _find_or_add_hop(self, way: _Way) -> int | None:
        link = self._observed.links.get(way.hop.interface)
        reason = self._why_unusable(way.hop, link)
        if link is None or reason:
            self._unusable[way.hop.interface] = reason
            return None
        gateway = way.hop.gateway
        if gateway is not None and gateway.version != way.version:
            gateway = None
        for hop in self._observed.hops.values():
            if (hop.version, hop.device_index, hop.gateway) == (way.version, link.index, gateway):
                return hop.id
        hop = Hop(self._free_id(), self._settings.protocol, way.version, link.index, gateway)
        self._new_hops.append((way.hop, rtnetlink.encode_hop(hop, link.name)))
        return hop.id

    def _why_unusable(self, hop: NextHop, link: Link | None) -> str:
        if link is None:
            return "no such device"
        if not link.is_up:
            return "device is down"
        return self._refused.get(hop, "" if link.has_carrier else "device has no carrier")

    def _free_id(self) -> int:
        candidate = self._settings.hop_id_base
        while candidate in self._taken:
            candidate += 1
        self._taken.add(candidate)
        return candidate

    def _assign_groups(
        self, by_members: Mapping[frozenset[int], frozenset[IPNetwork]]
    ) -> dict[frozenset[int], int]:
        """Set of next hops -> group: the one whose routes want that set most, as it is or after a change."""
        votes: Counter[tuple[int, frozenset[int]]] = Counter()
        for group_id, prefixes in self._observed.routes.items():
            for wanted, theirs in by_members.items():
                if group_id in self._observed.groups and not prefixes.isdisjoint(theirs):
                    votes[group_id, wanted] = len(prefixes & theirs)
        for group in self._observed.groups.values():
            if group.members in by_members:
                votes[group.id, group.members] += 1  # no write needed: worth one route
        assigned: dict[frozenset[int], int] = {}
        used: set[int] = set()
        for (group_id, wanted), _ in sorted(votes.items(), key=lambda vote: (-vote[1], vote[0][0])):
            if wanted not in assigned and group_id not in used:
                assigned[wanted] = group_id
                used.add(group_id)
        for wanted in sorted(by_members, key=sorted):
            if wanted not in assigned:
                assigned[wanted] = self._free_id()
        return assigned

    def _group_changes(
        self, group_of: Mapping[frozenset[int], int]
    ) -> tuple[dict[int, Change], dict[int, Change]]:
        """Groups to create, and groups to give other members, by id."""
        added: dict[int, Change] = {}
        changed: dict[int, Change] = {}
        for members, group_id in group_of.items():
            present = self._observed.groups.get(group_id)
            group = HopGroup(group_id, self._settings.protocol, members)
            if present is None:
                added[group_id] = Change(rtnetlink.encode_group(group, replace=False))
            elif present.members != members:
                changed[group_id] = Change(rtnetlink.encode_group(group, replace=True))
        return added, changed

    def _route_writes(
        self,
        by_members: Mapping[frozenset[int], frozenset[IPNetwork]],
        group_of: Mapping[frozenset[int], int],
        changed: Mapping[int, Change],
    ) -> tuple[list[Change], list[Change]]:
        """Routes to write before the changed groups, and after them."""
        early: list[Change] = []
        late: list[Change] = []
        known: set[IPNetwork] = set(self._observed.pins).union(*self._observed.routes.values())
        encode = self._encoder.route
        for members, prefixes in by_members.items():
            group_id = group_of[members]
            writes = late if group_id in changed else early
            missing = prefixes - self._observed.routes.get(group_id, frozenset())
            moved = missing & known
            writes += [Change(encode(each, group_id, replace=True), each, group_id) for each in moved]
            writes += [
                Change(encode(each, group_id, replace=False), each, group_id) for each in missing - moved
            ]
        return early, late

    def _removals(self, wanted: frozenset[IPNetwork]) -> list[Change]:
        settings = self._settings
        gone = frozenset[IPNetwork]().union(*self._observed.routes.values()) - wanted
        misplaced = ((each, metric) for each, metric in self._observed.misplaced)
        keys = (*((each, settings.metric_of(each)) for each in gone), *misplaced)
        return [
            Change(self._encoder.removal(prefix, metric), prefix if prefix in gone else None)
            for prefix, metric in keys
        ]

    def _leftovers(self, groups_used: set[int]) -> list[Change]:
        """Remove the groups and next hops that nothing uses any more."""
        groups = (each for each in self._observed.groups if each not in groups_used)
        hops_used = {each for each in self._hop_ids.values() if each is not None}
        hops = (each for each in self._observed.hops if each not in hops_used)
        return [Change(rtnetlink.encode_hop_removal(each)) for each in (*groups, *hops)]
