"""The reconciler takes another policy whole, or goes on with the one it had; and says beforehand what would change."""

from __future__ import annotations

from dataclasses import replace

from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.fake_plane import FakeDataPlane, Name
from wccpd.dataplane.reconciler import Reconciler
from wccpd.plan.policy import KernelSettings, Policy, ServicePolicy
from wccpd.protocol.view import RouterView

POLICY = Policy(router_id=ROUTER_ID, services=(ServicePolicy(WEB_CACHE.key),))
OTHER = replace(POLICY, services=(*POLICY.services, ServicePolicy(HTTPS.key)))
SETTINGS = KernelSettings(("web-cache", "70"))
ONE, BOTH = view(group(WEB_CACHE, FIRST)), view(group(WEB_CACHE, FIRST), group(HTTPS, FIRST))
SERVICE_70 = Name("service", "70")


class Bench:
    """A reconciler on a fake kernel whose engine has one group, and another one once it is told to."""

    def __init__(self) -> None:
        self.plane = FakeDataPlane()
        self.view: RouterView = ONE
        self.reconciler = Reconciler(POLICY, lambda: self.plane, lambda: self.view, lambda _: None)

    def commit(self) -> None:
        self.view = BOTH


async def test_a_policy_that_the_kernel_takes_is_in_force_from_then_on() -> None:
    bench = Bench()
    await bench.reconciler.once()
    assert await bench.reconciler.reconfigure(OTHER, SETTINGS, lambda: BOTH, bench.commit) == ()
    assert bench.view is BOTH
    assert SERVICE_70 in bench.plane.kernel.objects
    await bench.reconciler.once()
    assert bench.reconciler.last.applied.changes == ()
    await bench.reconciler.close()


async def test_a_policy_of_which_anything_is_refused_leaves_kernel_and_engine_as_they_were() -> None:
    bench = Bench()
    bench.plane.kernel.refused_devices = {"wccp-0a640116"}
    await bench.reconciler.once()
    before = dict(bench.plane.kernel.objects)
    bench.plane.kernel.refused_devices = {"wccp-0a640115"}
    bench.plane.kernel.objects = {}
    (refusal,) = await bench.reconciler.reconfigure(OTHER, SETTINGS, lambda: BOTH, bench.commit)
    assert "wccp-0a640115" in str(refusal)
    assert bench.view is ONE
    assert SERVICE_70 not in bench.plane.kernel.objects
    bench.plane.kernel.refused_devices = set()
    await bench.reconciler.once()
    await bench.reconciler.once()
    assert bench.plane.kernel.objects == before
    await bench.reconciler.close()


async def test_a_path_that_only_the_refused_policy_had_no_use_for_gets_its_slot_again() -> None:
    bench = Bench()
    await bench.reconciler.once()
    before = dict(bench.plane.kernel.slots)
    bench.plane.kernel.refused_devices = {"wccp-0a640116"}
    without = view(group(WEB_CACHE, SECOND))
    assert await bench.reconciler.reconfigure(OTHER, SETTINGS, lambda: without, bench.commit)
    assert bench.plane.kernel.slots == before, "flows stay pinned by it"
    await bench.reconciler.close()


async def test_what_was_refused_before_is_no_reason_to_refuse_another_policy() -> None:
    bench = Bench()
    bench.plane.kernel.refused_devices = {"wccp-0a640115"}
    await bench.reconciler.once()
    assert bench.reconciler.last.faults
    assert await bench.reconciler.reconfigure(OTHER, SETTINGS, lambda: BOTH, bench.commit) == ()
    assert bench.view is BOTH
    await bench.reconciler.close()


async def test_a_preview_says_what_would_be_done_and_does_none_of_it() -> None:
    bench = Bench()
    await bench.reconciler.once()
    before = dict(bench.plane.kernel.objects)
    plan, words = await bench.reconciler.preview(OTHER, SETTINGS, BOTH)
    assert words == ("add service 70",)
    assert [service.name for service in plan.services] == ["web-cache", "70"]
    assert bench.plane.kernel.objects == before
    await bench.reconciler.reconfigure(OTHER, SETTINGS, lambda: BOTH, bench.commit)
    assert bench.reconciler.plan == plan
    await bench.reconciler.close()
