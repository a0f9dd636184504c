"""Who is the designated cache, and when it sends REDIRECT_ASSIGN (draft 4.8, 4.9), by the habits of the field."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, assert_never

from wccpd.simulator.heard import HeardView, ListedCache
from wccpd.simulator.profiles import AssignmentHabit, Election, Profile
from wccpd.simulator.timers import CacheTimers
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address

    from wccpd.simulator.nexus import Nexus


class Assigner(Protocol):
    """A habit. `key_number` goes up with each new assignment."""

    due_at: float | None
    key_number: int
    timers: CacheTimers
    """A designated cache waits 1.5 RA_TIMER_BASE_T after a change, so that all routers have settled (draft 4.8), and
    TRANSMIT_T before it repeats an assignment whose key is not echoed."""

    def heard(self, nexus: Nexus, live: Sequence[Nexus], now: float) -> bool:
        """Take a new view of `nexus`; tell whether to repeat the assignment to that router now."""
        ...

    def due(self) -> bool:
        """`due_at` has come: tell whether to assign to all routers."""
        ...

    def parties(self, view: HeardView, live: Sequence[Nexus]) -> tuple[ListedCache, ...]:
        """Who shares the buckets in the assignment to the router with that view, in the order of the message."""
        ...

    def buckets(self, parties: tuple[ListedCache, ...]) -> bytes:
        """256 bucket octets."""
        ...


class DraftAssigner:
    """15 s after a change, and again while a router does not echo the key."""

    def __init__(self, address: IPv4Address, election: Election, *, everything_to_first: bool) -> None:
        self.due_at: float | None = None
        self.key_number = 0
        self.timers = CacheTimers()
        self._address = address
        self._election = election
        self._everything_to_first = everything_to_first
        self._designated = False

    def heard(self, nexus: Nexus, live: Sequence[Nexus], now: float) -> bool:
        """See `Assigner`."""
        view = nexus.view
        assert view is not None
        designated = self._is_designated(live)
        changed = view.change_number != nexus.change_number
        nexus.change_number = view.change_number
        if changed or (designated and not self._designated):
            self.due_at = now + self.timers.change_wait_seconds
        self._designated = designated
        if not designated or self.due_at is not None or self.key_number == 0:
            return False
        echoed = view.key == (self._address, self.key_number)
        waited = nexus.assigned_at is None or now >= nexus.assigned_at + self.timers.here_i_am_seconds
        return waited and not echoed

    def due(self) -> bool:
        """See `Assigner`."""
        self.due_at = None
        if self._designated:
            self.key_number += 1
        return self._designated

    def parties(self, view: HeardView, live: Sequence[Nexus]) -> tuple[ListedCache, ...]:
        """See `Assigner`."""
        if self._election is Election.EVERY_CACHE:
            return view.caches
        everywhere = _listed_by_all(live)
        return tuple(sorted((each for each in view.caches if each.address in everywhere), key=_by_address))

    def buckets(self, parties: tuple[ListedCache, ...]) -> bytes:
        """See `Assigner`."""
        return bytes(BUCKETS) if self._everything_to_first else deal(tuple(each.weight for each in parties))

    def _is_designated(self, live: Sequence[Nexus]) -> bool:
        everywhere = _listed_by_all(live)
        if self._election is Election.EVERY_CACHE:
            return any(self._address in each.view.addresses for each in live if each.view is not None)
        return bool(everywhere) and min(everywhere) == self._address


class SquidAssigner:
    """Squid: whoever was last heard decides the election; the key is ignored and nothing is ever repeated.

    An empty view makes it take itself for the only cache.
    """

    def __init__(self, address: IPv4Address) -> None:
        self.due_at: float | None = None
        self.key_number = 0
        self.timers = CacheTimers()
        self._address = address
        self._lowest = False

    def heard(self, nexus: Nexus, live: Sequence[Nexus], now: float) -> bool:
        """See `Assigner`."""
        view = nexus.view
        assert view is not None
        addresses = {each.address for each in self.parties(view, live)}
        self._lowest = all(_reversed(each) >= _reversed(self._address) for each in addresses)
        if not self._lowest or self._address not in addresses:
            self.due_at = None
        elif view.change_number != nexus.change_number:
            nexus.change_number = view.change_number
            self.due_at = now + self.timers.change_wait_seconds
        return False

    def due(self) -> bool:
        """See `Assigner`."""
        self.due_at = None
        if self._lowest:
            self.key_number += 1
        return self._lowest

    def parties(self, view: HeardView, live: Sequence[Nexus]) -> tuple[ListedCache, ...]:
        """See `Assigner`."""
        if not view.caches:
            return (ListedCache(self._address, 0),)
        return tuple(sorted(view.caches, key=lambda each: _reversed(each.address)))

    def buckets(self, parties: tuple[ListedCache, ...]) -> bytes:
        """See `Assigner`."""
        return deal(tuple(each.weight for each in parties))


class OpenNopAssigner:
    """OpenNOP: no timer and no election; `cache` sends its assignment behind every HERE_I_AM."""

    def __init__(self) -> None:
        self.due_at: float | None = None
        self.key_number = 0
        self.timers = CacheTimers()

    def heard(self, nexus: Nexus, live: Sequence[Nexus], now: float) -> bool:
        """See `Assigner`."""
        assert nexus.view is not None
        nexus.change_number = nexus.view.change_number
        return False

    def due(self) -> bool:
        """See `Assigner`."""
        return False

    def parties(self, view: HeardView, live: Sequence[Nexus]) -> tuple[ListedCache, ...]:
        """See `Assigner`."""
        return view.caches

    def buckets(self, parties: tuple[ListedCache, ...]) -> bytes:
        """See `Assigner`."""
        return deal(tuple(each.weight for each in parties))


def make_assigner(profile: Profile, address: IPv4Address) -> Assigner:
    """The habit of a profile, for one cache in one group."""
    match profile.assigns:
        case AssignmentHabit.DRAFT:
            return DraftAssigner(address, profile.election, everything_to_first=False)
        case AssignmentHabit.TRAFFIC_SERVER:
            return DraftAssigner(address, profile.election, everything_to_first=True)
        case AssignmentHabit.SQUID:
            return SquidAssigner(address)
        case AssignmentHabit.OPENNOP:
            return OpenNopAssigner()
        case _:
            assert_never(profile.assigns)


@lru_cache(maxsize=256)
def deal(weights: tuple[int, ...]) -> bytes:
    """Bucket octets that share 256 buckets by weight, interleaved; equally when every weight is 0."""
    if not weights:
        return bytes(BUCKETS)
    wanted = weights if any(weights) else (1,) * len(weights)
    total = sum(wanted)
    given = [0] * len(wanted)
    buckets = bytearray()
    for bucket in range(1, BUCKETS + 1):
        index = max(range(len(wanted)), key=lambda i: (wanted[i] * bucket - given[i] * total, -i))
        given[index] += 1
        buckets.append(index)
    return bytes(buckets)


def _listed_by_all(live: Sequence[Nexus]) -> frozenset[IPv4Address]:
    """The caches that every live router lists: those that get I_SEE_YOUs from all of them."""
    views = [nexus.view.addresses for nexus in live if nexus.view is not None]
    return frozenset.intersection(*views) if views else frozenset()


def _by_address(cache: ListedCache) -> IPv4Address:
    return cache.address


def _reversed(address: IPv4Address) -> int:
    """The number that a little-endian machine sees in the octets of an address."""
    return int.from_bytes(address.packed, "little")
