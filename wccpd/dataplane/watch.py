"""Tells at once when somebody else changes the host's network, or our nftables table, by the kernel's own notices.

Non-blocking sockets that become readable then. What changed is not read: whoever is told looks for himself. What we
do ourselves wakes nobody: notices of our own routes, thousands at a time, and of our own transactions are dropped in
the kernel by a socket filter. A notice that finds no room in the socket's buffer counts as one.
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from wccpd.dataplane.nfnetlink import FAMILY, HEADER, NETLINK_NETFILTER, NFTABLES, attributes, messages
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

_HOST_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE of linux/rtnetlink.h."""
_TABLE_GROUPS: Final = 1 << 7 - 1
"""NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h, which is number 7, as a bit."""
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_NEW_GENERATION: Final = NFTABLES | 15
"""NFT_MSG_NEWGEN, behind each transaction: says nothing of tables."""
_TABLE_NAME: Final = 1
"""The attribute that names the table, in messages about whatever is in one (linux/netfilter/nf_tables.h)."""
_SO_ATTACH_FILTER: Final = 26
_TYPE_OFFSET, _PORT_OFFSET, _PROTOCOL_OFFSET = 4, 12, 16 + 5
"""Of nlmsg_type and nlmsg_pid (who made the change) in the message, and of rtm_protocol behind its header."""
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_FILTER_STEP = struct.Struct("=HBBI")
_PASS, _DROP = (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)
_RECEIVE_BYTES: Final = 1 << 16
_MOST_NOTICES: Final = 256
"""Read at a time. Whoever changes faster than we read keeps nobody from going on."""

_Step: TypeAlias = tuple[int, int, int, int]


class Watch:
    """A socket that becomes readable when somebody else changed something."""

    def __init__(self, protocol: int, groups: int, steps: Collection[_Step]) -> None:
        """Open the socket.

        Args:
            protocol: Of netlink.
            groups: Whose notices are wanted, as bits.
            steps: Classic BPF: which of them. Its loads are in network order, netlink in the host's.

        Raises:
            KernelError: The socket cannot be made.
        """
        self.heard = False
        """Whether the last `drain` found anything, be it of no concern to us."""
        program = b"".join(_FILTER_STEP.pack(*step) for step in steps)
        kept = ctypes.create_string_buffer(program, len(program))
        attached = struct.pack("HL", len(steps), ctypes.addressof(kept))
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
            self._socket.bind((0, groups))
        except OSError as error:
            raise KernelError("netlink socket", "open", error.errno or 0, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """For an event loop."""
        return self._socket.fileno()

    def hears_within(self, seconds: float) -> bool:
        """Whether a notice is there, or comes in time; it stays to be drained."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def drain(self) -> bool:
        """Take the notices that are there.

        Returns:
            Whether one concerns us; also if there were more than could be read.

        Raises:
            KernelError: The socket is unusable.
        """
        seen = self.heard = False
        for _ in range(_MOST_NOTICES):
            try:
                notice = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return seen
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("netlink socket", "read", error.errno or 0, str(error)) from error
                seen = self.heard = True
            else:
                self.heard = True
                seen = seen or self._concerns_us(notice)
        return True

    def _concerns_us(self, notice: bytes) -> bool:
        """Whether what has passed the filter is worth a look."""
        return bool(notice)


class HostWatch(Watch):
    """Watches devices, addresses, routes and rules of the host."""

    def __init__(self, own_protocol: int) -> None:
        """Open the socket.

        Args:
            own_protocol: Number of the routes that are ours, and nobody needs to hear of.

        Raises:
            KernelError: The socket cannot be made.
        """
        new, gone = (socket.htons(kind) for kind in (_RTM_NEWROUTE, _RTM_DELROUTE))
        steps = (
            (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
            (_JUMP_EQUAL, 1, 0, new),
            (_JUMP_EQUAL, 0, 2, gone),
            (_LOAD_BYTE, 0, 0, _PROTOCOL_OFFSET),
            (_JUMP_EQUAL, 1, 0, own_protocol),
            _PASS,
            _DROP,
        )
        super().__init__(socket.NETLINK_ROUTE, _HOST_GROUPS, steps)


class TableWatch(Watch):
    """Watches one nftables table of family ip, and everything in it."""

    def __init__(self, table: str, own_ports: Iterable[int]) -> None:
        """Open the socket.

        Args:
            table: Its name.
            own_ports: Netlink addresses of the sockets through which we change it ourselves.

        Raises:
            KernelError: The socket cannot be made.
        """
        self._table = table.encode()
        ours = [socket.htonl(port) for port in own_ports]
        ports: list[_Step] = [(_JUMP_EQUAL, len(ours) - place, 0, port) for place, port in enumerate(ours)]
        steps = (
            (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
            (_JUMP_EQUAL, len(ours) + 2, 0, socket.htons(_NEW_GENERATION)),
            (_LOAD_WORD, 0, 0, _PORT_OFFSET),
            *ports,
            _PASS,
            _DROP,
        )
        super().__init__(NETLINK_NETFILTER, _TABLE_GROUPS, steps)

    def _concerns_us(self, notice: bytes) -> bool:
        return any(
            _table_of(notice, start, end) == self._table for _, _, _, (_, start, end) in messages(notice)
        )


class _SenderWatch(Watch):
    """Remembers who changed a table last."""

    def __init__(self, table: str) -> None:
        self._table = table.encode()
        self.sender = 0
        super().__init__(NETLINK_NETFILTER, _TABLE_GROUPS, (_PASS,))

    def _concerns_us(self, notice: bytes) -> bool:
        for kind, _, _, (_, start, end) in messages(notice):
            if kind != _NEW_GENERATION and _table_of(notice, start, end) == self._table:
                (self.sender,) = struct.unpack_from("=I", notice, start - HEADER.size + _PORT_OFFSET)
        return False


def sender_of(change: Callable[[], object], table: str) -> int:
    """The netlink address from which a library writes: that of a change that it makes for us to learn it.

    Args:
        change: Makes a table and removes it.
        table: What that table is called.

    Returns:
        The address; 0 if the notice was lost among those of others.

    Raises:
        KernelError: The change was refused, or its notice cannot be read.
    """
    with _SenderWatch(table) as watch:
        change()
        watch.drain()
        return watch.sender


def _table_of(notice: bytes, start: int, end: int) -> bytes:
    """The name of the table of family ip that a message is about; empty for one of another family."""
    if notice[start] == socket.AF_INET:
        for kind, first, last in attributes(notice, start + FAMILY.size, end):
            if kind == _TABLE_NAME:
                return notice[first:last].rstrip(b"\0")
    return b""
