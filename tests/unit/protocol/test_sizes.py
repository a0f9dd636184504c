"""What caches may make the router send: an I_SEE_YOU fits into one datagram whatever they say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.support.scripted_cache import GRE_HASH_GRE, ScriptedCache
from tests.support.stage import FIRST, ROUTER_ID, Stage, only, reason
from wccpd.protocol.outputs import Refusal, Refused, Send
from wccpd.protocol.tables import MAX_MASK_SETS, MAX_MASK_VALUES
from wccpd.protocol.view import CacheState
from wccpd.wire.components import CacheView
from wccpd.wire.elements import RouterIdReceiveId
from wccpd.wire.enums import AssignmentMethod, IdentityFlags
from wccpd.wire.identity import (
    MAX_IDENTITY_OCTETS,
    ExtendedAssignment,
    MaskAssignment,
    UnknownAssignmentData,
    WebCacheIdentity,
)
from wccpd.wire.masks import Mask, MaskValueSet, Value
from wccpd.wire.messages import HereIAm, ISeeYou, decode_message, encode_message
from wccpd.wire.template import AnswerTemplate

ZERO = IPv4Address(0)
MASK = replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK)
LARGEST_UDP_PAYLOAD = 65507
BY_PORT = Mask(ZERO, ZERO, 0, 0xFFFF)


def values(count: int, cache: IPv4Address = FIRST) -> MaskValueSet:
    return MaskValueSet(BY_PORT, tuple(Value(ZERO, ZERO, 0, number, cache) for number in range(count)))


def mask_stage(**settings: object) -> Stage:
    return Stage(assignment=AssignmentMethod.HASH | AssignmentMethod.MASK, **settings)


def hello(cache: ScriptedCache, assignment: object, routers: tuple[IPv4Address, ...] = (ROUTER_ID,)) -> bytes:
    """A HERE_I_AM with an identity of the caller's own."""
    receive_id = cache.last.identity.receive_id if cache.last is not None else 0
    message = HereIAm(
        service=cache.service,
        minor_version=1,
        identity=WebCacheIdentity(cache.address, assignment, IdentityFlags(0)),
        view=CacheView.of(1, (RouterIdReceiveId(router, receive_id) for router in routers)),
        capabilities=cache.capabilities,
    )
    return encode_message(message, password=cache.password)


