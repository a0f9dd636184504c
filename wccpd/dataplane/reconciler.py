"""Keeps the kernel as wished: newest wish in, bring the plane to it, and again after a while.

One owner of the belief about the kernel. Others only say that something changed; the view is read when a round
begins, and nothing queues. A failure is kept for status and tried again at the next round; what is in the kernel
meanwhile stays. A path that the kernel refuses is planned again each round, while the buckets of its cache are
covered by the others.

When somebody else changed something, a round begins at once; of many such notices at a bounded rate, so that whoever
changes things without end costs us a share of one processor and no more. The lease is kept by `dataplane.lease`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from wccpd.dataplane.lease import SIGNS_PER_LEASE, LeaseKeeper
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.dataplane.tally import Tally
from wccpd.errors import KernelError
from wccpd.plan import names
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.pages import remembering
from wccpd.plan.policy import KernelSettings
from wccpd.plan.slots import MAX_SLOT, Slots, allocate_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from concurrent.futures import Future
    from ipaddress import IPv4Address

    from wccpd.dataplane.port import DataPlane, Notices
    from wccpd.plan.policy import Policy
    from wccpd.plan.redirect import Path, RedirectPlan
    from wccpd.protocol.view import RouterView

_Result = TypeVar("_Result")
PERIOD_SECONDS = 5.0
"""How often drift is looked for and counters are read."""
REFRESH_SECONDS = 1.0
"""How long a reader of status waits for fresh counters."""
NOTICE_SECONDS = 0.1
"""Rounds for notices begin at this distance, when there is no end of them."""
NOTICE_SHARE = 0.25
"""They take this share of the time, if they last so long that this makes the distance longer."""
BURST_SECONDS = 3.0
"""So much of that distance is forgiven: a few notices find their round begin at once."""
REPAIRS_TOLD = 3
"""Lines of the last repair that are kept for people."""
_HOSTS = frozenset({names.CACHE_MACS, names.RETURNED, names.EXEMPT, names.MSS, "forward"})
"""Sets, maps and chains of the netlink plane that follow the host's neighbours and MTUs."""


@dataclass(frozen=True, slots=True)
class Round:
    """How the last round went."""

    observation: Observation = field(default_factory=Observation)
    applied: Applied = field(default_factory=Applied)
    faults: tuple[KernelError, ...] = ()
    """What the kernel refused, and why; empty when everything is as it should be."""
    at: float = 0.0
    """Monotonic seconds when the kernel was last observed; 0 for never."""
    repaired: tuple[str, ...] = ()
    """What had to be done although nothing else was wished than in the round before: others had changed it."""
    bug: Exception | None = None
    """What went wrong in our own code; also one of the faults."""


