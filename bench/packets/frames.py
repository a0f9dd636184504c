"""The packets that are sent: TCP over IPv4 to port 80, as parts of flows that are established."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

FLOWS: Final = 1 << 14
SOURCES: Final = IPv4Address("10.1.0.0")
DESTINATIONS: Final = IPv4Address("198.18.0.0")
"""RFC 2544's network for benchmarks; the injector fills in the low 16 bits of both addresses."""
HEADER_OCTETS: Final = 14 + 20 + 20
_ETHERNET = struct.Struct("!6s6sH")
_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_PSEUDO = struct.Struct("!4s4sBBH")
_TTL, _TCP_PROTOCOL, _DONT_FRAGMENT, _ACK = 64, 6, 0x4000, 0x10


def frame(octets: int, destination_mac: bytes, port: int = 80) -> bytes:
    """The frame that every flow's is made of, from the Ethernet header on and without check sequence."""
    source, destination = SOURCES.packed, DESTINATIONS.packed
    payload = bytes(octets - HEADER_OCTETS)
    tcp = _TCP.pack(0, port, 1, 1, 5 << 4, _ACK, 8192, 0, 0)
    pseudo = _PSEUDO.pack(source, destination, 0, _TCP_PROTOCOL, len(tcp) + len(payload))
    tcp = _TCP.pack(0, port, 1, 1, 5 << 4, _ACK, 8192, checksum(pseudo + tcp + payload), 0)
    length = 20 + len(tcp) + len(payload)
    fields = (0x45, 0, length, 0, _DONT_FRAGMENT, _TTL, _TCP_PROTOCOL)
    ip = _IP.pack(*fields, checksum(_IP.pack(*fields, 0, source, destination)), source, destination)
    return _ETHERNET.pack(destination_mac, bytes.fromhex("020000000200"), 0x0800) + ip + tcp + payload


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets[: len(octets) & ~1]))
    total += octets[-1] << 8 if len(octets) % 2 else 0
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
