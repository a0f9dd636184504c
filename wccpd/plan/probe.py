"""Which caches pass the operator's probe through the redirect, and which are out until they do. Pure: `now` is given.

A HERE_I_AM says that a cache's WCCP process lives, not that it takes traffic: decapsulation or interception may be
missing, or the proxy be hung. A probe is a connection of the router's own that goes the redirect's way to one cache.

**A probe must prove itself first.** As long as no cache of the service has passed it in this run of the daemon, the
canary may be wrong or the answers may not find their way back, so nobody is out. Then

- a cache that was there already is out after `fail_after` failures in a row, and in again after `recover_after`
  successes;
- one that comes later is out until its first success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from wccpd.plan.pages import allocate_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv4Address

    from wccpd.plan.marks import MarkLayout
    from wccpd.plan.redirect import RedirectPlan


class ProbeKind(StrEnum):
    """What a probe takes for success."""

    TCP = "tcp"
    """The cache accepts the connection."""
    HTTP = "http"
    """It answers a request with a status below 500."""


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """The operator's probe of one service."""

    kind: ProbeKind
    address: IPv4Address
    """The canary: whom the connection is for, as far as the cache can see."""
    port: int
    interval_seconds: float
    timeout_seconds: float
    fail_after: int
    recover_after: int
    path: str = "/"
    """What HTTP asks for."""


class ProbeTarget(NamedTuple):
    """One cache in one service."""

    service: str
    cache: IPv4Address


@dataclass(frozen=True, slots=True)
class CacheProbeFailed:
    """A cache gets no flows of the service any more, although it goes on sending HERE_I_AM."""

    service: str
    cache: IPv4Address
    reason: str


@dataclass(frozen=True, slots=True)
class CacheProbePassed:
    """A cache passes, for the first time or again."""

    service: str
    cache: IPv4Address


ProbeEvent = CacheProbeFailed | CacheProbePassed


@dataclass(slots=True)
class _Record:
    failing: bool
    """Counted as failing, whether or not that has consequences yet."""
    since: float
    """When that began."""
    passed: bool = False
    """At least once."""
    streak: int = 0
    """Results in a row that speak against `failing`."""
    reason: str = "not tried yet"
    """Of the last failure."""


@dataclass(slots=True)
class ProbeLedger:
    """The results of all probes, and what follows from them."""

    policies: Mapping[str, ProbePolicy]
    """By service; services without a probe are absent."""
    _records: dict[ProbeTarget, _Record] = field(default_factory=dict)
    _proven: set[str] = field(default_factory=set)

    def reconfigure(self, policies: Mapping[str, ProbePolicy]) -> None:
        """Take other probes; what is known of the caches stays, where their service still has one."""
        self.policies = policies
        self._records = {
            target: record for target, record in self._records.items() if target.service in policies
        }

    def keep(self, usable: Iterable[ProbeTarget], now: float) -> frozenset[ProbeTarget]:
        """Take the usable caches of now; those that left are forgotten.

        Returns:
            The targets that are to be probed.
        """
        wanted = frozenset(target for target in usable if target.service in self.policies)
        for gone in self._records.keys() - wanted:
            del self._records[gone]
        for target in wanted - self._records.keys():
            self._records[target] = _Record(failing=target.service in self._proven, since=now)
        return wanted

    def note(self, target: ProbeTarget, failure: str, now: float) -> tuple[ProbeEvent, ...]:
        """Take the result of one probe.

        Args:
            target: Whom it was for; one that has left meanwhile is of no interest.
            failure: Why it failed; empty for success.
            now: Monotonic seconds.

        Returns:
            Who is out or in again by that.
        """
        record = self._records.get(target)
        if record is None:
            return ()
        if failure:
            return self._failed(target, record, failure, now)
        return self._passed(target, record, now)

    def _failed(
        self, target: ProbeTarget, record: _Record, reason: str, now: float
    ) -> tuple[ProbeEvent, ...]:
        record.reason = reason
        if record.failing:
            record.streak = 0
            return ()
        if not self._turns(record, self.policies[target.service].fail_after, now):
            return ()
        return (CacheProbeFailed(*target, reason),) if target.service in self._proven else ()

    def _passed(self, target: ProbeTarget, record: _Record, now: float) -> tuple[ProbeEvent, ...]:
        first, record.passed = not record.passed, True
        if first and not record.failing:
            record.since = now
        proves = target.service not in self._proven
        self._proven.add(target.service)
        events: list[ProbeEvent] = []
        enough = 1 if first else self.policies[target.service].recover_after
        if record.failing and self._turns(record, enough, now):
            events += () if proves else (CacheProbePassed(*target),)
        elif not record.failing:
            record.streak = 0
        if proves:
            events += (
                CacheProbeFailed(*other, its.reason)
                for other, its in self._records.items()
                if its.failing and other.service == target.service
            )
        return tuple(events)

    @staticmethod
    def _turns(record: _Record, enough: int, now: float) -> bool:
        """Count one more result that speaks against what the record says; whether it says the opposite by now."""
        record.streak += 1
        if record.streak < enough:
            return False
        record.failing, record.since, record.streak = not record.failing, now, 0
        return True

    def out(self) -> dict[str, frozenset[IPv4Address]]:
        """Caches that must get no flows, by service."""
        found: dict[str, set[IPv4Address]] = {}
        for target, record in self._records.items():
            if record.failing and target.service in self._proven:
                found.setdefault(target.service, set()).add(target.cache)
        return {service: frozenset(caches) for service, caches in found.items()}

    def words(self, target: ProbeTarget, now: float) -> str:
        """How a cache stands; empty where it is not probed."""
        record = self._records.get(target)
        if record is None:
            return ""
        if not record.failing:
            return f"passing for {now - record.since:.0f} s" if record.passed else "not tried yet"
        if target.service in self._proven:
            return f"failing for {now - record.since:.0f} s, gets no flows: {record.reason}"
        return (
            f"failing, and no cache of the service ever passed it, so it has no consequences: {record.reason}"
        )


def probe_mark(
    plan: RedirectPlan, configured: Sequence[str], marks: MarkLayout, target: ProbeTarget
) -> int | None:
    """The mark with which a socket of this host reaches a cache by the netlink plane's rules; None without a path.

    Args:
        plan: What was last brought to the kernel.
        configured: Names of all services in the order of the configuration.
        marks: Where our bits are.
        target: The cache.
    """
    pages = allocate_pages(plan.services, configured, plan.alternate_pages)
    for service in plan.services:
        if service.name == target.service and target.cache in service.probed:
            slot = plan.slots.get(service.probed[target.cache])
            return None if slot is None else marks.mark(slot=slot, page=pages.of_service(service.name))
    return None
