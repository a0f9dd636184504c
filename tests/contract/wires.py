"""Packets as octets: what a stage puts on a wire, and how it reads what comes out. IPv4 only.

Crafted and read here by hand rather than with the project's own code or a library: it is the other side.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from wccpd.plan.decide import Packet
from wccpd.plan.redirect import TCP, UDP

ICMP = 1
GRE = 47
IPV4 = 0x0800
GRE_IPV4 = 0x0800
GRE_WCCP = 0x883E
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
FRAGMENT_OFFSET = 0x1FFF
"""In units of 8 octets."""
SYN, RST, ACK = 0x02, 0x04, 0x10


@dataclass(frozen=True, slots=True)
class Details:
    """What a packet has that no data plane decides by."""

    flags: int = SYN
    """Of TCP."""
    mss: int | None = None
    payload: bytes = b""
    fragmentable: bool = True


PLAIN = Details()


@dataclass(frozen=True, slots=True)
class Seen:
    """An IPv4 packet that was seen on a wire."""

    source_mac: bytes
    destination_mac: bytes
    ip: bytes
    """From its IP header on."""

    @property
    def source(self) -> IPv4Address:
        return IPv4Address(self.ip[12:16])

    @property
    def destination(self) -> IPv4Address:
        return IPv4Address(self.ip[16:20])

    @property
    def identification(self) -> int:
        return int.from_bytes(self.ip[4:6])

    @property
    def fragment(self) -> int:
        """The fragment field: DF, MF and offset."""
        return int.from_bytes(self.ip[6:8])

    @property
    def ttl(self) -> int:
        return self.ip[8]

    @property
    def protocol(self) -> int:
        return self.ip[9]

    @property
    def body(self) -> bytes:
        """What follows the IP header."""
        return self.ip[(self.ip[0] & 0xF) * 4 :]

    @property
    def gre_payload(self) -> tuple[int | None, Seen] | None:
        """Redirect header and inner packet of WCCP's GRE; the header is None for plain GRE; None for others."""
        if self.protocol != GRE:
            return None
        flags_and_version, kind = struct.unpack_from("!HH", self.body)
        if flags_and_version or kind not in {GRE_WCCP, GRE_IPV4}:
            return None
        if kind == GRE_IPV4:
            return None, self._inner(self.body[4:])
        return int.from_bytes(self.body[4:8]), self._inner(self.body[8:])

    @property
    def echo_reply(self) -> int | None:
        """The number of the ping that it answers; None for others."""
        return int.from_bytes(self.body[4:6]) if self.protocol == ICMP and self.body[0] == 0 else None

    @property
    def quoted(self) -> Seen:
        """The packet that an ICMP error is about."""
        return self._inner(self.body[8:])

    def _inner(self, ip: bytes) -> Seen:
        return Seen(self.source_mac, self.destination_mac, ip)


def read_frame(frame: bytes) -> Seen | None:
    """An Ethernet frame; None if it is not IPv4."""
    if int.from_bytes(frame[12:14]) != IPV4:
        return None
    length = int.from_bytes(frame[16:18])
    return Seen(frame[6:12], frame[:6], frame[14 : 14 + length])


def ethernet(source: bytes, destination: bytes, ip: bytes) -> bytes:
    return destination + source + IPV4.to_bytes(2) + ip


def craft(packet: Packet, identification: int, details: Details = PLAIN) -> bytes:
    """The IPv4 packet that `packet` describes."""
    body = _body(packet, details)[: packet.transport_octets]
    return ip_packet(
        packet.source,
        packet.destination,
        packet.protocol,
        body,
        identification=identification,
        ttl=packet.ttl,
        fragment=0 if details.fragmentable else DONT_FRAGMENT,
    )


def ip_packet(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    body: bytes,
    *,
    identification: int = 0,
    ttl: int = 64,
    fragment: int = 0,
) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(body), identification, fragment, ttl, protocol, 0, source.packed, destination.packed,
    )  # fmt: skip
    return header[:10] + checksum(header) + header[12:] + body


