"""Caches that select mask assignment, Squid's way of reading what it is shown among them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.scenario.scene import A, B, C, Scene
from wccpd.protocol.settings import AssignmentPolicy
from wccpd.simulator.profiles import (
    GRE_HASH_GRE,
    SQUID_5_1,
    SQUID_5_7,
    SQUID_7_6,
    STRICT,
    TRAFFIC_SERVER_9_2,
    Profile,
)
from wccpd.wire.enums import AssignmentMethod
from wccpd.wire.messages import RedirectAssign

BOTH = AssignmentMethod.HASH | AssignmentMethod.MASK


def by_mask(profile: Profile) -> Profile:
    return replace(profile, selects=replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK))


@pytest.mark.parametrize("profile", [STRICT, SQUID_5_1, SQUID_7_6], ids=lambda each: each.name)
def test_three_caches_share_the_64_values_of_the_designated_ones_mask(profile: Profile) -> None:
    scene = Scene(assignment=BOTH)
    for address in (A, B, C):
        scene.start(address, by_mask(profile))
    scene.until(120)
    assert scene.shares() == {"1": 22, "2": 21, "3": 21}
    assert scene.group().designated == A


@pytest.mark.parametrize("policy", [AssignmentPolicy.AUTO, AssignmentPolicy.ROUTER])
def test_the_router_deals_out_values_to_squids_that_never_assign(policy: AssignmentPolicy) -> None:
    scene = Scene(assignment=BOTH, policy=policy)
    for address in (A, B):
        scene.start(address, by_mask(SQUID_5_7))
    scene.until(120)
    assert scene.shares() == {"1": 32, "2": 32}


@pytest.mark.parametrize("profile", [SQUID_5_1, SQUID_7_6], ids=lambda each: each.name)
def test_a_squid_still_reads_the_others_once_they_are_assigned(profile: Profile) -> None:
    scene = Scene(assignment=BOTH)
    for address in (A, B):
        scene.start(address, by_mask(profile))
    scene.until(125)
    scene.start(C, by_mask(profile))
    for now in (145, 155, 165, 175):
        scene.until(now)
        for cache in scene.caches.values():
            view = cache.nexuses[0].view
            assert view is None or view.addresses <= {A, B, C}, (
                f"{cache.address} misread an element at {now} s"
            )
    scene.until(240)
    assert scene.shares() == {"1": 22, "2": 21, "3": 21}


def test_a_lost_cache_is_covered_value_by_value() -> None:
    scene = Scene(assignment=BOTH)
    caches = [scene.start(address, by_mask(STRICT)) for address in (A, B)]
    scene.until(65)
    scene.network.leave(caches[0])
    scene.until(70)
    assert scene.shares() == {"2": 64}


def test_a_cache_of_the_other_method_is_kept_out_of_the_group() -> None:
    scene = Scene(assignment=BOTH)
    scene.start(A, by_mask(STRICT))
    scene.until(60)
    scene.start(B)
    story = scene.until(100)
    assert story[:2] == [
        "60 s: 10.0.1.2 seen",
        "70 s: 10.0.1.2 incompatible, it asks for assignment hash, this group offers mask",
    ]
    assert scene.shares() == {"1": 64}


def test_a_traffic_server_walks_past_the_assignment_map() -> None:
    scene = Scene(assignment=BOTH)
    scene.start(A, by_mask(TRAFFIC_SERVER_9_2))
    scene.until(200)
    assert scene.shares() == {"1": 1}, "one value, which every packet has"
    assert len(scene.sent(RedirectAssign, A)) == 1, "its key was echoed where it looks for it"
