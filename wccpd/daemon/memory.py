"""Keeps the engine's memory on disk: when to save it, and how much of it to believe at the next start.

The event loop only takes a record, which is quick; a thread writes it out, of each group anew only what has changed.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from wccpd.daemon.state_file import StateFile
from wccpd.protocol.record import group_state, take
from wccpd.protocol.resume import restore
from wccpd.protocol.settings import Timers

if TYPE_CHECKING:
    from pathlib import Path

    from wccpd.dataplane.port import Observation
    from wccpd.protocol.record import GroupRecord, Record
    from wccpd.protocol.router import Router
    from wccpd.wire.elements import ServiceKey

log = structlog.get_logger("wccpd.memory")

GATHER_SECONDS = 0.2
"""After a change, so that many at once are saved once."""
SAVE_SECONDS = 5.0
"""At most so old is the saved memory; the Receive IDs in it are allowed to be (`Member.is_echo`)."""

UNBELIEVABLE = (
    ArithmeticError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
)
"""What `restore` raises at a state that no `dump` made."""


class Memory:
    """The state file and the decision about it."""

    def __init__(self, directory: Path) -> None:
        self._file = StateFile(directory)
        self._changed = asyncio.Event()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="memory")
        self._written: dict[ServiceKey, tuple[GroupRecord, str]] = {}
        """Of each group the record that was saved last, and its text. The writer's own."""
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why the memory cannot be saved; empty if it can."""
        return self._fault

    def dirty(self) -> None:
        """Something worth saving has happened."""
        self._changed.set()

    def resume(self, router: Router, observed: Observation, now: float) -> str:
        """Restore what can be believed; return in one word how much that was.

        Members and buckets come back if the kernel still redirects to them, or if the router was away for
        less time than a cache may be silent: then the protocol itself would still believe in them.
        """
        loaded = self._file.load(now)
        if loaded.warning:
            log.warning("state_not_resumed", reason=loaded.warning)
        if loaded.state is None:
            return "nothing"
        young = loaded.same_boot and 0 <= loaded.age_seconds <= Timers().removal_seconds
        members = young or (loaded.same_boot and bool(observed.slots))
        fresh = type(router)(router.settings)
        try:
            restore(fresh, loaded.state, now, members=members)
        except UNBELIEVABLE as error:
            warning = self._file.set_aside(f"{type(error).__name__}: {error}")
            log.warning("state_not_resumed", reason=warning)
            return "nothing"
        router.groups = fresh.groups
        return "members" if members else "numbers"

    async def run(self, router: Router) -> None:
        """Save after every change, and now and then for the Receive IDs, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._changed.wait()
                await asyncio.sleep(GATHER_SECONDS)
            except TimeoutError:
                pass
            self._changed.clear()
            await self.save(router)

    async def save(self, router: Router) -> None:
        """Save the state of now. A full disk is said once, and the router works on without."""
        record, now = take(router), time.monotonic()
        fault = await asyncio.get_running_loop().run_in_executor(self._writer, self._write, record, now)
        if fault and fault != self._fault:
            log.error("state_not_saved", reason=fault)
        self._fault = fault

    def close(self) -> None:
        """End the writer, after what it is writing."""
        self._writer.shutdown()

    def _write(self, record: Record, now: float) -> str:
        """Replace the file, in the writer's thread; return what went wrong in words, empty if nothing did."""
        try:
            self._file.save([self._text(group) for group in record], now)
        except OSError as error:
            return f"cannot write {self._file.path}: {error.strerror or error}"
        return ""

    def _text(self, group: GroupRecord) -> str:
        """The JSON text of a group."""
        written = self._written.get(group.key)
        if written is not None and written[0] == group:
            return written[1]
        time.sleep(0)  # gives up the interpreter, which else holds up the event loop 5 ms at a time
        text = json.dumps(group_state(group))
        self._written[group.key] = group, text
        return text
