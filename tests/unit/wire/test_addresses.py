"""The Address Table of 2.01, both directions."""

from __future__ import annotations

import dataclasses
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.unit.wire.samples import (
    CACHE,
    CACHE_6,
    HASH_IDENTITY,
    HERE_I_AM,
    REDIRECT_ASSIGN,
    ROUTER_6,
    SERVICE,
    component,
    here_i_am,
    words,
)
from wccpd.wire.addresses import AddressTable
from wccpd.wire.assignments import (
    AlternateAssignment,
    AlternateAssignmentMap,
    AlternateSets,
    AssignmentInfo,
    AssignmentMap,
    HashBuckets,
)
from wccpd.wire.components import (
    CacheView,
    Capabilities,
    CommandExtension,
    RouterIdentity,
    RouterQuery,
    RouterView,
)
from wccpd.wire.elements import (
    AssignmentKey,
    Command,
    RouterAssignment,
    RouterIdReceiveId,
    TimerScale,
    TransmitT,
)
from wccpd.wire.enums import AddressFamily, CommandType, IdentityFlags
from wccpd.wire.framing import read_frame
from wccpd.wire.identity import (
    AlternateMaskAssignment,
    ExtendedAssignment,
    HashAssignment,
    MaskAssignment,
    NoAssignment,
    UnknownAssignmentData,
    WebCacheIdentity,
    WeightStatus,
)
from wccpd.wire.masks import AlternateMaskValueSet, Mask, MaskValueSet, NumberedValues, value_at
from wccpd.wire.messages import (
    HereIAm,
    ISeeYou,
    Message,
    RedirectAssign,
    RemovalQuery,
    decode_message,
    encode_message,
)

KEY_6 = AssignmentKey(CACHE_6, 3)
MASK_6 = Mask(IPv6Address(0), IPv6Address(0b11), 0, 0x8000)
SET_6 = MaskValueSet(MASK_6, tuple(value_at(MASK_6, number, CACHE_6) for number in range(8)))
NUMBERED_6 = AlternateMaskValueSet(MASK_6, (NumberedValues(CACHE_6, (7, 0)), NumberedValues(ROUTER_6, ())))
ROUTERS_6 = (RouterAssignment(ROUTER_6, 4, 5),)

HERE_I_AM_6 = HereIAm(
    service=SERVICE,
    minor_version=1,
    identity=WebCacheIdentity(CACHE_6, NoAssignment(), IdentityFlags.MINIMUM_VERSION),
    view=CacheView.of(1, (RouterIdReceiveId(ROUTER_6, 5),), (CACHE_6,)),
    capabilities=Capabilities(transmit_t=TransmitT(0, 500), timer_scale=TimerScale(0, 1, 0, 2)),
    commands=CommandExtension((Command(CommandType.SHUTDOWN, CACHE_6),)),
)
I_SEE_YOU_6 = ISeeYou(
    service=SERVICE,
    minor_version=1,
    identity=RouterIdentity(ROUTER_6, 6, ROUTER_6, (CACHE_6,)),
    view=RouterView(9, KEY_6, (ROUTER_6,), (HERE_I_AM_6.identity,)),
    alternate_assignment_map=AlternateAssignmentMap(AlternateSets((NUMBERED_6,))),
)


def assign_6(body: HashBuckets | AssignmentMap | AlternateSets) -> RedirectAssign:
    assignment = AlternateAssignment(KEY_6, ROUTERS_6, body)
    return RedirectAssign(service=SERVICE, minor_version=1, alternate_assignment=assignment)


ALL_6: list[Message] = [
    HERE_I_AM_6,
    I_SEE_YOU_6,
    dataclasses.replace(
        I_SEE_YOU_6, alternate_assignment_map=AlternateAssignmentMap(AssignmentMap((SET_6,)))
    ),
    RedirectAssign(
        service=SERVICE,
        minor_version=1,
        assignment=AssignmentInfo(KEY_6, ROUTERS_6, (CACHE_6,), bytes(256)),
    ),
    assign_6(HashBuckets((CACHE_6,), bytes(256))),
    assign_6(AssignmentMap((SET_6, SET_6))),
    assign_6(AlternateSets((NUMBERED_6,))),
    RemovalQuery(service=SERVICE, minor_version=1, query=RouterQuery(ROUTER_6, 1, ROUTER_6, CACHE_6)),
]


@pytest.mark.parametrize("message", ALL_6, ids=str)
def test_an_ipv6_message_survives_encoding_and_decoding(message: Message) -> None:
    octets = encode_message(message, password=b"secret")
    again = decode_message(octets)
    assert dataclasses.replace(again, security=message.security) == message
    assert again.address_table is not None
    assert again.address_table.family is AddressFamily.IPV6
    assert encode_message(again) == octets


