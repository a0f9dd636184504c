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
from wccpd.plan import names
from wccpd.plan.build import allocate_slots, redirect_plan, wanted_paths

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
REPAIRS_TOLD = 3
"""Lines of the last repair that are kept for people."""
_HOSTS = frozenset({names.CACHE_MACS, names.RETURNED, names.EXEMPT, names.MSS, "forward"})
"""Sets, maps and chains of the netlink plane that follow the host's neighbours and MTUs."""
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
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            policy: What the operator decided.
            make_plane: Opens the data plane; called in the worker thread, where its sockets live.
            read_view: The engine's newest picture; called in the event loop when a round begins.
            on_round: Told of each round, in the event loop.
            lease_seconds: How long the kernel goes on redirecting without us.
        """
        self._policy = policy
        self._make_plane = make_plane
        self._read_view = read_view
        self._on_round = on_round
        self._lease_seconds = lease_seconds
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="dataplane")
        self._plane: DataPlane | None = None
        self._slots: dict[Path, int] | None = None
        self._freed: tuple[int, ...] = ()
        self._refused: frozenset[Path] = frozenset()
        self._wake = asyncio.Event()
        self.drained: Collection[IPv4Address] = frozenset()
        """Caches that get no new flows; say `wish` after changing it."""
        self.plan: RedirectPlan | None = None
        """What was last brought to the kernel."""
        self.last = Round()
        self.repairs = Repairs()

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
            await self.renew_lease()
            await asyncio.sleep(self._lease_seconds / RENEWALS_PER_LEASE)

    async def renew_lease(self) -> None:
        """Renew the lease once; what keeps it from that is a fault of the next round too."""
        with contextlib.suppress(KernelError):
            await self._call(lambda plane: plane.renew_lease(self._lease_seconds))

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
        refused = self._refused
        await self._newest()
        if self._refused - refused:
            await self._newest()

    async def _newest(self) -> None:
        view = self._read_view()
        await self._in_worker(lambda plane: self._round(plane, view))

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

    def _round(self, plane: DataPlane, view: RouterView) -> Round:
        if self._slots is None:
            self._slots = dict(plane.observe().slots)
        self._allocate(wanted_paths(view))
        plan = redirect_plan(
            view, self._policy, self._slots, refused=self._refused, drained=frozenset(self.drained)
        )
        applied = plane.bring_to(Wish(plan, self._policy.tunnels))
        self._note_repairs(plan, applied.changes)
        self.plan, self._refused = plan, applied.refused
        return Round(plane.observe(), applied, applied.faults)

    def _note_repairs(self, plan: RedirectPlan, changes: tuple[str, ...]) -> None:
        """Remember changes that no new plan explains, nor what the host's neighbours and devices have become."""
        undone = tuple(each for each in changes if not _HOSTS.intersection(each.split()))
        if plan == self.plan and undone:
            self.repairs = Repairs(self.repairs.count + 1, time.monotonic(), undone[:REPAIRS_TOLD])

    def _allocate(self, wanted: frozenset[Path]) -> None:
        """Slots for the wanted paths; those freed are used again as late as possible."""
        assert self._slots is not None
        leaving = sorted(slot for path, slot in self._slots.items() if path not in wanted)
        freed = (*self._freed, *leaving)
        self._slots = allocate_slots(self._slots, wanted, freed)
        taken = set(self._slots.values())
        self._freed = tuple(slot for slot in freed if slot not in taken)

    def _opened(self) -> DataPlane:
        if self._plane is None:
            self._plane = self._make_plane()
        return self._plane


def _removed(plane: DataPlane, keep_closed: RedirectPlan | None) -> Round:
    applied = plane.remove(keep_closed)
    return Round(plane.observe(), applied, applied.faults)