def in_fragments(ip: bytes, octets: int) -> list[bytes]:
    """An IPv4 packet as fragments that carry so many octets each, a multiple of 8 (RFC 791, 3.2)."""
    body = ip[20:]
    made = []
    for start in range(0, len(body), octets):
        piece = body[start : start + octets]
        more = MORE_FRAGMENTS if start + octets < len(body) else 0
        length, fragment = (20 + len(piece)).to_bytes(2), (more | start // 8).to_bytes(2)
        header = ip[:2] + length + ip[4:6] + fragment + ip[8:10] + bytes(2) + ip[12:20]
        made.append(header[:10] + checksum(header) + header[12:] + piece)
    return made


def joined(fragments: Sequence[Seen]) -> bytes:
    """What the fragments of one packet carry together; fails where one is missing or there twice."""
    ordered = sorted(fragments, key=lambda each: each.fragment & FRAGMENT_OFFSET)
    body = b""
    for each in ordered:
        assert (each.fragment & FRAGMENT_OFFSET) * 8 == len(body), "a fragment is missing, or there twice"
        body += each.body
    more = [bool(each.fragment & MORE_FRAGMENTS) for each in ordered]
    assert more == [True] * (len(more) - 1) + [False], "the last fragment is missing"
    return body


def echo_request(number: int) -> bytes:
    """Body of a ping."""
    return _summed(struct.pack("!BBHHH", 8, 0, 0, number, 1), 2)


def fragmentation_needed(quoted: bytes, mtu_bytes: int) -> bytes:
    """Body of an ICMP error about a packet that is too big (RFC 1191)."""
    return _summed(struct.pack("!BBHHH", 3, 4, 0, 0, mtu_bytes) + quoted[:28], 2)


def wccp_gre(header: int, ip: bytes) -> bytes:
    """Body of a GRE packet as a cache returns one (draft 4.12.1)."""
    return struct.pack("!HHI", 0, GRE_WCCP, header) + ip


def plain_gre(ip: bytes) -> bytes:
    return struct.pack("!HH", 0, GRE_IPV4) + ip


def mss_of(seen: Seen) -> int | None:
    """The MSS option of a TCP segment, if it is the first option."""
    kind, _, value = struct.unpack_from("!BBH", seen.body, 20) if len(seen.body) >= 24 else (0, 0, 0)
    return value if kind == 2 else None


def has_right_tcp_checksum(seen: Seen) -> bool:
    """Whether a TCP segment would be accepted by its receiver."""
    pseudo = seen.ip[12:20] + struct.pack("!HH", TCP, len(seen.body))
    return checksum(pseudo + seen.body) == bytes(2)


def checksum(data: bytes) -> bytes:
    """RFC 1071, in network order."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2)


def _body(packet: Packet, details: Details) -> bytes:
    pseudo = packet.source.packed + packet.destination.packed
    match packet.protocol:
        case 6:
            options = b"" if details.mss is None else struct.pack("!BBH", 2, 4, details.mss)
            offset = (20 + len(options)) // 4 << 4
            segment = struct.pack(
                "!HHIIBBHHH",
                packet.source_port, packet.destination_port, 1000, 0 if details.flags == SYN else 1,
                offset, details.flags, 65000, 0, 0,
            ) + options + details.payload  # fmt: skip
            return _summed(segment, 16, pseudo + struct.pack("!HH", TCP, len(segment)))
        case 17:
            ports = (packet.source_port, packet.destination_port)
            datagram = struct.pack("!HHHH", *ports, 8 + len(details.payload), 0) + details.payload
            return _summed(datagram, 6, pseudo + struct.pack("!HH", UDP, len(datagram)))
        case 1:
            return _summed(struct.pack("!BBHHH", 8, 0, 0, 1, 1) + details.payload, 2)
        case _:
            return bytes(8) + details.payload


def _summed(data: bytes, at: int, pseudo: bytes = b"") -> bytes:
    return data[:at] + checksum(pseudo + data) + data[at + 2 :]
