"""What went to each cache and came back of it in the last minutes: a few samples of the kernel's counters.

Totals since the start say little about now: a proxy that has answered for a week and stopped a minute ago has large
ones. Pure; `now` is an argument.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from wccpd.doctor.facts import TrafficFact
from wccpd.plan.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.verdict import Counters

SAMPLE_SECONDS = 10.0
SAMPLES = 13
"""So the window is two minutes long."""


class TrafficWindow:
    """The samples, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[IPv4Address, tuple[int, int]]]] = deque(maxlen=SAMPLES)

    def note(self, now: float, counters: Counters) -> None:
        """Take a sample if it is time for one."""
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, _totals(counters)))

    def since(self, now: float, counters: Counters) -> Mapping[IPv4Address, TrafficFact]:
        """By cache, since the oldest sample. Counters that have gone back, since somebody reset them, count from 0."""
        if not self._samples:
            return {}
        at, before = self._samples[0]
        found = {}
        for cache, totals in _totals(counters).items():
            redirected, returned = (
                now_ - then if now_ >= then else now_
                for now_, then in zip(totals, before.get(cache, (0, 0)), strict=True)
            )
            found[cache] = TrafficFact(now - at, redirected, returned)
        return found


def _totals(counters: Counters) -> dict[IPv4Address, tuple[int, int]]:
    """Packets redirected to each cache and returned by it."""
    found: dict[IPv4Address, tuple[int, int]] = {
        cache: (0, count.packets) for cache, count in counters.returned.items()
    }
    for outcome, count in counters.outcomes.items():
        if outcome.verdict is Verdict.REDIRECTED and outcome.cache is not None:
            redirected, returned = found.get(outcome.cache, (0, 0))
            found[outcome.cache] = redirected + count.packets, returned
    return found
