"""The routes learned by BGP, in the kernel: one next-hop object per tunnel, one group per set of tunnels.

Routes point at a group, never at a device. When a tunnel is lost, all routes that used the same set want the
same other set, so their group gets other members: one message instead of one per route. `plan_changes` finds
that by counting, for every group, which set most of its routes want now. It works on sets of prefixes, of which
there are as many as ways out, and looks at single prefixes only where they are written.

What is ours is what carries our route protocol number, next-hop objects included; foreign routes are never
replaced (a new route is created exclusively, and a foreign one in its place is an error that says so).
Beside the learnt routes these are *pins*, see `dataplane.guard`.

The kernel is asked, not remembered. It deletes a device's next hops when the device goes down, the groups
that become empty, and their routes, and it brings nothing back. Each `sync` therefore lists the devices and
next hops, which are few; the routes are listed too when `verify` is set, when a next hop that we left is gone,
and after any error. The host's own routes are listed when somebody said that they changed.

Order: next hops, pins, new groups, routes into unchanged groups, removals, then the groups that change, then
routes into those, and last the pins and next hops that nothing needs any more. A route is thus never without a
next hop, no learnt route is there without its pins, and a lost tunnel is one step from gone.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from bgp.events import IPNetwork, NextHop, RouteSet
from wccpd.dataplane import rtnetlink
from wccpd.dataplane.guard import Guard
from wccpd.dataplane.rtnetlink import Hop, HopGroup, Link, Request, RouteEncoder, RouteSocket
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from wccpd.dataplane.guard import Judgement
    from wccpd.dataplane.rtnetlink import TableRoute, WayOut

TABLE_MAIN: Final = 254
ROUTE_PROTOCOL: Final = 118
HOP_ID_BASE: Final = 118_000_000
_IPV6_METRIC: Final = 1024
"""What the kernel makes of an IPv6 route without metric."""

_ABSENT: Final = {errno.ESRCH, errno.ENOENT, errno.ENODEV}
"""Errors of a removal that mean that nothing is there to remove."""


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
    """Our routes in the kernel now, as far as the kernel took them; pins do not count."""
    pins: Mapping[IPNetwork, WayOut] = field(default_factory=lambda: MappingProxyType({}))
    """Networks of our side that are pinned to the host's own way."""
    withheld: Mapping[IPNetwork, str] = field(default_factory=lambda: MappingProxyType({}))
    """Learnt prefixes that were not written, and why, in words."""
    unusable: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Interface -> why no route can use it now: absent, or down."""
    hosts: tuple[TableRoute, ...] = ()
    """The routes of the table that are not ours."""
    errors: tuple[KernelError, ...] = ()
    """What the kernel refused; tried again at the next `sync`."""


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


@dataclass(slots=True)
class _Belief:
    """What the last `sync` left, as far as it is believed."""

    routes: dict[int, frozenset[IPNetwork]] | None = None
    """Group -> prefixes; None: to be listed."""
    pins: dict[IPNetwork, WayOut] = field(default_factory=dict)
    misplaced: frozenset[tuple[IPNetwork, int]] = frozenset()
    hosts: tuple[TableRoute, ...] = ()
    hosts_of: int = -1
    """How many changes of the host had been told when its routes were listed."""


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
        self._encoder = self._settings.encoder()
        self._socket = RouteSocket(timeout_seconds)
        self._guard = Guard()
        self._belief = _Belief()
        self._host_changes = 0

    def close(self) -> None:
        """Close the socket; routes stay."""
        self._socket.close()

    def host_changed(self) -> None:
        """Say that routes, addresses or devices of the host changed: its routes are listed at the next `sync`.

        The one call that may be made while another runs.
        """
        self._host_changes += 1

    def observe(self) -> Observed:
        """List what is really there.

        Raises:
            KernelError: The kernel would not list it.
        """
        self._belief = _Belief()
        return self._observe()

    def sync(
        self, wanted: RouteSet, protected: Collection[IPNetwork] = (), *, verify: bool = True
    ) -> SyncResult:
        """Make the kernel's routes what is wanted, writing only differences.

        Args:
            wanted: All routes that should be there.
            protected: Networks of our side that no learnt route may swallow.
            verify: List the routes first. Without, what the last `sync` left is believed as long as all its
                next hops are still there: for the hot path, with a verifying call now and then.

        Raises:
            KernelError: The kernel would not list, or did not answer. Single refusals are in the result.
        """
        if verify:
            self._belief = _Belief()
        observed, judgement, plan, refused = self._prepare(wanted, protected)
        rewritten = {change.prefix for change in plan.changes}
        needless = observed.pins.keys() - judgement.pins.keys() - rewritten
        changes = (*plan.changes, *(Change(self._removal(each)) for each in needless))
        belief = self._belief
        self._belief = _Belief()
        errors = self._apply(changes)
        failed = {index for index, _ in errors}
        done = [change for index, change in enumerate(changes) if index not in failed]
        routes = _after(observed.routes, done)
        if not errors and not refused:
            self._belief = replace(belief, routes=routes, pins=dict(judgement.pins), misplaced=frozenset())
        return SyncResult(
            written=sum(change.group_id is not None for change in done),
            removed=sum(change.prefix is not None and change.group_id is None for change in done),
            hops_changed=len(plan.hops) + sum(isinstance(each.request.subject, str) for each in done),
            routes=sum(map(len, routes.values())),
            pins=judgement.pins,
            withheld=judgement.withheld,
            unusable=plan.unusable,
            hosts=observed.hosts,
            errors=(*refused, *(error for _, error in errors)),
        )

    def remove_all(self) -> None:
        """Remove every route, group and next hop of ours.

        Raises:
            KernelError: The kernel would not; the first refusal of possibly many.
        """
        result = self.sync(RouteSet())
        if result.errors:
            raise result.errors[0]

    def _prepare(
        self, wanted: RouteSet, protected: Collection[IPNetwork]
    ) -> tuple[Observed, Judgement, Plan, tuple[KernelError, ...]]:
        """Judge and plan, and create next hops and pins; what the kernel refuses of these is planned without."""
        refused_hops: dict[NextHop, str] = {}
        refused_pins: dict[IPNetwork, str] = {}
        errors: list[KernelError] = []
        while True:
            observed = self._observe()
            judgement = self._guard.judge(wanted, protected, observed.hosts, refused_pins)
            taken = frozenset[IPNetwork]().union(*observed.routes.values()) & judgement.pins.keys()
            observed = _without(observed, taken)
            plan = plan_changes(judgement.allowed, observed, self._settings, refused_hops)
            requests: list[tuple[NextHop | IPNetwork, Request]] = [*plan.hops]
            requests += [(each, self._removal(each)) for each in taken]
            requests += [
                (each, self._encoder.pin(each, way, replace=each in observed.pins))
                for each, way in judgement.pins.items()
                if observed.pins.get(each) != way
            ]
            failures = self._socket.change([request for _, request in requests])
            if not failures:
                return observed, judgement, plan, tuple(errors)
            self._belief.routes = None
            for index, error in failures:
                errors.append(error)
                what = requests[index][0]
                if isinstance(what, NextHop):
                    refused_hops[what] = f"the kernel refuses it as next hop: {error}"
                else:
                    refused_pins[what] = f"and the kernel refuses a route of its own for it: {error}"

    def _removal(self, prefix: IPNetwork) -> Request:
        return self._encoder.removal(prefix, self._settings.metric_of(prefix))

    def _observe(self) -> Observed:
        settings = self._settings
        hops = self._socket.hops()
        ours = [each for each in hops if each.protocol == settings.protocol]
        groups = {each.id: each for each in ours if isinstance(each, HopGroup)}
        belief = self._belief
        if belief.routes is None or not groups.keys() >= belief.routes.keys():
            self._belief = belief = self._list_routes(groups)
        elif belief.hosts_of != self._host_changes:
            belief.hosts_of = self._host_changes
            belief.hosts = tuple(self._table(only_foreign=True))
        assert belief.routes is not None
        return Observed(
            links={link.name: link for link in self._socket.links()},
            hops={each.id: each for each in ours if isinstance(each, Hop)},
            groups=groups,
            routes=belief.routes,
            pins=belief.pins,
            misplaced=belief.misplaced,
            hosts=belief.hosts,
            taken_ids=frozenset(each.id for each in hops),
        )

    def _list_routes(self, groups: Mapping[int, HopGroup]) -> _Belief:
        routes: dict[int, set[IPNetwork]] = {}
        belief = _Belief(hosts_of=self._host_changes)
        hosts: list[TableRoute] = []
        misplaced: set[tuple[IPNetwork, int]] = set()
        for route in self._table():
            if route.protocol != self._settings.protocol:
                hosts.append(route)
            elif route.metric != self._settings.metric_of(route.prefix):
                misplaced.add((route.prefix, route.metric))
            elif route.hop_id in groups:
                routes.setdefault(route.hop_id, set()).add(route.prefix)
            else:
                belief.pins[route.prefix] = route.way
        belief.routes = {group_id: frozenset(prefixes) for group_id, prefixes in routes.items()}
        belief.misplaced = frozenset(misplaced)
        belief.hosts = tuple(hosts)
        return belief

    def _table(self, *, only_foreign: bool = False) -> Iterable[TableRoute]:
        settings = self._settings
        for version in (4, 6):
            yield from self._socket.table(
                version, settings.table, leave_out=settings.protocol if only_foreign else None
            )

    def _apply(self, changes: Sequence[Change]) -> list[tuple[int, KernelError]]:
        failures = self._socket.change([change.request for change in changes])
        return [
            (index, _explained(error, changes[index]))
            for index, error in failures
            if not (error.verb == "delete" and error.errno in _ABSENT)
        ]


def _without(observed: Observed, prefixes: frozenset[IPNetwork]) -> Observed:
    """The same without these routes."""
    if not prefixes:
        return observed
    return replace(observed, routes={group: each - prefixes for group, each in observed.routes.items()})


def _after(
    before: Mapping[int, frozenset[IPNetwork]], done: Iterable[Change]
) -> dict[int, frozenset[IPNetwork]]:
    """Group -> prefixes, after these changes."""
    written: dict[int, set[IPNetwork]] = {}
    touched: set[IPNetwork] = set()
    for change in done:
        if change.prefix is not None:
            touched.add(change.prefix)
            if change.group_id is not None:
                written.setdefault(change.group_id, set()).add(change.prefix)
    left = {group_id: prefixes - touched for group_id, prefixes in before.items()} if touched else before
    merged = {each: left.get(each, frozenset()) | written.get(each, set()) for each in {*left, *written}}
    return {group_id: prefixes for group_id, prefixes in merged.items() if prefixes}


def _explained(error: KernelError, change: Change) -> KernelError:
    """Say what EEXIST means for a route: somebody else's is in its place, and stays."""
    if error.errno == errno.EEXIST and change.prefix is not None:
        return KernelError(error.obj, error.verb, error.errno, "a route that is not ours is in its place")
    return error
