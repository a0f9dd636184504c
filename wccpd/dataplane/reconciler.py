"""Keeps the kernel as wished: newest wish in, bring the plane to it, and again after a while.

One owner of the belief about the kernel. Others only say that something changed; the view is read when a round
begins, and nothing queues. A failure is kept for status and tried again at the next round; what is in the kernel
meanwhile stays. A path that the kernel refuses is planned again each round, while the buckets of its cache are
covered by the others.

The lease is renewed from here too, through the event loop and the worker: if either hangs, it runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.errors import KernelError
from wccpd.plan.build import allocate_slots, redirect_plan, wanted_paths
from wccpd.plan.policy import KernelSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from ipaddress import IPv4Address

    from wccpd.dataplane.port import DataPlane
    from wccpd.plan.policy import Policy
    from wccpd.plan.redirect import Path, RedirectPlan
    from wccpd.protocol.view import RouterView

_Result = TypeVar("_Result")
PERIOD_SECONDS = 5.0
"""How often drift is looked for and counters are read."""
REFRESH_SECONDS = 1.0
"""How long a reader of status waits for fresh counters."""
RENEWALS_PER_LEASE = 3
"""So many may fail before the kernel falls to the services' modes."""


@dataclass(frozen=True, slots=True)
class Round:
    """How the last round went."""

    observation: Observation = field(default_factory=Observation)
    applied: Applied = field(default_factory=Applied)
    faults: tuple[KernelError, ...] = ()
    """What the kernel refused, and why; empty when everything is as it should be."""
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
        *,
        lease_seconds: float = 30.0,
        settings: KernelSettings | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            policy: What the operator decided.
            make_plane: Opens the data plane; called in the worker thread, where its sockets live.
            read_view: The engine's newest picture; called in the event loop when a round begins.
            on_round: Told of each round, in the event loop.
            lease_seconds: How long the kernel goes on redirecting without us.
            settings: What the plane is opened with, for `reconfigure`.
        """
        self._policy = policy
        self._make_plane = make_plane
        self._read_view = read_view
        self._on_round = on_round
        self._settings = self._applied = settings or KernelSettings()
        self._lease_seconds = lease_seconds
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="dataplane")
        self._plane: DataPlane | None = None
        self._slots: dict[Path, int] | None = None
        self._freed: tuple[int, ...] = ()
        self._refused: frozenset[Path] = frozenset()
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._new_lease = asyncio.Event()
        self.drained: Collection[IPv4Address] = frozenset()
        """Caches that get no new flows; say `wish` after changing it."""
        self.plan: RedirectPlan | None = None
        """What was last brought to the kernel."""
        self.last = Round()

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

    async def keep_lease(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            self._new_lease.clear()
            await self.renew_lease()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease_seconds / RENEWALS_PER_LEASE):
                    await self._new_lease.wait()

    async def renew_lease(self) -> None:
        """Renew the lease once; what keeps it from that is a fault of the next round too."""
        with contextlib.suppress(KernelError):
            await self._call(lambda plane: plane.renew_lease(self._lease_seconds))

    def set_lease(self, seconds: float) -> None:
        """Change how long the kernel goes on without us, from the next renewal on, which is now."""
        if seconds != self._lease_seconds:
            self._lease_seconds = seconds
            self._new_lease.set()

    async def live_flows(self) -> Mapping[Path, int]:
        """How many flows are pinned to each path.

        Raises:
            KernelError: The kernel does not say.
        """
        return await self._call(lambda plane: plane.live_flows())

    async def look(self) -> None:
        """Only observe, before there is any wish: what an earlier run left."""
        await self._in_worker(lambda plane: Round(plane.observe()))

    async def refresh(self) -> None:
        """Bring `last.observation` up to date for a reader; a kernel that does not answer leaves the old one."""
        with contextlib.suppress(TimeoutError, KernelError):
            async with asyncio.timeout(REFRESH_SECONDS):
                observation = await self._call(lambda plane: plane.observe())
                self.last = replace(self.last, observation=observation, at=time.monotonic())

    async def once(self) -> None:
        """One round for the newest view; a second one if a path was refused, so that others cover for it."""
        async with self._turn:
            refused = self._refused
            await self._newest()
            if self._refused - refused:
                await self._newest()

    async def reconfigure(
        self,
        policy: Policy,
        settings: KernelSettings,
        read_view: Callable[[], RouterView] | None = None,
        commit: Callable[[], None] = lambda: None,
    ) -> tuple[KernelError, ...]:
        """Bring the kernel to another policy; if it refuses anything that it did not refuse before, back again.

        Args:
            policy: What the operator decides now.
            settings: The same objects, with the names of other services.
            read_view: The engine's picture as it will be once it has taken the change too; None: it need not.
            commit: Makes the engine take it; called between two rounds, and only if the kernel took it.

        Returns:
            Why it was not taken; empty if it was.
        """
        async with self._turn:
            if not self.last.at:
                await self._newest()
            before, view = set(map(str, self.last.faults)), (read_view or self._read_view)()
            slots = self._slots, self._freed, self._refused
            await self._in_worker(lambda plane: self._round(plane, view, policy, settings))
            refusals = tuple(fault for fault in self.last.faults if str(fault) not in before)
            if refusals:
                # Flows are pinned by their path's slot.
                self._slots, self._freed, self._refused = slots
                await self._newest()
                return refusals
            self._policy, self._settings = policy, settings
            commit()
            await self._newest()
            return ()

    async def restore(self, policy: Policy, settings: KernelSettings) -> None:
        """Take a policy as a start does: what the kernel refuses of it is tried again each round."""
        self._policy, self._settings = policy, settings
        await self.once()

    async def preview(
        self, policy: Policy, settings: KernelSettings, view: RouterView
    ) -> tuple[RedirectPlan, tuple[str, ...]]:
        """The plan that another policy would make, and what would be done to the kernel, one line each.

        Raises:
            KernelError: It could not be read.
        """

        def look(plane: DataPlane) -> tuple[RedirectPlan, tuple[str, ...]]:
            slots, _ = self._allocated(plane, wanted_paths(view))
            plan = self._planned(view, policy, slots)
            return plan, plane.preview(Wish(plan, policy.tunnels), settings)

        async with self._turn:
            return await self._call(look)

    async def _newest(self) -> None:
        view, policy, settings = self._read_view(), self._policy, self._settings
        await self._in_worker(lambda plane: self._round(plane, view, policy, settings))

    async def remove_all(self) -> None:
        """Take everything of ours out of the kernel; what cannot be removed is in `last.faults`."""
        await self._in_worker(lambda plane: _removed(plane, None))

    async def leave(self) -> None:
        """The same, but services whose mode is not open go on refusing what no cache takes."""
        # A run that brought nothing to the kernel must not open what an earlier one left closed.
        kept = self.plan or redirect_plan(self._read_view(), self._policy, {})
        await self._in_worker(lambda plane: _removed(plane, kept))

    async def close(self) -> None:
        """End the worker; what is in the kernel stays."""
        if self._plane is not None:
            await self._call(lambda plane: plane.close())
        self._worker.shutdown()

    async def _call(self, work: Callable[[DataPlane], _Result]) -> _Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: work(self._opened()))

    async def _in_worker(self, work: Callable[[DataPlane], Round]) -> None:
        self.last = await asyncio.get_running_loop().run_in_executor(self._worker, self._guarded, work)
        self._on_round(self.last)

    def _guarded(self, work: Callable[[DataPlane], Round]) -> Round:
        """Run kernel work. Whatever goes wrong is a fault of this round and no reason to end the daemon."""
        before = self.last
        try:
            return replace(work(self._opened()), at=time.monotonic())
        except KernelError as fault:
            return Round(before.observation, faults=(fault,), at=before.at)
        except Exception as bug:
            said = KernelError("data plane", "run", 0, f"{type(bug).__name__}: {bug}")
            return Round(before.observation, faults=(said,), at=before.at, bug=bug)

    def _round(self, plane: DataPlane, view: RouterView, policy: Policy, settings: KernelSettings) -> Round:
        self._slots, self._freed = self._allocated(plane, wanted_paths(view))
        plan = self._planned(view, policy, self._slots)
        if settings is not self._applied:
            plane.reconfigure(settings)
            self._applied = settings
        applied = plane.bring_to(Wish(plan, policy.tunnels))
        self.plan, self._refused = plan, applied.refused
        return Round(plane.observe(), applied, applied.faults)

    def _planned(self, view: RouterView, policy: Policy, slots: Mapping[Path, int]) -> RedirectPlan:
        return redirect_plan(view, policy, slots, refused=self._refused, drained=frozenset(self.drained))

    def _allocated(
        self, plane: DataPlane, wanted: frozenset[Path]
    ) -> tuple[dict[Path, int], tuple[int, ...]]:
        """Slots for the wanted paths, and those that are free again: they are used again as late as possible."""
        before = dict(plane.observe().slots) if self._slots is None else self._slots
        leaving = sorted(slot for path, slot in before.items() if path not in wanted)
        freed = (*self._freed, *leaving)
        slots = allocate_slots(before, wanted, freed)
        taken = set(slots.values())
        return slots, tuple(slot for slot in freed if slot not in taken)

    def _opened(self) -> DataPlane:
        if self._plane is None:
            self._plane = self._make_plane()
        return self._plane


def _removed(plane: DataPlane, keep_closed: RedirectPlan | None) -> Round:
    applied = plane.remove(keep_closed)
    return Round(plane.observe(), applied, applied.faults)
