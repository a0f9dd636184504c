"""Caches of 2.01 with their timers, versions and address tables, and caches that meet at a group address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.scenario.scene import OTHER_ROUTER, ROUTER, A, B, C, Scene
from wccpd.protocol.outputs import Send
from wccpd.protocol.settings import Timers
from wccpd.protocol.view import CacheState
from wccpd.simulator.cache import Transmit
from wccpd.simulator.network import Conditions
from wccpd.simulator.profiles import STRICT, STRICT_2_01, TABLE_2_01, Profile
from wccpd.wire.components import Capabilities
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery, decode_message

GROUP = IPv4Address("239.192.0.5")
BY_MASK = Capabilities(ForwardingMethod.GRE, AssignmentMethod.MASK, PacketReturnMethod.GRE)
BOTH = AssignmentMethod.HASH | AssignmentMethod.MASK


def told(scene: Scene, kind: type, place: IPv4Address) -> list:
    """The messages of a kind that somebody sent."""
    messages = [
        decode_message(each.output.datagram)
        for each in scene.happened
        if each.place == place and isinstance(each.output, Send | Transmit)
    ]
    return [message for message in messages if isinstance(message, kind)]


def test_a_cache_of_2_01_runs_at_the_timers_that_it_selected_and_the_group_with_it() -> None:
    scene = Scene()
    scene.start(A, STRICT_2_01)
    assert scene.until(30) == [
        "0 s: 10.0.1.1 seen",
        "2 s: 10.0.1.1 usable",
        "5 s: 256 buckets assigned by cache, 256 moved",
    ]
    assert scene.group().timers == Timers(2.0, 2, 1)
    assert scene.sent(HereIAm, A)[:4] == [0.0, 2.0, 4.0, 6.0]


def test_an_assignment_that_crosses_an_answer_on_its_way_is_stale_and_comes_again_one_interval_later() -> (
    None
):
    scene = Scene()
    scene.start(A, replace(STRICT_2_01, ra_timer_scale=2))
    assert scene.until(30) == [
        "0 s: 10.0.1.1 seen",
        "2 s: 10.0.1.1 usable",
        "8 s: 10.0.1.1 refused, stale_receive_id",
        "10 s: 256 buckets assigned by cache, 256 moved",
    ]


def test_a_silent_cache_of_2_01_is_queried_and_lost_by_its_own_timers() -> None:
    scene = Scene()
    cache = scene.start(A, STRICT_2_01)
    scene.until(31)
    last = scene.sent(HereIAm, A)[-1]
    scene.network.remove_cache(cache)
    assert scene.until(60) == [
        f"{last + 12:.0f} s: 10.0.1.1 lost, no valid HERE_I_AM for 12 s",
        f"{last + 12:.0f} s: 0 buckets assigned by nobody, 256 moved",
    ]
    (query,) = scene.sent(RemovalQuery, ROUTER)
    assert query == pytest.approx(last + 10, abs=0.1)


def test_a_second_cache_of_2_01_follows_the_timers_that_the_first_one_fixed() -> None:
    scene = Scene()
    scene.start(A, STRICT_2_01)
    scene.until(20)
    scene.start(B, replace(STRICT_2_01, transmit_milliseconds=7000, timeout_scale=1, ra_timer_scale=5))
    scene.until(60)
    assert scene.shares() == {"1": 128, "2": 128}
    assert scene.group().timers == Timers(2.0, 2, 1)


def test_a_cache_of_2_00_cannot_join_a_group_that_runs_at_other_timers_and_is_told_so() -> None:
    scene = Scene()
    scene.start(A, STRICT_2_01)
    scene.until(20)
    scene.start(B, STRICT)
    story = scene.until(50)
    assert any("it selects timers 10 s, scales 1 and 1, the group runs at 2 s" in line for line in story)
    assert scene.shares() == {"1": 256}


def test_wishes_beyond_the_offer_are_cut_to_it() -> None:
    scene = Scene()
    scene.start(A, replace(STRICT_2_01, transmit_milliseconds=100, timeout_scale=9))
    scene.until(20)
    assert scene.group().timers == Timers(0.5, 5, 1)


@pytest.mark.parametrize("profile", [STRICT, STRICT_2_01, TABLE_2_01], ids=lambda each: each.name)
@pytest.mark.parametrize("selects", [STRICT.selects, BY_MASK], ids=["hash", "mask"])
def test_every_version_assigns_by_hash_and_by_mask_and_is_answered_in_its_own(
    profile: Profile, selects: Capabilities
) -> None:
    scene = Scene(assignment=BOTH)
    for address in (A, B):
        scene.start(address, replace(profile, selects=selects))
    scene.until(120)
    assert len(set(scene.shares().values())) == 1
    assert scene.group().designated == A
    assert {message.minor_version for message in told(scene, ISeeYou, ROUTER)} == {profile.minor_version}
    tables = [message.address_table is not None for message in told(scene, RedirectAssign, A)]
    assert set(tables) == {profile.uses_address_table}


def test_a_cache_that_needs_2_01_is_refused_by_a_router_that_stops_before() -> None:
    scene = Scene(minor_version=0)
    scene.start(A, TABLE_2_01)
    assert scene.until(5) == ["0 s: 10.0.1.1 refused, version_not_spoken"]


def test_caches_of_both_versions_share_a_group_at_the_usual_timers() -> None:
    scene = Scene()
    scene.start(A, STRICT)
    scene.until(15)
    scene.start(B, STRICT_2_01)
    scene.start(C, TABLE_2_01)
    scene.until(120)
    assert scene.group().timers == Timers()
    assert set(scene.shares()) == {"1", "2", "3"}


# At a group address


def meeting(*routers: IPv4Address, **settings: object) -> Scene:
    return Scene(*routers, group_address=GROUP, **settings)


@pytest.mark.parametrize("profile", [STRICT, STRICT_2_01], ids=lambda each: each.name)
def test_caches_and_routers_that_meet_at_a_group_address_assign_as_elsewhere(profile: Profile) -> None:
    scene = meeting(ROUTER, OTHER_ROUTER)
    for address in (A, B, C):
        scene.start(address, profile, group_address=GROUP, routers=())
    scene.until(120)
    for router in (ROUTER, OTHER_ROUTER):
        assert scene.group(router).designated == A
        assert sorted(scene.shares(router).values()) == [85, 85, 86]
        assert scene.group(router).routers == (ROUTER, OTHER_ROUTER)
    assert {
        each.destination for each in (e.output for e in scene.happened) if isinstance(each, Transmit)
    } == {GROUP}


def test_one_answer_to_the_group_address_serves_all_and_comes_every_nine_seconds() -> None:
    scene = meeting()
    for address in (A, B, C):
        scene.start(address, group_address=GROUP, routers=())
    scene.until(100)
    answers = told(scene, ISeeYou, ROUTER)
    assert {message.identity.caches for message in answers} == {(A, B, C)}
    assert {message.identity.sent_to for message in answers} == {GROUP}
    assert 10 <= len(answers) <= 13


def test_a_cache_that_crashes_is_queried_by_unicast_and_covered() -> None:
    scene = meeting()
    caches = [scene.start(address, group_address=GROUP, routers=()) for address in (A, B)]
    scene.until(100)
    scene.network.remove_cache(caches[1])
    story = scene.until(140)
    assert any("10.0.1.2 lost" in line for line in story)
    assert scene.shares() == {"1": 256}
    assert {message.query.cache for message in told(scene, RemovalQuery, ROUTER)} == {B}


def test_a_cache_leaves_with_shutdown_at_the_group_address() -> None:
    scene = meeting()
    caches = [scene.start(address, group_address=GROUP, routers=()) for address in (A, B)]
    scene.until(100)
    scene.network.leave(caches[1])
    scene.until(115)
    assert scene.shares() == {"1": 256}
    assert caches[1].stopped


@pytest.mark.parametrize("seed", range(4))
def test_a_group_at_a_group_address_is_whole_again_after_losses_and_doubles(seed: int) -> None:
    bad = Conditions(loss=0.1, duplication=0.1, reordering=0.2)
    scene = meeting(ROUTER, OTHER_ROUTER, seed=seed, conditions=bad)
    for number in range(6):
        scene.start(A + number, group_address=GROUP, routers=())
    scene.until(200)
    scene.network.conditions = Conditions()
    scene.until(320)
    for router in (ROUTER, OTHER_ROUTER):
        assert len(scene.shares(router)) == 6, f"seed {seed}"
        assert sum(scene.shares(router).values()) == 256, f"seed {seed}"
        assert {cache.state for cache in scene.group(router).caches} == {CacheState.USABLE}


def test_two_caches_that_leave_at_once_are_both_acknowledged_and_nobody_else_sees_it() -> None:
    scene = meeting()
    caches = [scene.start(address, group_address=GROUP, routers=()) for address in (A, B, C)]
    scene.until(100)
    for cache in caches[1:]:
        scene.network.leave(cache)
    scene.until(115)
    # The last SHUTDOWN goes out two seconds after the first, the answer may come nine seconds after it.
    assert [bool(cache.stopped) for cache in caches] == [False, True, True]
    assert {message.shutdown_response for message in told(scene, ISeeYou, ROUTER)} == {None, B, C}
    for message in told(scene, ISeeYou, ROUTER):
        assert message.commands is None or message.identity.caches == (message.shutdown_response,)