@dataclass(frozen=True, slots=True)
class Repairs:
    """What had to be put right although nothing was wished anew: somebody else had changed it."""

    count: int = 0
    at: float = 0.0
    """Monotonic seconds of the last time."""
    changes: tuple[str, ...] = ()
    """What was done then, the first few lines."""


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
        self._slots: Slots | None = None
        self._tally = Tally()
        self._refused: frozenset[Path] = frozenset()
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._keeper = LeaseKeeper(self._renew, lease_seconds)
        self._disturbed = self._in_round = False
        self._paid_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self.drained: Collection[IPv4Address] = frozenset()
        """Caches that get no new flows; say `wish` after changing it."""
        self.failing: Mapping[str, Collection[IPv4Address]] = {}
        """Caches that fail the probe, by service; say `wish` after changing it."""
        self.plan: RedirectPlan | None = None
        """What was last brought to the kernel."""
        self.last = Round()
        self.repairs = Repairs()

    @property
    def settings(self) -> KernelSettings:
        """By what our objects are recognised, as it is in force."""
        return self._settings

    def wish(self) -> None:
        """Say that the view has changed."""
        self._wake.set()

    def disturbed(self) -> None:
        """Say that somebody else changed something in the kernel: look at once, or after a rest."""
        self._disturbed = True
        if self._alarm is None and not self._in_round:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(max(loop.time(), self._paid_until - BURST_SECONDS), self._look_again)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            disturbed, self._disturbed, self._in_round = self._disturbed, False, True
            started = loop.time()
            await self.once()
            self._in_round = False
            if disturbed:
                price = max(NOTICE_SECONDS, (loop.time() - started) / NOTICE_SHARE)
                self._paid_until = max(self._paid_until, started) + price
            if self._disturbed:
                self.disturbed()

    def _look_again(self) -> None:
        self._alarm = None
        self._wake.set()

    async def keep_lease(self) -> None:
        """Renew the lease until cancelled."""
        sign: Future[None] | None = None
        self._keeper.loop_lives()
        self._keeper.start()
        try:
            while True:
                self._keeper.loop_lives()
                if sign is None or sign.done():
                    sign = self._worker.submit(self._keeper.worker_lives)
                await asyncio.sleep(self._lease_seconds / SIGNS_PER_LEASE)
        finally:
            self._keeper.stop()

    async def renew_lease(self) -> None:
        """Renew the lease once; what keeps it from that is a fault of the next round too."""
        with contextlib.suppress(KernelError):
            await asyncio.get_running_loop().run_in_executor(None, self._renew, self._lease_seconds)

    async def watch(self) -> Notices | None:
        """What tells of changes by others to what is ours; None if nothing does.

        Raises:
            KernelError: The plane, or its notices, cannot be opened.
        """
        return await self._call(lambda plane: plane.watch())

    def set_lease(self, seconds: float) -> None:
        """Change how long the kernel goes on without us, from the next renewal on, which is now."""
        self._lease_seconds = seconds
        self._keeper.set_lease(seconds)

    async def live_flows(self) -> Mapping[IPv4Address, int]:
        """How many flows are pinned to each cache.

        Raises:
            KernelError: The kernel does not say.
        """
        return await self._call(lambda plane: plane.live_flows())

    async def look(self) -> None:
        """Only observe, before there is any wish: what an earlier run left."""
        await self._in_worker(lambda plane: Round(self._observed(plane)))

    async def refresh(self) -> None:
        """Bring `last.observation` up to date for a reader; a kernel that does not answer leaves the old one."""
        with contextlib.suppress(TimeoutError, KernelError):
            async with asyncio.timeout(REFRESH_SECONDS):
                observation = await self._call(self._observed)
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
            slots = self._slots, self._refused
            await self._in_worker(lambda plane: self._round(plane, view, policy, settings))
            refusals = tuple(fault for fault in self.last.faults if str(fault) not in before)
            if refusals:
                # Flows are pinned by their path's slot.
                self._slots, self._refused = slots
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
            plan = self._planned(
                view, policy, allocate_slots(self._known_slots(plane), wanted_paths(view)), settings
            )
            return plan, plane.preview(Wish(plan, policy.tunnels), settings)

        async with self._turn:
            return await self._call(look)

    async def _newest(self) -> None:
        view, policy, settings = self._read_view(), self._policy, self._settings
        await self._in_worker(lambda plane: self._round(plane, view, policy, settings))

    async def remove_all(self) -> None:
        """Take everything of ours out of the kernel; what cannot be removed is in `last.faults`."""
        await self._in_worker(lambda plane: self._removed(plane, None))

    async def leave(self) -> None:
        """The same, but services whose mode is not open go on refusing what no cache takes."""
        # A run that brought nothing to the kernel must not open what an earlier one left closed.
        kept = self.plan or redirect_plan(self._read_view(), self._policy, Slots())
        await self._in_worker(lambda plane: self._removed(plane, kept))

    async def close(self) -> None:
        """End the worker; what is in the kernel stays."""
        if self._plane is not None:
            await self._call(self._closed)
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
        before = self._known_slots(plane)
        self._slots = allocate_slots(before, wanted_paths(view))
        if before.paths.keys() - self._slots.paths.keys():
            self._observed(plane)  # for the last time with what these paths have counted
        surplus = tuple(map(_no_slot, self._slots.surplus))
        plan = self._planned(view, policy, self._slots, settings)
        if settings is not self._applied:
            plane.reconfigure(settings)
            self._applied = settings
        applied = plane.bring_to(Wish(plan, policy.tunnels))
        undone = self._note_repairs(plan, applied.changes)
        # What was refused is tried again each round and is no repair.
        repaired = () if self.last.faults else undone
        self.plan, self._refused = plan, applied.refused
        observation = self._observed(plane)
        if not observation.leased:
            self._keeper.lost()
        return Round(observation, applied, (*applied.faults, *surplus), repaired=repaired)

    def _removed(self, plane: DataPlane, keep_closed: RedirectPlan | None) -> Round:
        self._keeper.join()
        applied = plane.remove(keep_closed)
        return Round(self._observed(plane), applied, applied.faults)

    def _observed(self, plane: DataPlane) -> Observation:
        """What is there, with counts that do not fall when a cache leaves."""
        seen = plane.observe()
        return replace(seen, counters=self._tally.of(seen.counters))

    def _planned(
        self, view: RouterView, policy: Policy, slots: Slots, settings: KernelSettings
    ) -> RedirectPlan:
        plan = redirect_plan(
            view,
            policy,
            slots,
            refused=self._refused,
            drained=frozenset(self.drained),
            failing=self.failing,
        )
        kept = self.plan.alternate_pages if self.plan is not None else {}
        return remembering(plan, settings.services, kept)

    def _known_slots(self, plane: DataPlane) -> Slots:
        """Those of the last round; at first those that an earlier run left."""
        if self._slots is None:
            left = self._observed(plane)
            return Slots(left.slots, left.former)
        return self._slots

    def _note_repairs(self, plan: RedirectPlan, changes: tuple[str, ...]) -> tuple[str, ...]:
        """Remember changes that no new plan explains, nor what the host's neighbours and devices have become."""
        undone = tuple(each for each in changes if not _HOSTS.intersection(each.split()))
        if plan != self.plan or not undone:
            return ()
        self.repairs = Repairs(self.repairs.count + 1, time.monotonic(), undone[:REPAIRS_TOLD])
        return undone

    def _opened(self) -> DataPlane:
        self._keeper.worker_lives()
        if self._plane is None:
            plane = self._make_plane()
            plane.on_progress = self._keeper.worker_lives
            self._plane = plane
        return self._plane

    def _renew(self, seconds: float) -> None:
        if self._plane is not None:
            self._plane.renew_lease(seconds)

    def _closed(self, plane: DataPlane) -> None:
        self._keeper.stop()
        self._keeper.join()
        plane.close()


def _no_slot(path: Path) -> KernelError:
    detail = f"a packet mark has room for {MAX_SLOT} paths, and all are in use"
    return KernelError(f"path to {path.cache}", "number", errno.ENOSPC, detail)
