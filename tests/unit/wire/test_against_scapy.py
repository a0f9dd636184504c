"""Our codec against an independent one: what either writes, the other reads the same."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support import scapy_wccp as second
from tests.unit.wire.samples import (
    CACHE,
    HASH_IDENTITY,
    HERE_I_AM,
    I_SEE_YOU,
    KEY,
    MASK_IDENTITY,
    OFFER,
    OTHER_CACHE,
    REDIRECT_ASSIGN,
    REMOVAL_QUERY,
    ROUTER,
    ROUTER_INTERFACE,
    SERVICE,
    SET,
)
from tests.unit.wire.vectors import VECTORS, Vector
from wccpd.wire.assignments import AlternateAssignment, AssignmentMap
from wccpd.wire.components import CommandExtension, RouterView
from wccpd.wire.elements import Command, RouterAssignment
from wccpd.wire.enums import CommandType
from wccpd.wire.messages import Message, RedirectAssign, decode_message, encode_message
from wccpd.wire.security import check_digest

BY_MASK = RedirectAssign(
    service=SERVICE,
    alternate_assignment=AlternateAssignment(
        KEY, (RouterAssignment(ROUTER, 6, 9),), AssignmentMap((SET, SET))
    ),
)
SHUTDOWN = CommandExtension((Command(CommandType.SHUTDOWN, CACHE),))
MASK_I_SEE_YOU = dataclasses.replace(
    I_SEE_YOU,
    view=RouterView(9, KEY, (ROUTER,), (MASK_IDENTITY.as_unassigned(), MASK_IDENTITY.as_assigned_mask())),
    assignment_map=AssignmentMap((SET,)),
)
ALL = {
    "hash here-i-am": HERE_I_AM,
    "mask here-i-am": dataclasses.replace(HERE_I_AM, identity=MASK_IDENTITY, commands=SHUTDOWN),
    "hash i-see-you": I_SEE_YOU,
    "mask i-see-you": MASK_I_SEE_YOU,
    "hash redirect-assign": REDIRECT_ASSIGN,
    "mask redirect-assign": BY_MASK,
    "removal-query": REMOVAL_QUERY,
}
ours = pytest.mark.parametrize("message", ALL.values(), ids=ALL.keys())


@ours
@pytest.mark.parametrize("dual_valid", [False, True])
def test_the_second_codec_reads_what_we_write_and_writes_the_same(message: Message, dual_valid: bool) -> None:
    octets = encode_message(message, dual_valid=dual_valid)
    packet = second.Message(octets)
    assert not second.has_leftovers(packet)
    assert bytes(second.without_lengths(packet)) == octets


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_the_second_codec_reads_and_signs_recorded_datagrams_like_we_do(vector: Vector) -> None:
    packet = second.Message(vector.datagram)
    assert not second.has_leftovers(packet)
    assert second.sign(second.without_lengths(packet), vector.password) == vector.datagram


def test_both_codecs_read_the_same_out_of_our_i_see_you() -> None:
    packet = second.Message(encode_message(MASK_I_SEE_YOU))
    service = packet.component(second.ServiceInfo)
    assert (service.service_type, service.service_id, service.priority, service.protocol) == (1, 80, 240, 6)
    assert (service.flags, service.ports) == (0x11, [80, 8080, 0, 0, 0, 0, 0, 0])
    identity = packet.component(second.RouterIdentity)
    assert (identity.router_id, identity.receive_id, identity.caches) == (str(ROUTER), 6, [str(CACHE)])
    assert identity.sent_to == str(ROUTER_INTERFACE)
    view = packet.component(second.RouterView)
    assert (view.change_number, view.key_address, view.key_change_number) == (9, str(CACHE), 7)
    assert [(each.form, each.u, len(each.sets), each.weight, each.status) for each in view.caches] == [
        (1, 1, 1, 10000, 3),
        (1, 0, 0, 10000, 3),
    ]
    (mask_set,) = packet.component(second.AssignmentMap).sets
    assert (mask_set.mask.source, mask_set.mask.destination_port) == ("0.0.1.0", 1)
    assert [value.cache for value in mask_set.values] == [str(CACHE)]
    capabilities = packet.component(second.Capabilities)
    assert [(each.type, each.value) for each in capabilities.elements] == [(1, 3), (2, 1), (3, 1)]


def test_we_read_what_the_second_codec_writes() -> None:
    packet = second.Message(
        type=12,
        components=[
            second.SecurityInfo(option=1),
            second.ServiceInfo(
                service_type=1,
                service_id=80,
                priority=240,
                protocol=6,
                flags=0x11,
                ports=[80, 8080] + [0] * 6,
            ),
            second.AssignmentInfo(
                key_address=str(CACHE),
                key_change_number=7,
                routers=[second.RouterAssignment(router_id=str(ROUTER), receive_id=6, change_number=9)],
                caches=[str(CACHE), str(OTHER_CACHE)],
                buckets=bytes((0, 1, 0x80, 0xFF)) * 64,
            ),
        ],
    )
    octets = second.sign(packet, b"secret")
    assert check_digest(octets, b"secret")
    assert dataclasses.replace(decode_message(octets), security=REDIRECT_ASSIGN.security) == REDIRECT_ASSIGN
    assert encode_message(REDIRECT_ASSIGN, password=b"secret") == octets


def test_we_read_a_here_i_am_of_the_second_codec() -> None:
    packet = second.Message(
        components=[
            second.SecurityInfo(),
            second.ServiceInfo(
                service_type=1,
                service_id=80,
                priority=240,
                protocol=6,
                flags=0x11,
                ports=[80, 8080] + [0] * 6,
            ),
            second.CacheIdentityInfo(
                element=second.CacheIdentity(address=str(CACHE), weight=10000, status=3)
            ),
            second.CacheView(
                change_number=1,
                routers=[second.RouterIdReceiveId(router_id=str(ROUTER), receive_id=5)],
                caches=[str(CACHE)],
            ),
            second.Capabilities(elements=[second.Capability(type=number, value=1) for number in (1, 2, 3)]),
        ]
    )
    assert decode_message(bytes(packet)) == HERE_I_AM
    assert HASH_IDENTITY.weight == 10000
    assert HERE_I_AM.capabilities != OFFER