def identity_of(octets: int) -> MaskAssignment:
    """Mask assignment data that make an identity element of about so many octets."""
    return MaskAssignment((values((octets - 32) // 16),))


def test_an_identity_that_is_too_long_to_be_shown_to_others_is_refused() -> None:
    stage = mask_stage()
    cache = stage.cache(FIRST, capabilities=MASK)
    assert only(stage.send(cache, hello(cache, identity_of(MAX_IDENTITY_OCTETS))), Send)
    (refused,) = only(stage.send(cache, hello(cache, identity_of(MAX_IDENTITY_OCTETS + 16))), Refused)
    assert refused.reason is Refusal.IDENTITY_TOO_LONG
    assert str(MAX_IDENTITY_OCTETS) in refused.detail


def test_the_length_counts_whatever_form_the_assignment_data_has() -> None:
    stage = mask_stage()
    cache = stage.cache(FIRST, capabilities=MASK)
    extended = ExtendedAssignment(UnknownAssignmentData(9, bytes(MAX_IDENTITY_OCTETS)))
    assert reason(stage.send(cache, hello(cache, extended))) is Refusal.IDENTITY_TOO_LONG


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((values(MAX_MASK_VALUES),), None),
        ((values(MAX_MASK_VALUES + 1),), Refusal.TOO_MANY_VALUES),
        ((values(1),) * MAX_MASK_SETS, None),
        ((values(1),) * (MAX_MASK_SETS + 1), Refusal.TOO_MANY_VALUES),
        ((values(0),) * (MAX_MASK_SETS + 1), Refusal.TOO_MANY_VALUES),
    ],
    ids=["values", "a value more", "sets", "a set more", "empty sets"],
)
def test_an_assignment_of_more_values_or_sets_than_an_answer_can_show_is_refused(
    sets: tuple[MaskValueSet, ...], expected: Refusal | None
) -> None:
    stage = mask_stage()
    (cache,) = stage.joined(FIRST, capabilities=MASK, mask=BY_PORT)
    outputs = stage.send(cache, cache.redirect_assign_sets(*sets))
    if expected is None:
        assert not only(outputs, Refused)
        assert only(stage.hello(cache), Send)
    else:
        assert reason(outputs) is expected


@pytest.mark.parametrize("dual_valid", [False, True])
def test_the_longest_answer_there_can_be_fits_into_one_datagram(dual_valid: bool) -> None:
    stage = mask_stage()
    caches = [stage.cache(FIRST + number, capabilities=MASK, minor_version=1) for number in range(32)]
    routers = (ROUTER_ID, *(IPv4Address("198.51.100.1") + number for number in range(31)))
    longest = identity_of(MAX_IDENTITY_OCTETS)
    for _ in range(3):
        for cache in caches:
            stage.send(cache, hello(cache, longest, routers))
        stage.wait(5)
    sets = (values(MAX_MASK_VALUES - MAX_MASK_SETS + 1), *(values(1),) * (MAX_MASK_SETS - 1))
    outputs = stage.send(caches[0], caches[0].redirect_assign_sets(*sets))
    assert not only(outputs, Refused)
    (send,) = only(stage.send(caches[1], hello(caches[1], longest, routers)), Send)
    message = decode_message(send.datagram)
    assert isinstance(message, ISeeYou)
    assert len(message.view.caches) == 32
    assert message.assignment_map is not None
    assert sum(len(each.values) for each in message.assignment_map.sets) == MAX_MASK_VALUES
    assert 55_000 < len(send.datagram) <= LARGEST_UDP_PAYLOAD
    as_sent = AnswerTemplate(message, password=b"sesame", dual_valid=dual_valid)
    assert len(as_sent.fill(1, ROUTER_ID, FIRST)) <= LARGEST_UDP_PAYLOAD


def test_no_more_than_32_routers_are_shown_whatever_caches_report_and_we_are_among_them() -> None:
    stage = Stage()
    caches = [stage.cache(FIRST + number) for number in range(4)]
    for _ in range(3):
        for number, cache in enumerate(caches):
            others = (IPv4Address(1 + 1000 * number) + each for each in range(31))
            data = stage_identity(cache)
            stage.send(cache, hello(cache, data, (*others, ROUTER_ID)))
        stage.wait(5)
    assert len(stage.group.routers) == 32
    assert ROUTER_ID in stage.group.routers
    assert caches[0].last is not None
    assert caches[0].last.view.routers == stage.group.routers


def stage_identity(cache: ScriptedCache) -> object:
    """What a scripted cache says of itself."""
    message = decode_message(cache.here_i_am())
    assert isinstance(message, HereIAm)
    return message.identity.assignment


def test_a_loopback_address_is_a_cache_only_for_a_router_that_is_reached_there() -> None:
    stage = Stage()
    cache = stage.cache(IPv4Address("127.0.0.9"))
    assert reason(stage.hello(cache)) is Refusal.BAD_CACHE_ADDRESS
    stage = Stage(passwords=())
    cache = stage.cache(IPv4Address("127.0.0.9"), password=None)
    datagram = cache.here_i_am()
    assert only(
        stage.router.receive(datagram, cache.address, 2048, IPv4Address("127.0.0.1"), stage.now), Send
    )


def test_an_alternate_assignment_of_too_many_values_is_refused_without_writing_them_out() -> None:
    stage = mask_stage()
    (cache,) = stage.joined(FIRST, capabilities=MASK, mask=BY_PORT, minor_version=1)
    datagram = cache.redirect_assign_sets(values(MAX_MASK_VALUES + 1), alternate=True)
    assert reason(stage.send(cache, datagram)) is Refusal.TOO_MANY_VALUES
    assert stage.state(FIRST) is CacheState.USABLE
