"""A netfilter netlink socket: dumps of what the kernel holds, and small nftables transactions.

For what must be quick and cannot wait: libnftables reads half of a table before it changes one element. Only what
is needed is encoded and decoded (linux/netfilter/nfnetlink.h, nf_tables.h).
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from wccpd.errors import KernelError
from wccpd.plan import names
from wccpd.plan.verdict import Count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Piece: TypeAlias = tuple[bytes, int, int]
"""Octets of a datagram, and where a part of them begins and ends: nothing is copied."""

NETLINK_NETFILTER: Final = 12
NFTABLES: Final = 10 << 8
"""NFNL_SUBSYS_NFTABLES in the type of a message."""
_REQUEST, _ACK, _DUMP_INTERRUPTED, _DUMP, _CREATE = 0x1, 0x4, 0x10, 0x300, 0x400
_ERROR, _DONE, _BATCH_BEGIN, _BATCH_END = 2, 3, 16, 17
_NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT = NFTABLES | 12, NFTABLES | 13, NFTABLES | 14
_NEW_OBJECT, _GET_OBJECT = NFTABLES | 18, NFTABLES | 19
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEMENT = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_TIMEOUT = 1, 2, 4
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2
_GOTO: Final = -4
"""NFT_GOTO."""
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA, _COUNTER = 1, 2, 3, 4, 1
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_TYPE_MASK: Final = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_NESTED: Final = 0x8000
_DEVICE_NAME_OCTETS: Final = 16
_SMALL: Final = Struct("!i")
_LARGE: Final = Struct("!Q")
HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
FAMILY = Struct("!BBH")  # nfgenmsg: family, version, resource
ATTRIBUTE = Struct("=HH")
_CODE = Struct("=i")
_RECEIVE_OCTETS: Final = 1 << 18
_PATIENCE_SECONDS: Final = 5.0
_DUMP_ATTEMPTS: Final = 5


class NetfilterSocket:
    """A socket of the network namespace where it was made. To be used by one thread at a time."""

    def __init__(self, obj: str) -> None:
        """Open it.

        Args:
            obj: What it reads or changes, for errors.

        Raises:
            KernelError: There is none to be had.
        """
        self._obj = obj
        self._sequence = 0
        self.interrupted = False
        """Whether what the last dump listed changed meanwhile."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
        except OSError as error:
            raise KernelError(f"{obj} socket", "open", error.errno or 0) from error
        self._socket.settimeout(_PATIENCE_SECONDS)

    @property
    def port(self) -> int:
        """The socket's netlink address, which notices of its changes bear."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(self, request: int, answer: int, body: bytes) -> Iterator[Piece]:
        """The attributes of each answer.

        Args:
            request: Type of the request.
            answer: Type of the answers; others are passed over.
            body: The request behind its header.

        Raises:
            KernelError: The kernel refused, or did not answer in time.
        """
        self._forget_earlier_answers()
        sequence = self._next_sequence()
        self._send(HEADER.pack(HEADER.size + len(body), request, _REQUEST | _DUMP, sequence, 0) + body)
        self.interrupted = False
        while True:
            for kind, flags, of, (data, start, end) in self._messages():
                if of != sequence:
                    continue  # of a dump that nobody read to its end
                self.interrupted = self.interrupted or bool(flags & _DUMP_INTERRUPTED)
                if kind == _ERROR:
                    raise KernelError(self._obj, "list", -_CODE.unpack_from(data, start)[0])
                if kind == _DONE:
                    return
                if kind == answer:
                    yield data, start + FAMILY.size, end

    def request(self, kind: int, body: bytes) -> None:
        """Have one thing done that is no nftables transaction.

        Args:
            kind: Type of the request.
            body: The request behind its header.

        Raises:
            KernelError: The kernel refused, or did not answer in time.
        """
        self._forget_earlier_answers()
        sequence = self._next_sequence()
        self._send(HEADER.pack(HEADER.size + len(body), kind, _REQUEST | _ACK, sequence, 0) + body)
        while True:
            for answer, _, of, (data, start, _) in self._messages():
                if answer == _ERROR and of == sequence:
                    (code,) = _CODE.unpack_from(data, start)
                    if code:
                        raise KernelError(self._obj, "change", -code)
                    return

    def ask(self, request: int, answer: int, body: bytes) -> Piece:
        """The attributes of one object.

        Args:
            request: Type of the request.
            answer: Type of the answer.
            body: The request behind its header.

        Raises:
            KernelError: There is none (ENOENT), or the kernel refused or did not answer in time.
        """
        self._forget_earlier_answers()
        sequence = self._next_sequence()
        self._send(HEADER.pack(HEADER.size + len(body), request, _REQUEST, sequence, 0) + body)
        while True:
            for kind, _, of, (data, start, end) in self._messages():
                if of != sequence:
                    continue
                if kind == _ERROR:
                    raise KernelError(self._obj, "look up", -_CODE.unpack_from(data, start)[0])
                if kind == answer:
                    return data, start + FAMILY.size, end

    def commit(self, messages: Iterable[tuple[int, bytes]]) -> None:
        """Commit one nftables transaction, all or nothing.

        Args:
            messages: Type and body of each.

        Raises:
            KernelError: The kernel refused one, and nothing was changed; or it did not answer in time.
        """
        self._forget_earlier_answers()
        edge = FAMILY.pack(0, 0, NFTABLES >> 8)
        begin = self._next_sequence()
        pieces = [HEADER.pack(HEADER.size + len(edge), _BATCH_BEGIN, _REQUEST, begin, 0), edge]
        for kind, body in messages:
            flags = _REQUEST | _ACK | _CREATE if kind == _NEW_ELEMENT else _REQUEST | _ACK
            pieces += [HEADER.pack(HEADER.size + len(body), kind, flags, self._next_sequence(), 0), body]
        last = self._sequence
        pieces += [HEADER.pack(HEADER.size + len(edge), _BATCH_END, _REQUEST, self._next_sequence(), 0), edge]
        self._send(b"".join(pieces))
        while True:
            for kind, _, of, (data, start, _) in self._messages():
                if kind != _ERROR or not begin <= of <= last:
                    continue
                (code,) = _CODE.unpack_from(data, start)
                if code:
                    raise KernelError(self._obj, "change", -code)
                if of == last:
                    return

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _forget_earlier_answers(self) -> None:
        """Read what is left of an earlier request: the kernel takes no new one before the end of a dump."""
        try:
            self._socket.setblocking(False)
            while True:
                self._socket.recv(_RECEIVE_OCTETS)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise KernelError(self._obj, "list", error.errno or 0) from error
        self._socket.settimeout(_PATIENCE_SECONDS)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(self._obj, "ask for", error.errno or errno.ETIMEDOUT) from error

    def _messages(self) -> Iterator[tuple[int, int, int, Piece]]:
        """The messages of one datagram: type, flags, sequence number, and where their body is."""
        try:
            data = self._socket.recv(_RECEIVE_OCTETS)
        except OSError as error:
            raise KernelError(self._obj, "read", error.errno or errno.ETIMEDOUT) from error
        yield from messages(data)


def messages(data: bytes) -> Iterator[tuple[int, int, int, Piece]]:
    """The messages of a datagram: type, flags, sequence number, and where their body is."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, (data, offset + HEADER.size, min(offset + length, len(data)))
        offset += length + 3 & ~3


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind of each attribute, and where its content begins and ends."""
    while start + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if length < ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, start + ATTRIBUTE.size, start + length
        start += length + 3 & ~3


class CounterSocket:
    """Reads what changes by itself in our table: named counters, and whether the lease runs."""

    def __init__(self, table: str) -> None:
        """Open the socket.

        Raises:
            KernelError: There is none to be had.
        """
        self._table = table
        self._socket = NetfilterSocket(f"nft table {table}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def counters(self) -> dict[str, Count]:
        """All named counters by name.

        Raises:
            KernelError: They cannot be read.
        """
        kind = _attribute(_OBJECT_TYPE, _SMALL.pack(_COUNTER))
        body = FAMILY.pack(socket.AF_INET, 0, 0) + _string(_OBJECT_TABLE, self._table) + kind
        for _ in range(_DUMP_ATTEMPTS):
            found = dict(_counter(*piece) for piece in self._socket.dump(_GET_OBJECT, _NEW_OBJECT, body))
            if not self._socket.interrupted:
                break
        return found

    def is_leased(self) -> bool:
        """Whether the lease has an element that has not run out.

        Raises:
            KernelError: There is no such map, or it cannot be read.
        """
        body = FAMILY.pack(socket.AF_INET, 0, 0) + _element_list(self._table, names.LEASE)
        pieces = list(self._socket.dump(_GET_ELEMENT, _NEW_ELEMENT, body))
        return any(
            kind == _LIST_ELEMENTS and end > start
            for piece in pieces
            for kind, start, end in attributes(*piece)
        )


class LeaseSocket:
    """Renews the lease: a socket of its own, which waits for nobody else's answers, and some microseconds of work."""

    def __init__(self, table: str) -> None:
        """Open the socket.

        Raises:
            KernelError: There is none to be had.
        """
        self._table = table
        self._socket = NetfilterSocket(f"lease of nft table {table}")
        self.port = self._socket.port

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def renew(self, devices: Iterable[str], seconds: float) -> None:
        """Let the lease of these devices, and no others, run for so long from now.

        Raises:
            KernelError: There is no such table, or the kernel refused.
        """
        head = FAMILY.pack(socket.AF_INET, 0, 0) + _element_list(self._table, names.LEASE)
        timeout = _attribute(_ELEMENT_TIMEOUT, _LARGE.pack(max(1, round(seconds * 1000))))
        elements = b"".join(_nest(_LIST_ELEMENT, _lease(device) + timeout) for device in devices)
        transaction = [(_DELETE_ELEMENT, head)]
        if elements:
            transaction.append((_NEW_ELEMENT, head + _nest(_LIST_ELEMENTS, elements)))
        self._socket.commit(transaction)


