"""Mask elements and the numbers of their values."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.unit.wire.samples import CACHE, MASK, OTHER_CACHE
from wccpd.wire.masks import (
    AlternateMaskValueSet,
    Mask,
    NumberedValues,
    Value,
    value_at,
    value_sequence_number,
)


def test_sequence_numbers_count_from_the_lowest_bit_of_the_destination_port() -> None:
    """The example of 2.01, 7: source 0x100, destination 0x3, destination port 0x1."""
    bits = [value_at(MASK, 1 << index, CACHE) for index in range(4)]
    nothing = IPv4Address(0)
    assert bits == [
        Value(nothing, nothing, 0, 1, CACHE),
        Value(nothing, IPv4Address(1), 0, 0, CACHE),
        Value(nothing, IPv4Address(2), 0, 0, CACHE),
        Value(IPv4Address(0x100), nothing, 0, 0, CACHE),
    ]


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        Mask(IPv4Address(0), IPv4Address(0x1741), 0, 0),
        Mask(IPv6Address(1 << 127), IPv6Address(1 << 64 | 1), 0x8001, 0x8000),
        Mask(IPv4Address(0), IPv4Address(0), 0, 0),
    ],
)
def test_every_value_of_a_mask_has_its_own_number_and_back(mask: Mask) -> None:
    values = [value_at(mask, number, CACHE) for number in range(1 << mask.bit_count)]
    assert len(set(values)) == len(values)
    assert [value_sequence_number(mask, value) for value in values] == list(range(len(values)))


@pytest.mark.parametrize("number", [-1, 16, 2**32])
def test_a_number_that_the_mask_cannot_have_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="has no value"):
        value_at(MASK, number, CACHE)


def test_a_value_with_bits_outside_the_mask_has_no_number() -> None:
    with pytest.raises(ValueError, match="outside the mask"):
        value_sequence_number(MASK, Value(IPv4Address(0x200), IPv4Address(0), 0, 0, CACHE))


def test_a_32_bit_mask_reaches_the_highest_number() -> None:
    mask = Mask(IPv4Address(0xFFFFFFFF), IPv4Address(0), 0, 0)
    assert value_at(mask, 0xFFFFFFFF, CACHE).source_address == IPv4Address("255.255.255.255")


def test_an_alternate_set_written_out_is_in_the_order_of_its_numbers() -> None:
    numbered = AlternateMaskValueSet(MASK, (NumberedValues(CACHE, (3, 1)), NumberedValues(OTHER_CACHE, (2,))))
    owners = [(value_sequence_number(MASK, value), value.cache) for value in numbered.written_out().values]
    assert owners == [(1, CACHE), (2, OTHER_CACHE), (3, CACHE)]
