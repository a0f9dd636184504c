"""The reconciler: newest wish, repair, the lease, and a refusal that keeps nothing else back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from gre.tunnel import GreDevice
from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.fake_plane import FakeDataPlane, FakeKernel, Name
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.dataplane.reconciler import BURST_SECONDS, NOTICE_SECONDS, PERIOD_SECONDS, Reconciler, Round
from wccpd.errors import KernelError
from wccpd.plan.decide import Packet
from wccpd.plan.policy import Policy, ServicePolicy
from wccpd.plan.redirect import HashAssignment, Mode, Path
from wccpd.plan.verdict import Verdict
from wccpd.protocol.view import RouterView
from wccpd.wire.enums import ForwardingMethod

TUNNEL = GreDevice("wccp-tgw-a", ROUTER_ID, IPv4Address("10.99.0.1"))
POLICY = Policy(router_id=ROUTER_ID, services=(ServicePolicy(WEB_CACHE.key),), tunnels=(TUNNEL,))
SPOKE = IPv4Address("10.1.0.10")
THIRD = IPv4Address("10.100.1.23")


class Bench:
    """A reconciler on a fake kernel."""

    def __init__(
        self, plane: FakeDataPlane | None = None, policy: Policy = POLICY, lease_seconds: float = 30.0
    ) -> None:
        self.plane = plane or FakeDataPlane()
        self.rounds: list[Round] = []
        self.view = view(group(WEB_CACHE))
        self.reconciler = Reconciler(
            policy, lambda: self.plane, lambda: self.view, self.rounds.append, lease_seconds=lease_seconds
        )

    async def wish(self, wanted: RouterView) -> Round:
        self.view = wanted
        await self.reconciler.once()
        return self.rounds[-1]

    @property
    def kernel(self) -> FakeKernel:
        return self.plane.kernel

    def shares(self) -> Counter[IPv4Address | None]:
        """How many buckets each cache has in the kernel."""
        assert self.kernel.plan is not None
        assignment = self.kernel.plan.services[0].assignment
        assert isinstance(assignment, HashAssignment)
        return Counter(assignment.owners)

    def slots(self) -> dict[IPv4Address, int]:
        return {path.cache: slot for path, slot in self.kernel.slots.items()}


async def test_a_wish_is_carried_out_and_a_second_time_there_is_nothing_to_do() -> None:
    bench = Bench()
    done = await bench.wish(view(group(WEB_CACHE, FIRST)))
    assert (done.faults, done.applied.devices_changed) == ((), True)
    assert bench.slots() == {FIRST: 1}
    again = await bench.wish(bench.view)
    assert again.applied.changes == ()
    await bench.reconciler.close()


async def test_a_device_that_is_refused_keeps_no_other_cache_back_and_the_others_cover_for_it() -> None:
    bench = Bench()
    bench.kernel.refused_devices = {"wccp-0a640115"}
    done = await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    assert [str(fault) for fault in done.faults] == ["configure GRE device wccp-0a640115: File exists"]
    assert bench.shares() == {SECOND: 256}

    bench.kernel.refused_devices = set()
    await bench.wish(bench.view)
    done = await bench.wish(bench.view)
    assert done.faults == ()
    assert bench.shares() == {FIRST: 128, SECOND: 128}
    await bench.reconciler.close()


async def test_a_cache_that_dies_is_taken_out_although_another_one_is_refused() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.kernel.refused_devices = {"wccp-0a640117"}
    await bench.wish(view(group(WEB_CACHE, SECOND, THIRD)))
    assert set(bench.slots()) == {SECOND}
    assert bench.shares() == {SECOND: 256}
    await bench.reconciler.close()


async def test_a_second_round_for_a_refused_path_goes_by_the_newest_view() -> None:
    bench = Bench()
    bench.kernel.refused_devices = {"wccp-0a640115"}
    wish = bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))

    def meanwhile(done: Round) -> None:
        bench.rounds.append(done)
        bench.view = view(group(WEB_CACHE, FIRST, THIRD))

    bench.reconciler = Reconciler(POLICY, lambda: bench.plane, lambda: bench.view, meanwhile)
    await wish
    assert len(bench.rounds) == 2
    assert bench.shares() == {THIRD: 256}
    await bench.reconciler.close()


async def test_a_cache_that_comes_is_not_given_the_slot_of_one_that_has_just_left() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    await bench.wish(view(group(WEB_CACHE, SECOND)))
    assert bench.slots() == {SECOND: 2}
    await bench.wish(view(group(WEB_CACHE, SECOND, THIRD)))
    assert bench.slots() == {SECOND: 2, THIRD: 3}
    await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    assert bench.slots() == {FIRST: 1, SECOND: 2}, "it finds the flows that it had"
    await bench.reconciler.close()


async def test_paths_beyond_the_last_number_are_faults_of_their_own_and_cost_nobody_else() -> None:
    bench = Bench()
    fleet = [IPv4Address("10.1.0.0") + number for number in range(300)]
    groups = [group(replace(HTTPS, service_id=number), *fleet[number::10]) for number in range(10)]
    done = await bench.wish(view(*groups))
    assert len(bench.slots()) == 255
    without = set(fleet) - bench.slots().keys()
    assert {fault.obj for fault in done.faults} == {f"path to {cache}" for cache in without}
    assert len(done.faults) == 45
    assert "room for 255 paths" in str(done.faults[0])
    plan = bench.kernel.plan
    assert plan is not None
    for service in plan.services:
        assert isinstance(service.assignment, HashAssignment)
        assert set(service.assignment.owners) == set(service.paths), "the others cover"
        assert not service.paths.keys() & without
    await bench.reconciler.close()


async def test_what_was_redirected_to_a_cache_counts_after_it_has_left() -> None:
    bench = Bench(policy=replace(POLICY, ingress=("spokes",)))
    await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.plane.renew_lease(30.0)

    def send(count: int) -> None:
        for number in range(count):
            packet = Packet("spokes", SPOKE, IPv4Address("203.0.113.0") + number, destination_port=80)
            assert bench.kernel.carry(packet, "jhash").verdict is Verdict.REDIRECTED

    def redirected() -> int:
        return bench.reconciler.last.observation.counters.total("web-cache", Verdict.REDIRECTED).packets

    send(40)
    await bench.wish(view(group(WEB_CACHE, SECOND)))
    assert redirected() == 40, "also what was counted since the last look"
    send(2)
    await bench.wish(view(group(WEB_CACHE)))
    assert redirected() == 42
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    send(8)
    await bench.reconciler.refresh()
    assert redirected() == 50
    await bench.reconciler.remove_all()
    assert redirected() == 50
    await bench.reconciler.close()


async def test_a_drained_cache_keeps_its_path_and_loses_its_buckets() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.reconciler.drained = {FIRST}
    await bench.wish(bench.view)
    assert bench.shares() == {SECOND: 256}
    assert set(bench.slots()) == {FIRST, SECOND}
    await bench.reconciler.close()


async def test_a_restarted_reconciler_keeps_the_slots_that_are_in_the_kernel() -> None:
    old = Bench()
    await old.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    await old.wish(view(group(WEB_CACHE, SECOND)))
    new = Bench(FakeDataPlane(old.kernel))
    done = await new.wish(view(group(WEB_CACHE, SECOND)))
    assert done.applied.changes == ()
    assert new.slots() == {SECOND: 2}
    await new.wish(view(group(WEB_CACHE, SECOND, THIRD)))
    assert new.slots() == {SECOND: 2, THIRD: 3}, "flows may still be pinned by number 1"
    await old.reconciler.close()
    await new.reconciler.close()


async def test_what_somebody_damaged_is_repaired_in_the_next_round() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    del bench.kernel.objects[Name("path", f"{FIRST} gre")]
    await bench.wish(bench.view)
    assert bench.slots() == {FIRST: 1}
    await bench.reconciler.close()


async def test_the_lease_runs_as_long_as_it_is_renewed() -> None:
    now = 1000.0
    bench = Bench(FakeDataPlane(FakeKernel(lambda: now)))
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    await bench.reconciler.renew_lease()
    now += 29.0
    assert bench.kernel.leased
    now += 2.0
    assert not bench.kernel.leased
    await bench.reconciler.close()


async def test_remove_all_takes_everything_and_leaving_keeps_closed_services_closed() -> None:
    closed = Policy(ROUTER_ID, (ServicePolicy(WEB_CACHE.key, Mode.CLOSED),))
    bench = Bench(policy=closed)
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    await bench.reconciler.leave()
    assert bench.kernel.plan is not None
    assert [service.mode for service in bench.kernel.plan.services] == [Mode.CLOSED]
    assert bench.kernel.slots == {}
    await bench.reconciler.remove_all()
    assert bench.kernel.objects == {}
    await bench.reconciler.close()


class BrokenPlane(FakeDataPlane):
    """A plane whose code has a bug, or whose kernel does not answer."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def observe(self) -> Observation:
        if self.error is not None:
            raise self.error
        return super().observe()


