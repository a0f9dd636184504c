"""What caches and router agree on: methods, timers, versions; and how often anybody is answered."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.scripted_cache import GRE_HASH_GRE, ScriptedCache
from tests.support.stage import FIRST, PASSWORD, ROUTER_ID, SECOND, Stage, only, reason
from wccpd.protocol.outputs import CacheIncompatible, CacheLost, CacheUsable, Refusal, Refused, Send
from wccpd.protocol.settings import Interop, Timers
from wccpd.protocol.view import CacheState
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.elements import ServiceKey, TimerScale, TransmitT
from wccpd.wire.enums import (
    AssignmentMethod,
    ForwardingMethod,
    IdentityFlags,
    PacketReturnMethod,
    ServiceFlags,
    ServiceType,
)
from wccpd.wire.messages import ISeeYou, decode_message

FAST = replace(GRE_HASH_GRE, transmit_t=TransmitT(0, 500), timer_scale=TimerScale(0, 2, 0, 1))


def answer(stage: Stage, cache: ScriptedCache) -> ISeeYou:
    (send,) = only(stage.hello(cache), Send)
    message = decode_message(send.datagram)
    assert isinstance(message, ISeeYou)
    return message


def incompatible(stage: Stage, cache: ScriptedCache) -> str:
    (event,) = only(stage.hello(cache) + stage.hello(cache), CacheIncompatible)
    return str(event.reason)


# Timers


def test_a_cache_that_knows_no_timers_is_offered_none() -> None:
    stage = Stage()
    offered = answer(stage, stage.cache(FIRST)).capabilities
    assert offered is not None
    assert (offered.transmit_t, offered.timer_scale) == (None, None)


def test_a_cache_that_knows_timers_is_offered_the_ranges_and_then_what_the_group_runs_at() -> None:
    stage = Stage()
    cache = stage.cache(FIRST, capabilities=FAST)
    first = answer(stage, cache).capabilities
    assert first is not None
    assert (first.transmit_t, first.timer_scale) == (TransmitT(60000, 500), TimerScale(5, 1, 5, 1))
    later = answer(stage, cache).capabilities
    assert later is not None
    assert (later.transmit_t, later.timer_scale) == (TransmitT(0, 500), TimerScale(0, 2, 0, 1))
    assert stage.group.timers == Timers(0.5, 2, 1)


def test_a_group_with_fast_timers_loses_a_silent_cache_in_seconds() -> None:
    stage = Stage()
    stage.joined(FIRST, every=0.5, capabilities=FAST)
    stage.wait(2.4)
    assert not only(stage.wait(0.05), CacheLost)
    assert stage.caches[FIRST].queried is None
    stage.wait(0.1)
    assert stage.caches[FIRST].queried is not None
    assert only(stage.wait(0.6), CacheLost)


@pytest.mark.parametrize(
    ("transmit", "scale", "words"),
    [
        (TransmitT(0, 499), None, "it selects a TRANSMIT_T of 0.499 s, 500 to 60000 ms are offered"),
        (TransmitT(0, 60001), None, "it selects a TRANSMIT_T of 60.001 s, 500 to 60000 ms are offered"),
        (TransmitT(1000, 500), None, "it selects a range of TRANSMIT_T, not a value"),
        (None, TimerScale(0, 6, 0, 1), "it selects a timeout scale of 6, 1 to 5 are offered"),
        (None, TimerScale(0, 1, 0, 9), "it selects a REDIRECT_ASSIGN scale of 9, 1 to 5 are offered"),
        (None, TimerScale(2, 1, 0, 1), "it selects a range of TIMER_SCALE, not a value"),
    ],
)
def test_timers_that_are_not_offered_make_a_cache_incompatible(
    transmit: TransmitT | None, scale: TimerScale | None, words: str
) -> None:
    stage = Stage()
    wanted = replace(GRE_HASH_GRE, transmit_t=transmit, timer_scale=scale)
    assert incompatible(stage, stage.cache(FIRST, capabilities=wanted)) == words


def test_the_first_cache_fixes_the_timers_until_the_group_is_empty() -> None:
    stage = Stage()
    (first,) = stage.joined(FIRST, every=0.5, capabilities=FAST)
    late = stage.cache(SECOND)
    stage.hello(late)
    stage.hello(first)
    (event,) = only(stage.hello(late), CacheIncompatible)
    assert event.reason == "it selects timers 10 s, scales 1 and 1, the group runs at 0.5 s, scales 2 and 1"
    stage.wait(40)
    late.last = None
    stage.hello(late)
    stage.hello(late)
    assert stage.state(SECOND) is CacheState.USABLE
    assert stage.group.timers == Timers()


# Methods


def test_the_first_cache_fixes_the_assignment_method_and_only_that_is_then_offered() -> None:
    stage = Stage(assignment=AssignmentMethod.HASH | AssignmentMethod.MASK)
    (first,) = stage.joined(FIRST)
    assert first.last is not None
    assert first.last.capabilities is not None
    assert first.last.capabilities.assignment is AssignmentMethod.HASH
    late = stage.cache(SECOND, capabilities=Capabilities(assignment=AssignmentMethod.MASK))
    assert incompatible(stage, late) == "it asks for assignment mask, this group offers hash"


def test_forwarding_may_differ_from_cache_to_cache() -> None:
    stage = Stage(forwarding=ForwardingMethod.GRE | ForwardingMethod.L2)
    stage.joined(FIRST)
    stage.joined(SECOND, capabilities=Capabilities(forwarding=ForwardingMethod.L2))
    assert [cache.forwarding for cache in stage.group.caches] == [
        ForwardingMethod.GRE,
        ForwardingMethod.L2,
    ]


BOTH_WAYS = {
    "forwarding": ForwardingMethod.GRE | ForwardingMethod.L2,
    "packet_return": PacketReturnMethod.GRE | PacketReturnMethod.L2,
}
SEGMENT = IPv4Network("10.100.1.16/29")
"""FIRST and SECOND are on it, FAR is behind a router."""
FAR = IPv4Address("10.100.2.21")


def test_l2_is_offered_only_to_caches_on_a_segment_of_ours() -> None:
    stage = Stage(adjacent=(SEGMENT,), **BOTH_WAYS)
    near, far = stage.cache(FIRST), stage.cache(FAR)
    offers = [answer(stage, cache).capabilities for cache in (near, far, near, far)]
    methods = [(each.forwarding, each.packet_return) for each in offers if each is not None]
    both, gre = (ForwardingMethod(3), PacketReturnMethod(3)), (ForwardingMethod.GRE, PacketReturnMethod.GRE)
    assert methods == [both, gre, both, gre]


@pytest.mark.parametrize(
    ("selected", "words"),
    [
        (Capabilities(forwarding=ForwardingMethod.L2), "it asks for forwarding L2, but 10.100.2.21 is not"),
        (
            Capabilities(packet_return=PacketReturnMethod.L2),
            "it asks for packet return L2, but 10.100.2.21 is not",
        ),
    ],
)
def test_a_cache_that_selects_l2_from_afar_is_told_why_it_cannot(selected: Capabilities, words: str) -> None:
    stage = Stage(adjacent=(SEGMENT,), **BOTH_WAYS)
    reason = incompatible(stage, stage.cache(FAR, capabilities=selected))
    assert reason == f"{words} adjacent at layer 2 (networks that are: {SEGMENT})"
    assert only(
        stage.hello(near := stage.cache(FIRST, capabilities=selected)) + stage.hello(near), CacheUsable
    )


def test_a_group_of_l2_alone_offers_a_cache_from_afar_nothing_rather_than_gre() -> None:
    stage = Stage(adjacent=(), forwarding=ForwardingMethod.L2)
    offered = answer(stage, stage.cache(FIRST)).capabilities
    assert offered is not None
    assert offered.forwarding == ForwardingMethod(0)


@pytest.mark.parametrize(
    ("selected", "words"),
    [
        (ForwardingMethod(0), "it asks for forwarding nothing, this group offers GRE or L2"),
        (ForwardingMethod(3), "it asks for forwarding GRE or L2, this group offers GRE or L2"),
        (ForwardingMethod(4), "it asks for forwarding 0x4, this group offers GRE or L2"),
    ],
)
def test_no_bit_several_and_unknown_bits_are_no_selection(selected: ForwardingMethod, words: str) -> None:
    stage = Stage(forwarding=ForwardingMethod(3))
    assert incompatible(stage, stage.cache(FIRST, capabilities=Capabilities(forwarding=selected))) == words


def test_a_usable_cache_that_changes_its_mind_loses_its_buckets() -> None:
    stage = Stage()
    first, second = stage.joined(FIRST, SECOND)
    stage.live(30, first, second)
    first.capabilities = Capabilities(forwarding=ForwardingMethod.L2)
    outputs = stage.hello(first)
    assert only(outputs, CacheLost)
    assert set(stage.group.bucket_owners) == {SECOND}
    first.capabilities = GRE_HASH_GRE
    assert only(stage.hello(first), CacheUsable)


# Definition

SEVENTY = ServiceKey(ServiceType.DYNAMIC, 70)


def on_ports(*ports: int, priority: int = 10) -> ServiceInfo:
    flags = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
    return ServiceInfo.dynamic(70, priority, 6, flags, ports)


def test_a_service_that_the_operator_defined_is_defined_before_any_cache_came_and_after_the_last_left() -> (
    None
):
    stage = Stage(key=SEVENTY, definition=on_ports(443))
    assert stage.group.definition == on_ports(443)
    stage.joined(FIRST, service=on_ports(443, priority=7))
    assert stage.state(FIRST) is CacheState.USABLE
    assert stage.group.definition == on_ports(443), "the operator's priority counts"
    stage.wait(60)
    assert stage.group.caches == ()
    assert stage.group.definition == on_ports(443)


def test_a_cache_that_defines_the_service_otherwise_than_the_operator_is_refused_with_both_versions() -> None:
    stage = Stage(key=SEVENTY, definition=on_ports(443))
    (refused,) = only(stage.hello(stage.cache(FIRST, service=on_ports(8443))), Refused)
    assert refused.reason is Refusal.DEFINITION_DIFFERS
    assert refused.detail == (
        "it defines the service as dynamic 70: protocol 6, destination ports 8443, priority 10, flags 0x11; "
        "the configuration as dynamic 70: protocol 6, destination ports 443, priority 10, flags 0x11"
    )
    assert stage.group.caches == ()


def test_each_cache_is_shown_its_own_priority_again_as_traffic_server_insists() -> None:
    stage = Stage(key=SEVENTY)
    first = stage.cache(FIRST, service=on_ports(443, priority=7))
    second = stage.cache(SECOND, service=on_ports(443, priority=8))
    for _ in range(3):
        assert answer(stage, first).service.priority == 7
        assert answer(stage, second).service.priority == 8
    assert stage.group.definition == on_ports(443, priority=7)


def test_a_definition_of_another_service_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="dynamic 70 for web-cache"):
        Stage(definition=on_ports(443))


# Versions


@pytest.mark.parametrize(
    ("ours", "theirs", "minimum", "answered"),
    [
        (1, 0, False, 0),
        (1, 1, False, 1),
        (0, 1, False, 0),
        (1, 0, True, 1),
        (0, 0, True, 0),
        (1, 7, False, 1),
    ],
)
def test_the_answer_is_of_the_highest_version_in_common(
    ours: int, theirs: int, minimum: bool, answered: int
) -> None:
    stage = Stage(minor_version=ours)
    flags = IdentityFlags.MINIMUM_VERSION if minimum else IdentityFlags(0)
    cache = stage.cache(FIRST, minor_version=theirs, flags=flags)
    assert answer(stage, cache).minor_version == answered


def test_a_cache_that_needs_more_than_we_speak_is_refused() -> None:
    stage = Stage(minor_version=0)
    cache = stage.cache(FIRST, minor_version=1, flags=IdentityFlags.MINIMUM_VERSION)
    assert reason(stage.hello(cache)) is Refusal.VERSION_NOT_SPOKEN


def test_nothing_of_2_01_is_in_an_answer_of_2_00() -> None:
    stage = Stage()
    message = answer(stage, stage.cache(FIRST))
    assert message.minor_version == 0
    assert (message.address_table, message.alternate_assignment_map) == (None, None)


# How often


def test_a_flood_from_one_cache_is_answered_at_a_bounded_rate_and_the_cache_stays() -> None:
    stage = Stage()
    flooder, other = stage.joined(FIRST, SECOND)
    answers = refused = 0
    for _ in range(1000):
        outputs = stage.send(flooder, flooder.here_i_am())
        answers += len(only(outputs, Send))
        refused += len(only(outputs, Refused))
        stage.wait(0.01)
    assert answers <= 8 + 4 * 10 + 1
    assert answers + refused == 1000
    assert only(stage.hello(other), Send), "nobody else suffers"
    stage.wait(5)
    assert stage.state(FIRST) is CacheState.USABLE


# Disputed points


def test_the_strict_reading_does_not_answer_a_stale_receive_id() -> None:
    stage = Stage(interop=Interop(answer_unusable=False))
    cache = stage.cache(FIRST)
    assert only(stage.hello(cache), Send)
    assert reason(stage.send(cache, cache.here_i_am(receive_id=9))) is Refusal.STALE_RECEIVE_ID
    assert only(stage.hello(cache), CacheUsable)


def test_with_two_accepted_receive_ids_a_lost_answer_costs_nothing() -> None:
    for accepted, state in ((1, []), (2, [FIRST])):
        stage = Stage(interop=Interop(accepted_receive_ids=accepted))
        (cache,) = stage.joined(FIRST)
        for _ in range(2):
            stage.wait(10)
            echo = cache.here_i_am()
            stage.send(cache, echo)
            # The next answer is lost on its way, so the cache echoes the one before.
            stage.wait(10)
            stage.router.receive(cache.here_i_am(), FIRST, 2048, ROUTER_ID, stage.now)
            stage.wait(10)
            stage.send(cache, echo if accepted == 1 else cache.here_i_am())
        assert [each.address for each in stage.group.caches if each.state is CacheState.USABLE] in (
            [FIRST],
            state,
        )


def test_a_removal_query_may_repeat_the_last_receive_id() -> None:
    stage = Stage(interop=Interop(removal_query_takes_receive_id=False))
    (cache,) = stage.joined(FIRST)
    stage.wait(26)
    assert cache.queried is not None
    assert cache.last is not None
    assert cache.queried.query.receive_id == cache.last.identity.receive_id


def test_priority_may_be_made_part_of_the_definition() -> None:
    stage = Stage(key=SEVENTY, interop=Interop(priority_defines_service=True))
    stage.joined(FIRST, service=on_ports(443, priority=1))
    other = stage.cache(SECOND, service=on_ports(443, priority=2))
    assert reason(stage.hello(other)) is Refusal.DEFINITION_DIFFERS


def test_an_assignment_that_omits_us_is_ignored_or_flushes_as_configured() -> None:
    for flush, left in ((False, 256), (True, 0)):
        stage = Stage(interop=Interop(flush_when_not_listed=flush))
        (cache,) = stage.joined(FIRST)
        stage.send(cache, cache.redirect_assign((FIRST,)))
        foreign = ScriptedCache(FIRST, ROUTER_ID, password=PASSWORD)
        assert cache.last is not None
        identity = replace(cache.last.identity, router_id=ROUTER_ID + 5)
        foreign.last = replace(cache.last, identity=identity)
        stage.send(cache, foreign.redirect_assign((FIRST,)))
        assert sum(owner is not None for owner in stage.group.bucket_owners) == left
