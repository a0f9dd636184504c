"""Several caches, several routers, losses, restarts: what becomes of the buckets."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.scenario.scene import OTHER_ROUTER, ROUTER, A, B, C, Scene
from wccpd.protocol.outputs import CacheLost
from wccpd.protocol.settings import AssignmentPolicy
from wccpd.protocol.view import AssignedBy
from wccpd.simulator.network import Conditions
from wccpd.simulator.profiles import SQUID_5_1, SQUID_5_7, SQUID_7_6, STRICT, TRAFFIC_SERVER_9_2, Profile
from wccpd.wire.messages import HereIAm, RedirectAssign, RemovalQuery


def lost(scene: Scene) -> list[str]:
    return [str(each.output.cache) for each in scene.happened if isinstance(each.output, CacheLost)]


# One router, several caches


def test_three_strict_caches_share_the_buckets_and_the_lowest_address_assigns() -> None:
    scene = Scene()
    for address in (C, B, A):
        scene.start(address)
    scene.until(60)
    assert scene.shares() == {"1": 86, "2": 85, "3": 85}
    assert scene.group().designated == A
    assert not scene.sent(RedirectAssign, B)


def test_shares_follow_the_weights_that_the_caches_ask_for() -> None:
    scene = Scene()
    scene.start(A, weight=300)
    scene.start(B, weight=100)
    scene.until(60)
    assert scene.shares() == {"1": 192, "2": 64}


def test_a_late_cache_gets_its_share_fifteen_seconds_after_the_designated_one_heard_of_it() -> None:
    scene = Scene()
    scene.start(A)
    scene.until(65)
    scene.start(B)
    assert scene.until(120) == [
        "65 s: 10.0.1.2 seen",
        "75 s: 10.0.1.2 usable",
        "95 s: 256 buckets assigned by cache, 128 moved",
    ]
    assert scene.shares() == {"1": 128, "2": 128}


def test_squids_on_x86_elect_by_the_last_octet_first() -> None:
    low, high = IPv4Address("10.0.2.1"), IPv4Address("10.0.1.9")
    scene = Scene()
    for address in (low, high):
        scene.start(address, SQUID_5_1)
    scene.until(120)
    assert high < low
    assert scene.group().designated == low
    assert not scene.sent(RedirectAssign, high)


def test_a_strict_cache_and_a_squid_may_both_elect_themselves_and_every_bucket_has_an_owner_all_the_same() -> (
    None
):
    strict, squid = IPv4Address("10.0.1.9"), IPv4Address("10.0.2.1")
    scene = Scene()
    scene.start(strict)
    scene.start(squid, SQUID_5_1)
    scene.until(200)
    assert scene.sent(RedirectAssign, strict)
    assert scene.sent(RedirectAssign, squid)
    assert sum(scene.shares().values()) == 256


def test_a_strict_cache_and_a_squid_may_elect_nobody_and_the_router_assigns() -> None:
    # 10.0.1.9 is the lower address, 10.0.2.1 is lower by its last octet: each leaves it to the other.
    squid, strict = IPv4Address("10.0.1.9"), IPv4Address("10.0.2.1")
    scene = Scene()
    scene.start(strict)
    scene.start(squid, SQUID_5_1)
    scene.until(120)
    assert scene.group().assigned_by is AssignedBy.ROUTER
    assert scene.shares() == {"1": 128, "9": 128}


def test_every_profile_in_one_group_ends_with_every_bucket_assigned() -> None:
    scene = Scene()
    for number, profile in enumerate((STRICT, SQUID_5_1, SQUID_5_7, SQUID_7_6, TRAFFIC_SERVER_9_2), 1):
        scene.start(A + number, profile)
    scene.until(300)
    assert len(scene.shares()) == 5
    assert None not in scene.group().bucket_owners


def test_the_router_has_the_patience_that_a_designated_cache_needs_in_the_worst_case() -> None:
    scene = Scene()
    scene.start(A)
    scene.until(60)
    scene.start(B)  # right after the HERE_I_AM of the other one
    story = scene.until(120)
    assert not [line for line in story if "assigned by router" in line]


# Leaving


def test_a_cache_that_says_shutdown_is_covered_at_once_and_stops_when_acknowledged() -> None:
    scene = Scene()
    first, _ = scene.start(A), scene.start(B)
    scene.until(65)
    scene.network.leave(first)
    assert scene.until(90)[:3] == [
        "65 s: 10.0.1.1 lost, it sent SHUTDOWN",
        "65 s: 256 buckets assigned by cache, 128 moved",
        "65 s: a cache stopped, left, acknowledged",
    ]
    assert scene.shares() == {"2": 256}


def test_a_cache_whose_shutdown_is_never_acknowledged_stops_all_the_same() -> None:
    scene = Scene()
    cache = scene.start(A)
    scene.until(60)
    scene.network.cut(ROUTER, A)
    scene.network.leave(cache)
    scene.until(70)
    assert cache.stopped == "left"
    assert scene.sent(HereIAm, A)[-3:] == [60.0, 61.0, 62.0]


def test_a_cache_that_crashes_is_queried_after_25_seconds_and_covered_after_30() -> None:
    scene = Scene()
    first, _ = scene.start(A), scene.start(B)
    scene.until(65)
    scene.network.remove_cache(first)
    assert scene.until(89) == []
    assert scene.sent(RemovalQuery, ROUTER) == [85.01]
    assert scene.until(95) == [
        "90 s: 10.0.1.1 lost, no valid HERE_I_AM for 30 s",
        "90 s: 256 buckets assigned by cache, 128 moved",
    ]
    scene.until(130)
    assert scene.group().designated == B, "the next one in line has assigned anew"


def test_a_strict_cache_that_was_cut_off_for_27_seconds_survives_by_answering_the_query() -> None:
    scene = Scene()
    scene.start(A)
    scene.until(55)
    scene.network.cut(A, ROUTER)
    scene.until(74)
    scene.network.mend(A, ROUTER)
    scene.until(200)
    assert lost(scene) == []
    assert len(scene.sent(RemovalQuery, ROUTER)) == 1
    first = scene.sent(RemovalQuery, ROUTER)[0]
    assert [round(time - first, 1) for time in scene.sent(HereIAm, A) if first < time < first + 3] == [
        0,
        1,
        2,
    ]


def test_a_squid_that_came_back_after_a_crash_is_known_again() -> None:
    scene = Scene()
    squid = scene.start(A, SQUID_7_6)
    scene.until(100)
    scene.network.remove_cache(squid)
    scene.until(140)
    assert scene.group().caches == ()
    scene.start(A, SQUID_7_6)
    assert scene.until(200) == [
        "140 s: 10.0.1.1 seen",
        "150 s: 10.0.1.1 usable",
        "165 s: 256 buckets assigned by cache, 256 moved",
    ]


@pytest.mark.parametrize("away_seconds", [2, 20])
def test_a_cache_that_said_shutdown_and_comes_back_soon_is_usable_again(away_seconds: float) -> None:
    scene = Scene()
    cache = scene.start(A)
    scene.until(65)
    scene.network.leave(cache)
    scene.until(65 + away_seconds)
    scene.start(A)
    scene.until(300)
    assert scene.shares() == {"1": 256}


# Two routers


def test_two_routers_and_three_caches_agree_about_every_bucket() -> None:
    scene = Scene(ROUTER, OTHER_ROUTER)
    for address in (A, B, C):
        scene.start(address)
    scene.until(90)
    assert scene.shares(ROUTER) == {"1": 86, "2": 85, "3": 85}
    assert scene.group(ROUTER).bucket_owners == scene.group(OTHER_ROUTER).bucket_owners
    assert scene.group(ROUTER).designated == scene.group(OTHER_ROUTER).designated == A


def test_a_cache_that_one_router_cannot_see_gets_no_buckets_and_does_not_assign() -> None:
    scene = Scene(ROUTER, OTHER_ROUTER)
    scene.network.cut(A, OTHER_ROUTER)
    for address in (A, B, C):
        scene.start(address)
    scene.until(90)
    assert scene.shares(ROUTER) == {"1": 0, "2": 128, "3": 128}
    assert scene.shares(OTHER_ROUTER) == {"2": 128, "3": 128}
    assert scene.group(ROUTER).designated == B


def test_when_one_of_two_routers_dies_the_other_goes_on() -> None:
    scene = Scene(ROUTER, OTHER_ROUTER)
    for address in (A, B):
        scene.start(address)
    scene.until(90)
    scene.crash_router(OTHER_ROUTER)
    before = scene.group(ROUTER)
    scene.until(200)
    assert lost(scene) == []
    assert scene.group(ROUTER).bucket_owners == before.bucket_owners


def test_squids_with_two_routers_fill_both_tables() -> None:
    scene = Scene(ROUTER, OTHER_ROUTER)
    for address in (A, B):
        scene.start(address, SQUID_5_1)
    scene.until(120)
    assert scene.shares(ROUTER) == scene.shares(OTHER_ROUTER) == {"1": 128, "2": 128}


# Restarts of a router


@pytest.mark.parametrize("profile", [STRICT, SQUID_5_1, SQUID_7_6, SQUID_5_7], ids=lambda each: each.name)
def test_nobody_notices_a_router_that_restarts_with_its_memory(profile: Profile) -> None:
    scene = Scene()
    for address in (A, B):
        scene.start(address, profile)
    scene.until(100)
    before = scene.group()
    memory = scene.crash_router(ROUTER)
    scene.until(104)
    scene.start_router(ROUTER, memory=memory)
    assert scene.until(200) == []
    assert scene.group().bucket_owners == before.bucket_owners
    assert scene.group().change_number == before.change_number


@pytest.mark.parametrize("profile", [STRICT, SQUID_5_1, SQUID_7_6, SQUID_5_7], ids=lambda each: each.name)
def test_a_router_that_forgot_everything_is_joined_and_assigned_anew(profile: Profile) -> None:
    scene = Scene()
    for address in (A, B):
        scene.start(address, profile)
    scene.until(100)
    scene.crash_router(ROUTER)
    scene.until(104)
    scene.start_router(ROUTER, first_number=70000)
    scene.until(220)
    assert scene.shares() == {"1": 128, "2": 128}


# Bad networks


def test_a_lost_assignment_of_a_strict_cache_is_repeated() -> None:
    scene = Scene()
    scene.start(A)
    scene.until(24)
    scene.network.cut(A, ROUTER)
    scene.until(26)
    scene.network.mend(A, ROUTER)
    assert scene.until(60) == [
        "37 s: 256 buckets assigned by router, 256 moved",
        "40 s: 256 buckets assigned by cache, 0 moved",
    ]


def test_a_lost_assignment_of_a_squid_is_made_by_the_router() -> None:
    scene = Scene()
    scene.start(A, SQUID_5_1)
    scene.until(24)
    scene.network.cut(A, ROUTER)
    scene.until(26)
    scene.network.mend(A, ROUTER)
    assert scene.until(60) == ["37 s: 256 buckets assigned by router, 256 moved"]


@pytest.mark.parametrize("profile", [STRICT, SQUID_5_1, SQUID_7_6, SQUID_5_7], ids=lambda each: each.name)
@pytest.mark.parametrize("seed", range(3))
def test_a_farm_fills_its_table_although_a_tenth_of_the_datagrams_is_lost(
    profile: Profile, seed: int
) -> None:
    bad = Conditions(loss=0.1, duplication=0.1, reordering=0.1)
    scene = Scene(seed=seed, conditions=bad)
    for address in (A, B, C):
        scene.start(address, profile)
    scene.until(600)
    scene.network.conditions = Conditions()
    scene.until(720)
    assert len(scene.shares()) == 3, f"seed {seed}"
    assert None not in scene.group().bucket_owners, f"seed {seed}"


def test_a_squid_whose_assignment_was_lost_assigns_again_where_the_caches_alone_may() -> None:
    scene = Scene(policy=AssignmentPolicy.CACHE)
    scene.start(A, SQUID_5_1)
    scene.until(24)
    scene.network.cut(A, ROUTER)
    scene.until(26)
    scene.network.mend(A, ROUTER)
    assert scene.shares() == {"1": 0}
    scene.until(100)
    assert scene.shares() == {"1": 256}
    assert scene.group().assigned_by is AssignedBy.CACHE
