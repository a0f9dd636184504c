"""Keeps learnt routes off what lies on our side: decides which may be written, and which of our own go before. Pure.

A Transit Gateway announces summaries such as 10.0.0.0/8. They cover the outer addresses of the very tunnels they
lead into, the caches, and the rest of the Egress VPC. Longest match protects whatever the host has a longer route
for; what it reaches by its default route alone would be swallowed: the tunnel's packets would go into the tunnel.

So, for each *protected* network (the ends of the tunnels, the caches, `bgp.local_networks`):

- A learnt prefix inside it, or inside a subnet of the host, would win over the host's own route: it is withheld.
- A learnt prefix that covers it, where the host's own best route is no longer than that prefix: a *pin* is
  written first. It is a route to exactly the protected network that leads where the host's own best route leads.
- If the host has no route of its own to it, a pin leads nowhere: the covering prefix is withheld.

The host's routes are all those of the table that do not carry our protocol number. They are asked from the kernel,
never remembered beyond a notice that they changed (`dataplane.watch`).

The alternative was a routing rule for each protected network, ahead of a table of learnt routes. Refused: one rule
in a network namespace halves its forwarding (design.md section 3), and rules look up whole tables, so that a static
10.0.0.0/8 of the host would beat a learnt 10.1.0.0/16.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from bgp.events import RouteSet
from wccpd.dataplane.rtnetlink import RTPROT_KERNEL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from wccpd.dataplane.rtnetlink import TableRoute, WayOut

IPNetwork: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Judgement:
    """What may be written."""

    allowed: RouteSet
    pins: Mapping[IPNetwork, WayOut] = field(default_factory=lambda: MappingProxyType({}))
    """Protected network -> where the host's own best route to it leads."""
    withheld: Mapping[IPNetwork, str] = field(default_factory=lambda: MappingProxyType({}))
    """Learnt prefix -> why it is not written, in words."""


class _Networks:
    """Networks that are asked, for a prefix, whether one of them contains it."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._by_length: dict[tuple[int, int], set[int]] = defaultdict(set)
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            start = int(network.network_address) >> shift
            self._by_length[network.version, network.prefixlen].add(start)

    def containing(self, prefix: IPNetwork) -> IPNetwork | None:
        """The first network found that contains `prefix` or is it."""
        for (version, length), starts in self._by_length.items():
            if version != prefix.version or length > prefix.prefixlen:
                continue
            shift = prefix.max_prefixlen - length
            start = int(prefix.network_address) >> shift
            if start in starts:
                return type(prefix)((start << shift, length))
        return None


class Guard:
    """Judges newest wishes; remembers only which prefixes lie in no network of ours, for speed."""

    def __init__(self) -> None:
        self._own: frozenset[IPNetwork] = frozenset()
        self._inside: dict[IPNetwork, str] = {}
        self._outside: set[IPNetwork] = set()

    def judge(
        self,
        wanted: RouteSet,
        protected: Collection[IPNetwork],
        hosts: Collection[TableRoute],
        refused: Mapping[IPNetwork, str] | None = None,
    ) -> Judgement:
        """Decide for all learnt routes.

        Args:
            wanted: What BGP taught us.
            protected: Networks of our side that no learnt route may swallow.
            hosts: The routes of the same table that are not ours.
            refused: Pins that the kernel would not take, with its reason: nothing may cover these.
        """
        learnt: set[IPNetwork] = set().union(*wanted.ways.values())
        connected = {route.prefix for route in hosts if route.protocol == RTPROT_KERNEL and route.is_unicast}
        withheld = self._lying_inside(learnt, frozenset({*protected, *connected}))
        learnt -= withheld.keys()
        pins: dict[IPNetwork, WayOut] = {}
        best = _best_routes(hosts)
        learnt_lengths, host_lengths = _lengths(learnt), _lengths(best)
        for network in sorted(protected, key=_sort_key):
            covering = [each for each in _around(network, learnt_lengths) if each in learnt]
            own = next((best[each] for each in _around(network, host_lengths) if each in best), None)
            if not covering or (own is not None and own.prefix.prefixlen > covering[0].prefixlen):
                continue
            reason = (refused or {}).get(network) or _why_no_pin(own)
            if own is not None and not reason:
                if own.prefix != network:
                    pins[network] = own.way
                continue
            for prefix in covering:
                if own is None or own.prefix.prefixlen <= prefix.prefixlen:
                    withheld[prefix] = f"covers {network}, {reason}"
                    learnt.discard(prefix)
        return Judgement(_without(wanted, withheld), MappingProxyType(pins), MappingProxyType(withheld))

    def _lying_inside(self, learnt: set[IPNetwork], own: frozenset[IPNetwork]) -> dict[IPNetwork, str]:
        if own != self._own:
            self._own, self._inside, self._outside = own, {}, set()
        networks = _Networks(own)
        for prefix in learnt - self._outside - self._inside.keys():
            found = networks.containing(prefix)
            if found is None:
                self._outside.add(prefix)
            else:
                self._inside[prefix] = f"lies in {found}, which is on our side"
        self._outside &= learnt
        self._inside = {prefix: reason for prefix, reason in self._inside.items() if prefix in learnt}
        return dict(self._inside)


def has_own_route(prefix: IPNetwork, hosts: Iterable[TableRoute]) -> bool:
    """Whether the host's own routes lead everywhere in `prefix`: one that covers it, or two that halve it."""
    best = _best_routes(hosts)
    usable = [each for each in _around(prefix, range(prefix.prefixlen, -1, -1)) if each in best]
    if usable:
        return best[usable[0]].is_unicast
    halves: tuple[IPNetwork, ...] = tuple(prefix.subnets()) if prefix.prefixlen == 0 else ()
    return bool(halves) and all(half in best and best[half].is_unicast for half in halves)


def _best_routes(hosts: Iterable[TableRoute]) -> dict[IPNetwork, TableRoute]:
    """For each prefix the route that the kernel takes: alive, and of the lowest metric."""
    best: dict[IPNetwork, TableRoute] = {}
    for route in hosts:
        if not route.is_dead and (route.prefix not in best or route.metric < best[route.prefix].metric):
            best[route.prefix] = route
    return best


def _why_no_pin(own: TableRoute | None) -> str:
    if own is None:
        return "to which the host has no route of its own"
    return "" if own.is_unicast else "to which the host's own route is a dead end"


def _lengths(prefixes: Iterable[IPNetwork]) -> list[int]:
    """The prefix lengths that occur, the longest first."""
    return sorted({prefix.prefixlen for prefix in prefixes}, reverse=True)


def _around(network: IPNetwork, lengths: Iterable[int]) -> Iterable[IPNetwork]:
    """The networks of these lengths that contain `network`, itself included."""
    start = int(network.network_address)
    for length in lengths:
        if length <= network.prefixlen:
            shift = network.max_prefixlen - length
            yield type(network)((start >> shift << shift, length))


def _without(wanted: RouteSet, withheld: Mapping[IPNetwork, str]) -> RouteSet:
    if not withheld:
        return wanted
    left = {way: prefixes - withheld.keys() for way, prefixes in wanted.ways.items()}
    return RouteSet(
        MappingProxyType({way: frozenset(prefixes) for way, prefixes in left.items() if prefixes})
    )


def _sort_key(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
