"""How many tracked connections carry which of our marks: a dump of the kernel's table, counted.

Only what is asked for is decoded: a table may hold a hundred thousand entries (linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import TYPE_CHECKING

from wccpd.dataplane.nfnetlink import FAMILY, NetfilterSocket, attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

_GET = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET."""
_NEW = 1 << 8
"""IPCTNL_MSG_CT_NEW: an entry of the answer."""
_CTA_PROTOINFO, _CTA_MARK = 4, 8
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_TCP_ENDED = frozenset({7, 8, 9})
"""TCP_CONNTRACK_TIME_WAIT, CLOSE and LISTEN (unused): nothing more will come."""
_MARK = Struct("!I")


class Conntrack:
    """Reads the table of the network namespace where it was made."""

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            KernelError: There is none to be had.
        """
        self._socket = NetfilterSocket("conntrack table")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def count(self, mask: int, *, any_of: int) -> dict[int, int]:
        """IPv4 connections by their mark under `mask`; TCP connections that have ended do not count.

        Args:
            mask: The bits that tell connections apart.
            any_of: Bits of which a connection must have at least one.

        Raises:
            KernelError: The table cannot be read.
        """
        found: dict[int, int] = {}
        for mark in self._marks():
            if mark & any_of:
                found[mark & mask] = found.get(mark & mask, 0) + 1
        return found

    def _marks(self) -> Iterator[int]:
        """The marks of all connections that have one and are alive."""
        for entry in self._socket.dump(_GET, _NEW, FAMILY.pack(socket.AF_INET, 0, 0)):
            mark = _live_mark(*entry)
            if mark:
                yield mark


def _live_mark(data: bytes, start: int, end: int) -> int:
    """The mark of an entry; 0 for a TCP connection that has ended."""
    mark = 0
    for kind, first, last in attributes(data, start, end):
        if kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, first)
        elif kind == _CTA_PROTOINFO and _has_ended(data, first, last):
            return 0
    return mark


def _has_ended(data: bytes, start: int, end: int) -> bool:
    for kind, first, last in attributes(data, start, end):
        if kind == _CTA_PROTOINFO_TCP:
            for inner, place, _ in attributes(data, first, last):
                if inner == _CTA_PROTOINFO_TCP_STATE:
                    return data[place] in _TCP_ENDED
    return False
