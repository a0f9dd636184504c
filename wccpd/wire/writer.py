"""Collects the octets of one message. The counterpart of `reader`; it knows no component.

A message that cannot be written is our own fault, hence `ValueError` and never `WireError`.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wccpd.wire.reader import IPAddress

_TYPE_LENGTH = Struct("!HH")
_LENGTH = Struct("!H")
_UINT32 = Struct("!I")
_MAX_UINT16 = 0xFFFF


def ipv4_field(address: IPAddress) -> int:
    """The address field of a message without Address Table.

    Raises:
        ValueError: The address is not IPv4.
    """
    if not isinstance(address, IPv4Address):
        raise ValueError(f"{address} needs an Address Table, which this message does not have")
    return int(address)


class Writer:
    """An octet buffer that knows how to write address fields and to patch lengths."""

    __slots__ = ("buffer", "dual_valid", "field")

    def __init__(self, field: Callable[[IPAddress], int] = ipv4_field, *, dual_valid: bool = False) -> None:
        self.buffer = bytearray()
        self.field = field
        """Turns an address into the 32 bits of its field."""
        self.dual_valid = dual_valid
        """Put a filler after every component and every capability."""

    def pack(self, layout: Struct, *values: int) -> None:
        """Append one fixed layout."""
        self.buffer += layout.pack(*values)

    def uint32(self, value: int) -> None:
        """Append a 32-bit number."""
        self.buffer += _UINT32.pack(value)

    def uint32s(self, values: Sequence[int]) -> None:
        """Append 32-bit numbers."""
        self.buffer += b"".join(map(_UINT32.pack, values))

    def octets(self, octets: bytes) -> None:
        """Append octets as they are."""
        self.buffer += octets

    def address(self, address: IPAddress) -> None:
        """Append an address field."""
        self.buffer += _UINT32.pack(self.field(address))

    def addresses(self, addresses: Iterable[IPAddress]) -> None:
        """Append address fields."""
        for address in addresses:
            self.address(address)

    def begin(self, item_type: int) -> int:
        """Append a type and a length to be filled in by `end`; returns what `end` needs."""
        self.buffer += _TYPE_LENGTH.pack(item_type, 0)
        return len(self.buffer)

    def end(self, start: int) -> None:
        """Fill in the length of the item that `begin` began.

        Raises:
            ValueError: The item is longer than its length field can say.
        """
        length = len(self.buffer) - start
        if length > _MAX_UINT16:
            raise ValueError(f"{length} octets do not fit into one component or message")
        _LENGTH.pack_into(self.buffer, start - 2, length)
