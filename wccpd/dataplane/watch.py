"""Tells at once when devices, addresses or routes of the host change, by the kernel's own notices.

A netlink socket in the groups for links, addresses and routes. What changed is not read: whoever is told looks
for himself. Notices of our own routes, thousands at a time, are dropped in the kernel by a socket filter, so that
writing them wakes nobody.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Final, Self

from wccpd.errors import KernelError

_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE of linux/rtnetlink.h."""
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_SO_ATTACH_FILTER: Final = 26
_TYPE_OFFSET, _PROTOCOL_OFFSET = 4, 16 + 5
"""Of nlmsg_type in the message, and of rtm_protocol behind its header."""
_LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_FILTER_STEP = struct.Struct("=HBBI")
_RECEIVE_BYTES: Final = 1 << 16


def _filter(own_protocol: int) -> bytes:
    """Classic BPF: drop routes of our protocol, pass all else. Loads are in network order, netlink in the host's."""
    new, gone = (socket.htons(kind) for kind in (_RTM_NEWROUTE, _RTM_DELROUTE))
    steps = (
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_EQUAL, 1, 0, new),
        (_JUMP_EQUAL, 0, 2, gone),
        (_LOAD_BYTE, 0, 0, _PROTOCOL_OFFSET),
        (_JUMP_EQUAL, 1, 0, own_protocol),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_FILTER_STEP.pack(*step) for step in steps)


class HostWatch:
    """A non-blocking socket that becomes readable when the host's network changed.

    Args:
        own_protocol: Number of the routes that are ours, and nobody needs to hear of.

    Raises:
        KernelError: The socket cannot be made.
    """

    def __init__(self, own_protocol: int) -> None:
        program = _filter(own_protocol)
        steps = ctypes.create_string_buffer(program, len(program))
        attached = struct.pack("HL", len(program) // _FILTER_STEP.size, ctypes.addressof(steps))
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise KernelError("netlink socket", "open", error.errno or 0, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For an event loop."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take all notices.

        Returns:
            Whether there was one. A notice that did not fit into the socket's buffer counts.

        Raises:
            KernelError: The socket is unusable.
        """
        seen = False
        while True:
            try:
                self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return seen
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("netlink socket", "read", error.errno or 0, str(error)) from error
            seen = True
