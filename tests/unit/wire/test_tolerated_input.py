"""Faults that 2.01, 4.1 tells a receiver to live with."""

from __future__ import annotations

import struct

import pytest

from tests.unit.wire.samples import (
    CACHE,
    IDENTITY,
    SECURITY,
    SERVICE_INFO,
    VIEW,
    component,
    datagram,
    here_i_am,
    redirect_assign,
    words,
)
from tests.unit.wire.vectors import HASH_HERE_I_AM
from wccpd.wire.elements import Command, UnknownElement
from wccpd.wire.enums import CommandType, ForwardingMethod
from wccpd.wire.errors import WireReason
from wccpd.wire.framing import message_length
from wccpd.wire.messages import HereIAm, RedirectAssign, UnknownComponent, decode_message, encode_message
from wccpd.wire.security import check_digest


def tolerated(octets: bytes) -> list[WireReason]:
    return [fault.reason for fault in decode_message(octets).tolerated]


def test_octets_after_the_message_are_ignored_by_decoder_and_digest() -> None:
    longer = HASH_HERE_I_AM + b"\x01\x02\x03\x04\x05"
    assert message_length(longer) == len(HASH_HERE_I_AM)
    assert decode_message(longer) == decode_message(HASH_HERE_I_AM)
    assert check_digest(longer, b"abcdefgh")


def test_an_unknown_minor_version_of_the_right_major_one_is_read() -> None:
    assert decode_message(here_i_am(minor=7)).minor_version == 7


@pytest.mark.parametrize("octets", [1, 2, 3])
def test_one_to_three_stray_octets_are_noted(octets: int) -> None:
    assert tolerated(here_i_am(bytes(octets))) == [WireReason.STRAY_OCTETS]


def test_components_may_come_in_any_order() -> None:
    assert decode_message(datagram(10, VIEW, IDENTITY, SERVICE_INFO, SECURITY)) == decode_message(here_i_am())


def test_an_unknown_component_is_skipped_by_its_length_and_kept() -> None:
    message = decode_message(here_i_am(component(99, b"abcd"), component(0x7FFF)))
    assert message.unknown == (UnknownComponent(99, b"abcd"), UnknownComponent(0x7FFF))
    assert decode_message(encode_message(message)) == message


def test_a_component_of_another_message_is_kept_like_an_unknown_one() -> None:
    assert decode_message(here_i_am(component(7, bytes(16)))).unknown == (UnknownComponent(7, bytes(16)),)


def test_the_first_of_two_components_of_a_type_counts() -> None:
    other = component(3, words(1, 0) + bytes(36))
    octets = here_i_am(other)
    message = decode_message(octets)
    assert isinstance(message, HereIAm)
    assert message.identity.address == CACHE
    assert tolerated(octets) == [WireReason.COMPONENT_DUPLICATE]


def test_the_first_of_two_address_tables_counts() -> None:
    first = component(17, struct.pack("!HHI", 1, 4, 1) + CACHE.packed)
    second = component(17, struct.pack("!HHI", 2, 16, 0))
    octets = here_i_am(first, second, identity=component(3, words(1, 0) + bytes(36)), minor=1)
    message = decode_message(octets)
    assert isinstance(message, HereIAm)
    assert message.identity.address == CACHE
    assert tolerated(octets) == [WireReason.COMPONENT_DUPLICATE]


@pytest.mark.parametrize("length", [8, 65535])
def test_an_optional_component_past_the_end_is_left_aside(length: int) -> None:
    octets = here_i_am(struct.pack("!HH", 8, length) + bytes(4))
    message = decode_message(octets)
    assert isinstance(message, HereIAm)
    assert message.capabilities is None
    assert tolerated(octets) == [WireReason.COMPONENT_PAST_END]


def test_a_component_that_reaches_beyond_the_message_into_the_rest_of_the_datagram_is_left_aside() -> None:
    whole = here_i_am(component(8, component(1, words(2))))
    octets = whole[:6] + (len(whole) - 16).to_bytes(2, "big") + whole[8:]
    message = decode_message(octets)
    assert isinstance(message, HereIAm)
    assert message.capabilities is None
    assert tolerated(octets) == [WireReason.COMPONENT_PAST_END]


def test_an_unknown_capability_is_skipped_and_kept() -> None:
    message = decode_message(here_i_am(component(8, component(900, b"abcd") + component(1, words(2)))))
    assert isinstance(message, HereIAm)
    assert message.capabilities is not None
    assert message.capabilities.unknown == (UnknownElement(900, b"abcd"),)
    assert message.capabilities.forwarding is ForwardingMethod.L2
    assert decode_message(encode_message(message)) == message


def test_the_first_of_two_capabilities_of_a_type_counts() -> None:
    octets = here_i_am(component(8, component(1, words(2)) + component(1, words(1))))
    message = decode_message(octets)
    assert isinstance(message, HereIAm)
    assert message.capabilities is not None
    assert message.capabilities.forwarding is ForwardingMethod.L2
    assert tolerated(octets) == [WireReason.ELEMENT_DUPLICATE]


@pytest.mark.parametrize("bits", [0, 3, 4, 0xFFFFFFFF])
def test_a_capability_with_none_several_or_undefined_bits_is_kept_as_it_is(bits: int) -> None:
    message = decode_message(here_i_am(component(8, component(1, words(bits)))))
    assert isinstance(message, HereIAm)
    assert message.capabilities is not None
    assert message.capabilities.forwarding == bits
    assert decode_message(encode_message(message)) == message


def test_several_commands_may_follow_each_other() -> None:
    body = component(9, b"abcd") + component(1, CACHE.packed)
    message = decode_message(here_i_am(component(15, body)))
    assert isinstance(message, HereIAm)
    assert message.commands is not None
    assert message.commands.commands == (
        UnknownElement(9, b"abcd"),
        Command(CommandType.SHUTDOWN, CACHE),
    )
    assert message.shutdown == CACHE
    assert decode_message(encode_message(message)) == message


def test_a_cache_view_without_routers_and_caches_is_read() -> None:
    message = decode_message(here_i_am())
    assert isinstance(message, HereIAm)
    assert message.view.routers == ()
    assert message.view.caches == ()


@pytest.mark.parametrize("octet", [2, 31, 32, 126, 127, 0x82, 0xFE])
def test_a_bucket_that_names_no_listed_cache_is_noted_and_the_rest_kept(octet: int) -> None:
    buckets = bytes((octet, 0, 1, 0x80, 0x81)) + b"\xff" * 251
    octets = redirect_assign(component(6, words(int(CACHE), 1, 0, 2, 1, 2) + buckets))
    message = decode_message(octets)
    assert isinstance(message, RedirectAssign)
    assert message.assignment is not None
    assert message.assignment.buckets == buckets
    assert tolerated(octets) == [WireReason.BUCKET_INDEX]


def test_buckets_that_are_unassigned_or_all_alternate_are_no_fault() -> None:
    for buckets in (b"\xff" * 256, b"\x80" * 256):
        assert tolerated(redirect_assign(component(6, words(int(CACHE), 1, 0, 1, 1) + buckets))) == []
