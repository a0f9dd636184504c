"""Caches and routers on a virtual clock, joined by a network that may lose, double, delay and reorder datagrams.

Everything is deterministic: chance comes in as an argument. Only the engine's and the caches' own contracts are
used, so whatever happens here can happen to them in the field.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

from wccpd.protocol.outputs import Output, Send
from wccpd.simulator.cache import CacheOutput, SimulatedCache, Transmit
from wccpd.wire.messages import peek_service

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from wccpd.protocol.router import Router
    from wccpd.wire.elements import ServiceKey


class Chance(Protocol):
    """A source of chance, such as a seeded `random.Random`."""

    def random(self) -> float:
        """A number from 0 up to but not 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What happens to datagrams on the way. Probabilities are 0 to 1 and hold for each datagram by itself."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """Of being held up, and so overtaken by later ones."""
    delay_seconds: float = 0.01
    """Of every datagram."""
    held_up_seconds: float = 2.0
    """At most, of one that is held up and of the second of a double."""


PERFECT = Conditions()
STEPS_AT_ONE_TIME = 100_000
"""More than this without time passing is a timer that does not move when it is served."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An output of a router or a cache."""

    time: float
    place: IPv4Address
    """The router's Router ID or the cache's address."""
    output: Output | CacheOutput


@dataclass(slots=True, eq=False)
class _RouterHost:
    router: Router
    wake_at: float | None = None


@dataclass(slots=True, eq=False)
class _CacheHost:
    cache: SimulatedCache
    wake_at: float | None = None


_Host = _RouterHost | _CacheHost


class _Arrival(NamedTuple):
    """A datagram on its way; the source port counts only towards routers."""

    datagram: bytes
    source: IPv4Address
    source_port: int
    destination: IPv4Address
    at: IPv4Address
    """Whom it reaches: the destination itself, or one of those who listen to a group address."""


