"""Counts that only grow, although what counts them comes and goes.

A plane's counter goes with what it counts: a cache that leaves a service takes along what was redirected to it, and
the service's sum would fall. What such counters had counted when they were last seen is kept as long as the daemon
runs. A restarted daemon goes on with what the kernel still counts, without that of caches that had left before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from wccpd.plan.verdict import Count, Counters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.verdict import Exemption, Outcome

_Key = TypeVar("_Key")


class Tally:
    """Makes one growing count of each that a plane shows from time to time."""

    def __init__(self) -> None:
        self._outcomes: _Ledger[Outcome] = _Ledger()
        self._exempt: _Ledger[Exemption] = _Ledger()
        self._returned: _Ledger[IPv4Address] = _Ledger()
        self._dropped: _Ledger[str] = _Ledger()

    def of(self, seen: Counters) -> Counters:
        """What was counted since the daemon began, or before it by a counter that is still there.

        The lines of redirect lists are shown as they are: those of a changed list are other lines.
        """
        return Counters(
            outcomes=self._outcomes.of(seen.outcomes),
            acl_lines=seen.acl_lines,
            exempt=self._exempt.of(seen.exempt),
            returned=self._returned.of(seen.returned),
            dropped=self._dropped.of(seen.dropped),
        )


class _Ledger(Generic[_Key]):
    """Counts of one kind."""

    def __init__(self) -> None:
        self._last: Mapping[_Key, Count] = {}
        self._gone: dict[_Key, Count] = {}
        """What counters had counted that are not there any more, or begin anew."""

    def of(self, seen: Mapping[_Key, Count]) -> dict[_Key, Count]:
        """Counts as they are seen now, with those that are gone."""
        for key, last in self._last.items():
            if seen.get(key, Count()).packets < last.packets:
                self._gone[key] = self._gone.get(key, Count()) + last
        self._last = dict(seen)
        every = [*seen, *(key for key in self._gone if key not in seen)]
        return {key: seen.get(key, Count()) + self._gone.get(key, Count()) for key in every}
