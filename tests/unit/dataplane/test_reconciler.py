"""The reconciler: newest wish, repair, and a refusal that keeps nothing else back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.support.views import FIRST, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.fake import FakeDataPlane
from wccpd.dataplane.reconciler import Reconciler, Round, adopted_slots
from wccpd.errors import KernelError
from wccpd.plan.compile import Policy, compile_state
from wccpd.plan.diff import Observed, ObservedTable, Operations
from wccpd.plan.model import LAYOUT, TableRoute
from wccpd.protocol.view import RouterView

POLICY = Policy(router_id=ROUTER_ID, services=(WEB_CACHE.key,))
THIRD = IPv4Address("10.100.1.23")


class Bench:
    """A reconciler on a fake kernel."""

    def __init__(self, plane: FakeDataPlane | None = None, policy: Policy = POLICY) -> None:
        self.plane = plane or FakeDataPlane()
        self.rounds: list[Round] = []
        self.view = view(group(WEB_CACHE))
        self.reconciler = Reconciler(policy, lambda: self.plane, lambda: self.view, self.rounds.append)

    async def wish(self, wanted: RouterView) -> Round:
        self.view = wanted
        await self.reconciler.once()
        return self.rounds[-1]


async def test_a_wish_is_carried_out() -> None:
    bench = Bench()
    done = await bench.wish(view(group(WEB_CACHE, FIRST)))
    assert done.faults == ()
    assert set(bench.plane.state.devices) == {"wccp-0a640115"}
    assert len(bench.plane.transactions) == 1
    await bench.reconciler.close()


async def test_a_device_that_is_refused_keeps_no_other_cache_back_and_gets_no_traffic() -> None:
    bench = Bench()
    bench.plane.refused_devices = {"wccp-0a640115"}
    done = await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    assert [str(fault) for fault in done.faults] == ["configure GRE device wccp-0a640115: File exists"]
    assert set(bench.plane.state.devices) == {"wccp-0a640116"}
    (transaction,) = bench.plane.transactions
    assert f"redirected-web-cache-{SECOND}" in transaction
    assert str(FIRST) not in transaction.replace(
        "add element ip wccpd caches { 10.100.1.21, 10.100.1.22 }", ""
    )

    bench.plane.refused_devices = set()
    done = await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    assert done.faults == ()
    assert f"redirected-web-cache-{FIRST}" in bench.plane.transactions[-1]
    await bench.reconciler.close()


async def test_a_cache_that_dies_is_taken_out_although_another_one_is_refused() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    nft = compile_state(bench.view, POLICY, {FIRST: 1, SECOND: 2}).nft
    assert nft is not None
    bench.plane.show_table(nft)
    bench.plane.refused_devices = {"wccp-0a640117"}
    await bench.wish(view(group(WEB_CACHE, SECOND, THIRD)))
    assert set(bench.plane.state.devices) == {"wccp-0a640116"}
    assert f"delete counter ip wccpd redirected-web-cache-{FIRST}" in bench.plane.transactions[-1]
    await bench.reconciler.close()


async def test_a_cache_that_takes_over_the_slot_of_another_in_one_round_has_its_route() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    await bench.wish(view(group(WEB_CACHE, SECOND)))
    assert bench.plane.state.routes == {TableRoute(18801, "wccp-0a640116", 118)}
    await bench.reconciler.close()


async def test_a_restarted_reconciler_keeps_the_slots_that_are_in_the_kernel() -> None:
    old = Bench()
    await old.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    await old.wish(view(group(WEB_CACHE, SECOND)))
    assert adopted_slots(old.plane.observe(), POLICY) == {SECOND: 2}
    desired = compile_state(view(group(WEB_CACHE, SECOND)), POLICY, {SECOND: 2}).nft
    assert desired is not None
    old.plane.show_table(desired)
    new = Bench(old.plane)
    done = await new.wish(view(group(WEB_CACHE, SECOND)))
    assert not done.operations
    await old.reconciler.close()
    await new.reconciler.close()


async def test_remove_all_takes_the_table_whatever_it_is_called() -> None:
    bench = Bench(policy=replace(POLICY, nft_table="egress"))
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    bench.plane.state = replace(bench.plane.state, nft=ObservedTable("egress", chains={LAYOUT: ()}))
    await bench.reconciler.remove_all()
    assert bench.plane.transactions[-1] == "delete table ip egress\n"
    assert (bench.plane.state.devices, bench.plane.state.rules, bench.plane.state.routes) == (
        {},
        set(),
        set(),
    )
    await bench.reconciler.close()


class BrokenPlane(FakeDataPlane):
    """A plane whose code has a bug, or whose kernel does not answer."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def observe(self) -> Observed:
        if self.error is not None:
            raise self.error
        return super().observe()

    def apply(self, operations: Operations) -> tuple[()]:
        super().apply(operations)
        return ()


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
    await bench.reconciler.close()