class Network:
    """Routers and caches by address. A cache may be in several groups: one `SimulatedCache` for each."""

    def __init__(
        self,
        chance: Chance,
        conditions: Conditions = PERFECT,
        *,
        now: float = 0.0,
        observe: Callable[[Happened], None] | None = None,
    ) -> None:
        self.now = now
        self.conditions = conditions
        self.touched: Router | None = None
        """The router that the last step was about; None if it was about a cache."""
        self._chance = chance
        self._observe = observe
        self._routers: dict[IPv4Address, _RouterHost] = {}
        self._caches: dict[tuple[IPv4Address, ServiceKey], _CacheHost] = {}
        self._cuts: set[tuple[IPv4Address, IPv4Address]] = set()
        self._sequence = count()
        self._agenda: list[tuple[float, int, _Arrival | _Host]] = []

    def add_router(self, router: Router) -> None:
        """Put up a router, or replace the one with the same addresses by its restarted self."""
        host = _RouterHost(router)
        for address in (router.settings.router_id, *router.settings.addresses):
            self._routers[address] = host
        self._schedule(host)

    def remove_router(self, router: Router) -> None:
        """Let a router crash: datagrams to it are lost from now on."""
        self._routers = {
            address: host for address, host in self._routers.items() if host.router is not router
        }

    def add_cache(self, cache: SimulatedCache) -> None:
        """Put up a cache, or replace the one at the same address in the same group."""
        host = _CacheHost(cache)
        self._caches[cache.address, cache.service.key] = host
        self._schedule(host)

    def remove_cache(self, cache: SimulatedCache) -> None:
        """Let a cache crash without a word."""
        host = self._caches.get((cache.address, cache.service.key))
        if host is not None and host.cache is cache:
            del self._caches[cache.address, cache.service.key]

    def leave(self, cache: SimulatedCache) -> None:
        """Let a cache stop in the way of its profile."""
        host = self._caches.get((cache.address, cache.service.key))
        if host is not None and host.cache is cache:
            self._hand_on(host, cache.leave(self.now))

    def cut(self, source: IPv4Address, destination: IPv4Address) -> None:
        """Lose every datagram from one address to the other."""
        self._cuts.add((source, destination))

    def mend(self, source: IPv4Address, destination: IPv4Address) -> None:
        """Undo a `cut`."""
        self._cuts.discard((source, destination))

    def run_until(self, seconds: float, after_step: Callable[[Network], None] | None = None) -> None:
        """Let time pass.

        Args:
            seconds: The time on the virtual clock at which to stop.
            after_step: Called after each datagram and each timer.

        Raises:
            RuntimeError: A router or cache asks to be woken at the same moment for ever.
        """
        steps, since = 0, self.now
        while self._agenda and self._agenda[0][0] <= seconds:
            steps = steps + 1 if self.now == since else 0
            since = self.now
            if steps > STEPS_AT_ONE_TIME:
                raise RuntimeError(f"time stands still at {self.now} s")
            if self._step() and after_step is not None:
                after_step(self)
        self.now = max(self.now, seconds)

    def _step(self) -> bool:
        """Do the next thing; False if it was a timer that had been reset."""
        time, _, thing = heapq.heappop(self._agenda)
        if isinstance(thing, _Arrival):
            self.now = max(self.now, time)
            return self._arrive(thing)
        if thing.wake_at != time or not self._is_up(thing):
            return False
        self.now = max(self.now, time)
        thing.wake_at = None
        if isinstance(thing, _RouterHost):
            self._hand_on(thing, thing.router.tick(self.now))
        else:
            self._hand_on(thing, thing.cache.tick(self.now))
        return True

    def _arrive(self, arrival: _Arrival) -> bool:
        router = self._routers.get(arrival.at)
        if router is not None:
            outputs = router.router.receive(
                arrival.datagram, arrival.source, arrival.source_port, arrival.destination, self.now
            )
            self._hand_on(router, outputs)
            return True
        cache = self._caches.get((arrival.at, peek_service(arrival.datagram).key))
        if cache is None:
            return False
        self._hand_on(cache, cache.cache.receive(arrival.datagram, arrival.source, self.now))
        return True

    def _is_up(self, host: _Host) -> bool:
        if isinstance(host, _RouterHost):
            return self._routers.get(host.router.settings.router_id) is host
        return self._caches.get((host.cache.address, host.cache.service.key)) is host

    def _hand_on(self, host: _Host, outputs: tuple[Output, ...] | tuple[CacheOutput, ...]) -> None:
        if isinstance(host, _RouterHost):
            self.touched, place = host.router, host.router.settings.router_id
        else:
            self.touched, place = None, host.cache.address
        for output in outputs:
            if self._observe is not None:
                self._observe(Happened(self.now, place, output))
            match output:
                case Send(datagram, local, remote, _):
                    for at in self._listeners(remote, datagram, to_routers=False):
                        self._carry(_Arrival(datagram, local, 0, remote, at))
                case Transmit(datagram, destination, source_port):
                    for at in self._listeners(destination, datagram, to_routers=True):
                        self._carry(_Arrival(datagram, place, source_port, destination, at))
                case _:
                    pass
        self._schedule(host)

    def _listeners(
        self, destination: IPv4Address, datagram: bytes, *, to_routers: bool
    ) -> tuple[IPv4Address, ...]:
        """Whom a datagram to an address reaches; of a group's caches those of its service."""
        if not destination.is_multicast:
            return (destination,)
        key = peek_service(datagram).key
        if to_routers:
            return tuple(
                address
                for address, host in self._routers.items()
                if address == host.router.settings.router_id
                and host.router.groups[key].settings.group_address == destination
            )
        return tuple(
            address
            for (address, service), host in self._caches.items()
            if service == key and host.cache.group_address == destination
        )

    def _carry(self, arrival: _Arrival) -> None:
        """Send a datagram on its way, or not."""
        if (arrival.source, arrival.at) in self._cuts or self._happens(self.conditions.loss):
            return
        held_up = self.conditions.held_up_seconds
        delay = self.conditions.delay_seconds
        if self._happens(self.conditions.reordering):
            delay += held_up * self._chance.random()
        self._push(self.now + delay, arrival)
        if self._happens(self.conditions.duplication):
            self._push(self.now + delay + held_up * self._chance.random(), arrival)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._chance.random() < probability

    def _schedule(self, host: _Host) -> None:
        """Set the timer of a router or cache to its next deadline, at once if that has passed."""
        owner = host.router if isinstance(host, _RouterHost) else host.cache
        deadline = owner.next_deadline()
        wake_at = None if deadline is None else max(deadline, self.now)
        if wake_at != host.wake_at:
            host.wake_at = wake_at
            if wake_at is not None:
                self._push(wake_at, host)

    def _push(self, time: float, thing: _Arrival | _Host) -> None:
        heapq.heappush(self._agenda, (time, next(self._sequence), thing))
