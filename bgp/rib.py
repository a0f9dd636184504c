"""The routes learned from all neighbours, and the choice among them. Pure: `now` is an argument.

Life of a path. A neighbour's announcement puts it into the table; it leaves by withdrawal, or is passed over
while its neighbour's session is known to be down. The session's own state is heard sooner than the
withdrawals of its prefixes, one by one, so a lost session takes effect at once: its paths stay in the table,
but do not count until the session is up again. That makes the order of the two streams irrelevant.

When the event stream breaks (gobgpd died, or was restarted empty) the paths become *stale*: they go on
counting, because the kernel still needs the routes for return traffic. They turn fresh as they are relearned.
What was not relearned is swept once every neighbour's table is in (session up, and quiet for
`settle_seconds`), at the latest `relearn_seconds` after the stream came back, or `stale_seconds` after it broke.
Routes adopted from the kernel after our own restart are treated the same way.

The choice: shortest AS path, then lowest MED (absent counts as 0, RFC 4271 section 9.1.2.2), then all
neighbours left, as a set of tunnels. The two sessions of one Connect peer share a tunnel and are one way out.

Refused, whatever gobgpd's import policy let through: the default route, a prefix outside the accepted ranges,
a neighbour that we do not know, and more prefixes than `max_prefixes` from one neighbour. What would swallow
addresses of our own side is judged where the host's routes are known, in `wccpd.dataplane.guard`.

Thousands of prefixes are offered by the same neighbours with the same preference. They are kept together as one
`_Offers`, so that the loss of a session costs one new choice for each of these, not for each prefix.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, assert_never

from bgp.events import (
    Event,
    IPAddress,
    IPNetwork,
    NextHop,
    PathLearned,
    PathUnreadable,
    PathWithdrawn,
    PeerStateChanged,
    PrefixRule,
    RouteSet,
    SessionState,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

REFUSALS_KEPT = 1000
"""How many refused prefixes are remembered for status; all are counted."""


class RefusalReason(StrEnum):
    """Why a path was not taken; also the metric label."""

    DEFAULT_ROUTE = "default_route"
    NOT_ACCEPTED = "not_accepted"
    UNKNOWN_NEIGHBOUR = "unknown_neighbour"
    TOO_MANY = "too_many"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class RefusedPath:
    """A path that a neighbour announces and that we do not take."""

    prefix: IPNetwork
    neighbour: IPAddress
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class RouteView:
    """One chosen route, for status."""

    prefix: IPNetwork
    next_hops: frozenset[NextHop]
    neighbours: tuple[IPAddress, ...]
    """The neighbours whose paths were chosen; empty for a route adopted from the kernel."""
    stale: bool
    """Whether nothing but stale paths, or an adopted route, supports it."""


@dataclass(frozen=True, slots=True)
class RouteGroup:
    """Routes that were chosen alike."""

    prefixes: frozenset[IPNetwork]
    next_hops: frozenset[NextHop]
    neighbours: tuple[IPAddress, ...]
    stale: bool


@dataclass(frozen=True, slots=True)
class RibView:
    """The table at one moment, for status and metrics."""

    groups: tuple[RouteGroup, ...]
    refused: tuple[RefusedPath, ...]
    """What is refused now, the newest `REFUSALS_KEPT` at most."""
    refused_total: Mapping[RefusalReason, int]
    paths: int
    stale_paths: int
    relearning: bool
    """Whether stale or adopted routes are still kept."""

    @property
    def routes(self) -> tuple[RouteView, ...]:
        """One by one, in order. Made anew each time, in proportion to their number; may be read in any thread."""
        routes = [
            RouteView(prefix, group.next_hops, group.neighbours, group.stale)
            for group in self.groups
            for prefix in group.prefixes
        ]
        routes.sort(key=lambda route: _sort_key(route.prefix))
        return tuple(routes)


@dataclass(frozen=True, slots=True)
class RibPolicy:
    """What may be learned, and how patient we are. All times in seconds."""

    accepted: tuple[PrefixRule, ...]
    max_prefixes: int = 10_000
    """Most prefixes of one neighbour; AWS sends 5,000 at most."""
    settle_seconds: float = 5.0
    relearn_seconds: float = 60.0
    stale_seconds: float = 300.0

    def refusal(self, prefix: IPNetwork) -> RefusalReason | None:
        """Why `prefix` may not be learned, or None."""
        if prefix.prefixlen == 0:
            return RefusalReason.DEFAULT_ROUTE
        if not any(rule.admits(prefix) for rule in self.accepted):
            return RefusalReason.NOT_ACCEPTED
        return None


class _Path(NamedTuple):
    """One neighbour's path, as far as it matters for the choice. Numbers only, so that hashing is cheap."""

    order: int
    """The neighbour's number, see `_Neighbour.order`."""
    length: int
    med: int
    epoch: int
    """The stream in which it was learned; stale if that is not the present one."""


