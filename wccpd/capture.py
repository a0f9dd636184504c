"""WCCP on this host as it passes: what `wccpctl capture` shows.

A packet socket with a filter of its own in the kernel, so that a busy router hands up nothing but WCCP. It gives
packets from their IP header on, whatever the device's link is (packet(7), SOCK_DGRAM).
"""

from __future__ import annotations

import array
import socket
import struct
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from gre.header import GRE_PROTOCOL_WCCP
from wccpd.wire.enums import WCCP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ETH_P_IP = 0x0800
ETH_P_ALL = 0x0003
"""All: what this host sends itself is shown to nobody else (packet(7))."""
SO_ATTACH_FILTER = 26
"""socket(7); Python does not name it."""
LINKTYPE_RAW = 101
"""A capture whose packets begin with their IP header (tcpdump.org, link-layer header types)."""
SNAP_OCTETS = 65535
WAKE_SECONDS = 0.5
"""How late the end of the time may be noticed."""
_PACKET_OUTGOING = 4

# Classic BPF (linux/filter.h): code, jump if true, jump if false, operand.
_LOAD_BYTE, _LOAD_HALF, _LOAD_HALF_X, _HEADER_TO_X = 0x30, 0x28, 0x48, 0xB1
_IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x15, 0x45, 0x06
_UDP, _GRE = 17, 47
_PROTOCOL_OF_LINK = 0xFFFFF000
"""SKF_AD_OFF + SKF_AD_PROTOCOL: where classic BPF finds the EtherType."""


_ACCEPT, _REJECT = 15, 16
"""Where the program ends."""


class CaptureError(Exception):
    """Nothing can be captured; the text says why, for people."""


def packet_filter(*, redirected: bool) -> tuple[tuple[int, int, int, int], ...]:
    """Takes UDP from or to port 2048, and with `redirected` GRE with WCCP's type, of IPv4."""
    lines = (
        (_LOAD_HALF, 1, 1, _PROTOCOL_OF_LINK),
        (_IF_EQUAL, 2, _REJECT, ETH_P_IP),
        (_LOAD_BYTE, 3, 3, 9),  # the protocol
        (_IF_EQUAL, 5, 4, _UDP),
        (_IF_EQUAL, 12 if redirected else _REJECT, _REJECT, _GRE),
        (_LOAD_HALF, 6, 6, 6),
        (_IF_ANY_BIT, _REJECT, 7, 0x1FFF),  # only the first fragment has ports
        (_HEADER_TO_X, 8, 8, 0),
        (_LOAD_HALF_X, 9, 9, 0),
        (_IF_EQUAL, _ACCEPT, 10, WCCP_PORT),
        (_LOAD_HALF_X, 11, 11, 2),
        (_IF_EQUAL, _ACCEPT, _REJECT, WCCP_PORT),
        (_HEADER_TO_X, 13, 13, 0),
        (_LOAD_HALF_X, 14, 14, 2),
        (_IF_EQUAL, _ACCEPT, _REJECT, GRE_PROTOCOL_WCCP),
        (_RETURN, 16, 16, SNAP_OCTETS),
        (_RETURN, 17, 17, 0),
    )
    jumps = {_IF_EQUAL, _IF_ANY_BIT}
    return tuple(
        (code, yes - place if code in jumps else 0, no - place if code in jumps else 0, operand)
        for place, (code, yes, no, operand) in enumerate(lines, start=1)
    )


def capture(device: str, *, redirected: bool, until: float | None = None) -> Iterator[bytes]:
    """IPv4 packets of WCCP from now on, each from its IP header on.

    Args:
        device: a network device; empty for all.
        redirected: also GRE that carries redirected or returned packets.
        until: monotonic seconds when to end; never if left out.

    Raises:
        CaptureError: no permission, or there is no such device.
    """
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0 if device else socket.htons(ETH_P_ALL))
    except PermissionError:
        raise CaptureError("no permission to capture: run it as root or with CAP_NET_RAW") from None
    with closing(sock):
        program = b"".join(struct.pack("=HBBI", *line) for line in packet_filter(redirected=redirected))
        octets = array.array("B", program)
        sock.setsockopt(
            socket.SOL_SOCKET,
            SO_ATTACH_FILTER,
            struct.pack("@HP", len(program) // 8, octets.buffer_info()[0]),
        )
        try:
            _begin(sock, device)
        except OSError as error:
            raise CaptureError(
                f"cannot capture on {device}: {(error.strerror or str(error)).lower()}"
            ) from None
        sock.settimeout(WAKE_SECONDS)
        while until is None or time.monotonic() < until:
            try:
                packet, (name, _, kind, *_) = sock.recvfrom(SNAP_OCTETS)
            except TimeoutError:
                continue
            if not (name == "lo" and kind == _PACKET_OUTGOING):  # which comes in again
                yield packet


def _begin(sock: socket.socket, device: str) -> None:
    """Listen on a device; or, if it is all, forget what came before there was a filter."""
    if device:
        sock.bind((device, ETH_P_ALL))
        return
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sock.recv(1)


class CaptureFile:
    """A pcap file that grows (pcap-savefile(5)), whole after every packet."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP_OCTETS, LINKTYPE_RAW))

    def write(self, packet: bytes, seconds: float) -> None:
        """Add one that came at that time, in seconds since 1970."""
        whole = int(seconds)
        header = struct.pack("=IIII", whole, int((seconds - whole) * 1_000_000), len(packet), len(packet))
        self._file.write(header + packet)

    def close(self) -> None:
        """Nothing comes any more."""
        self._file.close()
