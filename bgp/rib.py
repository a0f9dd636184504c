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
a prefix that covers an end of a tunnel or this router (its packets would chase themselves), a neighbour that we
do not know, and more prefixes than `max_prefixes` from one neighbour.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, assert_never

from bgp.events import (
    Event,
    IPAddress,
    IPNetwork,
    NextHop,
    PathAttributes,
    PathLearned,
    PathUnreadable,
    PathWithdrawn,
    PeerStateChanged,
    PrefixRule,
    RouteSet,
    SessionState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REFUSALS_KEPT = 1000
"""How many refused prefixes are remembered for status; all are counted."""


class RefusalReason(StrEnum):
    """Why a path was not taken; also the metric label."""

    DEFAULT_ROUTE = "default_route"
    NOT_ACCEPTED = "not_accepted"
    COVERS_TUNNEL = "covers_tunnel"
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
class RibView:
    """The table at one moment, for status and metrics."""

    routes: tuple[RouteView, ...]
    refused: tuple[RefusedPath, ...]
    """What is refused now, the newest `REFUSALS_KEPT` at most."""
    refused_total: Mapping[RefusalReason, int]
    paths: int
    stale_paths: int
    relearning: bool
    """Whether stale or adopted routes are still kept."""


@dataclass(frozen=True, slots=True)
class RibPolicy:
    """What may be learned, and how patient we are. All times in seconds."""

    accepted: tuple[PrefixRule, ...]
    outer_addresses: tuple[IPAddress, ...] = ()
    """Ends of the tunnels and addresses of this router: no learned prefix may cover one."""
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
        if any(outer.version == prefix.version and outer in prefix for outer in self.outer_addresses):
            return RefusalReason.COVERS_TUNNEL
        return None


@dataclass(slots=True)
class _Path:
    attributes: PathAttributes
    stale: bool = False

    def preference(self) -> tuple[int, int]:
        return self.attributes.as_path_length, self.attributes.med or 0


@dataclass(slots=True)
class _Neighbour:
    next_hop: NextHop
    up_since: float | None = None
    """When the session was seen up on this stream; None: not yet, or not any more."""
    lost: bool = False
    """Seen up on this stream, and then down: its paths do not count."""
    heard_at: float = -inf
    prefixes: set[IPNetwork] = field(default_factory=set)

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
        self._neighbours = {address: _Neighbour(hop) for address, hop in next_hops.items()}
        self._paths: dict[IPNetwork, dict[IPAddress, _Path]] = {}
        self._adopted: dict[IPNetwork, frozenset[NextHop]] = {}
        self._chosen: dict[IPNetwork, frozenset[NextHop]] = {}
        self._touched: set[IPNetwork] = set()
        self._refused: dict[tuple[IPNetwork, IPAddress], RefusalReason] = {}
        self._refused_total: Counter[RefusalReason] = Counter()
        self._stale_count = 0
        self._lost_at = -inf
        self._opened_at: float | None = None
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
        for address, neighbour in self._neighbours.items():
            if neighbour.lost:
                self._forget_neighbour(address)
            neighbour.up_since, neighbour.lost = None, False
        if not self._relearning():
            self._lost_at = now
        for paths in self._paths.values():
            for path in paths.values():
                path.stale = True
        self._stale_count = sum(len(paths) for paths in self._paths.values())
        self._opened_at = None

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
        for prefix, hops in routes.routes.items():
            kept = hops & known
            if kept and self._policy.refusal(prefix) is None:
                self._adopted[prefix] = kept
                self._touched.add(prefix)

    def reconfigure(self, policy: RibPolicy, next_hops: Mapping[IPAddress, NextHop]) -> None:
        """Take new limits and neighbours: paths that are no longer allowed go.

        Paths that only now become allowed come when gobgpd judges all anew (`Speaker.reconfigure`).
        """
        self._policy = policy
        for address in self._neighbours.keys() - next_hops.keys():
            self._forget_neighbour(address)
            del self._neighbours[address]
        for address, hop in next_hops.items():
            self._neighbours.setdefault(address, _Neighbour(hop)).next_hop = hop
        for prefix in [each for each in self._paths if policy.refusal(each)]:
            for address in tuple(self._paths[prefix]):
                self._remove(address, prefix)
        known = set(next_hops.values())
        self._adopted = {
            prefix: hops & known
            for prefix, hops in self._adopted.items()
            if hops & known and policy.refusal(prefix) is None
        }
        self._refused = {key: reason for key, reason in self._refused.items() if key[1] in self._neighbours}
        self._touched.update(self._paths, self._chosen)

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
        return bool(self._touched)

    def route_set(self) -> RouteSet:
        """The chosen routes. The same object as before if nothing changed."""
        if not self._touched:
            return self._route_set
        changed = False
        for prefix in self._touched:
            hops = self._choose(prefix)
            if hops:
                changed = changed or self._chosen.get(prefix) != hops
                self._chosen[prefix] = hops
            else:
                changed = self._chosen.pop(prefix, None) is not None or changed
        self._touched.clear()
        if changed:
            self._route_set = RouteSet(MappingProxyType(dict(self._chosen)))
        return self._route_set

    def view(self) -> RibView:
        """Everything for status, frozen. Costs time in proportion to the table."""
        routes = self.route_set().routes
        return RibView(
            routes=tuple(self._route_view(prefix, routes[prefix]) for prefix in _sorted(routes)),
            refused=tuple(RefusedPath(*key, reason) for key, reason in self._refused.items()),
            refused_total=MappingProxyType(dict(self._refused_total)),
            paths=sum(len(paths) for paths in self._paths.values()),
            stale_paths=self._stale_count,
            relearning=self._relearning(),
        )

    def _learn(self, event: PathLearned, now: float) -> None:
        neighbour = self._neighbours.get(event.neighbour)
        reason = self._policy.refusal(event.prefix)
        if neighbour is None:
            reason = RefusalReason.UNKNOWN_NEIGHBOUR
        else:
            neighbour.heard_at = now
            if (
                event.prefix not in neighbour.prefixes
                and len(neighbour.prefixes) >= self._policy.max_prefixes
            ):
                reason = reason or RefusalReason.TOO_MANY
        if neighbour is None or reason is not None:
            self._refuse(event, reason or RefusalReason.UNKNOWN_NEIGHBOUR)
            return
        self._refused.pop((event.prefix, event.neighbour), None)
        paths = self._paths.setdefault(event.prefix, {})
        before = paths.get(event.neighbour)
        if before is not None and before.stale:
            self._stale_count -= 1
        paths[event.neighbour] = _Path(event.attributes)
        neighbour.prefixes.add(event.prefix)
        self._touched.add(event.prefix)

    def _refuse(self, event: PathLearned, reason: RefusalReason) -> None:
        self._refused_total[reason] += 1
        key = (event.prefix, event.neighbour)
        self._refused.pop(key, None)
        self._refused[key] = reason
        if len(self._refused) > REFUSALS_KEPT:
            del self._refused[next(iter(self._refused))]
        self._remove(event.neighbour, event.prefix)

    def _withdraw(self, address: IPAddress, prefix: IPNetwork, now: float) -> None:
        self._refused.pop((prefix, address), None)
        neighbour = self._neighbours.get(address)
        if neighbour is not None:
            neighbour.heard_at = now
            self._remove(address, prefix)

    def _remove(self, address: IPAddress, prefix: IPNetwork) -> None:
        paths = self._paths.get(prefix, {})
        path = paths.pop(address, None)
        if path is None:
            return
        self._stale_count -= path.stale
        self._neighbours[address].prefixes.discard(prefix)
        if not paths:
            del self._paths[prefix]
        self._touched.add(prefix)

    def _forget_neighbour(self, address: IPAddress) -> None:
        for prefix in tuple(self._neighbours[address].prefixes):
            self._remove(address, prefix)

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
            self._touched.update(neighbour.prefixes)
            self._touched.update(self._adopted)

    def _relearning(self) -> bool:
        return bool(self._adopted or self._stale_count)

    def _sweep_at(self) -> float:
        latest = self._lost_at + self._policy.stale_seconds
        return (
            latest if self._opened_at is None else min(latest, self._opened_at + self._policy.relearn_seconds)
        )

    def _sweep(self) -> None:
        self._touched.update(self._adopted)
        self._adopted.clear()
        stale = [
            (address, prefix)
            for prefix, paths in self._paths.items()
            for address in paths
            if paths[address].stale
        ]
        for address, prefix in stale:
            self._remove(address, prefix)

    def _best(self, prefix: IPNetwork) -> tuple[IPAddress, ...]:
        paths = {
            address: path
            for address, path in self._paths.get(prefix, {}).items()
            if not self._neighbours[address].lost
        }
        if not paths:
            return ()
        best = min(path.preference() for path in paths.values())
        return tuple(address for address, path in paths.items() if path.preference() == best)

    def _choose(self, prefix: IPNetwork) -> frozenset[NextHop]:
        adopted = self._adopted.get(prefix)
        if adopted is not None:
            alive = {each.next_hop for each in self._neighbours.values() if not each.lost}
            if adopted & alive:
                return adopted & alive
        return frozenset(self._neighbours[address].next_hop for address in self._best(prefix))

    def _route_view(self, prefix: IPNetwork, hops: frozenset[NextHop]) -> RouteView:
        if prefix in self._adopted:
            return RouteView(prefix, hops, (), stale=True)
        best = self._best(prefix)
        return RouteView(prefix, hops, best, stale=all(self._paths[prefix][each].stale for each in best))


def _sorted(prefixes: Iterable[IPNetwork]) -> list[IPNetwork]:
    return sorted(
        prefixes, key=lambda prefix: (prefix.version, int(prefix.network_address), prefix.prefixlen)
    )