class _Offers:
    """All prefixes for which the same neighbours offer the same paths: one choice holds for all of them."""

    __slots__ = ("adopted", "chosen", "paths", "prefixes", "version")

    def __init__(self, version: int, adopted: frozenset[NextHop] | None, paths: tuple[_Path, ...]) -> None:
        self.version = version
        self.adopted = adopted
        """The ways out that an earlier run of ours had put into the kernel; None: nothing adopted."""
        self.paths = paths
        self.prefixes: set[IPNetwork] = set()
        self.chosen: frozenset[NextHop] = frozenset()


@dataclass(slots=True)
class _Neighbour:
    address: IPAddress
    order: int
    next_hop: NextHop
    up_since: float | None = None
    """When the session was seen up on this stream; None: not yet, or not any more."""
    lost: bool = False
    """Seen up on this stream, and then down: its paths do not count."""
    heard_at: float = -inf
    prefixes: int = 0
    """How many it announces."""

    def settled_at(self, quiet_seconds: float) -> float:
        return inf if self.up_since is None else max(self.up_since, self.heard_at) + quiet_seconds


class Rib:
    """All paths of all neighbours; see the module's docstring for the rules.

    Args:
        policy: What may be learned.
        next_hops: Neighbour -> what its routes point at.
    """

    def __init__(self, policy: RibPolicy, next_hops: Mapping[IPAddress, NextHop]) -> None:
        self._policy = policy
        self._orders = count()
        self._neighbours = {
            address: _Neighbour(address, next(self._orders), hop) for address, hop in next_hops.items()
        }
        self._by_order = {each.order: each for each in self._neighbours.values()}
        self._epoch = 0
        self._of: dict[IPNetwork, _Offers] = {}
        self._offers: dict[tuple[int, frozenset[NextHop] | None, tuple[_Path, ...]], _Offers] = {}
        self._refused: dict[tuple[IPNetwork, IPAddress], RefusalReason] = {}
        self._refused_total: Counter[RefusalReason] = Counter()
        self._lost_at = -inf
        self._opened_at: float | None = None
        self._changed = False
        self._urgent = False
        self._route_set = RouteSet()

    def handle(self, event: Event, now: float) -> None:
        """Take one event of the stream. Never raises on what a neighbour sent: it is refused and counted."""
        match event:
            case PathLearned():
                self._learn(event, now)
            case PathWithdrawn():
                self._withdraw(event.neighbour, event.prefix, now)
            case PeerStateChanged():
                self._peer_state(event, now)
            case PathUnreadable():
                self._refused_total[RefusalReason.UNREADABLE] += 1
            case _ as unreachable:
                assert_never(unreachable)

    def stream_lost(self, now: float) -> None:
        """The event stream broke: keep what counts as stale, forget what is known of the sessions."""
        for neighbour in self._neighbours.values():
            if neighbour.lost:
                self._forget_paths(neighbour)
            neighbour.up_since, neighbour.lost = None, False
        if not self._relearning():
            self._lost_at = now
        self._epoch += 1
        self._opened_at = None
        self._choose_anew()

    def stream_opened(self, now: float) -> None:
        """The event stream is there (again) and begins with a snapshot."""
        self._opened_at = now

    def adopt(self, routes: RouteSet, now: float) -> None:
        """Keep routes found in the kernel at our start until gobgpd's tables are in.

        Routes that the policy refuses and ways out that no neighbour has are not adopted.
        """
        if not self._relearning():
            self._lost_at = now
        known = {neighbour.next_hop for neighbour in self._neighbours.values()}
        for (_, hops), prefixes in routes.ways.items():
            kept = hops & known
            for prefix in prefixes if kept else ():
                if self._policy.refusal(prefix) is None:
                    self._move(prefix, kept, self._paths_of(prefix))

    def reconfigure(self, policy: RibPolicy, next_hops: Mapping[IPAddress, NextHop]) -> None:
        """Take new limits and neighbours: paths that are no longer allowed go.

        Paths that only now become allowed come when gobgpd judges all anew (`Speaker.reconfigure`).
        """
        self._policy = policy
        for address in self._neighbours.keys() - next_hops.keys():
            gone = self._neighbours.pop(address)
            self._forget_paths(gone)
            del self._by_order[gone.order]
        for address, hop in next_hops.items():
            if address not in self._neighbours:
                added = _Neighbour(address, next(self._orders), hop)
                self._neighbours[address] = self._by_order[added.order] = added
            self._neighbours[address].next_hop = hop
        for prefix in [each for each in self._of if policy.refusal(each)]:
            self._move(prefix, None, ())
        known = set(next_hops.values())
        for offers in [each for each in self._offers.values() if each.adopted is not None]:
            assert offers.adopted is not None
            self._move_all(offers, (offers.adopted & known) or None, offers.paths)
        self._refused = {key: reason for key, reason in self._refused.items() if key[1] in self._neighbours}
        self._choose_anew()

    def next_deadline(self) -> float:
        """When `tick` has something to do, `inf` for never."""
        if not self._relearning():
            return inf
        settled = max(
            (each.settled_at(self._policy.settle_seconds) for each in self._neighbours.values()), default=0.0
        )
        return min(settled if self._opened_at is not None else inf, self._sweep_at())

    def tick(self, now: float) -> None:
        """Sweep what stayed stale, if it is time."""
        if self._relearning() and now >= self.next_deadline():
            self._sweep()

    def changed(self) -> bool:
        """Whether `route_set` may differ from what it last returned."""
        return self._changed

    def urgent(self) -> bool:
        """Whether a session was lost since `route_set` was last asked: packets may be going into nothing."""
        return self._urgent

    def announced_by(self, neighbour: IPAddress) -> int:
        """How many prefixes of a neighbour are in the table."""
        known = self._neighbours.get(neighbour)
        return known.prefixes if known is not None else 0

    def refused_from(self, neighbour: IPAddress) -> int | None:
        """How many of its prefixes are refused here now; None: more than are remembered."""
        if len(self._refused) >= REFUSALS_KEPT:
            return None
        return sum(1 for _, who in self._refused if who == neighbour)

    def route_set(self) -> RouteSet:
        """The chosen routes. The same object as before if nothing changed."""
        self._urgent = False
        if not self._changed:
            return self._route_set
        self._changed = False
        ways: dict[Way, set[IPNetwork]] = {}
        for offers in self._offers.values():
            if offers.chosen:
                ways.setdefault((offers.version, offers.chosen), set()).update(offers.prefixes)
        if ways != self._route_set.ways:
            frozen = {way: frozenset(prefixes) for way, prefixes in ways.items()}
            self._route_set = RouteSet(MappingProxyType(frozen))
        return self._route_set

    def view(self) -> RibView:
        """Everything for status, frozen. Cheap: routes are made from it when somebody asks."""
        groups = tuple(
            RouteGroup(frozenset(offers.prefixes), offers.chosen, *self._support(offers))
            for offers in self._offers.values()
            if offers.chosen
        )
        return RibView(
            groups=groups,
            refused=tuple(RefusedPath(*key, reason) for key, reason in self._refused.items()),
            refused_total=MappingProxyType(dict(self._refused_total)),
            paths=sum(len(each.paths) * len(each.prefixes) for each in self._offers.values()),
            stale_paths=sum(self._stale(each) * len(each.prefixes) for each in self._offers.values()),
            relearning=self._relearning(),
        )

    def _learn(self, event: PathLearned, now: float) -> None:
        prefix = event.prefix
        neighbour = self._neighbours.get(event.neighbour)
        if neighbour is None:
            self._refuse(event, RefusalReason.UNKNOWN_NEIGHBOUR)
            return
        neighbour.heard_at = now
        offers = self._of.get(prefix)
        paths = offers.paths if offers is not None else ()
        others = tuple(path for path in paths if path.order != neighbour.order)
        is_new = len(others) == len(paths)
        reason = self._policy.refusal(prefix) if offers is None else None
        if reason is None and is_new and neighbour.prefixes >= self._policy.max_prefixes:
            reason = RefusalReason.TOO_MANY
        if reason is not None:
            self._refuse(event, reason)
            return
        if self._refused:
            self._refused.pop((prefix, event.neighbour), None)
        attributes = event.attributes
        path = _Path(neighbour.order, attributes.as_path_length, attributes.med or 0, self._epoch)
        self._move(prefix, offers.adopted if offers is not None else None, tuple(sorted((*others, path))))

    def _refuse(self, event: PathLearned, reason: RefusalReason) -> None:
        self._refused_total[reason] += 1
        key = (event.prefix, event.neighbour)
        self._refused.pop(key, None)
        self._refused[key] = reason
        if len(self._refused) > REFUSALS_KEPT:
            del self._refused[next(iter(self._refused))]

    def _withdraw(self, address: IPAddress, prefix: IPNetwork, now: float) -> None:
        if self._refused:
            self._refused.pop((prefix, address), None)
        neighbour = self._neighbours.get(address)
        if neighbour is None:
            return
        neighbour.heard_at = now
        offers = self._of.get(prefix)
        if offers is not None:
            left = tuple(path for path in offers.paths if path.order != neighbour.order)
            self._move(prefix, offers.adopted, left)

    def _paths_of(self, prefix: IPNetwork) -> tuple[_Path, ...]:
        offers = self._of.get(prefix)
        return offers.paths if offers is not None else ()

    def _move(self, prefix: IPNetwork, adopted: frozenset[NextHop] | None, paths: tuple[_Path, ...]) -> None:
        """Put one prefix among those with these offers; without any offer it is forgotten."""
        before = self._of.get(prefix)
        after = self._intern(prefix.version, adopted, paths)
        if before is after:
            return
        if before is not None:
            before.prefixes.discard(prefix)
            self._count(before.paths, -1)
            self._drop_if_empty(before)
        if after is None:
            self._of.pop(prefix, None)
        else:
            after.prefixes.add(prefix)
            self._count(paths, 1)
            self._of[prefix] = after
        self._changed = True

    def _move_all(
        self, before: _Offers, adopted: frozenset[NextHop] | None, paths: tuple[_Path, ...]
    ) -> None:
        """The same for all prefixes that have the same offers, in a few steps."""
        after = self._intern(before.version, adopted, paths)
        if after is before:
            return
        self._count(before.paths, -len(before.prefixes))
        del self._offers[before.version, before.adopted, before.paths]
        if after is None:
            for prefix in before.prefixes:
                del self._of[prefix]
        else:
            self._count(paths, len(before.prefixes))
            after.prefixes |= before.prefixes
            self._of.update(dict.fromkeys(before.prefixes, after))
        self._changed = True

    def _intern(
        self, version: int, adopted: frozenset[NextHop] | None, paths: tuple[_Path, ...]
    ) -> _Offers | None:
        if adopted is None and not paths:
            return None
        key = (version, adopted, paths)
        offers = self._offers.get(key)
        if offers is None:
            offers = self._offers[key] = _Offers(*key)
            offers.chosen = self._choose(offers)
        return offers

    def _drop_if_empty(self, offers: _Offers) -> None:
        if not offers.prefixes:
            del self._offers[offers.version, offers.adopted, offers.paths]

    def _count(self, paths: tuple[_Path, ...], number: int) -> None:
        for path in paths:
            self._by_order[path.order].prefixes += number

    def _forget_paths(self, neighbour: _Neighbour) -> None:
        for offers in tuple(self._offers.values()):
            left = tuple(path for path in offers.paths if path.order != neighbour.order)
            self._move_all(offers, offers.adopted, left)

    def _peer_state(self, event: PeerStateChanged, now: float) -> None:
        neighbour = self._neighbours.get(event.neighbour)
        if neighbour is None:
            return
        was_lost = neighbour.lost
        if event.state is SessionState.ESTABLISHED:
            if neighbour.up_since is None:
                neighbour.up_since = now
            neighbour.lost = False
        else:
            neighbour.lost = was_lost or neighbour.up_since is not None
            neighbour.up_since = None
        if neighbour.lost != was_lost:
            self._urgent = self._urgent or neighbour.lost
            self._choose_anew()

    def _relearning(self) -> bool:
        return any(each.adopted is not None or self._stale(each) for each in self._offers.values())

    def _stale(self, offers: _Offers) -> int:
        """How many of the paths are stale."""
        return sum(path.epoch != self._epoch for path in offers.paths)

    def _sweep_at(self) -> float:
        latest = self._lost_at + self._policy.stale_seconds
        return (
            latest if self._opened_at is None else min(latest, self._opened_at + self._policy.relearn_seconds)
        )

    def _sweep(self) -> None:
        for offers in tuple(self._offers.values()):
            fresh = tuple(path for path in offers.paths if path.epoch == self._epoch)
            self._move_all(offers, None, fresh)

    def _choose_anew(self) -> None:
        """The sessions changed: choose for each combination of offers, of which there are few."""
        for offers in self._offers.values():
            offers.chosen = self._choose(offers)
        self._changed = True

    def _choose(self, offers: _Offers) -> frozenset[NextHop]:
        if offers.adopted is not None:
            alive = {each.next_hop for each in self._neighbours.values() if not each.lost}
            if offers.adopted & alive:
                return offers.adopted & alive
        return frozenset(self._by_order[path.order].next_hop for path in self._best(offers))

    def _best(self, offers: _Offers) -> tuple[_Path, ...]:
        paths = [path for path in offers.paths if not self._by_order[path.order].lost]
        if not paths:
            return ()
        best = min((path.length, path.med) for path in paths)
        return tuple(path for path in paths if (path.length, path.med) == best)

    def _support(self, offers: _Offers) -> tuple[tuple[IPAddress, ...], bool]:
        """The neighbours whose paths were chosen, and whether nothing but stale ones support the choice."""
        if offers.adopted is not None:
            return (), True
        best = self._best(offers)
        neighbours = tuple(self._by_order[path.order].address for path in best)
        return neighbours, all(path.epoch != self._epoch for path in best)


def _sort_key(prefix: IPNetwork) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen
