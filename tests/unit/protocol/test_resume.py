"""A restarted router goes on where the old one stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.stage import FIRST, ROUTER_ID, SECOND, SECOND_ADDRESS, Stage
from wccpd.protocol.outputs import CacheLost, Send
from wccpd.protocol.record import dump
from wccpd.protocol.resume import restore
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, TimerOffer
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.elements import ServiceKey, TransmitT
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, ServiceFlags, ServiceType


def restarted(stage: Stage, *, members: bool = True) -> None:
    """Replace the stage's router by a new one that has read what the old one wrote."""
    state = json.loads(json.dumps(dump(stage.router)))
    stage.router = Router(stage.router.settings)
    restore(stage.router, state, stage.now, members=members)


def test_no_cache_notices_a_restart() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    before = stage.group
    restarted(stage)
    assert stage.group.bucket_owners == before.bucket_owners
    assert (stage.group.assigned_by, stage.group.designated) == (AssignedBy.CACHE, FIRST)
    outputs = stage.live(40, first, second)
    assert all(isinstance(output, Send) for output in outputs), "nothing but answers"
    assert stage.group.change_number == before.change_number
    assert second.last is not None
    assert second.last.view.key.address == FIRST


def test_an_answer_sent_after_the_state_was_saved_still_counts() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    state = json.loads(json.dumps(dump(stage.router)))
    stage.live(30, cache)
    stage.router = Router(stage.router.settings)
    restore(stage.router, state, stage.now)
    stage.live(40, cache)
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_cache_that_died_meanwhile_is_lost_after_the_removal_time() -> None:
    stage = Stage()
    stage.joined(FIRST)
    restarted(stage)
    stage.wait(29)
    assert stage.state(FIRST) is CacheState.USABLE
    (lost,) = [output for output in stage.wait(2) if isinstance(output, CacheLost)]
    assert lost.cache == FIRST


def test_after_a_reboot_only_the_numbers_and_what_was_learnt_are_resumed() -> None:
    stage = Stage()
    squid = stage.cache(FIRST, reads_standard=False)
    stage.hello(squid)
    stage.live(70, squid)
    number = stage.group.change_number
    restarted(stage, members=False)
    assert stage.group.caches == ()
    assert stage.group.change_number == number + 1
    squid.last = None
    stage.hello(squid)
    stage.live(10, squid)
    assert stage.group.caches[0].buckets == 256, "form and lack of assignment were remembered"


@pytest.mark.parametrize(
    "damage",
    [
        {"receive_id": 0},
        {"change_number": "x"},
        {"entries": [0] * 255},
        {"entries": [7] * 256},
        {"table": {}},
        {"assigned_by": "somebody"},
        {"members": [{"address": "10.0.0.1"}]},
        {"key": ["10.0.0.1"]},
        {"definition": {"priority": 999, "protocol": 0, "flags": 0, "ports": [0] * 8}},
        {"definition": {"priority": 0, "protocol": 0, "flags": 0, "ports": [1]}},
    ],
)
def test_a_damaged_state_is_refused_with_an_ordinary_error(damage: dict[str, object]) -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    stage.send(cache, cache.redirect_assign((FIRST,)))
    state = dump(stage.router)
    state["groups"][0].update(damage)
    fresh = Router(stage.router.settings)
    with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
        restore(fresh, json.loads(json.dumps(state)), 0.0)


def test_groups_that_are_no_longer_configured_are_left_out() -> None:
    stage = Stage()
    stage.joined(FIRST)
    state = dump(stage.router)
    state["groups"][0]["service_id"] = 5
    fresh = Router(stage.router.settings)
    restore(fresh, state, 0.0)
    assert fresh.view().groups[0].caches == ()
    assert IPv4Address(FIRST) not in next(iter(fresh.groups.values())).members


def test_a_damaged_member_is_refused_with_an_ordinary_error() -> None:
    for damage in ({"timers": [float("inf"), 1, 1]}, {"port": 0}, {"weight": 70000}, {"timers": [10, 0, 1]}):
        stage = Stage()
        stage.joined(FIRST)
        state = dump(stage.router)
        state["groups"][0]["members"][0].update(damage)
        with pytest.raises(ValueError, match=r"within|TRANSMIT_T"):
            restore(Router(stage.router.settings), json.loads(json.dumps(state)), 0.0)


def reconfigured(stage: Stage, **changes: object) -> Stage:
    """The same memory in a router with other settings of its one service."""
    other = Stage(**changes)
    restore(other.router, json.loads(json.dumps(dump(stage.router))), stage.now)
    other.now, other.caches = stage.now, stage.caches
    return other


def test_a_member_that_the_new_configuration_would_not_let_in_is_not_resumed() -> None:
    stage = Stage()
    stage.joined(FIRST)
    for changes in ({"group_list": (IPv4Network("192.0.2.0/24"),)}, {"forwarding": ForwardingMethod.L2}):
        other = reconfigured(stage, **changes)
        assert other.group.caches == ()
        assert other.group.definition is None


def test_an_address_that_is_no_longer_ours_is_not_sent_from() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    for _ in range(3):
        stage.send(cache, cache.here_i_am(), local=SECOND_ADDRESS)
        stage.wait(10)
    state = json.loads(json.dumps(dump(stage.router)))
    settings = replace(stage.router.settings, addresses=(ROUTER_ID,))
    stage.router = Router(settings)
    restore(stage.router, state, stage.now)
    assert not [output for output in stage.wait(26) if isinstance(output, Send)]


