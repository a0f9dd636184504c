"""What an adversary or an odd farm does to a group that works: it goes on, or can be had again."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.support.scripted_cache import GRE_HASH_GRE, ScriptedCache
from tests.support.stage import FIRST, ROUTER_ID, SECOND, SECOND_ADDRESS, Stage, only, reason
from wccpd.protocol.outputs import Refusal, Send
from wccpd.protocol.record import dump
from wccpd.protocol.resume import restore
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, Interop
from wccpd.protocol.tables import MAX_MASK_VALUES
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.wire.assignments import AssignmentInfo
from wccpd.wire.components import CacheView, ServiceInfo
from wccpd.wire.elements import AssignmentKey, RouterAssignment, RouterIdReceiveId, ServiceKey, TransmitT
from wccpd.wire.enums import MAX_CACHES, AssignmentMethod, ServiceFlags, ServiceType
from wccpd.wire.identity import HashAssignment, WebCacheIdentity
from wccpd.wire.masks import Mask, MaskValueSet
from wccpd.wire.messages import HereIAm, RedirectAssign, decode_message, encode_message
from wccpd.wire.security import check_digest

KEY = ServiceKey(ServiceType.DYNAMIC, 70)
FLAGS = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
HTTPS = ServiceInfo.dynamic(70, 10, 6, FLAGS, (443,))
OTHER = ServiceInfo.dynamic(70, 10, 6, FLAGS, (8443,))
OLD, NEW = b"old", b"new"
MASK = Mask(IPv4Address(0x1741), IPv4Address(0), 0, 0)


# Two passwords at once


@pytest.mark.parametrize("passwords", [(NEW, OLD), (OLD, NEW)])
def test_while_a_password_is_rotated_each_cache_is_answered_with_the_one_that_it_has(
    passwords: tuple[bytes, ...],
) -> None:
    stage = Stage(passwords=passwords)
    (early,) = stage.joined(FIRST, password=OLD)
    (late,) = stage.joined(SECOND, password=NEW)
    outputs = stage.live(60, early, late)
    assert only(outputs, Send)
    for send in only(outputs, Send):
        assert check_digest(send.datagram, stage.caches[send.remote].password or b"")
    assert stage.state(FIRST) is stage.state(SECOND) is CacheState.USABLE


def test_a_cache_is_queried_with_the_password_that_it_has() -> None:
    stage = Stage(passwords=(NEW, OLD))
    (cache,) = stage.joined(FIRST, password=OLD)
    (query,) = only(stage.wait(26), Send)
    assert check_digest(query.datagram, OLD)
    assert cache.queried is not None


def test_a_password_is_in_no_description_of_a_cache() -> None:
    stage = Stage(passwords=(NEW, OLD))
    stage.joined(FIRST, password=OLD)
    member = stage.router.groups[stage.group.key].members[FIRST]
    assert member.voice.password == OLD
    assert repr(OLD) not in repr(member)


def test_caches_of_two_passwords_that_meet_at_the_group_address_are_answered_apart() -> None:
    group = IPv4Address("239.192.0.5")
    stage = Stage(passwords=(NEW, OLD), group_address=group)
    caches = [stage.cache(FIRST, password=OLD), stage.cache(SECOND, password=NEW)]
    for cache in caches:
        stage.send(cache, cache.here_i_am(), group)
    stage.now += 20
    sent = {}
    for send in only(stage.router.tick(stage.now), Send):
        (address,) = decode_message(send.datagram).identity.caches
        sent[address] = send.datagram
    assert check_digest(sent[FIRST], OLD)
    assert check_digest(sent[SECOND], NEW)


# One datagram in another's name


@pytest.mark.parametrize("port", [2048, 3000])
def test_one_forgery_does_not_change_the_version_or_the_definition_in_which_a_cache_is_answered(
    port: int,
) -> None:
    stage = Stage(key=KEY, passwords=())
    (cache,) = stage.joined(FIRST, password=None, service=HTTPS)
    forged = ScriptedCache(FIRST, ROUTER_ID, service=replace(HTTPS, priority=99), minor_version=1)
    stage.router.receive(forged.here_i_am(receive_id=0), FIRST, port, ROUTER_ID, stage.now)
    answers = only(stage.live(60, cache), Send)
    assert len(answers) == 6
    for send in answers:
        message = decode_message(send.datagram)
        assert (message.minor_version, message.service.priority) == (0, 10)


def test_forgeries_whose_answers_the_cache_cannot_read_do_not_throw_it_out() -> None:
    stage = Stage(passwords=())
    (cache,) = stage.joined(FIRST, password=None)
    forged = ScriptedCache(FIRST, ROUTER_ID, minor_version=1)
    for _ in range(6):
        stage.wait(9)
        # A Squid refuses the answer, as it is of 2.01; so it still echoes the one before.
        stage.router.receive(forged.here_i_am(receive_id=0), FIRST, 2048, ROUTER_ID, stage.now)
        stage.wait(1)
        stage.hello(cache)
    assert stage.state(FIRST) is CacheState.USABLE


# Who may be in


def test_no_more_than_32_caches_become_usable_though_more_were_waiting() -> None:
    stage = Stage()
    caches = [stage.cache(FIRST + number) for number in range(MAX_CACHES + 8)]
    stage.hello(*caches)
    stage.wait(10)
    outputs = stage.hello(*caches)
    usable = [each for each in stage.group.caches if each.state is CacheState.USABLE]
    assert len(usable) == MAX_CACHES
    refused = [each for each in outputs if getattr(each, "reason", None) is Refusal.GROUP_FULL]
    assert len(refused) == 8


def test_a_place_that_becomes_free_is_taken_by_one_who_was_refused() -> None:
    stage = Stage()
    caches = [stage.cache(FIRST + number) for number in range(MAX_CACHES + 1)]
    stage.hello(*caches)
    stage.wait(10)
    stage.hello(*caches)
    stage.live(40, *caches[1:])
    assert stage.state(caches[-1].address) is CacheState.USABLE


def test_a_saved_group_of_more_than_32_caches_is_not_believed() -> None:
    stage = Stage()
    stage.joined(*(FIRST + number for number in range(MAX_CACHES)))
    state = json.loads(json.dumps(dump(stage.router)))
    members = state["groups"][0]["members"]
    members.append({**members[0], "address": "10.9.9.9"})
    with pytest.raises(ValueError, match="33"):
        restore(Router(stage.router.settings), state, stage.now)


def test_a_saved_table_of_more_values_than_an_answer_can_show_is_not_believed() -> None:
    stage = Stage(assignment=AssignmentMethod.MASK)
    capabilities = replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK)
    (cache,) = stage.joined(FIRST, capabilities=capabilities, mask=MASK)
    stage.live(40, cache)
    state = json.loads(json.dumps(dump(stage.router)))
    restore(Router(stage.router.settings), state, stage.now)
    group = state["groups"][0]
    group["table"]["sets"][0]["values"] *= MAX_MASK_VALUES // 64 + 1
    group["entries"] *= MAX_MASK_VALUES // 64 + 1
    with pytest.raises(ValueError, match="1472 values"):
        restore(Router(stage.router.settings), state, stage.now)


@pytest.mark.parametrize("straggler", ["silent", "incompatible", "shut down"])
def test_the_definition_is_forgotten_with_the_last_usable_cache_whoever_else_goes_on_talking(
    straggler: str,
) -> None:
    stage = Stage(key=KEY)
    (cache,) = stage.joined(FIRST, service=HTTPS)
    other = stage.cache(SECOND, service=HTTPS, reads_standard=False, reads_dual_valid=False)
    if straggler == "incompatible":
        capabilities = replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK)
        other = stage.cache(SECOND, service=HTTPS, capabilities=capabilities)
    elif straggler == "shut down":
        other = stage.cache(SECOND, service=HTTPS)
    stage.live(20, cache, other)
    stage.send(cache, cache.here_i_am(shutdown=True))
    for _ in range(4):
        stage.send(other, other.here_i_am(shutdown=straggler == "shut down"))
        stage.wait(10)
    assert stage.state(SECOND) is not CacheState.USABLE
    newcomer = stage.cache(FIRST + 7, service=OTHER)
    stage.hello(newcomer)
    stage.live(20, newcomer)
    assert stage.group.definition == OTHER
    outputs = stage.live(20, newcomer, other)
    assert Refusal.DEFINITION_DIFFERS in {getattr(each, "reason", None) for each in outputs}
    usable = [each.address for each in stage.group.caches if each.state is CacheState.USABLE]
    assert usable == [FIRST + 7]


def test_a_cache_that_speaks_every_60_seconds_from_the_first_on_gets_in() -> None:
    stage = Stage()
    slow = replace(GRE_HASH_GRE, transmit_t=TransmitT(0, 60000))
    cache = stage.cache(FIRST, capabilities=slow)
    stage.hello(cache)
    stage.live(120, cache, every=60)
    assert stage.state(FIRST) is CacheState.USABLE


# Which row of a Cache View is ours


@pytest.mark.parametrize("dead", [(SECOND_ADDRESS, 0), (ROUTER_ID, 5)], ids=["never heard", "heard long ago"])
def test_a_cache_that_also_knows_an_address_of_ours_that_it_cannot_reach_is_usable(
    dead: tuple[IPv4Address, int],
) -> None:
    stage = Stage(passwords=())
    cache = stage.cache(FIRST, password=None)
    for _ in range(6):
        echoed = cache.last.identity.receive_id if cache.last else 0
        message = HereIAm(
            service=ServiceInfo.web_cache(),
            identity=WebCacheIdentity(FIRST, HashAssignment(weight=1)),
            view=CacheView.of(1, (RouterIdReceiveId(*dead), RouterIdReceiveId(ROUTER_ID, echoed))),
            capabilities=GRE_HASH_GRE,
        )
        stage.send(cache, encode_message(message))
        stage.wait(10)
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_squid_that_knows_two_addresses_of_ours_lists_us_twice_and_assigns_all_the_same() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    assert cache.last is not None
    view = cache.last.view
    rows = tuple(
        RouterAssignment(ROUTER_ID, receive_id, view.change_number)
        for receive_id in (5, cache.last.identity.receive_id)
    )
    info = AssignmentInfo(AssignmentKey(FIRST, 1), rows, (FIRST,), bytes(256))
    message = RedirectAssign(service=cache.service, assignment=info)
    stage.send(cache, encode_message(message, password=cache.password))
    assert set(stage.group.bucket_owners) == {FIRST}


# Assignments


@pytest.mark.parametrize("policy", [AssignmentPolicy.AUTO, AssignmentPolicy.CACHE])
def test_a_table_that_was_flushed_is_wanted_again(policy: AssignmentPolicy) -> None:
    stage = Stage(interop=Interop(flush_when_not_listed=True), policy=policy)
    (cache,) = stage.joined(FIRST)
    stage.send(cache, cache.redirect_assign((FIRST,)))
    elsewhere = ScriptedCache(FIRST, ROUTER_ID, password=cache.password)
    assert cache.last is not None
    elsewhere.last = replace(cache.last, identity=replace(cache.last.identity, router_id=ROUTER_ID + 5))
    stage.send(cache, elsewhere.redirect_assign((FIRST,)))
    assert stage.group.assigned_by is AssignedBy.NOBODY
    number = stage.group.change_number
    stage.live(60, cache)
    if policy is AssignmentPolicy.AUTO:
        assert stage.group.assigned_by is AssignedBy.ROUTER
    else:
        assert stage.group.change_number != number, "which asks a Squid for another one"


def test_a_key_in_the_name_of_another_goes_with_the_cache_that_assigned() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    datagram = ScriptedCache(IPv4Address("10.0.9.9"), ROUTER_ID, password=first.password, last=first.last)
    stage.send(first, datagram.redirect_assign((FIRST, SECOND)))
    assert stage.group.designated == FIRST
    stage.send(first, first.here_i_am(shutdown=True))
    stage.hello(second)
    assert second.last is not None
    assert second.last.view.key.change_number == 0
    assert stage.group.designated is None


def test_sets_without_values_are_no_shape_for_the_router_to_fill() -> None:
    stage = Stage(assignment=AssignmentMethod.MASK, policy=AssignmentPolicy.CACHE)
    capabilities = replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK)
    (cache,) = stage.joined(FIRST, capabilities=capabilities, mask=MASK)
    stage.send(cache, cache.redirect_assign_sets(MaskValueSet(MASK)))
    settings = stage.router.settings
    service = replace(settings.services[0], policy=AssignmentPolicy.ROUTER)
    stage.router.reconfigure(replace(settings, services=(service,)), stage.now)
    stage.live(40, cache)
    assert stage.group.values == 64
    assert stage.group.assigned_by is AssignedBy.ROUTER


def test_an_assignment_of_a_designated_cache_that_dies_in_the_middle_is_not_missed_for_long() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    assert first.last is not None
    datagram = first.redirect_assign((FIRST, SECOND))
    stage.live(20, second)
    stage.live(20, second)
    assert reason(stage.send(first, datagram)) is Refusal.NOT_A_USABLE_CACHE
    stage.live(30, second)
    assert set(stage.group.bucket_owners) == {SECOND}
