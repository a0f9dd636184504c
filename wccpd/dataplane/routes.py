"""The routes learned by BGP, in the kernel: one next-hop object per tunnel, one group per set of tunnels.

Routes point at a group, never at a device. When a tunnel is lost, all routes that used the same set want the
same other set, so their group gets other members: one message instead of one per route. `plan_changes` finds
that by counting, for every group, which set most of its routes want now.

What is ours is what carries our route protocol number, next-hop objects included; foreign routes are never
replaced (a new route is created exclusively, and a foreign one in its place is an error that says so).

The kernel is asked, not remembered. It deletes a device's next hops when the device goes down, the groups
that become empty, and their routes, and it brings nothing back. Each `sync` therefore lists the devices and
next hops, which are few; the routes are listed too when `verify` is set, when a next hop that we left is gone,
and after any error.

Order: next hops, new groups, routes into unchanged groups, removals, then the groups that change, then routes
into those. A route is thus never without a next hop, and a lost tunnel is one step from gone.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from bgp.events import IPNetwork, NextHop, RouteSet
from wccpd.dataplane import rtnetlink
from wccpd.dataplane.rtnetlink import Hop, HopGroup, Link, Request, Route, RouteSocket
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TABLE_MAIN: Final = 254
ROUTE_PROTOCOL: Final = 118
HOP_ID_BASE: Final = 118_000_000
_IPV6_METRIC: Final = 1024
"""What the kernel makes of an IPv6 route without metric."""

_ABSENT: Final = {errno.ESRCH, errno.ENOENT, errno.ENODEV}
"""Errors of a removal that mean that nothing is there to remove."""


class RouteKey(NamedTuple):
    """What makes a route one route within a table."""

    prefix: IPNetwork
    metric: int


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

    def key(self, prefix: IPNetwork) -> RouteKey:
        """The route for `prefix` as the kernel will know it."""
        return RouteKey(prefix, self.metric or (_IPV6_METRIC if prefix.version == 6 else 0))


@dataclass(frozen=True, slots=True)
class Observed:
    """What is really in the kernel; only our own objects, and all ids taken."""

    links: Mapping[str, Link]
    hops: Mapping[int, Hop]
    groups: Mapping[int, HopGroup]
    routes: Mapping[RouteKey, int]
    """Our routes -> id of their group, 0 for one without."""
    taken_ids: frozenset[int] = frozenset()

    def route_set(self) -> RouteSet:
        """The same in the RIB's words, for `Rib.adopt`; routes that lead nowhere are left out."""
        names = {link.index: link.name for link in self.links.values()}
        found: dict[IPNetwork, frozenset[NextHop]] = {}
        ways: dict[int, frozenset[NextHop]] = {}
        for group in self.groups.values():
            members = (self.hops[each] for each in group.members if each in self.hops)
            ways[group.id] = frozenset(
                NextHop(names[hop.device_index], hop.gateway) for hop in members if hop.device_index in names
            )
        for key, group_id in self.routes.items():
            if ways.get(group_id):
                found[key.prefix] = ways[group_id]
        return RouteSet(MappingProxyType(found))


@dataclass(frozen=True, slots=True)
class Change:
    """One request, and what it makes of our routes if it succeeds."""

    request: Request
    key: RouteKey | None = None
    """The route that it writes or removes; None for next hops and groups."""
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


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What one `sync` did, and what it could not do."""

    written: int
    """Routes created or moved to another group."""
    removed: int
    """Routes removed."""
    hops_changed: int
    """Next hops and groups created, changed or removed."""
    routes: int
    """Our routes in the kernel now, as far as the kernel took them."""
    unusable: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Interface -> why no route can use it now: absent, or down."""
    errors: tuple[KernelError, ...] = ()
    """What the kernel refused; tried again at the next `sync`."""


class _Way(NamedTuple):
    """One next hop for one IP version: next-hop objects belong to a version."""

    version: int
    hop: NextHop


