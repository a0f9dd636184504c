"""The engine, driven as the shell drives it: datagrams and time in, answers and views out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.stage import FIRST, ROUTER_ID, SECOND, SECOND_ADDRESS, WEB_CACHE, Stage, only, reason
from wccpd.protocol.outputs import (
    AssignmentChanged,
    CacheIncompatible,
    CacheLost,
    CacheUsable,
    Refusal,
    Refused,
    RungChanged,
    Send,
)
from wccpd.protocol.settings import AssignmentPolicy, OnLoss
from wccpd.protocol.view import AssignedBy, CacheState, Rung
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, ServiceFlags, ServiceType

# Joining


def test_a_cache_is_usable_once_it_echoes_our_receive_id() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    stage.hello(cache)
    assert stage.state(FIRST) is CacheState.NEGOTIATING
    assert cache.last is not None
    assert cache.last.view.caches == ()
    before = cache.last.view.change_number

    outputs = stage.live(10, cache)
    assert only(outputs, CacheUsable) == [CacheUsable(WEB_CACHE, FIRST)]
    assert [each.address for each in cache.last.view.caches] == [FIRST]
    assert cache.last.view.routers == (ROUTER_ID,)
    assert cache.last.view.change_number == before + 1


def test_the_answer_goes_to_the_exact_source_from_the_address_that_was_asked() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    (send,) = only(stage.router.receive(cache.here_i_am(), FIRST, 40001, SECOND_ADDRESS, stage.now), Send)
    assert (send.local, send.remote, send.remote_port) == (SECOND_ADDRESS, FIRST, 40001)
    cache.hear(send)
    assert cache.last is not None
    assert cache.last.identity.sent_to == SECOND_ADDRESS
    assert cache.last.identity.router_id == ROUTER_ID


def test_a_stale_receive_id_is_answered_but_is_no_sign_of_life() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    for _ in range(3):
        stage.wait(9)
        assert only(stage.send(cache, cache.here_i_am(receive_id=7)), Send)
    lost = only(stage.wait(4), CacheLost)
    assert [each.cache for each in lost] == [FIRST]


def test_each_answer_has_a_receive_id_of_its_own_and_never_zero() -> None:
    stage = Stage()
    stage.router.groups[WEB_CACHE].receive_id = 0xFFFFFFFE
    first, second = stage.joined(FIRST, SECOND)
    seen = set()
    for _ in range(6):
        for cache in (first, second):
            stage.hello(cache)
            assert cache.last is not None
            seen.add(cache.last.identity.receive_id)
    assert len(seen) == 12
    assert 0 not in seen


def test_the_thirty_third_cache_is_refused() -> None:
    stage = Stage()
    stage.joined(*(FIRST + i for i in range(32)))
    late = stage.cache(FIRST + 32)
    assert reason(stage.hello(late)) is Refusal.GROUP_FULL


def test_a_cache_that_defines_the_service_differently_is_refused() -> None:
    key = ServiceKey(ServiceType.DYNAMIC, 70)
    flags = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
    stage = Stage(key=key)
    stage.joined(FIRST, service=ServiceInfo.dynamic(70, 10, 6, flags, (443,)))
    other = stage.cache(SECOND, service=ServiceInfo.dynamic(70, 10, 6, flags, (8443,)))
    assert reason(stage.hello(other)) is Refusal.DEFINITION_DIFFERS
    same_but_priority = stage.cache(SECOND, service=ServiceInfo.dynamic(70, 99, 6, flags, (443,)))
    assert not only(stage.hello(same_but_priority), Refused)


def test_a_cache_that_wants_what_we_do_not_offer_is_told_our_offer_and_not_used() -> None:
    stage = Stage()
    wants_l2 = Capabilities(forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.MASK)
    cache = stage.cache(FIRST, capabilities=wants_l2)
    stage.hello(cache)
    outputs = stage.live(10, cache)
    (event,) = only(outputs, CacheIncompatible)
    assert event.reason == "it asks for forwarding L2, this group offers GRE"
    assert cache.last is not None
    assert cache.last.capabilities is not None
    assert cache.last.capabilities.forwarding is ForwardingMethod.GRE
    assert stage.state(FIRST) is CacheState.INCOMPATIBLE
    assert not only(stage.live(10, cache), CacheIncompatible), "the same complaint twice"


def test_a_cache_without_capabilities_means_the_defaults() -> None:
    stage = Stage()
    stage.joined(FIRST, capabilities=None)
    assert stage.state(FIRST) is CacheState.USABLE


# Authentication


def test_messages_of_the_wrong_password_are_refused_with_what_is_wrong() -> None:
    stage = Stage()
    assert reason(stage.hello(stage.cache(FIRST, password=b"guess"))) is Refusal.AUTHENTICATION_WRONG
    assert reason(stage.hello(stage.cache(FIRST, password=None))) is Refusal.AUTHENTICATION_MISSING
    assert stage.group.caches == ()


def test_an_md5_digest_where_no_password_is_configured_is_refused() -> None:
    stage = Stage(passwords=())
    assert reason(stage.hello(stage.cache(FIRST))) is Refusal.AUTHENTICATION_UNEXPECTED


def test_strangers_to_the_group_list_are_refused() -> None:
    stage = Stage(group_list=(IPv4Network("10.100.2.0/24"),))
    assert reason(stage.hello(stage.cache(FIRST))) is Refusal.NOT_IN_GROUP_LIST


def test_an_identity_that_is_not_the_source_is_refused() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    outputs = stage.router.receive(cache.here_i_am(), SECOND, 2048, ROUTER_ID, stage.now)
    assert reason(outputs) is Refusal.SOURCE_MISMATCH


@pytest.mark.parametrize(
    "address", [ROUTER_ID, SECOND_ADDRESS, IPv4Address("0.0.0.0"), IPv4Address("224.0.0.5")]
)
def test_addresses_that_cannot_be_a_cache_are_refused(address: IPv4Address) -> None:
    stage = Stage()
    assert reason(stage.hello(stage.cache(address))) is Refusal.BAD_CACHE_ADDRESS


def test_unknown_services_and_messages_for_caches_are_refused() -> None:
    stage = Stage()
    stranger = stage.cache(FIRST, service=ServiceInfo(ServiceType.STANDARD, 5))
    assert reason(stage.hello(stranger)) is Refusal.UNKNOWN_SERVICE
    cache = stage.cache(FIRST)
    (send,) = only(stage.hello(cache), Send)
    assert reason(stage.send(cache, send.datagram)) is Refusal.UNEXPECTED_MESSAGE


def test_an_old_message_sent_again_from_another_port_does_not_evict_a_healthy_cache() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    old = cache.here_i_am()
    stage.hello(cache)
    for _ in range(12):
        outputs = stage.router.receive(old, FIRST, 4444, ROUTER_ID, stage.now)
        assert [send.remote_port for send in only(outputs, Send)] == [4444]
        stage.wait(5)
        (send,) = only(stage.hello(cache), Send)
        assert send.remote_port == 2048
        stage.wait(5)
    assert stage.state(FIRST) is CacheState.USABLE
    stage.wait(26)
    assert cache.queried is not None, "the query goes to the cache, not to the stranger's port"


def test_a_flood_of_old_messages_from_another_port_does_not_use_up_the_caches_answers() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    old = cache.here_i_am()
    stage.hello(cache)
    for _ in range(6):
        for _ in range(100):
            stage.router.receive(old, FIRST, 4444, ROUTER_ID, stage.now)
        stage.wait(10)
        assert only(stage.hello(cache), Send)
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_cache_that_comes_back_on_another_port_is_answered_there() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    cache.last = None
    for _ in range(3):
        stage.wait(5)
        (send,) = only(stage.router.receive(cache.here_i_am(), FIRST, 5555, ROUTER_ID, stage.now), Send)
        assert send.remote_port == 5555
        cache.hear(send)
    stage.wait(29)
    assert stage.state(FIRST) is CacheState.USABLE


# Assignment


def test_the_designated_caches_assignment_is_taken_and_shown() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    outputs = stage.send(first, first.redirect_assign((FIRST, SECOND)))
    (event,) = only(outputs, AssignmentChanged)
    assert (event.assigned_by, event.moved_buckets, event.assigned_buckets) == (AssignedBy.CACHE, 256, 256)
    stage.hello(second)
    assert second.last is not None
    assert second.last.view.key.address == FIRST
    assert not any(each.is_unassigned for each in second.last.view.caches)
    assert stage.group.designated == FIRST
    assert stage.group.bucket_owners[:2] == (FIRST, SECOND)


def test_a_squid_that_echoes_but_never_assigns_gets_the_routers_assignment() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    assert stage.group.assigned_by is AssignedBy.NOBODY
    outputs = stage.live(30, cache)
    (event,) = only(outputs, AssignmentChanged)
    assert (event.assigned_by, event.assigned_buckets) == (AssignedBy.ROUTER, 256)
    (view,) = stage.group.caches
    assert view.rung is Rung.ROUTER_ASSIGNS
    assert "no valid REDIRECT_ASSIGN" in view.reason


def test_once_the_router_had_to_assign_the_next_member_does_not_wait() -> None:
    stage = Stage()
    (first,) = stage.joined(FIRST)
    stage.live(30, first)
    second = stage.cache(SECOND)
    stage.hello(second)
    stage.live(10, first, second)
    assert [cache.buckets for cache in stage.group.caches] == [128, 128]


def test_a_late_assignment_of_a_cache_still_wins_over_the_routers() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    stage.live(40, cache)
    stage.send(cache, cache.redirect_assign((FIRST,)))
    assert stage.group.assigned_by is AssignedBy.CACHE


def test_policy_router_assigns_at_once_and_refuses_assignments() -> None:
    stage = Stage(policy=AssignmentPolicy.ROUTER)
    (cache,) = stage.joined(FIRST)
    assert stage.group.assigned_by is AssignedBy.ROUTER
    assert reason(stage.send(cache, cache.redirect_assign((FIRST,)))) is Refusal.ROUTER_ASSIGNS


def test_policy_cache_flushes_an_assignment_that_is_not_renewed_after_a_change() -> None:
    stage = Stage(policy=AssignmentPolicy.CACHE)
    first, _ = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    stage.live(30, first)
    assert stage.group.assigned_by is AssignedBy.CACHE
    assert set(stage.group.bucket_owners) == {FIRST}
    stage.live(60, first)
    assert stage.group.assigned_by is AssignedBy.NOBODY
    assert set(stage.group.bucket_owners) == {None}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"receive_id": 5}, Refusal.STALE_RECEIVE_ID),
        ({"change_number": 5}, Refusal.STALE_CHANGE_NUMBER),
    ],
)
def test_a_stale_assignment_is_refused(change: dict[str, int], expected: Refusal) -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    assert reason(stage.send(cache, cache.redirect_assign((FIRST,), **change))) is expected
    assert stage.group.assigned_by is AssignedBy.NOBODY


def test_an_assignment_of_a_cache_that_is_not_usable_is_refused() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    stage.hello(cache)
    assert reason(stage.send(cache, cache.redirect_assign((FIRST,)))) is Refusal.NOT_A_USABLE_CACHE


def test_an_assignment_that_assigns_nobody_does_not_end_the_routers_patience() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    assert reason(stage.send(cache, cache.redirect_assign((SECOND,)))) is Refusal.ASSIGNS_NOBODY
    stage.live(40, cache)
    assert stage.group.assigned_by is AssignedBy.ROUTER


# The ladder


def test_a_squid_5_7_climbs_down_the_ladder_and_ends_with_all_buckets() -> None:
    stage = Stage()
    squid = stage.cache(FIRST, reads_standard=False)
    outputs = stage.hello(squid)
    outputs += stage.live(20, squid)
    (rung,) = only(outputs, RungChanged)
    assert rung.rung is Rung.DUAL_VALID
    assert squid.last is not None, "the third answer is of the dual-valid form"
    stage.live(10, squid)
    assert stage.state(FIRST) is CacheState.USABLE
    stage.live(30, squid)
    (view,) = stage.group.caches
    assert (view.buckets, view.rung) == (256, Rung.ROUTER_ASSIGNS)
    assert "Squid 4.17 to 7.6" in view.reason


def test_two_lost_answers_do_not_condemn_a_correct_cache_for_ever() -> None:
    stage = Stage()
    strict = stage.cache(FIRST, reads_standard=False, reads_dual_valid=False)
    stage.hello(strict)
    stage.live(30, strict)
    strict.reads_standard = True
    stage.live(30, strict)
    assert stage.state(FIRST) is CacheState.USABLE
    assert stage.group.caches[0].rung is Rung.STANDARD


def test_a_squid_that_comes_back_rejoins_with_the_form_that_it_can_read() -> None:
    stage = Stage()
    squid = stage.cache(FIRST, reads_standard=False)
    stage.hello(squid)
    stage.live(40, squid)
    stage.wait(40)
    assert stage.group.caches == ()
    squid.last = None
    stage.hello(squid)
    stage.live(10, squid)
    assert stage.state(FIRST) is CacheState.USABLE


# Leaving


def test_a_silent_cache_is_queried_after_25_seconds_and_gone_after_30() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    stage.wait(24.9)
    assert cache.queried is None
    stage.wait(0.2)
    assert cache.queried is not None
    assert stage.state(FIRST) is CacheState.USABLE
    lost = only(stage.wait(5), CacheLost)
    assert [each.cache for each in lost] == [FIRST]
    assert stage.group.caches == ()
    assert stage.group.definition is None


def test_the_removal_query_does_not_make_the_last_answer_stale() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    stage.wait(26)
    stage.hello(cache)
    stage.wait(20)
    assert stage.state(FIRST) is CacheState.USABLE


def test_the_buckets_of_a_lost_cache_are_covered_at_once_and_no_other_moves() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    before = stage.group.bucket_owners
    assert set(before) == {FIRST, SECOND}
    number = stage.group.change_number
    stage.live(30, second)
    after = stage.group.bucket_owners
    assert set(after) == {SECOND}
    assert all(new == old for old, new in zip(before, after, strict=True) if old == SECOND)
    assert stage.group.change_number == number + 1
    assert stage.group.designated is None


def test_a_cache_that_says_shutdown_is_out_at_once_and_acknowledged() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    stage.live(30, first, second)
    outputs = stage.send(first, first.here_i_am(shutdown=True))
    assert [each.cache for each in only(outputs, CacheLost)] == [FIRST]
    assert first.last is not None
    assert first.last.shutdown_response == FIRST
    assert set(stage.group.bucket_owners) == {SECOND}
    stage.hello(second)
    assert second.last is not None
    assert second.last.shutdown_response is None
    stage.send(first, first.here_i_am(shutdown=True))
    assert first.last.shutdown_response == FIRST, "a repeat is acknowledged again"
    assert stage.state(FIRST) is CacheState.SHUTDOWN
    stage.live(40, second)
    assert [cache.address for cache in stage.group.caches] == [SECOND]


def test_where_the_operator_says_leave_the_buckets_of_a_lost_cache_are_nobodys_until_assigned_anew() -> None:
    stage = Stage(on_loss=OnLoss.LEAVE)
    first, _ = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    before = stage.group.bucket_owners
    (lost,) = only(stage.live(30, first), CacheLost)
    assert lost.cache == SECOND
    assert stage.group.bucket_owners == tuple(None if owner == SECOND else owner for owner in before)
    stage.hello(first)
    stage.send(first, first.redirect_assign((FIRST,)))
    assert stage.group.bucket_owners == (FIRST,) * 256


def test_left_buckets_are_assigned_by_the_router_when_no_cache_does_in_time() -> None:
    stage = Stage(on_loss=OnLoss.LEAVE)
    first, _ = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    stage.live(50, first)
    assert stage.group.bucket_owners.count(None) == 128
    stage.live(20, first)
    assert stage.group.bucket_owners == (FIRST,) * 256
    assert stage.group.assigned_by is AssignedBy.ROUTER


def test_where_the_router_assigns_it_does_so_at_once_whatever_is_said_of_lost_buckets() -> None:
    stage = Stage(on_loss=OnLoss.LEAVE, policy=AssignmentPolicy.ROUTER)
    first, _ = stage.joined(FIRST, SECOND)
    stage.live(30, first)
    assert stage.group.bucket_owners == (FIRST,) * 256


def test_a_cache_that_owned_everything_leaves_nobody_behind_though_another_is_usable() -> None:
    stage = Stage(on_loss=OnLoss.LEAVE)
    first, second = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST,)))
    stage.live(30, second)
    assert stage.group.bucket_owners == (None,) * 256
    assert stage.group.assigned_by is AssignedBy.NOBODY


def test_a_farm_in_which_caches_come_and_go_all_the_time_is_assigned_to_all_the_same() -> None:
    stage = Stage()
    first = stage.cache(FIRST)
    stage.hello(first)
    stage.live(10, first)
    restless = stage.cache(SECOND)
    for _ in range(3):
        stage.hello(restless, restless)
        stage.live(10, first)
        stage.send(restless, restless.here_i_am(shutdown=True))
    assert stage.group.assigned_by is AssignedBy.ROUTER
    assert FIRST in stage.group.bucket_owners
