"""When a service did not inspect what it should, for how long, and how much passed meanwhile. Pure: `now` is given.

An interval begins when a service is no longer up (status/build.py says why) and ends when it is again. Start and end
are events for the log, the audit trail of every second spent without inspection; the sums are in status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.status.view import Health

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wccpd.status.view import ServiceStatus


@dataclass(frozen=True, slots=True)
class InspectionInterrupted:
    """Some or all of a service's traffic is not inspected from now on; its mode decides what becomes of it."""

    service: str
    mode: str
    reason: str


@dataclass(frozen=True, slots=True)
class InspectionResumed:
    """All of it is inspected again."""

    service: str
    mode: str
    reason: str
    """Why it was not, at last."""
    seconds: float
    uninspected_packets: int
    """Forwarded without inspection in that time."""


InspectionEvent = InspectionInterrupted | InspectionResumed


@dataclass(slots=True)
class _Interval:
    since: float
    packets_before: int
    reason: str


class InspectionLedger:
    """The intervals of all services."""

    def __init__(self) -> None:
        self._open: dict[str, _Interval] = {}
        self._ended_seconds: dict[str, float] = {}

    def update(self, services: Iterable[ServiceStatus], now: float) -> tuple[InspectionEvent, ...]:
        """Take the services as they are now."""
        events: list[InspectionEvent] = []
        for each in services:
            interval = self._open.get(each.service)
            if each.state is Health.UP and interval is not None:
                del self._open[each.service]
                seconds = now - interval.since
                self._ended_seconds[each.service] = self._ended_seconds.get(each.service, 0.0) + seconds
                packets = max(0, each.packets_uninspected - interval.packets_before)
                events.append(
                    InspectionResumed(each.service, each.mode, interval.reason, round(seconds, 1), packets)
                )
            elif each.state is not Health.UP and interval is None:
                self._open[each.service] = _Interval(now, each.packets_uninspected, each.reason)
                events.append(InspectionInterrupted(each.service, each.mode, each.reason))
            elif interval is not None:
                interval.reason = each.reason
        return tuple(events)

    def forget(self, services: Collection[str]) -> None:
        """Drop services that are not configured any more."""
        for service in services:
            self._open.pop(service, None)
            self._ended_seconds.pop(service, None)

    def seconds(self, now: float) -> dict[str, float]:
        """Seconds without full inspection so far, by service; services that never were are absent."""
        found = dict(self._ended_seconds)
        for service, interval in self._open.items():
            found[service] = found.get(service, 0.0) + now - interval.since
        return found
