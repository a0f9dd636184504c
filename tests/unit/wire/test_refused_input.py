"""Octets that are refused, each with the reason that an operator will read."""

from __future__ import annotations

import struct

import pytest

from tests.unit.wire.samples import (
    CACHE,
    CACHE_6,
    IDENTITY,
    ROUTER,
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
from wccpd.wire.errors import WireError, WireReason
from wccpd.wire.messages import decode_message, peek_service
from wccpd.wire.security import check_digest, matching_key_variant, peek_security

KEY = words(int(CACHE), 1)
MAXIMUM = 0xFFFFFFFF


def refusal(octets: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        decode_message(octets)
    return caught.value


def reason(octets: bytes) -> WireReason:
    return refusal(octets).reason


def capabilities(*elements: bytes) -> bytes:
    return component(8, b"".join(elements))


# Header and framing


@pytest.mark.parametrize("length", range(8))
def test_a_datagram_shorter_than_a_header_is_refused(length: int) -> None:
    assert reason(HASH_HERE_I_AM[:length]) is WireReason.DATAGRAM_TOO_SHORT


@pytest.mark.parametrize("number", [7, 8, 9])
def test_a_wccp_version_1_message_is_named_as_such(number: int) -> None:
    assert reason(words(number) + bytes(40)) is WireReason.WCCP_VERSION_1


@pytest.mark.parametrize("major", [0, 1, 3, 255])
def test_a_major_version_other_than_2_is_refused(major: int) -> None:
    octets = bytearray(HASH_HERE_I_AM)
    octets[4] = major
    assert reason(bytes(octets)) is WireReason.MAJOR_VERSION


@pytest.mark.parametrize("number", [0, 6, 14, 0x0A000000, MAXIMUM])
def test_an_unknown_message_type_is_refused(number: int) -> None:
    assert reason(datagram(number, SECURITY)) is WireReason.MESSAGE_TYPE


def test_a_header_length_past_the_datagram_is_refused() -> None:
    assert reason(HASH_HERE_I_AM[:-1]) is WireReason.MESSAGE_PAST_END


def test_an_empty_message_lacks_its_first_mandatory_component() -> None:
    assert reason(datagram(10)) is WireReason.COMPONENT_MISSING


@pytest.mark.parametrize("absent", ["security", "service", "identity", "view"])
def test_a_here_i_am_without_a_mandatory_component_is_refused(absent: str) -> None:
    assert reason(here_i_am(**{absent: b""})) is WireReason.COMPONENT_MISSING


@pytest.mark.parametrize("message_type", [11, 12, 13])
def test_a_message_with_the_components_of_another_type_is_refused(message_type: int) -> None:
    octets = datagram(message_type, SECURITY, SERVICE_INFO, IDENTITY, VIEW)
    assert reason(octets) is WireReason.COMPONENT_MISSING


@pytest.mark.parametrize("length", [16, 20, 24, 65532, 65535])
def test_a_mandatory_component_past_the_end_is_the_reason_and_not_its_absence(length: int) -> None:
    lying = struct.pack("!HH", 5, length) + VIEW[4:]
    error = refusal(here_i_am(view=lying))
    assert error.reason is WireReason.COMPONENT_PAST_END
    assert "WC_VIEW_INFO" in error.detail


@pytest.mark.parametrize("length", [1, 2, 3, 5, 13])
def test_a_component_length_that_is_no_multiple_of_4_is_refused(length: int) -> None:
    octets = here_i_am(struct.pack("!HH", 99, length) + bytes(16))
    assert reason(octets) is WireReason.COMPONENT_UNALIGNED


@pytest.mark.parametrize(("number", "name"), [(0, "security"), (1, "service"), (3, "identity"), (5, "view")])
def test_a_known_component_of_length_zero_is_refused(number: int, name: str) -> None:
    assert reason(here_i_am(**{name: component(number)})) is WireReason.COMPONENT_TOO_SHORT


def test_a_component_longer_than_its_contents_is_refused() -> None:
    assert reason(here_i_am(service=component(1, bytes(28)))) is WireReason.COMPONENT_TRAILING_OCTETS


def test_thousands_of_tiny_unknown_components_are_refused_after_a_few() -> None:
    error = refusal(here_i_am(component(99) * 16000))
    assert error.reason is WireReason.TOO_MANY_COMPONENTS
    assert error.offset < 1000


def test_an_address_table_in_a_message_of_2_00_is_refused() -> None:
    table = component(17, struct.pack("!HHI", 2, 16, 1) + CACHE_6.packed)
    assert reason(here_i_am(table)) is WireReason.ADDRESS_TABLE_IN_2_00


# Counts


@pytest.mark.parametrize("count", [1, 2, 0x40000000, MAXIMUM])
def test_a_router_count_beyond_the_cache_view_is_refused(count: int) -> None:
    assert reason(here_i_am(view=component(5, words(1, count, 0)))) is WireReason.COUNT_PAST_COMPONENT


@pytest.mark.parametrize("count", [1, 0x40000001, MAXIMUM])
def test_a_cache_count_beyond_the_cache_view_is_refused(count: int) -> None:
    assert reason(here_i_am(view=component(5, words(1, 0, count)))) is WireReason.COUNT_PAST_COMPONENT


def test_more_than_32_routers_are_refused() -> None:
    view = component(5, words(1, 33) + bytes(8 * 33) + words(0))
    assert reason(here_i_am(view=view)) is WireReason.TOO_MANY_ROUTERS


def test_more_than_32_caches_are_refused() -> None:
    view = component(5, words(1, 0, 33) + bytes(4 * 33))
    assert reason(here_i_am(view=view)) is WireReason.TOO_MANY_CACHES


def test_more_than_32_caches_in_a_router_view_are_refused() -> None:
    identity = component(2, words(int(ROUTER), 1, int(ROUTER), 0))
    element = words(int(CACHE), 4)
    view = component(4, words(1, 0, 0, 0, 33) + element * 33)
    octets = datagram(11, SECURITY, SERVICE_INFO, identity, view, minor=1)
    assert reason(octets) is WireReason.TOO_MANY_CACHES


@pytest.mark.parametrize("count", [1, 2, MAXIMUM])
def test_a_mask_set_count_beyond_the_component_is_refused(count: int) -> None:
    identity = component(3, words(int(CACHE), 2, count, 0))
    assert reason(here_i_am(identity=identity)) is WireReason.COUNT_PAST_COMPONENT


def test_nested_sets_with_a_value_count_of_2_to_the_32_are_refused() -> None:
    identity = component(3, words(int(CACHE), 2, 1) + bytes(12) + words(MAXIMUM) + words(0))
    assert reason(here_i_am(identity=identity)) is WireReason.COUNT_PAST_COMPONENT


@pytest.mark.parametrize(("routers", "caches"), [(1, 0), (MAXIMUM, 0), (0, 80), (0, MAXIMUM)])
def test_an_assignment_whose_counts_exceed_it_is_refused(routers: int, caches: int) -> None:
    body = KEY + words(routers) + (words(caches) + bytes(256) if routers == 0 else b"")
    assert reason(redirect_assign(component(6, body))) is WireReason.COUNT_PAST_COMPONENT


@pytest.mark.parametrize("octets", [0, 252])
def test_an_assignment_with_fewer_than_256_buckets_is_refused(octets: int) -> None:
    body = KEY + words(0, 0) + bytes(octets)
    assert reason(redirect_assign(component(6, body))) is WireReason.COMPONENT_TOO_SHORT


@pytest.mark.parametrize("difference", [-4, 4, -1])
def test_an_alternate_assignment_whose_inner_length_differs_is_refused(difference: int) -> None:
    body = KEY + words(0, 0) + bytes(256)
    inner = struct.pack("!HH", 0, len(body) + difference) + body
    assert reason(redirect_assign(component(13, inner))) is WireReason.ASSIGNMENT_LENGTH


def test_an_alternate_assignment_of_an_unknown_type_is_refused() -> None:
    inner = struct.pack("!HH", 9, 16) + KEY + words(0, 0)
    assert reason(redirect_assign(component(13, inner))) is WireReason.ASSIGNMENT_TYPE


def alternate_set(mask: bytes, *numbers: int) -> bytes:
    body = KEY + words(0, 1) + mask + words(1, int(CACHE), len(numbers), *numbers)
    inner = struct.pack("!HH", 2, len(body)) + body
    return redirect_assign(component(13, inner), minor=1)


TWO_BITS = words(0, 3) + bytes(4)


def test_an_alternate_set_with_a_sequence_number_twice_is_refused() -> None:
    assert reason(alternate_set(TWO_BITS, 1, 2, 1)) is WireReason.SEQUENCE_NUMBER_DUPLICATE


def test_an_alternate_set_with_a_sequence_number_that_the_mask_cannot_have_is_refused() -> None:
    assert reason(alternate_set(TWO_BITS, 0, 4)) is WireReason.SEQUENCE_NUMBER_RANGE


def test_an_alternate_set_whose_mask_has_more_than_32_bits_is_refused() -> None:
    assert reason(alternate_set(words(MAXIMUM, 1) + bytes(4), 0)) is WireReason.MASK_BITS


def test_an_alternate_set_with_a_sequence_number_count_of_2_to_the_32_is_refused() -> None:
    body = KEY + words(0, 1) + TWO_BITS + words(1, int(CACHE), MAXIMUM)
    inner = struct.pack("!HH", 2, len(body)) + body
    assert reason(redirect_assign(component(13, inner))) is WireReason.COUNT_PAST_COMPONENT


@pytest.mark.parametrize("length", [0, 2, 3, 5, 8])
def test_a_known_capability_whose_value_is_not_4_octets_is_refused(length: int) -> None:
    element = struct.pack("!HH", 1, length) + bytes(length)
    padding = bytes(-len(element) % 4)
    assert reason(here_i_am(capabilities(element, padding))) is WireReason.CAPABILITY_LENGTH


def test_a_capability_past_the_end_of_its_component_is_refused() -> None:
    element = struct.pack("!HH", 1, 8) + bytes(4)
    assert reason(here_i_am(capabilities(element))) is WireReason.ELEMENT_PAST_COMPONENT


def test_thousands_of_tiny_capabilities_are_refused() -> None:
    assert reason(here_i_am(capabilities(component(900) * 9000))) is WireReason.TOO_MANY_ELEMENTS


@pytest.mark.parametrize("value", [(0, 0), (500, 0), (499, 500)])
def test_a_transmit_t_of_zero_or_upside_down_is_refused(value: tuple[int, int]) -> None:
    octets = here_i_am(capabilities(component(4, struct.pack("!HH", *value))))
    assert reason(octets) is WireReason.TRANSMIT_T


@pytest.mark.parametrize("value", [(0, 0, 0, 1), (0, 1, 0, 0), (1, 2, 0, 1), (0, 1, 4, 5)])
def test_a_timer_scale_of_zero_or_upside_down_is_refused(value: tuple[int, int, int, int]) -> None:
    assert reason(here_i_am(capabilities(component(5, bytes(value))))) is WireReason.TIMER_SCALE


@pytest.mark.parametrize("length", [0, 8])
def test_a_shutdown_whose_data_is_not_an_address_is_refused(length: int) -> None:
    octets = here_i_am(component(15, component(1, bytes(length))))
    assert reason(octets) is WireReason.COMMAND_LENGTH


def table(family: int, entry: int, count: int, octets: bytes) -> bytes:
    return here_i_am(component(17, struct.pack("!HHI", family, entry, count) + octets), minor=1)


def test_an_address_index_past_the_table_is_refused() -> None:
    assert reason(table(2, 16, 1, CACHE_6.packed)) is WireReason.ADDRESS_INDEX


@pytest.mark.parametrize("entry", [0, 4, 12, 15, 17, 18])
def test_table_entries_of_an_impossible_size_are_refused(entry: int) -> None:
    assert reason(table(2, entry, 0, b"")) is WireReason.ADDRESS_ENTRY_SIZE


@pytest.mark.parametrize("count", [2, 0x10000000, MAXIMUM])
def test_a_table_count_beyond_the_component_is_refused(count: int) -> None:
    assert reason(table(2, 16, count, CACHE_6.packed)) is WireReason.COUNT_PAST_COMPONENT


def test_a_table_of_an_unknown_address_family_is_refused() -> None:
    assert reason(table(25, 16, 0, b"")) is WireReason.ADDRESS_FAMILY


@pytest.mark.parametrize(
    ("inner", "expected"), [(8, WireReason.COMPONENT_TOO_SHORT), (0, WireReason.COMPONENT_TOO_SHORT)]
)
def test_extended_assignment_data_whose_length_does_not_fit_is_refused(
    inner: int, expected: WireReason
) -> None:
    identity = component(3, words(int(CACHE), 6) + struct.pack("!HH", 3, inner) + bytes(4))
    assert reason(here_i_am(identity=identity, minor=1)) is expected


def test_extended_assignment_data_longer_than_its_contents_is_refused() -> None:
    identity = component(3, words(int(CACHE), 6) + component(3, bytes(8)))
    error = refusal(here_i_am(identity=identity, minor=1))
    assert error.reason is WireReason.COMPONENT_TRAILING_OCTETS
    assert error.component == 3


# Service and security


def test_a_service_that_is_neither_standard_nor_dynamic_is_refused() -> None:
    assert reason(here_i_am(service=component(1, b"\x02" + bytes(23)))) is WireReason.SERVICE_TYPE


@pytest.mark.parametrize("option", [2, 3, MAXIMUM])
def test_a_security_option_of_2_or_more_is_refused(option: int) -> None:
    assert reason(here_i_am(security=component(0, words(option)))) is WireReason.SECURITY_OPTION


@pytest.mark.parametrize(("option", "octets"), [(0, 16), (0, 4), (1, 0), (1, 12), (1, 20)])
def test_a_security_info_whose_length_does_not_fit_its_option_is_refused(option: int, octets: int) -> None:
    security = component(0, words(option) + bytes(octets))
    assert reason(here_i_am(security=security)) is WireReason.SECURITY_LENGTH
    assert not peek_security(here_i_am(security=security))
    assert not check_digest(here_i_am(security=security), b"x")


def test_a_refusal_says_where_and_in_which_component_it_was_noticed() -> None:
    error = refusal(here_i_am(service=component(1, b"\x02" + bytes(23))))
    assert error.component == 1
    assert 20 <= error.offset <= 44
    assert "octet" in str(error)
    assert "component 1" in str(error)


def test_the_service_of_a_message_without_one_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        peek_service(here_i_am(service=b""))
    assert caught.value.reason is WireReason.COMPONENT_MISSING


@pytest.mark.parametrize("octets", [b"", b"\0" * 8, HASH_HERE_I_AM[:100], words(7)])
def test_a_digest_of_what_cannot_be_read_never_matches(octets: bytes) -> None:
    assert not peek_security(octets)
    assert not check_digest(octets, b"abcdefgh")
    assert matching_key_variant(octets, b"abcdefgh") is None


def test_every_reason_is_a_label_of_small_letters() -> None:
    for each in WireReason:
        assert each.value == each.name.lower()
