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
from typing import TYPE_CHECKING, Any, TypeVar

from wccpd.wire.errors import Tolerated, WireError, WireReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

IPAddress = IPv4Address | IPv6Address

ipv4_address: Callable[[int], IPv4Address] = lru_cache(maxsize=4096)(IPv4Address)
"""The same few addresses come every ten seconds; making one anew is most of the cost of a field."""

_UINT32 = Struct("!I")
_Row = TypeVar("_Row", bound=tuple[Any, ...])
_UINT32_RUNS = tuple(Struct(f"!{count}I") for count in range(65))
"""Layouts of the usual lengths, made once."""


def rows(kind: type[_Row], *columns: Sequence[object]) -> tuple[_Row, ...]:
    """Named tuples from their columns, without a call in Python for each."""
    return tuple(map(tuple.__new__, repeat(kind), zip(*columns, strict=True)))


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
        value: int = self.unpack(_UINT32)[0]
        return value

    def uint32s(self, count: int) -> tuple[int, ...]:
        """Read `count` 32-bit numbers.

        Raises:
            WireError: COMPONENT_TOO_SHORT.
        """
        if count < len(_UINT32_RUNS):
            return self.unpack(_UINT32_RUNS[count])
        return tuple(number for (number,) in _UINT32.iter_unpack(self.octets(4 * count)))

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
        count: int = self.unpack(_UINT32)[0]
        if count * each > self._end - self._offset:
            raise self.fail(
                WireReason.COUNT_PAST_COMPONENT,
                f"{count} elements of {each} octets do not fit into the {self.remaining} that are left",
            )
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

    def as_addresses(self, fields: Iterable[int]) -> tuple[IPAddress, ...]:
        """The addresses that several address fields stand for.

        Raises:
            WireError: ADDRESS_INDEX.
        """
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

    def _bad_index(self) -> WireError:
        return self.fail(WireReason.ADDRESS_INDEX, "an address field points past the Address Table")
