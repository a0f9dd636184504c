"""Counts refused datagrams by reason, and says when one is worth a line in the log.

At most one warning per source, reason and minute: a broken proxy sends every ten seconds for ever. Memory is
bounded whatever strangers send.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.protocol.outputs import Refused

WARNING_INTERVAL_SECONDS = 60.0
MAX_WARNED = 1024
"""Sources and reasons whose last warning is remembered. Once more are seen the oldest is forgotten, and while all
remembered ones are younger than the interval, new ones are counted but not logged."""


@dataclass(slots=True)
class Tally:
    """Refusals for one reason."""

    count: int
    last: Refused
    at: float


class Refusals:
    """All tallies since the start."""

    def __init__(self) -> None:
        self.by_reason: dict[str, Tally] = {}
        self._warned: OrderedDict[tuple[IPv4Address, str], float] = OrderedDict()

    def add(self, refused: Refused, now: float) -> bool:
        """Count one; tell whether to log it."""
        tally = self.by_reason.get(refused.reason.value)
        if tally is None:
            self.by_reason[refused.reason.value] = Tally(1, refused, now)
        else:
            tally.count, tally.last, tally.at = tally.count + 1, refused, now
        return self._worth_a_warning((refused.source, refused.reason.value), now)

    def _worth_a_warning(self, what: tuple[IPv4Address, str], now: float) -> bool:
        last = self._warned.get(what)
        if last is not None and now - last < WARNING_INTERVAL_SECONDS:
            return False
        if last is None and len(self._warned) >= MAX_WARNED:
            _, oldest = next(iter(self._warned.items()))
            if now - oldest < WARNING_INTERVAL_SECONDS:
                return False
            self._warned.popitem(last=False)
        self._warned[what] = now
        self._warned.move_to_end(what)
        return True
