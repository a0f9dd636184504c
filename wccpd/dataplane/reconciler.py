"""Keeps the kernel at the desired state: newest wish in, observe, diff, apply, and again after a while.

One owner of the belief about the kernel. Others only say that something changed; the view is read when a round
begins, and nothing queues. A failure is kept for status and tried again at the next round; what is in the kernel
meanwhile stays, and one object that the kernel refuses keeps none of the others back: a cache without a path is
left out of the classification, so that its flows are forwarded rather than lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from gre.tunnel import redirect_device_name
from wccpd.errors import KernelError
from wccpd.plan.compile import allocate_slots, compile_state, usable_caches
from wccpd.plan.diff import Observed, Operations, diff
from wccpd.plan.model import DesiredState

if TYPE_CHECKING:
    from collections.abc import Callable

    from wccpd.dataplane.port import DataPlane, Failure
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
    faults: tuple[KernelError, ...] = ()
    """What the kernel refused, and why; empty when everything is as it should be."""
    operations: Operations = field(default_factory=Operations)
    at: float = 0.0
    """Monotonic seconds when the kernel was last observed; 0 for never."""
    bug: Exception | None = None
    """What went wrong in our own code; also one of the faults."""


class Reconciler:
    """Drives one data plane from one worker thread."""

    def __init__(
        self,
        policy: Policy,
        make_plane: Callable[[], DataPlane],
        read_view: Callable[[], RouterView],
        on_round: Callable[[Round], None],
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            policy: What the operator decided.
            make_plane: Opens the data plane; called in the worker thread, where its sockets live.
            read_view: The engine's newest picture; called in the event loop when a round begins.
            on_round: Told of each round, in the event loop.
        """
        self._policy = policy
        self._make_plane = make_plane
        self._read_view = read_view
        self._on_round = on_round
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="dataplane")
        self._plane: DataPlane | None = None
        self._slots: dict[IPv4Address, int] | None = None
        self._wake = asyncio.Event()
        self.last = Round(Observed())

    def wish(self) -> None:
        """Say that the view has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            await self.once()

    async def look(self) -> None:
        """Only observe, before there is any wish: what an earlier run left."""
        await self._in_worker(lambda plane: Round(plane.observe()))

    async def refresh(self) -> None:
        """Bring `last.observed` up to date for a reader; a kernel that does not answer leaves the old one."""
        with contextlib.suppress(TimeoutError, KernelError):
            async with asyncio.timeout(REFRESH_SECONDS):
                observed = await asyncio.get_running_loop().run_in_executor(
                    self._worker, lambda: self._opened().observe()
                )
                self.last = replace(self.last, observed=observed, at=time.monotonic())

    async def once(self) -> None:
        """One round for the newest view."""
        view = self._read_view()
        await self._in_worker(lambda plane: self._round(plane, view))

    async def remove_all(self) -> None:
        """Take everything of ours out of the kernel; what cannot be removed is in `last.faults`."""
        await self._in_worker(_remove_all)

    async def close(self) -> None:
        """End the worker; what is in the kernel stays."""
        if self._plane is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._plane.close)
        self._worker.shutdown()

    async def _in_worker(self, work: Callable[[DataPlane], Round]) -> None:
        self.last = await asyncio.get_running_loop().run_in_executor(self._worker, self._guarded, work)
        self._on_round(self.last)

    def _guarded(self, work: Callable[[DataPlane], Round]) -> Round:
        """Run kernel work. Whatever goes wrong is a fault of this round and no reason to end the daemon."""
        before = self.last
        try:
            return replace(work(self._opened()), at=time.monotonic())
        except KernelError as fault:
            return Round(before.observed, (fault,), at=before.at)
        except Exception as bug:
            said = KernelError("data plane", "run", 0, f"{type(bug).__name__}: {bug}")
            return Round(before.observed, (said,), at=before.at, bug=bug)

    def _round(self, plane: DataPlane, view: RouterView) -> Round:
        observed = plane.observe()
        if self._slots is None:
            self._slots = adopted_slots(observed, self._policy)
        self._slots = allocate_slots(self._slots, usable_caches(view))
        operations = diff(compile_state(view, self._policy, self._slots), observed)
        if not operations:
            return Round(observed)
        failures = plane.apply(operations.paths())
        if failures:
            working = self._with_paths(failures)
            operations = diff(compile_state(view, self._policy, working), plane.observe())
        failures += plane.apply(operations.rest())
        return Round(plane.observe(), tuple(failure.error for failure in failures), operations)

    def _with_paths(self, failures: tuple[Failure, ...]) -> dict[IPv4Address, int]:
        """The slots of the caches whose device, route and rule were not refused."""
        assert self._slots is not None
        devices = {failure.device for failure in failures if failure.device}
        tables = {failure.table for failure in failures if failure.table}
        return {
            cache: slot
            for cache, slot in self._slots.items()
            if redirect_device_name(self._policy.device_prefix, cache) not in devices
            and self._policy.table_base + slot not in tables
        }

    def _opened(self) -> DataPlane:
        if self._plane is None:
            self._plane = self._make_plane()
        return self._plane


def _remove_all(plane: DataPlane) -> Round:
    operations = diff(DesiredState(), plane.observe())
    failures = plane.apply(operations)
    return Round(plane.observe(), tuple(failure.error for failure in failures), operations)


def adopted_slots(observed: Observed, policy: Policy) -> dict[IPv4Address, int]:
    """Slots that an earlier run left in the kernel: the table of each route that leads to one of our devices."""
    return {
        remote: route.table - policy.table_base
        for route in observed.routes
        if route.device in observed.devices
        and isinstance(remote := observed.devices[route.device].remote, IPv4Address)
    }
