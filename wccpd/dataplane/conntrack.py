"""The marks that tracked connections carry: a dump of the kernel's table, counted; and marks taken away.

Only what is asked for is decoded: a table may hold a hundred thousand entries (linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import TYPE_CHECKING

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

NETLINK_NETFILTER = 12
_GET = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET."""
_NEW = 1 << 8
"""IPCTNL_MSG_CT_NEW: an entry of the answer."""
_REQUEST_DUMP = 0x1 | 0x300
_REQUEST_ACK = 0x1 | 0x4
_ERROR, _DONE = 2, 3
_CTA_TUPLE_ORIG, _CTA_PROTOINFO, _CTA_MARK, _CTA_ZONE, _CTA_MARK_MASK = 1, 4, 8, 18, 21
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_TCP_ENDED = frozenset({7, 8, 9})
"""TCP_CONNTRACK_TIME_WAIT, CLOSE and LISTEN (unused): nothing more will come."""
_TYPE_MASK = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_HEADER = Struct("=IHHII")
_NFGEN = Struct("=BBH")
_ATTRIBUTE = Struct("=HH")
_MARK = Struct("!I")
_INT = Struct("=i")
_RECEIVE_BYTES = 1 << 18
_PATIENCE_SECONDS = 5.0


class Conntrack:
    """A netfilter netlink socket, of the network namespace where it was made."""

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            KernelError: There is none to be had.
        """
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
        except OSError as error:
            raise KernelError("conntrack socket", "open", error.errno or 0) from error
        self._socket.settimeout(_PATIENCE_SECONDS)

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

    def unmark(self, mask: int, marks: Collection[int], *, of: int) -> None:
        """Clear bits of the marks of connections.

        Args:
            mask: The bits to clear.
            marks: Which connections: their mark under `of` is one of these.
            of: See there.

        Raises:
            KernelError: The table cannot be read or written.
        """
        found = [
            (data[first - _ATTRIBUTE.size : last], zone)
            for data, start, end in self._entries()
            for first, last, mark, zone in (_identity(data, start, end),)
            if mark & of in marks
        ]
        for connection, zone in found:
            self._write_mark(connection + bytes(-len(connection) % 4) + zone, mask)

    def _write_mark(self, connection: bytes, mask: int) -> None:
        """Clear the bits of `mask`; a connection that has ended meanwhile needs it no more."""
        body = _NFGEN.pack(socket.AF_INET, 0, 0) + connection
        for kind, value in ((_CTA_MARK, 0), (_CTA_MARK_MASK, mask)):
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + _MARK.size, kind) + _MARK.pack(value)
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), _NEW, _REQUEST_ACK, 2, 0) + body)
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise KernelError("conntrack table", "write", error.errno or errno.ETIMEDOUT) from error
        (code,) = _INT.unpack_from(data, _HEADER.size)
        if -code not in {0, errno.ENOENT}:
            raise KernelError("conntrack table", "write", -code)

    def _marks(self) -> Iterator[int]:
        """The marks of all connections that have one and are alive."""
        for data, start, end in self._entries():
            mark = _live_mark(data, start, end)
            if mark:
                yield mark

    def _entries(self) -> Iterator[tuple[bytes, int, int]]:
        """All connections: where in some octets the attributes of each begin and end."""
        body = _NFGEN.pack(socket.AF_INET, 0, 0)
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST_DUMP, 1, 0) + body)
            while True:
                data = self._socket.recv(_RECEIVE_BYTES)
                offset = 0
                while offset + _HEADER.size <= len(data):
                    length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                    if kind == _DONE:
                        return
                    if kind == _ERROR:
                        (code,) = _INT.unpack_from(data, offset + _HEADER.size)
                        raise KernelError("conntrack table", "list", -code)
                    if kind == _NEW:
                        yield data, offset + _HEADER.size + _NFGEN.size, offset + length
                    offset += length + 3 & ~3
        except OSError as error:
            raise KernelError("conntrack table", "list", error.errno or errno.ETIMEDOUT) from error


def _identity(data: bytes, start: int, end: int) -> tuple[int, int, int, bytes]:
    """Where the original tuple of an entry is, its mark, and its zone as an attribute, if it is in one."""
    first = last = mark = 0
    zone = b""
    for kind, begin, close in _attributes(data, start, end):
        if kind == _CTA_TUPLE_ORIG:
            first, last = begin, close
        elif kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, begin)
        elif kind == _CTA_ZONE:
            zone = data[begin - _ATTRIBUTE.size : begin - _ATTRIBUTE.size + 8]
    return first, last, mark, zone


def _live_mark(data: bytes, start: int, end: int) -> int:
    """The mark of an entry; 0 for a TCP connection that has ended."""
    mark = 0
    for kind, first, last in _attributes(data, start, end):
        if kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, first)
        elif kind == _CTA_PROTOINFO and _has_ended(data, first, last):
            return 0
    return mark


def _has_ended(data: bytes, start: int, end: int) -> bool:
    for kind, first, last in _attributes(data, start, end):
        if kind == _CTA_PROTOINFO_TCP:
            for inner, place, _ in _attributes(data, first, last):
                if inner == _CTA_PROTOINFO_TCP_STATE:
                    return data[place] in _TCP_ENDED
    return False


def _attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, and where the content begins and ends."""
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, start + _ATTRIBUTE.size, start + length
        start += length + 3 & ~3
