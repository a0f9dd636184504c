"""The marks that tracked connections carry: counted, taken away, and what is known of a single connection.

Only what is asked for is decoded: a table may hold a hundred thousand entries (linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from wccpd.dataplane.nfnetlink import ATTRIBUTE, FAMILY, NetfilterSocket, attributes
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from ipaddress import IPv4Address

    from wccpd.dataplane.nfnetlink import Piece

_GET = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET."""
_NEW = 1 << 8
"""IPCTNL_MSG_CT_NEW: an entry of the answer."""
_CTA_TUPLE_ORIG, _CTA_STATUS, _CTA_PROTOINFO, _CTA_MARK, _CTA_ZONE, _CTA_MARK_MASK = 1, 3, 4, 8, 18, 21
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST = 1, 2
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_NESTED = 0x8000
_IPS_SEEN_REPLY = 2
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_TCP_ENDED = frozenset({7, 8, 9})
"""TCP_CONNTRACK_TIME_WAIT, CLOSE and LISTEN (unused): nothing more will come."""
_MARK = Struct("!I")
_PORT = Struct("!H")


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection."""

    mark: int
    answered: bool
    """Whether a packet of the other direction has been seen."""


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

    def count_unanswered(self, mask: int, *, any_of: int) -> dict[int, int]:
        """The same, of connections whose other end has never answered.

        Raises:
            KernelError: The table cannot be read.
        """
        found: dict[int, int] = {}
        for data, start, end in self._entries():
            mark, status = _mark_and_status(data, start, end)
            if mark & any_of and not status & _IPS_SEEN_REPLY:
                found[mark & mask] = found.get(mark & mask, 0) + 1
        return found

    def connection(
        self,
        protocol: int,
        source: IPv4Address,
        destination: IPv4Address,
        ports: tuple[int, int] | None,
    ) -> Connection | None:
        """The connection that a packet belongs to, in either direction; None if there is none.

        Args:
            protocol: IP protocol number.
            source: Of the packet.
            destination: Of the packet.
            ports: Source and destination port, of a protocol that has them.

        Raises:
            KernelError: The kernel does not say.
        """
        addresses = _attribute(_CTA_IP_V4_SRC, source.packed) + _attribute(_CTA_IP_V4_DST, destination.packed)
        layer4 = _attribute(_CTA_PROTO_NUM, bytes([protocol]))
        if ports is not None:
            layer4 += _attribute(_CTA_PROTO_SRC_PORT, _PORT.pack(ports[0]))
            layer4 += _attribute(_CTA_PROTO_DST_PORT, _PORT.pack(ports[1]))
        tuple_ = _attribute(_CTA_TUPLE_IP | _NESTED, addresses) + _attribute(
            _CTA_TUPLE_PROTO | _NESTED, layer4
        )
        body = FAMILY.pack(socket.AF_INET, 0, 0) + _attribute(_CTA_TUPLE_ORIG | _NESTED, tuple_)
        try:
            found = self._socket.ask(_GET, _NEW, body)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        mark, status = _mark_and_status(*found)
        return Connection(mark, bool(status & _IPS_SEEN_REPLY))

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
            (data[first - ATTRIBUTE.size : last], zone)
            for data, start, end in self._entries()
            for first, last, mark, zone in (_identity(data, start, end),)
            if mark & of in marks
        ]
        for connection, zone in found:
            self._write_mark(connection + bytes(-len(connection) % 4) + zone, mask)

    def _write_mark(self, connection: bytes, mask: int) -> None:
        """Clear the bits of `mask`; a connection that has ended meanwhile needs it no more."""
        body = FAMILY.pack(socket.AF_INET, 0, 0) + connection
        for kind, value in ((_CTA_MARK, 0), (_CTA_MARK_MASK, mask)):
            body += ATTRIBUTE.pack(ATTRIBUTE.size + _MARK.size, kind) + _MARK.pack(value)
        try:
            self._socket.request(_NEW, body)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise

    def _marks(self) -> Iterator[int]:
        """The marks of all connections that have one and are alive."""
        for entry in self._entries():
            mark = _live_mark(*entry)
            if mark:
                yield mark

    def _entries(self) -> Iterator[Piece]:
        """All connections."""
        yield from self._socket.dump(_GET, _NEW, FAMILY.pack(socket.AF_INET, 0, 0))


def _identity(data: bytes, start: int, end: int) -> tuple[int, int, int, bytes]:
    """Where the original tuple of an entry is, its mark, and its zone as an attribute, if it is in one."""
    first = last = mark = 0
    zone = b""
    for kind, begin, close in attributes(data, start, end):
        if kind == _CTA_TUPLE_ORIG:
            first, last = begin, close
        elif kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, begin)
        elif kind == _CTA_ZONE:
            zone = data[begin - ATTRIBUTE.size : begin - ATTRIBUTE.size + 8]
    return first, last, mark, zone


def _live_mark(data: bytes, start: int, end: int) -> int:
    """The mark of an entry; 0 for a TCP connection that has ended."""
    mark = 0
    for kind, first, last in attributes(data, start, end):
        if kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, first)
        elif kind == _CTA_PROTOINFO and _has_ended(data, first, last):
            return 0
    return mark


def _mark_and_status(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The mark of an entry and its IPS_* bits (nf_conntrack_common.h)."""
    mark = status = 0
    for kind, first, _ in attributes(data, start, end):
        if kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, first)
        elif kind == _CTA_STATUS:
            (status,) = _MARK.unpack_from(data, first)
    return mark, status


def _attribute(kind: int, payload: bytes) -> bytes:
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def _has_ended(data: bytes, start: int, end: int) -> bool:
    for kind, first, last in attributes(data, start, end):
        if kind == _CTA_PROTOINFO_TCP:
            for inner, place, _ in attributes(data, first, last):
                if inner == _CTA_PROTOINFO_TCP_STATE:
                    return data[place] in _TCP_ENDED
    return False
