"""How many tracked connections carry which of our marks, and what is known of a single one.

Only what is asked for is decoded: a table may hold a hundred thousand entries (linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address

NETLINK_NETFILTER = 12
_GET = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET."""
_NEW = 1 << 8
"""IPCTNL_MSG_CT_NEW: an entry of the answer."""
_REQUEST_DUMP = 0x1 | 0x300
_ERROR, _DONE = 2, 3
_REQUEST = 0x1
_CTA_TUPLE_ORIG, _CTA_STATUS, _CTA_PROTOINFO, _CTA_MARK = 1, 3, 4, 8
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST = 1, 2
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_NESTED = 0x8000
_IPS_SEEN_REPLY = 2
_CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 1, 1
_TCP_ENDED = frozenset({7, 8, 9})
"""TCP_CONNTRACK_TIME_WAIT, CLOSE and LISTEN (unused): nothing more will come."""
_TYPE_MASK = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_HEADER = Struct("=IHHII")
_NFGEN = Struct("=BBH")
_ATTRIBUTE = Struct("=HH")
_MARK = Struct("!I")
_PORT = Struct("!H")
_INT = Struct("=i")
_RECEIVE_BYTES = 1 << 18
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection."""

    mark: int
    answered: bool
    """Whether a packet of the other direction has been seen."""


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
        body = _NFGEN.pack(socket.AF_INET, 0, 0) + _attribute(_CTA_TUPLE_ORIG | _NESTED, tuple_)
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST, 1, 0) + body)
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise KernelError("connection", "look up", error.errno or errno.ETIMEDOUT) from error
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind == _ERROR:
            (code,) = _INT.unpack_from(data, _HEADER.size)
            if code == -errno.ENOENT:
                return None
            raise KernelError("connection", "look up", -code)
        mark, status = _mark_and_status(data, _HEADER.size + _NFGEN.size, length)
        return Connection(mark, bool(status & _IPS_SEEN_REPLY))

    def _marks(self) -> Iterator[int]:
        """The marks of all connections that have one and are alive."""
        for data, start, end in self._entries():
            mark = _live_mark(data, start, end)
            if mark:
                yield mark

    def _entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Every entry: the octets that hold it, and where its attributes begin and end."""
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


def _live_mark(data: bytes, start: int, end: int) -> int:
    """The mark of an entry; 0 for a TCP connection that has ended."""
    mark = 0
    for kind, first, last in _attributes(data, start, end):
        if kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, first)
        elif kind == _CTA_PROTOINFO and _has_ended(data, first, last):
            return 0
    return mark


def _mark_and_status(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The mark of an entry and its IPS_* bits (nf_conntrack_common.h)."""
    mark = status = 0
    for kind, first, _ in _attributes(data, start, end):
        if kind == _CTA_MARK:
            (mark,) = _MARK.unpack_from(data, first)
        elif kind == _CTA_STATUS:
            (status,) = _MARK.unpack_from(data, first)
    return mark, status


def _attribute(kind: int, payload: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


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
