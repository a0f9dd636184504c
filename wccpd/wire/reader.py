"""A bounded reader over a part of a datagram.

It never reads past its end, counts are checked against the room that is left before anything is made of them,
and `finish` insists that the part was consumed exactly. Address fields go through `resolve`, because in 2.01
they may be indices into a table (`addresses`). It knows no component.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from wccpd.wire.errors import Tolerated, WireError, WireReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IPAddress = IPv4Address | IPv6Address

MAX_KNOWN_ADDRESSES = 4096
"""When so many are known all are forgotten, so that strangers cannot fill the memory."""


MAX_COLUMN = 32
"""Longest column of addresses that is remembered: the routers of a group."""


class _KnownAddresses(dict[int, IPv4Address]):
    """The same few addresses come every ten seconds; making one anew is most of the cost of a field."""

    def __missing__(self, field: int) -> IPv4Address:
        if len(self) >= MAX_KNOWN_ADDRESSES:
            self.clear()
        address = self[field] = IPv4Address(field)
        return address


ipv4_address: Callable[[int], IPv4Address] = _KnownAddresses().__getitem__
"""The address that the 32 bits of a field stand for in a message without Address Table."""

_UINT32 = Struct("!I")
_Row = TypeVar("_Row", bound=tuple[Any, ...])
_UINT32_RUNS = tuple(Struct(f"!{count}I") for count in range(100))
"""Layouts of the usual lengths, made once."""


def _numbers(octets: bytes) -> tuple[int, ...]:
    """Octets as 32-bit numbers."""
    count = len(octets) // 4
    layout = _UINT32_RUNS[count] if count < len(_UINT32_RUNS) else Struct(f"!{count}I")
    return layout.unpack(octets)


@lru_cache(maxsize=1024)
def _ipv4_addresses(octets: bytes) -> tuple[IPv4Address, ...]:
    """Addresses in a row, at most a few dozen; the members of a group list the same ones time and again."""
    return tuple(map(ipv4_address, _numbers(octets)))


@lru_cache(maxsize=1024)
def _ipv4_column(fields: tuple[int, ...]) -> tuple[IPv4Address, ...]:
    """The same for a column that stands between others."""
    return tuple(map(ipv4_address, fields))


def rows(kind: type[_Row], *columns: Sequence[object]) -> tuple[_Row, ...]:
    """Named tuples from their columns, without a call in Python for each."""
    return tuple(map(tuple.__new__, repeat(kind), zip(*columns, strict=True)))


class Limit(NamedTuple):
    """How many elements a list may have, whatever room there is."""

    most: int
    reason: WireReason
    what: str
    """What there are too many of, in words."""


class Reader:
    """Reads octets `offset` to `end` of a datagram, front to back."""

    __slots__ = ("_buffer", "_end", "_offset", "component", "resolve", "tolerated")

    def __init__(
        self,
        buffer: bytes,
        offset: int,
        end: int,
        component: int | None = None,
        resolve: Callable[[int], IPAddress] = ipv4_address,
    ) -> None:
        self._buffer = buffer
        self._offset = offset
        self._end = end
        self.component = component
        """Component type for error messages."""
        self.resolve = resolve
        """The address that the 32 bits of a field stand for; LookupError for an index past the table."""
        self.tolerated: list[Tolerated] = []

    @property
    def offset(self) -> int:
        """Octets from the start of the datagram to the next one to be read."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Octets left."""
        return self._end - self._offset

    def move(self, offset: int, end: int, component: int) -> None:
        """Go on with another component of the same datagram; what was tolerated is kept."""
        self._offset = offset
        self._end = end
        self.component = component

    def fail(self, reason: WireReason, detail: str) -> WireError:
        """The error to raise for what stands at the present offset."""
        return WireError(reason, detail, self._offset, self.component)

    def tolerate(self, reason: WireReason, detail: str) -> None:
        """Note a fault that the drafts tell a receiver to live with."""
        self.tolerated.append(Tolerated(reason, detail, self._offset))

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Read one fixed layout.

        Raises:
            WireError: COMPONENT_TOO_SHORT.
        """
        offset = self._offset
        end = offset + layout.size
        if end > self._end:
            raise self._too_short(layout.size)
        self._offset = end
        return layout.unpack_from(self._buffer, offset)

    def uint32(self) -> int:
        """Read a 32-bit number.

        Raises:
            WireError: COMPONENT_TOO_SHORT.
        """
        offset = self._offset
        end = offset + 4
        if end > self._end:
            raise self._too_short(4)
        self._offset = end
        value: int = _UINT32.unpack_from(self._buffer, offset)[0]
        return value

    def uint32s(self, count: int) -> tuple[int, ...]:
        """Read `count` 32-bit numbers.

        Raises:
            WireError: COMPONENT_TOO_SHORT.
        """
        offset = self._offset
        end = offset + 4 * count
        if end > self._end:
            raise self._too_short(4 * count)
        self._offset = end
        layout = _UINT32_RUNS[count] if count < len(_UINT32_RUNS) else Struct(f"!{count}I")
        return layout.unpack_from(self._buffer, offset)

    def rows(self, columns: int, limit: Limit) -> tuple[int, ...]:
        """Read a 32-bit count and that many rows of 32-bit numbers, which come as one sequence.

        Args:
            columns: Numbers in a row.
            limit: How many rows there may be.

        Raises:
            WireError: COMPONENT_TOO_SHORT, COUNT_PAST_COMPONENT, the reason of `limit`.
        """
        offset = self._offset + 4
        end = self._skip_rows(4 * columns, limit)
        count = (end - offset) // 4
        layout = _UINT32_RUNS[count] if count < len(_UINT32_RUNS) else Struct(f"!{count}I")
        return layout.unpack_from(self._buffer, offset)

    def address_list(self, limit: Limit) -> tuple[IPAddress, ...]:
        """Read a 32-bit count and that many addresses.

        Raises:
            WireError: COMPONENT_TOO_SHORT, COUNT_PAST_COMPONENT, ADDRESS_INDEX, the reason of `limit`.
        """
        offset = self._offset + 4
        octets = self._buffer[offset : self._skip_rows(4, limit)]
        if self.resolve is ipv4_address:
            return _ipv4_addresses(octets)
        return self.as_addresses(_numbers(octets))

    def _skip_rows(self, size: int, limit: Limit) -> int:
        """Go past a counted list, which begins 4 octets further on; tell where it ends."""
        offset = self._offset + 4
        if offset > self._end:
            raise self._too_short(4)
        self._offset = offset
        count: int = _UINT32.unpack_from(self._buffer, offset - 4)[0]
        end = offset + count * size
        if end > self._end:
            raise self._count_past_end(count, size)
        if count > limit.most:
            raise self.fail(limit.reason, f"{count} {limit.what}, at most {limit.most}")
        self._offset = end
        return end

    def octets(self, count: int) -> bytes:
        """Read `count` octets.

        Raises:
            WireError: COMPONENT_TOO_SHORT.
        """
        offset = self._offset
        end = offset + count
        if end > self._end:
            raise self._too_short(count)
        self._offset = end
        return self._buffer[offset:end]

    def count(self, each: int) -> int:
        """Read a 32-bit count of elements that take at least `each` octets apiece.

        Raises:
            WireError: COUNT_PAST_COMPONENT when they cannot fit into what is left.
        """
        count = self.uint32()
        if count * each > self._end - self._offset:
            raise self._count_past_end(count, each)
        return count

    def address(self) -> IPAddress:
        """Read one address or address mask.

        Raises:
            WireError: COMPONENT_TOO_SHORT, ADDRESS_INDEX.
        """
        return self.as_address(self.uint32())

    def addresses(self, count: int) -> tuple[IPAddress, ...]:
        """Read `count` addresses.

        Raises:
            WireError: COMPONENT_TOO_SHORT, ADDRESS_INDEX.
        """
        return self.as_addresses(self.uint32s(count))

    def as_address(self, field: int) -> IPAddress:
        """The address that the 32 bits of an address field stand for.

        Raises:
            WireError: ADDRESS_INDEX.
        """
        try:
            return self.resolve(field)
        except LookupError:
            raise self._bad_index() from None

    def as_addresses(self, fields: tuple[int, ...]) -> tuple[IPAddress, ...]:
        """The addresses that several address fields stand for.

        Raises:
            WireError: ADDRESS_INDEX.
        """
        if self.resolve is ipv4_address and len(fields) <= MAX_COLUMN:
            return _ipv4_column(fields)
        try:
            return tuple(map(self.resolve, fields))
        except LookupError:
            raise self._bad_index() from None

    def block(self, length: int) -> Reader:
        """Split off the next `length` octets as a reader of their own.

        Raises:
            WireError: COMPONENT_TOO_SHORT.
        """
        offset = self._offset
        if length > self.remaining:
            raise self._too_short(length)
        self._offset += length
        return Reader(self._buffer, offset, offset + length, self.component, self.resolve)

    def finish(self) -> None:
        """Insist that everything was read.

        Raises:
            WireError: COMPONENT_TRAILING_OCTETS.
        """
        if self._offset != self._end:
            raise self.fail(
                WireReason.COMPONENT_TRAILING_OCTETS, f"{self.remaining} octets are left after the last field"
            )

    def _too_short(self, count: int) -> WireError:
        detail = f"{count} octets are needed, {self.remaining} are left"
        return self.fail(WireReason.COMPONENT_TOO_SHORT, detail)

    def _count_past_end(self, count: int, each: int) -> WireError:
        detail = f"{count} elements of {each} octets do not fit into the {self.remaining} that are left"
        return self.fail(WireReason.COUNT_PAST_COMPONENT, detail)

    def _bad_index(self) -> WireError:
        return self.fail(WireReason.ADDRESS_INDEX, "an address field points past the Address Table")
