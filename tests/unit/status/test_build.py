"""What status says of views of engine and kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.views import FIRST, ROUTER_ID, SECOND, WEB_CACHE, cache, group, view
from wccpd.dataplane.port import Observation
from wccpd.plan.policy import Policy, ServicePolicy
from wccpd.status.build import Sources, build_status
from wccpd.status.view import Health, Status


@pytest.fixture
def sources(healthy: Status) -> Sources:
    """Two caches that share the buckets, and a kernel that redirects to them."""
    shared = group(WEB_CACHE, FIRST, SECOND)
    caches = tuple(cache(each.address, buckets=128) for each in shared.caches)
    return Sources(
        router=healthy.router,
        policy=Policy(ROUTER_ID, (ServicePolicy(WEB_CACHE.key),)),
        device_prefix="wccp-",
        view=view(replace(shared, caches=caches)),
        observation=Observation(leased=True),
        kernel_faults=(),
        bgp=None,
        refused=(),
    )


def test_two_caches_and_a_kernel_that_redirects_are_inspecting(sources: Sources) -> None:
    status = build_status(sources, 1.0)
    assert (status.inspecting, status.reasons) == (True, ())


def test_without_a_lease_nothing_is_inspected(sources: Sources) -> None:
    status = build_status(replace(sources, observation=Observation(leased=False)), 1.0)
    assert not status.inspecting
    assert status.reasons == (
        "kernel: the lease is not running, so nothing is redirected and every service is in its mode",
    )


def test_a_service_whose_caches_are_all_drained_is_down_and_with_one_left_it_is_up(sources: Sources) -> None:
    status = build_status(replace(sources, drained={FIRST, SECOND}), 1.0)
    assert not status.inspecting
    assert status.services[0].state is Health.DOWN
    assert "drained" in status.services[0].reason
    assert build_status(replace(sources, drained={FIRST}), 1.0).inspecting
