"""nfnetlink for the elements of nft sets and maps: the least that changing them can cost in this kernel.

Of the time for replacing 256 elements of a map libnftables spends two thirds on text; encoding takes 20 to 35 us here,
and what remains is the kernel's own share. The daemon does not use it: a change of buckets also changes verdict maps,
which must be in the same transaction. Layouts are those of linux/netfilter/nfnetlink.h and nf_tables.h. One call is
one transaction of the kernel, all or nothing. Sets and maps must exist, with hashed (not interval) keys and plain
values: no verdicts, counters or timeouts.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Key: TypeAlias = tuple[int, ...]
"""The fields of a key, as numbers."""

_NETLINK_NETFILTER, _SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 12, 270, 10, 11
_SO_SNDBUFFORCE: Final = 32
_NLMSG_ERROR, _NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 2, 0x1, 0x4, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG, _NLMSGERR_ATTR_OFFS = 1, 2
_BATCH_BEGIN, _BATCH_END = 16, 17
_SUBSYSTEM: Final = 10
"""NFNL_SUBSYS_NFTABLES."""
_NEW_ELEMENTS, _DELETE_ELEMENTS = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEMENT, _ELEMENT_KEY, _ELEMENT_DATA, _DATA_VALUE = 1, 1, 2, 1
_NESTED: Final = 0x8000
_ATTRIBUTE_TYPE_MASK: Final = 0x3FFF

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_U32 = struct.Struct("=I")

_MAX_ATTRIBUTE_OCTETS: Final = 0xFFFF
"""The elements of a message are one attribute, whose length has 16 bits."""
_ELEMENT_OCTETS: Final = 24
"""An element with a value, but for the fields of its key."""
_SEND_OCTETS: Final = 8 << 20
_RECEIVE_OCTETS: Final = 1 << 16


class Field(Enum):
    """How the kernel keeps one field of a key, or a value; each takes four octets."""

    HOST_32 = "host"
    """An integer or a mark, in the host's byte order."""
    NETWORK_32 = "network"
    """An address, or 32 bits of a packet."""
    NETWORK_16 = "port"
    """A port, or 16 bits of a packet; two octets of padding follow."""


@dataclass(frozen=True, slots=True)
class ElementChange:
    """What changes in one set or map: first some or all elements go, then others come.

    The value of an element cannot be changed: its key is removed and added.
    """

    name: str
    """Of the set or map."""
    key: tuple[Field, ...]
    """Its fields; more than one for a concatenation. The kernel takes 16, nft 1.0.6 cannot list more than five."""
    value: Field | None
    """None for a set."""
    flush: bool = False
    """All present elements go; cheaper than naming them."""
    remove: Sequence[Key] = ()
    """These must be there."""
    add: Mapping[Key, int] = field(default_factory=dict)
    """Key and value, in a set any value. Those that are there must have the same value."""


@dataclass(frozen=True, slots=True)
class _Message:
    """One message of a transaction, and how to put an error of it into words."""

    kind: int
    flags: int
    body: bytes
    change: ElementChange
    verb: str
    keys: Sequence[Key] = ()
    first_element: int = 0
    """Offset of the first element in the message, its header included."""
    element_octets: int = 1

    def key_at(self, offset: int) -> str:
        """The element that the kernel points at, if it points at one."""
        number = (offset - self.first_element) // self.element_octets
        if not 0 <= number < len(self.keys):
            return ""
        return "element " + " . ".join(str(part) for part in self.keys[number])