def _counter(data: bytes, start: int, end: int) -> tuple[str, Count]:
    """Name and value of a named counter."""
    name, packets, octets = "", 0, 0
    for kind, first, last in attributes(data, start, end):
        if kind == _OBJECT_NAME:
            name = data[first : last - 1].decode()
        elif kind == _OBJECT_DATA:
            for inner, place, _ in attributes(data, first, last):
                if inner == _COUNTER_BYTES:
                    (octets,) = _LARGE.unpack_from(data, place)
                elif inner == _COUNTER_PACKETS:
                    (packets,) = _LARGE.unpack_from(data, place)
    return name, Count(packets, octets)


def _lease(device: str) -> bytes:
    """Key and verdict of a device's element: the device leads to the chain `fresh`."""
    key = _nest(_ELEMENT_KEY, _attribute(_DATA_VALUE, device.encode().ljust(_DEVICE_NAME_OCTETS, b"\0")))
    verdict = _attribute(_VERDICT_CODE, _SMALL.pack(_GOTO)) + _string(_VERDICT_CHAIN, names.FRESH)
    return key + _nest(_ELEMENT_DATA, _nest(_DATA_VERDICT, verdict))


def _element_list(table: str, name: str) -> bytes:
    return _string(_LIST_TABLE, table) + _string(_LIST_SET, name)


def _string(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _nest(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | _NESTED, payload)


def _attribute(kind: int, payload: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)
