"""Fields at fixed places in a buffer that is longer than the datagram, the way a C program sees them.

Squid, Traffic Server and OpenNOP lay structures over their receive buffer. To go wrong where they go wrong, their
readers must do the same: this is on purpose not `wccpd.wire`.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

SECURITY, SERVICE, ROUTER_ID, ROUTER_VIEW = 0, 1, 2, 4
REDIRECT_ASSIGNMENT, CAPABILITIES, ASSIGNMENT_MAP = 6, 8, 14
MESSAGE_HEADER_OCTETS = 8
ITEM_HEADER_OCTETS = 4


class ReadError(Exception):
    """A C program's own refusal; the text is what it would log."""


class Buffer:
    """A receive buffer: octets past the datagram read as zero, there is always room."""

    def __init__(self, datagram: bytes) -> None:
        self._octets = datagram
        self.length = len(datagram)

    def uint16(self, offset: int) -> int:
        """Two octets at `offset`."""
        return int.from_bytes(self.octets(offset, 2), "big")

    def uint32(self, offset: int) -> int:
        """Four octets at `offset`."""
        return int.from_bytes(self.octets(offset, 4), "big")

    def address(self, offset: int) -> IPv4Address:
        """An address at `offset`."""
        return IPv4Address(self.uint32(offset))

    def octets(self, offset: int, count: int) -> bytes:
        """`count` octets at `offset`."""
        return self._octets[offset : offset + count].ljust(count, b"\0")

    def item(self, offset: int) -> tuple[int, int]:
        """Type and length of the component or element at `offset`."""
        return self.uint16(offset), self.uint16(offset + 2)


def message_type(datagram: bytes) -> int:
    """The type in a message header; -1 when there is none."""
    if len(datagram) < MESSAGE_HEADER_OCTETS:
        return -1
    (number,) = struct.unpack_from("!I", datagram)
    return int(number)
