"""What happened, in the order in which it happened: one bounded record that the control API streams from.

The daemon's log calls are the one source (`wccpd.daemon.log` puts each of them in here before the level decides
whether it is also written), so log lines, events and whatever counts them have the same names. `NAMES` says what
each means. Safe to add to from any thread; followers live in one event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CAPACITY = 4096
"""Events kept for readers that come late or come back."""

Plain: TypeAlias = str | int | float | bool | list[str] | None

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "started": "The daemon runs; `resumed` says what it took over from an earlier run.",
        "stopping": "The daemon was told to stop.",
        "stopped": "The daemon has left the kernel.",
        "configuration_doubtful": "Something is allowed in the configuration and yet seldom meant.",
        "cannot_start": "The kernel or the host lacks something without which there is no start.",
        "cannot_listen": "An address or the control socket cannot be had.",
        "not_removed": "Something of ours stays in the kernel.",
        "reloaded": "Another configuration is in force: `changes` of it, to be confirmed within `confirm_seconds`.",
        "reload_refused": "Another configuration was not taken; the one before stays in force.",
        "reload_failed": "A fault of ours; the configuration before stays in force.",
        "reload_confirmed": "What was taken on trial stays.",
        "rolled_back": "The configuration before is in force again.",
        "not_rolled_back": "The configuration before could not be taken; it is tried again.",
        "cannot_roll_back": "What was kept for a roll-back cannot be read; the file is taken as it is.",
        "file_not_taken": "The file holds what was never confirmed; the configuration before is in force.",
        "not_forgotten": "What was kept for a roll-back cannot be removed.",
        "cache_seen": "A cache sent its first HERE_I_AM; it is answered but not yet usable.",
        "cache_usable": "A cache echoed our Receive ID with compatible capabilities: it may be given traffic.",
        "cache_incompatible": "A cache asks for a method that its service does not offer.",
        "cache_lost": "A cache fell silent or said goodbye; its buckets are covered by others.",
        "cache_drained": "An operator took a cache out of service: it gets no new flows.",
        "cache_undrained": "An operator gave a cache back to service.",
        "rung_changed": "We went one step along the compatibility ladder for a cache.",
        "assignment_changed": "The bucket table was replaced: how many buckets moved, and by whom.",
        "datagram_refused": "A message was dropped; `reason` is its code, `detail` says it in words, "
        "`count` how often so far. At most one per source and minute.",
        "cache_probe_failed": "A cache gets no flows of a service any more: probes through the redirect fail.",
        "cache_probe_passed": "Probes reach a cache again: it gets flows.",
        "inspection_interrupted": "Some or all of a service's traffic is not inspected from now on.",
        "inspection_resumed": "All of a service's traffic is inspected again.",
        "tunnel_up": "A tunnel carries traffic.",
        "tunnel_degraded": "A tunnel carries traffic, but not as it should.",
        "tunnel_down": "A tunnel carries nothing.",
        "kernel_refused": "The kernel refused something of ours; it is tried again.",
        "kernel_recovered": "Everything is in the kernel as it should be.",
        "kernel_repaired": "Somebody had changed something of ours in the kernel; it was put back.",
        "no_notices": "The kernel does not tell of changes; they are found by looking.",
        "former_names_removed": "What an earlier configuration had called otherwise in the kernel is gone.",
        "former_names_unknown": "How an earlier run called its things in the kernel could not be read.",
        "route_withheld": "A learnt route is kept out of the kernel.",
        "gobgpd": "The BGP sidecar changed its state.",
        "bgp_session": "A BGP session was established or went down.",
        "advertising_decided": "Whether our prefixes are to be advertised, and why.",
        "default_advertised": "Our prefixes are advertised: the Transit Gateway sends traffic here.",
        "default_withdrawn": "Our prefixes are withdrawn: the Transit Gateway sends traffic elsewhere.",
        "drained": "An operator took this router out of service.",
        "undrained": "An operator gave this router back to service.",
        "drains_not_resumed": "The list of drained caches could not be read.",
        "state_not_resumed": "What an earlier run left could not be believed.",
        "state_not_saved": "The state file cannot be written; a restart will find the old one or none.",
        "control_request_failed": "A request to the control API met a fault of ours.",
        "event_reader_dropped": "A reader of the event stream was too slow.",
    }
)
"""Every event's name and its meaning."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    id: str
    """The run of the daemon and a number that counts up in it, e.g. `67f0c1aa-17`."""
    time: str
    """UTC, ISO 8601."""
    level: str
    """info, warning or error."""
    event: str
    """Its name."""
    fields: dict[str, Plain] = field(default_factory=dict)
    """What it is about: service, cache, reason and so on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a follower has not seen yet."""

    events: tuple[Event, ...]
    missed: int = 0
    """Events that were forgotten before the follower came to them."""


class EventLog:
    """The newest events of this run."""

    def __init__(self, run: str, capacity: int = CAPACITY) -> None:
        """Start empty.

        Args:
            run: what tells this run of the daemon from others, without `-`.
            capacity: how many events are kept.
        """
        self.run = run
        self._events: deque[Event] = deque(maxlen=capacity)
        self._added = 0
        self._lock = threading.Lock()
        self._followers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def add(self, name: str, level: str, time: str, fields: Mapping[str, object]) -> None:
        """Take down one event and wake whoever follows."""
        plain = {key: _plain(value) for key, value in fields.items()}
        with self._lock:
            self._added += 1
            self._events.append(Event(f"{self.run}-{self._added}", time, level, name, plain))
        self.wake()

    def wake(self) -> None:
        """Have whoever follows look again."""
        with self._lock:
            followers = tuple(self._followers)
        for loop, news in followers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

    def recent(self) -> tuple[Event, ...]:
        """Everything that is kept, the oldest first."""
        return self.after(0).events

    @property
    def newest(self) -> int:
        """The number of the newest event, 0 before there is one."""
        return self._added

    def after(self, number: int) -> Batch:
        """The events that came after the one of that number."""
        with self._lock:
            kept, added = tuple(self._events), self._added
        first = added - len(kept) + 1
        missed = max(0, first - 1 - number)
        return Batch(kept[max(0, number + 1 - first) :], missed)

    def number_of(self, event_id: str) -> int:
        """Where a reader that last saw this event goes on; an id of another run, or none at all, is the beginning."""
        run, _, number = event_id.rpartition("-")
        if run != self.run or not (number.isascii() and number.isdecimal()) or len(number) > 18:
            return 0
        return min(int(number), self._added)

    @property
    def followers(self) -> int:
        """How many read along."""
        return len(self._followers)

    @contextmanager
    def following(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever there is news, while the block runs."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._followers.add(entry)
        try:
            yield entry[1]
        finally:
            with self._lock:
                self._followers.discard(entry)


def _plain(value: object) -> Plain:
    if value is None or isinstance(value, str | bool | int | float):
        return value if type(value) in {str, bool, int, float, type(None)} else str(value)
    if isinstance(value, tuple | list):
        return [str(item) for item in value]
    return str(value)
