"""The last events of the daemon, for those who want to hear of them: what the log says, with the same names and fields.

Bounded: a reader that is too slow misses the oldest, and is told how many. May be written to from any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One entry."""

    number: int
    """From 1, without gaps, since the daemon started."""
    fields: Mapping[str, str]
    """`event` is its name, `timestamp` in UTC as ISO 8601, `level` as in the log; the rest is the event's own."""


class Journal:
    """The ring of them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._last = 0

    def append(self, fields: Mapping[str, object]) -> None:
        """Take one."""
        with self._lock:
            self._last += 1
            self._events.append(Event(self._last, {key: str(value) for key, value in fields.items()}))
            waiting, self._waiting = self._waiting, set()
        for loop, happened in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(happened.set)

    def after(self, number: int) -> tuple[tuple[Event, ...], int]:
        """The events after a number, oldest first, and how many before them are not kept any more.

        A number that was never given out, as one of an earlier run of the daemon may be, counts as 0.
        """
        with self._lock:
            if number > self._last:
                number = 0
            found = tuple(event for event in self._events if event.number > number)
            oldest = found[0].number if found else self._last + 1
            return found, oldest - number - 1

    async def wait(self, number: int) -> None:
        """Return once there is an event after a number."""
        happened = asyncio.Event()
        with self._lock:
            if self._last != number:
                return
            waiter = asyncio.get_running_loop(), happened
            self._waiting.add(waiter)
        try:
            await happened.wait()
        finally:
            with self._lock:
                self._waiting.discard(waiter)