async def test_a_run_that_reached_no_round_leaves_closed_what_an_earlier_one_had_closed() -> None:
    policy = Policy(ROUTER_ID, (ServicePolicy(WEB_CACHE.key, Mode.CLOSED),))
    earlier = Bench(policy=policy)
    await earlier.wish(view(group(WEB_CACHE, FIRST)))
    await earlier.reconciler.leave()
    plane = BrokenPlane(KernelError("network state", "read", 105))
    plane.kernel = earlier.kernel
    bench = Bench(plane, policy)
    await bench.wish(bench.view)
    plane.error = None
    await bench.reconciler.leave()
    assert bench.kernel.plan is not None
    assert [service.mode for service in bench.kernel.plan.services] == [Mode.CLOSED]
    await bench.reconciler.close()
    await earlier.reconciler.close()


@pytest.mark.parametrize(
    ("error", "words", "bug"),
    [
        (KernelError("network state", "read", 105), "read network state: No buffer space available", False),
        (
            IndexError("list index out of range"),
            "run data plane: refused (IndexError: list index out of range)",
            True,
        ),
    ],
)
async def test_a_round_that_fails_is_a_fault_and_the_next_one_recovers(
    error: Exception, words: str, bug: bool
) -> None:
    plane = BrokenPlane(error)
    bench = Bench(plane)
    done = await bench.wish(view(group(WEB_CACHE, FIRST)))
    assert [str(fault) for fault in done.faults] == [words]
    assert (done.bug is not None) is bug
    plane.error = None
    assert (await bench.wish(bench.view)).faults == ()
    assert set(bench.kernel.slots) == {Path(FIRST, ForwardingMethod.GRE)}
    await bench.reconciler.close()


