"""Mask assignment elements (draft 5.7.6-5.7.8; 2.01, 6.13-6.19 and 7).

A mask picks bits of a packet's addresses and ports; a value says which web-cache gets the packets whose
picked bits equal it. The alternate form of 2.01 names values by number instead of writing them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from wccpd.wire.errors import WireReason
from wccpd.wire.reader import rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wccpd.wire.reader import IPAddress, Reader
    from wccpd.wire.writer import Writer

_MASK = Struct("!IIHH")
_VALUE = Struct("!IIHHI")
_SET_MINIMUM = _MASK.size + 4
_ALTERNATE_CACHE_MINIMUM = 8
MAX_NUMBERED_BITS = 32
"""Bits of a mask whose values can be numbered in 32 bits (2.01, 7)."""


class Mask(NamedTuple):
    """Mask Element (draft 5.7.7), 12 octets. A zero bit means don't care.

    0: source IP (4); 4: destination IP (4); 8: source port (2); 10: destination port (2).
    """

    source_address: IPAddress
    destination_address: IPAddress
    source_port: int
    destination_port: int

    @property
    def bit_count(self) -> int:
        """How many bits the mask picks."""
        return sum(int(field).bit_count() for field in self)

    @classmethod
    def decode(cls, reader: Reader) -> Mask:
        """Read 12 octets."""
        source, destination, source_port, destination_port = reader.unpack(_MASK)
        return cls(reader.as_address(source), reader.as_address(destination), source_port, destination_port)

    def encode(self, writer: Writer) -> None:
        """Write 12 octets."""
        source, destination, source_port, destination_port = self
        writer.pack(_MASK, writer.field(source), writer.field(destination), source_port, destination_port)


class Value(NamedTuple):
    """Value Element (draft 5.7.8), 16 octets: the fields of a mask, then the address of the web-cache (4)."""

    source_address: IPAddress
    destination_address: IPAddress
    source_port: int
    destination_port: int
    cache: IPAddress

    def encode(self, writer: Writer) -> None:
        """Write 16 octets."""
        source, destination, source_port, destination_port, cache = self
        field = writer.field
        writer.pack(_VALUE, field(source), field(destination), source_port, destination_port, field(cache))


@dataclass(frozen=True, slots=True)
class MaskValueSet:
    """Mask/Value Set Element (draft 5.7.6): mask (12), n (4), n values (16 each)."""

    mask: Mask
    values: tuple[Value, ...] = ()

    @classmethod
    def decode(cls, reader: Reader) -> MaskValueSet:
        """Read one set.

        Raises:
            WireError: COUNT_PAST_COMPONENT, COMPONENT_TOO_SHORT, ADDRESS_INDEX.
        """
        mask = Mask.decode(reader)
        count = reader.count(_VALUE.size)
        if count == 0:
            return cls(mask)
        values = _VALUE.iter_unpack(reader.octets(_VALUE.size * count))
        sources, destinations, source_ports, destination_ports, caches = zip(*values, strict=True)
        address = reader.as_addresses
        columns = address(sources), address(destinations), source_ports, destination_ports, address(caches)
        return cls(mask, rows(Value, *columns))

    def encode(self, writer: Writer) -> None:
        """Write one set."""
        self.mask.encode(writer)
        writer.uint32(len(self.values))
        for value in self.values:
            value.encode(writer)


def read_sets(reader: Reader) -> tuple[MaskValueSet, ...]:
    """Read a count and that many sets.

    Raises:
        WireError: COUNT_PAST_COMPONENT, COMPONENT_TOO_SHORT, ADDRESS_INDEX.
    """
    return tuple(MaskValueSet.decode(reader) for _ in range(reader.count(_SET_MINIMUM)))


def write_sets(writer: Writer, sets: tuple[MaskValueSet, ...]) -> None:
    """Write a count and the sets."""
    writer.uint32(len(sets))
    for each in sets:
        each.encode(writer)


class NumberedValues(NamedTuple):
    """The values of one web-cache in an alternate set (2.01, 6.13-6.19): address (4), q (4), q numbers."""

    cache: IPAddress
    numbers: tuple[int, ...]
    """Value sequence numbers, see `value_at`."""


@dataclass(frozen=True, slots=True)
class AlternateMaskValueSet:
    """Alternate Mask/Value Set Element (2.01, 6.13-6.19): mask (12), k (4), k `NumberedValues`."""

    mask: Mask
    caches: tuple[NumberedValues, ...] = ()

    @classmethod
    def decode(cls, reader: Reader) -> AlternateMaskValueSet:
        """Read one set.

        Raises:
            WireError: MASK_BITS, SEQUENCE_NUMBER_RANGE, SEQUENCE_NUMBER_DUPLICATE, COUNT_PAST_COMPONENT,
                COMPONENT_TOO_SHORT, ADDRESS_INDEX.
        """
        mask = Mask.decode(reader)
        bits = mask.bit_count
        if bits > MAX_NUMBERED_BITS:
            raise reader.fail(WireReason.MASK_BITS, f"the mask of an alternate set has {bits} bits")
        caches = []
        seen: set[int] = set()
        for _ in range(reader.count(_ALTERNATE_CACHE_MINIMUM)):
            cache = reader.address()
            numbers = reader.uint32s(reader.count(4))
            if numbers and max(numbers) >> bits:
                raise reader.fail(
                    WireReason.SEQUENCE_NUMBER_RANGE, f"value {max(numbers)} of a mask of {bits} bits"
                )
            expected = len(seen) + len(numbers)
            seen.update(numbers)
            if len(seen) != expected:
                raise reader.fail(WireReason.SEQUENCE_NUMBER_DUPLICATE, f"a value of {cache} comes twice")
            caches.append(NumberedValues(cache, numbers))
        return cls(mask, tuple(caches))

    def encode(self, writer: Writer) -> None:
        """Write one set."""
        self.mask.encode(writer)
        writer.uint32(len(self.caches))
        for cache, numbers in self.caches:
            writer.address(cache)
            writer.uint32(len(numbers))
            writer.uint32s(numbers)

    def written_out(self) -> MaskValueSet:
        """The same assignment with its values written out, in the order of their numbers."""
        owners = sorted((number, cache) for cache, numbers in self.caches for number in numbers)
        return MaskValueSet(self.mask, tuple(value_at(self.mask, number, cache) for number, cache in owners))


def read_alternate_sets(reader: Reader) -> tuple[AlternateMaskValueSet, ...]:
    """Read a count and that many alternate sets.

    Raises:
        WireError: Those of `AlternateMaskValueSet.decode`.
    """
    return tuple(AlternateMaskValueSet.decode(reader) for _ in range(reader.count(_SET_MINIMUM)))


def write_alternate_sets(writer: Writer, sets: tuple[AlternateMaskValueSet, ...]) -> None:
    """Write a count and the alternate sets."""
    writer.uint32(len(sets))
    for each in sets:
        each.encode(writer)


def value_at(mask: Mask, number: int, cache: IPAddress) -> Value:
    """The value that a sequence number stands for (2.01, 7).

    The mask's set bits are numbered from the lowest bit of the destination port upwards, then source port,
    destination IP, source IP. Bit i of the number is the value's bit at the mask's i-th set bit.

    Args:
        mask: The mask of the set.
        number: 0 to 2^b - 1 where b is the mask's `bit_count`.
        cache: The web-cache of the value.

    Raises:
        ValueError: The mask has no such value.
    """
    if number < 0 or number >> mask.bit_count:
        raise ValueError(f"a mask of {mask.bit_count} bits has no value {number}")
    fields = [0, 0, 0, 0]
    for index, (field, bit) in enumerate(_numbered_bits(mask)):
        if number >> index & 1:
            fields[field] |= bit
    destination_port, source_port, destination, source = fields
    return Value(
        type(mask.source_address)(source),
        type(mask.destination_address)(destination),
        source_port,
        destination_port,
        cache,
    )


def value_sequence_number(mask: Mask, value: Value) -> int:
    """The number of a value; the inverse of `value_at`.

    Raises:
        ValueError: The value has bits outside the mask, so no packet can equal it.
    """
    if any(int(bits) & ~int(picked) for bits, picked in zip(value[:4], mask, strict=True)):
        raise ValueError("the value has bits outside the mask")
    fields = _lowest_first(value[:4])
    number = 0
    for index, (field, bit) in enumerate(_numbered_bits(mask)):
        if fields[field] & bit:
            number |= 1 << index
    return number


def _numbered_bits(mask: Mask) -> Iterator[tuple[int, int]]:
    """The mask's set bits in the order of their numbers, as (field, bit)."""
    for field, bits in enumerate(_lowest_first(mask)):
        rest = bits
        while rest:
            lowest = rest & -rest
            yield field, lowest
            rest ^= lowest


def _lowest_first(fields: Sequence[IPAddress | int]) -> list[int]:
    """The four fields as numbers, in the order in which their bits are numbered."""
    return [int(field) for field in reversed(fields)]
