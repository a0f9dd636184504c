"""The reconciler: newest wish, repair, and a refusal that changes nothing but the status."""

from __future__ import annotations

import errno

from tests.support.views import FIRST, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.fake import FakeDataPlane
from wccpd.dataplane.reconciler import Reconciler, Round, adopted_slots
from wccpd.errors import KernelError
from wccpd.plan.compile import Policy, compile_state
from wccpd.protocol.view import RouterView

POLICY = Policy(router_id=ROUTER_ID, services=(WEB_CACHE.key,))


class Bench:
    """A reconciler on a fake kernel."""

    def __init__(self, plane: FakeDataPlane | None = None) -> None:
        self.plane = plane or FakeDataPlane()
        self.rounds: list[Round] = []
        self.reconciler = Reconciler(POLICY, lambda: self.plane, self.rounds.append)

    async def wish(self, wanted: RouterView) -> Round:
        self.reconciler.wish(wanted)
        await self.reconciler.once()
        return self.rounds[-1]


async def test_a_wish_is_carried_out() -> None:
    bench = Bench()
    done = await bench.wish(view(group(WEB_CACHE, FIRST)))
    assert done.fault is None
    assert set(bench.plane.state.devices) == {"wccp-0a640115"}
    assert len(bench.plane.transactions) == 1
    await bench.reconciler.close()


async def test_a_refusal_is_kept_for_status_and_tried_again() -> None:
    bench = Bench()
    bench.plane.refuse = KernelError("device wccp-0a640115", "add", errno.EPERM)
    done = await bench.wish(view(group(WEB_CACHE, FIRST)))
    assert str(done.fault) == "add device wccp-0a640115: Operation not permitted"
    assert bench.plane.state.devices == {}
    await bench.reconciler.once()
    assert bench.rounds[-1].fault is None
    assert set(bench.plane.state.devices) == {"wccp-0a640115"}
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


async def test_remove_all_leaves_nothing() -> None:
    bench = Bench()
    await bench.wish(view(group(WEB_CACHE, FIRST)))
    await bench.reconciler.remove_all()
    assert (bench.plane.state.devices, bench.plane.state.rules, bench.plane.state.routes) == (
        {},
        set(),
        set(),
    )
    await bench.reconciler.close()