class ElementSocket:
    """A netlink socket, bound to the network namespace of the thread that makes it.

    Args:
        table: Name of the nft table, of family ip.
        timeout_seconds: How long the kernel may take for an answer.

    Raises:
        KernelError: The socket cannot be made.
    """

    def __init__(self, table: str, timeout_seconds: float = 5.0) -> None:
        self._table = table
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.settimeout(timeout_seconds)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            # A transaction is one datagram.
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_OCTETS)
            self._socket.bind((0, 0))
        except OSError as error:
            raise KernelError("netfilter socket", "open", error.errno or 0, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def change(self, changes: Sequence[ElementChange]) -> None:
        """Make all changes in one transaction: packets see either none of them or all.

        Raises:
            KernelError: The kernel refused one, and nothing was changed: there is no such table, set or element to
                remove (ENOENT), or an element to add is there with another value (EEXIST). Or it did not answer
                (ETIMEDOUT): what went in is unknown.
            OverflowError: A number does not fit into its field.
        """
        messages = [message for change in changes for message in _messages(self._table, change)]
        if messages:
            begin = self._send(messages)
            self._confirm(messages, begin)

    def _send(self, messages: Sequence[_Message]) -> int:
        """Send them as one transaction; returns the sequence number of its beginning."""
        begin = self._sequence + 1
        last = begin + len(messages)
        self._sequence = last + 1
        edge = _FAMILY.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM)
        pieces = [_HEADER.pack(_HEADER.size + len(edge), _BATCH_BEGIN, _NLM_F_REQUEST, begin, 0), edge]
        for sequence, message in enumerate(messages, begin + 1):
            flags = _NLM_F_REQUEST | message.flags | (_NLM_F_ACK if sequence == last else 0)
            pieces.append(_HEADER.pack(_HEADER.size + len(message.body), message.kind, flags, sequence, 0))
            pieces.append(message.body)
        pieces += [_HEADER.pack(_HEADER.size + len(edge), _BATCH_END, _NLM_F_REQUEST, last + 1, 0), edge]
        try:
            self._socket.send(b"".join(pieces))
        except OSError as error:
            raise self._transaction_error(error.errno or errno.ETIMEDOUT, str(error)) from error
        return begin

    def _confirm(self, messages: Sequence[_Message], begin: int) -> None:
        """Read what the kernel says of each message that failed, and of the last one in any case.

        An error of the transaction as a whole has the sequence number of its beginning, and is the only answer.
        """
        last = begin + len(messages)
        first_error: KernelError | None = None
        while True:
            for flags, sequence, body in self._receive():
                if not begin <= sequence <= last:
                    continue  # of a transaction whose answer came too late
                (code,) = _ERROR.unpack_from(body)
                if sequence == begin:
                    raise self._transaction_error(-code, _said(flags, body)[0])
                if code and first_error is None:
                    first_error = self._message_error(messages[sequence - begin - 1], -code, flags, body)
                if sequence == last:
                    if first_error is not None:
                        raise first_error
                    return

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The acknowledgements of one datagram: flags, sequence number, body."""
        try:
            data = self._socket.recv(_RECEIVE_OCTETS)
        except OSError as error:
            raise self._transaction_error(error.errno or errno.ETIMEDOUT, str(error)) from error
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if kind == _NLMSG_ERROR:
                yield flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += max(_HEADER.size, (length + 3) & ~3)

    def _transaction_error(self, number: int, detail: str) -> KernelError:
        return KernelError(f"elements of nft table {self._table}", "change", number, detail)

    def _message_error(self, message: _Message, number: int, flags: int, body: bytes) -> KernelError:
        text, offset = _said(flags, body)
        detail = ", ".join(part for part in (text, message.key_at(offset)) if part)
        kind = "set" if message.change.value is None else "map"
        return KernelError(f"nft {kind} {self._table} {message.change.name}", message.verb, number, detail)


def _messages(table: str, change: ElementChange) -> Iterator[_Message]:
    names = _FAMILY.pack(socket.AF_INET, 0, 0)
    names += _attribute(_LIST_TABLE, table.encode() + b"\0") + _attribute(
        _LIST_SET, change.name.encode() + b"\0"
    )
    if change.flush:
        yield _Message(_DELETE_ELEMENTS, 0, names, change, "flush")
    first_element = _HEADER.size + len(names) + _ATTRIBUTE.size

    def message(
        kind: int, flags: int, verb: str, keys: Sequence[Key], values: Sequence[int] | None
    ) -> _Message:
        elements = _elements(change, keys, values)
        body = names + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(elements), _LIST_ELEMENTS | _NESTED) + elements
        return _Message(kind, flags, body, change, verb, keys, first_element, len(elements) // len(keys))

    room = (_MAX_ATTRIBUTE_OCTETS - _ATTRIBUTE.size) // (_ELEMENT_OCTETS + 4 * len(change.key))
    for start in range(0, len(change.remove), room):
        keys = change.remove[start : start + room]
        yield message(_DELETE_ELEMENTS, 0, "delete from", keys, None)
    added = list(change.add)
    values = list(change.add.values())
    for start in range(0, len(added), room):
        part = slice(start, start + room)
        with_values = values[part] if change.value is not None else None
        yield message(_NEW_ELEMENTS, _NLM_F_CREATE, "add to", added[part], with_values)


def _elements(change: ElementChange, keys: Sequence[Key], values: Sequence[int] | None) -> bytes:
    """All elements in a row. They have one form, so that each field is written into all of them at a time."""
    blank = bytes(4 * len(change.key))
    inside = _attribute(_ELEMENT_KEY | _NESTED, _attribute(_DATA_VALUE, blank))
    first_field = 3  # in words, behind the headers of element, key and value
    if values is not None:
        inside += _attribute(_ELEMENT_DATA | _NESTED, _attribute(_DATA_VALUE, bytes(4)))
    form = array("I", _attribute(_LIST_ELEMENT | _NESTED, inside))
    stride = len(form)
    words = form * len(keys)
    for number, (kind, column) in enumerate(zip(change.key, zip(*keys, strict=True), strict=True)):
        words[first_field + number :: stride] = _column(kind, column)
    if values is not None and change.value is not None:
        words[stride - 1 :: stride] = _column(change.value, values)
    return words.tobytes()


def _column(kind: Field, numbers: Sequence[int]) -> array[int]:
    """One field of all elements, in the octets that the kernel keeps."""
    column = array("I", [number << 16 for number in numbers] if kind is Field.NETWORK_16 else numbers)
    if kind is not Field.HOST_32 and sys.byteorder == "little":
        column.byteswap()
    return column


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _said(flags: int, body: bytes) -> tuple[str, int]:
    """The kernel's own words about an error and the offset in the message that it points at, where it gave any."""
    text, where = "", -1
    if flags & _NLM_F_ACK_TLVS and flags & _NLM_F_CAPPED:
        offset = _ERROR.size + _HEADER.size
        while offset + _ATTRIBUTE.size <= len(body):
            length, kind = _ATTRIBUTE.unpack_from(body, offset)
            payload = body[offset + _ATTRIBUTE.size : offset + length]
            if kind & _ATTRIBUTE_TYPE_MASK == _NLMSGERR_ATTR_MSG:
                text = payload.rstrip(b"\0").decode(errors="replace")
            elif kind & _ATTRIBUTE_TYPE_MASK == _NLMSGERR_ATTR_OFFS and len(payload) == _U32.size:
                (where,) = _U32.unpack(payload)
            offset += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return text, where
