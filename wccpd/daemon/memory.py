"""Keeps the engine's memory on disk: when to save it, and how much of it to believe at the next start."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from wccpd.daemon.state_file import StateFile
from wccpd.protocol.resume import dump, restore
from wccpd.protocol.settings import Timers

if TYPE_CHECKING:
    from pathlib import Path

    from wccpd.dataplane.port import Observation
    from wccpd.protocol.router import Router

log = structlog.get_logger("wccpd.memory")

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
        self._fault = ""

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
            except TimeoutError:
                pass
            self._changed.clear()
            self.save(router)

    def save(self, router: Router) -> None:
        """Save now. A full disk is said once, and the router works on without."""
        try:
            self._file.save(dump(router), time.monotonic())
        except OSError as error:
            fault = f"cannot write {self._file.path}: {error.strerror or error}"
            if fault != self._fault:
                log.error("state_not_saved", reason=fault)
            self._fault = fault
        else:
            self._fault = ""
