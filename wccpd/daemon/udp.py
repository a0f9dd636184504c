"""UDP port 2048: one socket per local address, so that answers leave from the address that was asked."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import asyncio_dgram

if TYPE_CHECKING:
    from collections.abc import Callable

WCCP_PORT = 2048
MAX_DATAGRAM_BYTES = 65535
"""asyncio's own 256 KiB receive buffer is mapped and unmapped for every datagram and triples its cost."""
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT = 0


MULTICAST_TTL = 15
"""The most that WCCP groups are given elsewhere; caches are near."""


class WccpSocket:
    """Port 2048 on one address of ours, or on a group address that is joined from one of ours."""

    def __init__(self, local: IPv4Address, joined_from: IPv4Address | None = None) -> None:
        self.local = local
        self._joined_from = joined_from
        self._stream: asyncio_dgram.aio.DatagramServer | None = None

    async def open(self) -> None:
        """Bind.

        Raises:
            OSError: The address is not local, or the port is taken; the text names both.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # An I_SEE_YOU may outgrow the MTU and must be fragmented; with DF set, IOS-era peers also took
            # the IP identification 0 for a repeat.
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            if self._joined_from is not None:
                membership = self.local.packed + self._joined_from.packed
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, self.local.packed)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, MULTICAST_TTL)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sock.bind((str(self.local), WCCP_PORT))
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"UDP {self.local}:{WCCP_PORT}: {error.strerror}") from error
        self._stream = await asyncio_dgram.from_socket(sock)
        self._stream._transport.max_size = MAX_DATAGRAM_BYTES

    async def serve(self, receive: Callable[[bytes, IPv4Address, int, IPv4Address], None]) -> None:
        """Hand every datagram to `receive(datagram, source, source port, local address)`, in order."""
        assert self._stream is not None
        while True:
            try:
                datagram, (source, port) = await self._stream.recv()
            except OSError:
                # An earlier answer met an ICMP error (a cache that has just died). It says nothing about
                # the next datagram, and silence is judged by the engine alone.
                continue
            receive(datagram, IPv4Address(source), port, self.local)

    def send(self, datagram: bytes, remote: IPv4Address, port: int) -> None:
        """Send at once; a full socket buffer drops, as UDP does."""
        assert self._stream is not None
        # Not `await stream.send()`: it would raise what an earlier datagram met, in place of sending.
        self._stream._transport.sendto(datagram, (str(remote), port))

    def close(self) -> None:
        """Give the port back."""
        if self._stream is not None:
            self._stream.close()