def test_the_table_is_the_last_component_and_numbers_from_1_in_order_of_use() -> None:
    octets = encode_message(HERE_I_AM_6)
    frame = read_frame(octets)
    number, offset, end = frame.spans[-1]
    assert number == 17
    assert octets[offset:end] == struct.pack("!HHI", 2, 16, 2) + CACHE_6.packed + ROUTER_6.packed
    _, identity, _ = frame.first[3]
    assert octets[identity : identity + 4] == words(1)


def test_the_unspecified_address_is_index_0_whatever_its_family() -> None:
    for nothing in (IPv6Address(0), IPv4Address(0)):
        view = dataclasses.replace(I_SEE_YOU_6.view, key=AssignmentKey(nothing, 0))
        message = decode_message(encode_message(dataclasses.replace(I_SEE_YOU_6, view=view)))
        assert isinstance(message, ISeeYou)
        assert message.view.key.address == IPv6Address(0)


def test_a_message_of_one_family_cannot_carry_an_address_of_the_other() -> None:
    view = dataclasses.replace(I_SEE_YOU_6.view, routers=(CACHE,))
    with pytest.raises(ValueError, match="IPV6"):
        encode_message(dataclasses.replace(I_SEE_YOU_6, view=view))


def test_2_01_with_ipv4_needs_no_table() -> None:
    message = dataclasses.replace(HERE_I_AM, minor_version=1)
    octets = encode_message(message)
    assert 17 not in read_frame(octets).first
    assert decode_message(octets) == message


def test_a_table_is_found_before_any_address_is_read_wherever_it_stands() -> None:
    table = component(17, struct.pack("!HHI", 2, 16, 1) + CACHE_6.packed)
    octets = here_i_am(security=table + component(0, words(0)), identity=component(3, words(1, 4)), minor=1)
    message = decode_message(octets)
    assert isinstance(message, HereIAm)
    assert message.identity == WebCacheIdentity(CACHE_6, NoAssignment())


def test_a_table_of_ipv4_addresses_and_one_of_long_entries_keep_their_form() -> None:
    ipv4 = AddressTable(AddressFamily.IPV4, (IPv4Address("10.9.9.9"), CACHE), 8)
    message = dataclasses.replace(HERE_I_AM, minor_version=1, address_table=ipv4)
    octets = encode_message(message)
    again = decode_message(octets)
    assert again == message
    assert again.address_table is not None
    assert again.address_table.entry_octets == 8
    assert again.address_table.addresses[:2] == ipv4.addresses
    assert encode_message(again) == octets


def test_a_table_in_2_00_is_not_sent() -> None:
    table = AddressTable.of_family(AddressFamily.IPV4)
    with pytest.raises(ValueError, match=r"2\.00"):
        encode_message(dataclasses.replace(HERE_I_AM, address_table=table))


@pytest.mark.parametrize(
    "data",
    [
        HashAssignment(bytes(range(32)), 1, 2),
        MaskAssignment((SET_6,), 1, 2),
        AlternateMaskAssignment((NUMBERED_6,), 1, 2),
        WeightStatus(1, 2),
        UnknownAssignmentData(77, b"abcd"),
    ],
)
def test_extended_assignment_data_survives_and_keeps_its_form_when_assigned(
    data: HashAssignment | MaskAssignment | AlternateMaskAssignment | WeightStatus | UnknownAssignmentData,
) -> None:
    identity = WebCacheIdentity(CACHE_6, ExtendedAssignment(data))
    message = dataclasses.replace(HERE_I_AM_6, identity=identity)
    assert decode_message(encode_message(message)) == message
    weight = 0 if isinstance(data, UnknownAssignmentData) else 1
    assert identity.weight == weight
    assert identity.status == 2 * weight
    assigned = identity.as_unassigned().as_assigned_mask()
    assert assigned == WebCacheIdentity(CACHE_6, ExtendedAssignment(MaskAssignment((), weight, 2 * weight)))


def test_an_identity_without_assignment_data_has_no_weight() -> None:
    assert (HERE_I_AM_6.identity.weight, HERE_I_AM_6.identity.status) == (0, 0)
    assert HASH_IDENTITY.weight == 10000


def test_ipv4_messages_read_the_same_address_fields_without_a_table() -> None:
    message = decode_message(encode_message(dataclasses.replace(REDIRECT_ASSIGN, minor_version=1)))
    assert isinstance(message, RedirectAssign)
    assert message.assignment == REDIRECT_ASSIGN.assignment
