"""A driver's own counters, as `ethtool -S` shows them (linux/ethtool.h): ENA counts there what EC2 throttled."""

from __future__ import annotations

import array
import fcntl
import socket
from struct import Struct
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_GET_DRIVER, _GET_STRINGS, _GET_STATS = 0x3, 0x1B, 0x1D
_STATS: Final = 1
"""ETH_SS_STATS."""
_NAME_BYTES: Final = 32
_IFREQ: Final = Struct("16sP")
_DRIVER_BYTES: Final = 196
_DRIVER_STATS_OFFSET: Final = 180
"""Of n_stats in struct ethtool_drvinfo."""
_HEADER: Final = Struct("=III")
"""struct ethtool_gstrings: command, which strings, how many."""
_STATS_HEADER: Final = Struct("=II")
_MOST: Final = 4096


def driver_counters(device: str) -> dict[str, int]:
    """All counters of a device's driver; empty where it has none.

    Raises:
        OSError: There is no such device, or it does not answer.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        information = _ask(sock, device, _HEADER.pack(_GET_DRIVER, 0, 0).ljust(_DRIVER_BYTES, b"\0"))
        count = int.from_bytes(information[_DRIVER_STATS_OFFSET : _DRIVER_STATS_OFFSET + 4], "little")
        if not 0 < count <= _MOST:
            return {}
        request = _HEADER.pack(_GET_STRINGS, _STATS, count)
        strings = _ask(sock, device, request + bytes(count * _NAME_BYTES))[_HEADER.size :]
        values = _ask(sock, device, _STATS_HEADER.pack(_GET_STATS, count) + bytes(count * 8))[
            _STATS_HEADER.size :
        ]
    names = (strings[at : at + _NAME_BYTES] for at in range(0, count * _NAME_BYTES, _NAME_BYTES))
    numbers = array.array("Q", values[: count * 8])
    return {
        name.split(b"\0")[0].decode("ascii", "replace"): value
        for name, value in zip(names, numbers, strict=True)
    }


def _ask(sock: socket.socket, device: str, request: bytes) -> bytes:
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    fcntl.ioctl(sock, _SIOCETHTOOL, _ifreq(device, address))
    return buffer.tobytes()


def _ifreq(device: str, address: int) -> bytes:
    """Struct ifreq, 40 octets on 64 bits."""
    return _IFREQ.pack(device.encode(), address).ljust(40, b"\0")