class SlowPlane(FakeDataPlane):
    """A plane that tells of each round, and whose rounds can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 0
        self.free = threading.Event()
        self.free.set()

    def bring_to(self, wish: Wish) -> Applied:
        assert self.free.wait(20)
        self.rounds += 1
        return super().bring_to(wish)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)


async def test_a_notice_begins_a_round_at_once_and_a_flood_of_them_a_bounded_number() -> None:
    plane = SlowPlane()
    bench = Bench(plane)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bench.reconciler.run())
        await asyncio.sleep(0)
        started = loop.time()
        bench.reconciler.disturbed()
        await until(lambda: plane.rounds)
        assert loop.time() - started < PERIOD_SECONDS / 2
        burst = BURST_SECONDS / NOTICE_SECONDS
        while loop.time() < started + 5 * NOTICE_SECONDS:
            bench.reconciler.disturbed()
            await asyncio.sleep(0)
        assert 2 <= plane.rounds <= burst + 7
        bench.reconciler._paid_until = loop.time() + BURST_SECONDS
        started, before = loop.time(), plane.rounds
        while loop.time() < started + 5 * NOTICE_SECONDS:
            bench.reconciler.disturbed()
            await asyncio.sleep(0)
        assert 2 <= plane.rounds - before <= 7
        task.cancel()
    await bench.reconciler.close()


async def test_the_engine_waits_for_no_rest() -> None:
    plane = SlowPlane()
    bench = Bench(plane)
    bench.reconciler._paid_until = asyncio.get_running_loop().time() + 1000
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bench.reconciler.run())
        await asyncio.sleep(0)
        bench.reconciler.wish()
        await until(lambda: plane.rounds, PERIOD_SECONDS / 2)
        task.cancel()
    await bench.reconciler.close()


async def test_a_worker_that_hangs_lets_the_lease_run_out_and_one_that_goes_on_has_it_back() -> None:
    lease = 0.4
    plane = SlowPlane()
    plane.kernel = FakeKernel(time.monotonic)
    bench = Bench(plane, lease_seconds=lease)
    await bench.reconciler.once()
    async with asyncio.TaskGroup() as tasks:
        tasks_of_ours = [tasks.create_task(bench.reconciler.keep_lease())]
        await until(lambda: plane.kernel.leased)
        plane.free.clear()
        tasks_of_ours.append(tasks.create_task(bench.reconciler.once()))
        await until(lambda: not plane.kernel.leased)
        plane.on_progress()
        await until(lambda: plane.kernel.leased)
        plane.free.set()
        await tasks_of_ours.pop()
        for task in tasks_of_ours:
            task.cancel()
    await bench.reconciler.close()


async def test_an_event_loop_that_hangs_lets_the_lease_run_out() -> None:
    plane = SlowPlane()
    plane.kernel = FakeKernel(time.monotonic)
    bench = Bench(plane, lease_seconds=0.4)
    await bench.reconciler.once()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bench.reconciler.keep_lease())
        await until(lambda: plane.kernel.leased)
        deadline = time.monotonic() + 10
        while plane.kernel.leased:
            assert time.monotonic() < deadline
        await until(lambda: plane.kernel.leased)
        task.cancel()
    await bench.reconciler.close()


async def test_a_lease_that_somebody_took_away_is_renewed_with_the_next_round() -> None:
    plane = SlowPlane()
    plane.kernel = FakeKernel(time.monotonic)
    bench = Bench(plane, lease_seconds=3600)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bench.reconciler.keep_lease())
        await bench.reconciler.once()
        await until(lambda: plane.kernel.leased)
        plane.kernel.leased_until = 0.0
        await bench.reconciler.once()
        await until(lambda: plane.kernel.leased)
        task.cancel()
    await bench.reconciler.close()


async def test_once_everything_was_removed_no_lease_is_renewed() -> None:
    plane = SlowPlane()
    plane.kernel = FakeKernel(time.monotonic)
    bench = Bench(plane, lease_seconds=0.1)
    await bench.reconciler.once()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(bench.reconciler.keep_lease())
        await until(lambda: plane.kernel.leased)
        task.cancel()
    await bench.reconciler.leave()
    assert not plane.kernel.leased
    await asyncio.sleep(0.05)
    assert not plane.kernel.leased
    await bench.reconciler.close()
