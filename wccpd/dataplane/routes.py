"""The routes learned by BGP, in the kernel: one next-hop object per tunnel, one group per set of tunnels.

Routes point at a group, never at a device. When a tunnel is lost, all routes that used the same set want the
same other set, so their group gets other members: one message instead of one per route. `route_plan` finds
that by counting, for every group, which set most of its routes want now.

What is ours is what carries our route protocol number, next-hop objects included; foreign routes are never
replaced (a new route is created exclusively, and a foreign one in its place is an error that says so).
Beside the learnt routes these are *pins*, see `dataplane.guard`.

The kernel is asked, not remembered. It deletes a device's next hops when the device goes down, the groups
that become empty, and their routes, and it brings nothing back. Each `sync` therefore lists the devices and
next hops, which are few; the routes are listed too when `verify` is set, when a next hop that we left is gone,
and after any error. The host's own routes are listed when somebody said that they changed.

Listing thousands of routes takes longer than moving them. A `sync` that lists them only to verify therefore
stops when `hurry` says that a lost tunnel waits behind it, and what was believed before is believed again.

Order: next hops, pins, new groups, routes into unchanged groups, removals, then the groups that change, then
routes into those, and last the pins and next hops that nothing needs any more. A route is thus never without a
next hop, no learnt route is there without its pins, and a lost tunnel is one step from gone.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from bgp.events import IPNetwork, NextHop, RouteSet
from wccpd.dataplane.guard import Guard
from wccpd.dataplane.route_plan import (
    HOP_ID_BASE,
    ROUTE_PROTOCOL,
    TABLE_MAIN,
    Change,
    Observed,
    Settings,
    plan_changes,
)
from wccpd.dataplane.rtnetlink import Hop, HopGroup, RouteSocket
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from wccpd.dataplane.guard import Judgement
    from wccpd.dataplane.route_plan import Plan
    from wccpd.dataplane.rtnetlink import Request, TableRoute, WayOut

_ABSENT: Final = {errno.ESRCH, errno.ENOENT, errno.ENODEV}
"""Errors of a removal that mean that nothing is there to remove."""


class GaveWayError(Exception):
    """A verifying `sync` stopped before it changed anything, because something urgent waits behind it."""


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
        self._hurried = False
        self._gives_way = False
        """Whether the listing under way is only to verify, so that it may stop when hurried."""

    def close(self) -> None:
        """Close the socket; routes stay."""
        self._socket.close()

    def host_changed(self) -> None:
        """Say that routes, addresses or devices of the host changed: its routes are listed at the next `sync`.

        May be called while another call runs.
        """
        self._host_changes += 1

    def hurry(self) -> None:
        """Say that an urgent `sync`, one without `verify`, comes next: one that only verifies gives way to it.

        May be called while another call runs.
        """
        self._hurried = True

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
            GaveWayError: `hurry` was called while the routes were listed only to verify; nothing was changed.
        """
        believed = self._belief
        self._gives_way = verify and believed.routes is not None
        if verify:
            self._belief = _Belief()
        else:
            self._hurried = False
        try:
            observed, judgement, plan, refused = self._prepare(wanted, protected)
        except GaveWayError:
            self._belief = believed
            raise
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
        self._belief = _Belief()  # nothing is believed, so that this listing gives way to nobody
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
            self._gives_way = False
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
            if self._hurried and self._gives_way:
                raise GaveWayError
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
