"""Keeps the kernel at the desired state: newest wish in, observe, diff, apply, and again after a while.

One owner of the belief about the kernel. Others hand over the newest view and set a flag; nothing queues.
A failure is kept for status and tried again at the next round; what is in the kernel meanwhile stays.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wccpd.errors import KernelError
from wccpd.plan.compile import allocate_slots, compile_state, usable_caches
from wccpd.plan.diff import Observed, Operations, diff
from wccpd.plan.model import DesiredState

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from wccpd.dataplane.port import DataPlane
    from wccpd.plan.compile import Policy
    from wccpd.protocol.view import RouterView

PERIOD_SECONDS = 5.0
"""How often drift is looked for and counters are read."""

REFRESH_SECONDS = 1.0
"""How long a reader of status waits for fresh counters."""


@dataclass(frozen=True, slots=True)
class Round:
    """How the last round went."""

    observed: Observed
    fault: KernelError | None = None
    operations: Operations = field(default_factory=Operations)


class Reconciler:
    """Drives one data plane from one worker thread."""

    def __init__(
        self, policy: Policy, make_plane: Callable[[], DataPlane], on_round: Callable[[Round], None]
    ) -> None:
        self._policy = policy
        self._make_plane = make_plane
        self._on_round = on_round
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="dataplane")
        self._plane: DataPlane | None = None
        self._view: RouterView | None = None
        self._slots: dict[IPv4Address, int] | None = None
        self._wake = asyncio.Event()
        self.last = Round(Observed())
        self.repairs = 0
        """Rounds that found the kernel different from what we left."""

    def wish(self, view: RouterView) -> None:
        """Hand over the newest view."""
        self._view = view
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            woken = await self._wait()
            before = self.last
            await self.once()
            if not woken and self.last.operations and before.fault is None:
                self.repairs += 1

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(PERIOD_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def look(self) -> None:
        """Only observe, before there is any wish: what an earlier run left."""
        await self._in_worker(self._look)

    async def refresh(self) -> None:
        """Bring `last.observed` up to date for a reader; a kernel that does not answer leaves the old one."""
        with contextlib.suppress(TimeoutError, KernelError):
            async with asyncio.timeout(REFRESH_SECONDS):
                observed = await asyncio.get_running_loop().run_in_executor(
                    self._worker, lambda: self._opened().observe()
                )
                self.last = replace(self.last, observed=observed)

    async def once(self) -> None:
        """One round for the newest view."""
        view = self._view
        if view is not None:
            await self._in_worker(lambda: self._round(view))

    async def remove_all(self) -> None:
        """Take everything of ours out of the kernel and stop working."""
        await self._in_worker(self._remove_all)

    async def close(self) -> None:
        """End the worker; what is in the kernel stays."""
        if self._plane is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._plane.close)
        self._worker.shutdown()

    async def _in_worker(self, work: Callable[[], Round]) -> None:
        self.last = await asyncio.get_running_loop().run_in_executor(self._worker, work)
        self._on_round(self.last)

    def _round(self, view: RouterView) -> Round:
        observed = self.last.observed
        try:
            plane = self._opened()
            observed = plane.observe()
            if self._slots is None:
                self._slots = adopted_slots(observed, self._policy)
            self._slots = allocate_slots(self._slots, usable_caches(view))
            operations = diff(compile_state(view, self._policy, self._slots), observed)
            if operations:
                plane.apply(operations)
                observed = plane.observe()
        except KernelError as fault:
            return Round(observed, fault)
        return Round(observed, None, operations)

    def _look(self) -> Round:
        try:
            return Round(self._opened().observe())
        except KernelError as fault:
            return Round(self.last.observed, fault)

    def _remove_all(self) -> Round:
        observed = self.last.observed
        try:
            plane = self._opened()
            observed = plane.observe()
            operations = diff(DesiredState(), observed)
            plane.apply(operations)
            return Round(plane.observe(), None, operations)
        except KernelError as fault:
            return Round(observed, fault)

    def _opened(self) -> DataPlane:
        if self._plane is None:
            self._plane = self._make_plane()
        return self._plane


def adopted_slots(observed: Observed, policy: Policy) -> dict[IPv4Address, int]:
    """Slots that an earlier run left in the kernel: the table of each route that leads to one of our devices."""
    return {
        observed.devices[route.device].remote: route.table - policy.table_base
        for route in observed.routes
        if route.device in observed.devices
    }