def test_a_group_that_no_longer_meets_at_a_multicast_address_answers_nobody_there() -> None:
    group = IPv4Address("239.192.0.5")
    stage = Stage(group_address=group)
    stage.caches[group] = cache = stage.cache(FIRST)
    for _ in range(3):
        stage.send(cache, cache.here_i_am(), local=group)
        stage.wait(10)
    other = reconfigured(stage)
    assert not [output for output in other.wait(20) if isinstance(output, Send)]


def test_policy_cache_is_never_assigned_to_by_the_router_after_a_restart() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    stage.live(40, cache)
    other = reconfigured(stage, policy=AssignmentPolicy.CACHE)
    other.live(60, cache)
    assert other.group.assigned_by is AssignedBy.NOBODY


def test_policy_cache_keeps_an_assignment_over_a_restart_unless_a_renewal_was_due() -> None:
    for renewal_due in (False, True):
        stage = Stage(policy=AssignmentPolicy.CACHE)
        (cache,) = stage.joined(FIRST)
        stage.send(cache, cache.redirect_assign((FIRST,)))
        caches = [cache]
        if renewal_due:
            caches += stage.joined(SECOND)
        restarted(stage)
        stage.live(60, *caches)
        assert stage.group.assigned_by is (AssignedBy.NOBODY if renewal_due else AssignedBy.CACHE)


def test_policy_auto_assigns_to_a_cache_that_had_joined_just_before_the_restart() -> None:
    stage = Stage()
    (first,) = stage.joined(FIRST)
    stage.send(first, first.redirect_assign((FIRST,)))
    (second,) = stage.joined(SECOND)
    restarted(stage)
    stage.live(40, first, second)
    assert [cache.buckets for cache in stage.group.caches] == [128, 128]


def test_a_policy_that_became_router_assigns_what_a_cache_had_assigned() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    stage.send(cache, cache.redirect_assign((FIRST,)))
    assert reconfigured(stage, policy=AssignmentPolicy.ROUTER).group.assigned_by is AssignedBy.ROUTER


def test_the_buckets_of_a_cache_that_is_not_resumed_are_covered() -> None:
    stage = Stage()
    first, _ = stage.joined(FIRST, SECOND)
    stage.live(10, first, stage.caches[SECOND])
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    other = reconfigured(stage, group_list=(IPv4Network(f"{SECOND}/32"),))
    assert set(other.group.bucket_owners) == {SECOND}
    assert other.group.designated is None
    assert other.group.change_number == stage.group.change_number + 1


def test_a_value_that_could_not_be_sent_is_refused() -> None:
    damages: tuple[tuple[dict[str, object], dict[str, object]], ...] = (
        ({"key": [str(FIRST), 1 << 40]}, {}),
        ({"table": {"alternate": [256]}}, {}),
        ({"table": {"sets": []}, "entries": []}, {}),
        ({}, {"minor_version": 1 << 20}),
        ({}, {"masks": [["0.0.0.0", "0.0.0.1", 99999, 0]], "selection": [1, 2, 1]}),
        ({}, {"timers": [66, 1, 1]}),
    )
    for of_group, of_member in damages:
        stage = Stage(timer_offer=TimerOffer(TransmitT(66000, 500)), assignment=AssignmentMethod(3))
        (cache,) = stage.joined(FIRST)
        stage.send(cache, cache.redirect_assign((FIRST,)))
        state = json.loads(json.dumps(dump(stage.router)))
        restore(Router(stage.router.settings), state, 0.0)
        state["groups"][0].update(of_group)
        state["groups"][0]["members"][0].update({"negotiates_timers": True, **of_member})
        with pytest.raises(ValueError, match=r".+"):
            restore(Router(stage.router.settings), state, 0.0)


def test_a_cache_that_is_no_longer_adjacent_is_not_resumed_with_l2() -> None:
    stage = Stage(forwarding=ForwardingMethod.GRE | ForwardingMethod.L2)
    stage.joined(FIRST, capabilities=Capabilities(forwarding=ForwardingMethod.L2))
    stage.joined(SECOND)
    state = dump(stage.router)
    stage.router = Router(replace(stage.router.settings, adjacent=(IPv4Network("192.0.2.0/24"),)))
    restore(stage.router, state, stage.now)
    assert [cache.address for cache in stage.group.caches] == [SECOND]


@pytest.mark.parametrize(("port", "resumed"), [(443, [FIRST]), (8443, [])])
def test_members_are_resumed_if_the_operator_still_means_the_same_service(
    port: int, resumed: list[IPv4Address]
) -> None:
    flags = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
    key = ServiceKey(ServiceType.DYNAMIC, 70)
    stage = Stage(key=key)
    (cache,) = stage.joined(FIRST, service=ServiceInfo.dynamic(70, 9, 6, flags, (443,)))
    stage.live(30, cache)
    state = dump(stage.router)
    definition = ServiceInfo.dynamic(70, 1, 6, flags, (port,))
    service = replace(stage.router.settings.services[0], definition=definition)
    stage.router = Router(replace(stage.router.settings, services=(service,)))
    restore(stage.router, state, stage.now)
    assert [each.address for each in stage.group.caches] == resumed
    assert stage.group.definition == definition