def plan_changes(
    wanted: RouteSet, observed: Observed, settings: Settings, refused: Mapping[NextHop, str] | None = None
) -> Plan:
    """Find the changes; pure.

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
        self._refused = refused
        self._taken = set(observed.taken_ids) | set(observed.hops) | set(observed.groups)
        self._unusable: dict[str, str] = {}
        self._hop_ids: dict[_Way, int | None] = {}
        self._member_sets: dict[tuple[int, frozenset[NextHop]], frozenset[int]] = {}
        self._new_hops: list[tuple[NextHop, Request]] = []

    def plan(self, wanted: RouteSet) -> Plan:
        """See `plan_changes`."""
        members: dict[RouteKey, frozenset[int]] = {}
        for prefix, hops in wanted.routes.items():
            usable = self._members(prefix.version, hops)
            if usable:
                members[self._settings.key(prefix)] = usable
        group_of = self._assign_groups(members)
        added, changed = self._group_changes(group_of)
        early, late = self._route_writes(members, group_of, changed)
        removed = [self._removal(key) for key in self._observed.routes if key not in members]
        steps = (added.values(), early, removed, changed.values(), late)
        leftovers = self._leftovers(set(group_of.values()))
        changes = tuple(each for step in (*steps, leftovers) for each in step)
        return Plan(tuple(self._new_hops), changes, MappingProxyType(self._unusable))

    def _members(self, version: int, hops: frozenset[NextHop]) -> frozenset[int]:
        """Ids of the next-hop objects for a set of tunnels, less those that cannot be used."""
        known = self._member_sets.get((version, hops))
        if known is None:
            ids = (self._hop_id(_Way(version, hop)) for hop in sorted(hops, key=str))
            known = frozenset(each for each in ids if each is not None)
            self._member_sets[version, hops] = known
        return known

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
        for hop in self._observed.hops.values():
            if (hop.version, hop.device_index, hop.gateway) == (way.version, link.index, way.hop.gateway):
                return hop.id
        hop = Hop(self._free_id(), self._settings.protocol, way.version, link.index, way.hop.gateway)
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

    def _assign_groups(self, members: Mapping[RouteKey, frozenset[int]]) -> dict[frozenset[int], int]:
        """Set of next hops -> group: the one whose routes want that set most, as it is or after a change."""
        votes: Counter[tuple[int, frozenset[int]]] = Counter()
        for key, wanted in members.items():
            group_id = self._observed.routes.get(key, 0)
            if group_id in self._observed.groups:
                votes[group_id, wanted] += 1
        wanted_sets = set(members.values())
        for group in self._observed.groups.values():
            if group.members in wanted_sets:
                votes[group.id, group.members] += 1  # no write needed: worth one route
        assigned: dict[frozenset[int], int] = {}
        used: set[int] = set()
        for (group_id, wanted), _ in sorted(votes.items(), key=lambda vote: (-vote[1], vote[0][0])):
            if wanted not in assigned and group_id not in used:
                assigned[wanted] = group_id
                used.add(group_id)
        for wanted in sorted(wanted_sets, key=sorted):
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
        members: Mapping[RouteKey, frozenset[int]],
        group_of: Mapping[frozenset[int], int],
        changed: Mapping[int, Change],
    ) -> tuple[list[Change], list[Change]]:
        """Routes to write before the changed groups, and after them."""
        early: list[Change] = []
        late: list[Change] = []
        settings = self._settings
        for key, wanted in members.items():
            group_id = group_of[wanted]
            present = self._observed.routes.get(key)
            if present == group_id:
                continue
            request = rtnetlink.encode_route(
                Route(key.prefix, key.metric, group_id),
                settings.table,
                settings.protocol,
                replace=present is not None,
            )
            (late if group_id in changed else early).append(Change(request, key, group_id))
        return early, late

    def _removal(self, key: RouteKey) -> Change:
        route = Route(key.prefix, key.metric, 0)
        request = rtnetlink.encode_route_removal(route, self._settings.table, self._settings.protocol)
        return Change(request, key)

    def _leftovers(self, groups_used: set[int]) -> list[Change]:
        """Remove the groups and next hops that nothing uses any more."""
        groups = (each for each in self._observed.groups if each not in groups_used)
        hops_used = {each for each in self._hop_ids.values() if each is not None}
        hops = (each for each in self._observed.hops if each not in hops_used)
        return [Change(rtnetlink.encode_hop_removal(each)) for each in (*groups, *hops)]


class KernelRoutes:
    """Our routes in the kernel of the network namespace in which this is made.

    Calls block, within `timeout_seconds` per answer of the kernel; one call at a time, from any thread.

    Args:
        protocol: Route protocol number by which ours are recognised, 5 to 255.
        table: Routing table.
        metric: 0 for the kernel's default.
        hop_id_base: First id for our next-hop objects.
        timeout_seconds: How long the kernel may take for one answer.

    Raises:
        KernelError: The netlink socket cannot be made.
    """

    def __init__(
        self,
        *,
        protocol: int = ROUTE_PROTOCOL,
        table: int = TABLE_MAIN,
        metric: int = 0,
        hop_id_base: int = HOP_ID_BASE,
        timeout_seconds: float = 5.0,
    ) -> None:
        self._settings = Settings(protocol, table, metric, hop_id_base)
        self._socket = RouteSocket(timeout_seconds)
        self._routes: dict[RouteKey, int] | None = None

    def close(self) -> None:
        """Close the socket; routes stay."""
        self._socket.close()

    def observe(self) -> Observed:
        """List what is really there.

        Raises:
            KernelError: The kernel would not list it.
        """
        self._routes = None
        return self._observe()

    def sync(self, wanted: RouteSet, *, verify: bool = True) -> SyncResult:
        """Make the kernel's routes what is wanted, writing only differences.

        Args:
            wanted: All routes that should be there.
            verify: List the routes first. Without, what the last `sync` left is believed as long as all its
                next hops are still there: for the hot path, with a verifying call now and then.

        Raises:
            KernelError: The kernel would not list, or did not answer. Single refusals are in the result.
        """
        if verify:
            self._routes = None
        observed, plan, refused_hops = self._plan_with_hops(wanted)
        routes = dict(observed.routes)
        self._routes = None
        errors = self._apply(plan.changes)
        refused = {index for index, _ in errors}
        done = [change for index, change in enumerate(plan.changes) if index not in refused]
        for change in done:
            if change.key is not None and change.group_id is not None:
                routes[change.key] = change.group_id
            elif change.key is not None:
                routes.pop(change.key, None)
        self._routes = None if errors else routes
        return SyncResult(
            written=sum(change.group_id is not None for change in done),
            removed=sum(change.key is not None and change.group_id is None for change in done),
            hops_changed=len(plan.hops) + sum(change.key is None for change in done),
            routes=len(routes),
            unusable=plan.unusable,
            errors=(*refused_hops, *(error for _, error in errors)),
        )

    def remove_all(self) -> None:
        """Remove every route, group and next hop of ours.

        Raises:
            KernelError: The kernel would not; the first refusal of possibly many.
        """
        result = self.sync(RouteSet())
        if result.errors:
            raise result.errors[0]

    def _plan_with_hops(self, wanted: RouteSet) -> tuple[Observed, Plan, tuple[KernelError, ...]]:
        """Plan, and create the next hops; those that the kernel refuses are planned without."""
        refused: dict[NextHop, str] = {}
        errors: list[KernelError] = []
        while True:
            observed = self._observe()
            plan = plan_changes(wanted, observed, self._settings, refused)
            failures = self._socket.change([request for _, request in plan.hops])
            if not failures:
                return observed, plan, tuple(errors)
            for index, error in failures:
                refused[plan.hops[index][0]] = f"the kernel refuses it as next hop: {error}"
                errors.append(error)

    def _observe(self) -> Observed:
        settings = self._settings
        hops = self._socket.hops()
        ours = [each for each in hops if each.protocol == settings.protocol]
        groups = {each.id: each for each in ours if isinstance(each, HopGroup)}
        if self._routes is None or not groups.keys() >= set(self._routes.values()):
            listed = (
                route
                for version in (4, 6)
                for route in self._socket.routes(version, settings.table, settings.protocol)
            )
            self._routes = {RouteKey(route.prefix, route.metric): route.hop_id for route in listed}
        return Observed(
            links={link.name: link for link in self._socket.links()},
            hops={each.id: each for each in ours if isinstance(each, Hop)},
            groups=groups,
            routes=self._routes,
            taken_ids=frozenset(each.id for each in hops),
        )

    def _apply(self, changes: Sequence[Change]) -> list[tuple[int, KernelError]]:
        failures = self._socket.change([change.request for change in changes])
        return [
            (index, _explained(error, changes[index]))
            for index, error in failures
            if not (error.verb == "delete" and error.errno in _ABSENT)
        ]


def _explained(error: KernelError, change: Change) -> KernelError:
    """Say what EEXIST means for a route: somebody else's is in its place, and stays."""
    if error.errno == errno.EEXIST and change.key is not None:
        return KernelError(error.obj, error.verb, error.errno, "a route that is not ours is in its place")
    return error
