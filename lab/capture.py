"""Captures on the lab's nodes: tcpdump on all interfaces of a node at once.

A small reader for what the tests assert, tshark for an independent decode. The reader knows the format
(LINUX_SLL2), IPv4, GRE (RFC 2784, 2890), WCCP's redirect header, TCP and UDP ports. It is written apart from
the daemon's own codec so that neither can hide the other's mistake.
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from lab.errors import wait_until
from lab.network import execute, in_namespace
from lab.processes import Program
from lab.topology import Node

GRE_IPV4 = 0x0800
GRE_WCCP = 0x883E
TCP_SYN = 0x02
TCP_ACK = 0x10
_PROTOCOL_GRE = 47
_LINKTYPE_LINUX_SLL2 = 276
_OUTGOING = 4


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """The outer headers of a packet in GRE."""

    source: IPv4Address
    destination: IPv4Address
    gre_protocol: int
    key: int | None
    redirect_header: bytes | None


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet as seen on one interface; addresses and ports are those of the innermost packet."""

    interface: str
    outgoing: bool
    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_port: int
    destination_port: int
    tcp_flags: int
    encapsulation: Encapsulation | None

    @property
    def is_opening(self) -> bool:
        """Whether this is the first packet of a TCP connection."""
        return self.protocol == 6 and self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN

    @property
    def is_opening_answer(self) -> bool:
        """Whether this is the second packet of a TCP connection."""
        return self.protocol == 6 and self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK


class Capture:
    """A running or finished capture on all interfaces of a node."""

    def __init__(self, node: Node, file: Path, program: Program) -> None:
        self.node = node
        self.file = file
        self._program = program
        self._interfaces: dict[int, str] = {}

    def wait_ready(self, timeout_seconds: float = 60) -> None:
        """Return when packets are being captured.

        Raises:
            LabError: they are not in time.
        """
        wait_until(
            lambda: "listening on" in self._program.log_tail(50),
            f"capture on {self.node.name}",
            timeout_seconds,
            explain=self._program.log_tail,
        )

    def packets(self) -> list[Packet]:
        """The IPv4 packets captured so far."""
        links = json.loads(execute(in_namespace(self.node, ["ip", "-j", "link", "show"])))
        # A device may be gone by the time we ask again; its packets keep their name.
        self._interfaces |= {link["ifindex"]: link["ifname"] for link in links}
        return _read_capture(self.file.read_bytes(), self._interfaces)

    def wait_for(self, wanted: Callable[[Packet], bool], what: str, timeout_seconds: float = 30) -> Packet:
        """The first captured packet that is `wanted`.

        Raises:
            LabError: there was none in time; lists what was captured instead.
        """
        found = wait_until(
            lambda: [packet for packet in self.packets() if wanted(packet)],
            f"packet on {self.node.name}: {what}",
            timeout_seconds,
            explain=lambda: "\n".join(str(packet) for packet in self.packets()[:40]),
        )
        return found[0]

    def stop(self) -> None:
        """End the capture; what was captured stays readable."""
        if self._program.running:
            self._program.process.terminate()
            self._program.process.wait(30)


def _read_capture(data: bytes, interfaces: dict[int, str]) -> list[Packet]:
    if len(data) < 24:
        return []
    (link_type,) = struct.unpack_from("=I", data, 20)
    if link_type != _LINKTYPE_LINUX_SLL2:
        raise ValueError(f"capture of link type {link_type}, not LINUX_SLL2")
    packets, offset = [], 24
    while offset + 16 <= len(data):
        (length,) = struct.unpack_from("=I", data, offset + 8)
        frame = data[offset + 16 : offset + 16 + length]
        offset += 16 + length
        if len(frame) < length:
            break
        ether_type, _, index, _, kind = struct.unpack_from("!HHIHB", frame)
        if ether_type == 0x0800:
            packets.append(_read_packet(frame[20:], interfaces.get(index, f"if{index}"), kind == _OUTGOING))
    return packets


def _read_packet(data: bytes, interface: str, outgoing: bool) -> Packet:
    encapsulation = None
    if data[9] == _PROTOCOL_GRE:
        encapsulation, data = _read_gre(data)
    payload = data[(data[0] & 0x0F) * 4 :]
    protocol, fragment_offset = data[9], struct.unpack_from("!H", data, 6)[0] & 0x1FFF
    source_port = destination_port = flags = 0
    if protocol in (6, 17) and not fragment_offset and len(payload) >= 4:
        source_port, destination_port = struct.unpack_from("!HH", payload)
    if protocol == 6 and not fragment_offset and len(payload) >= 14:
        flags = payload[13]
    return Packet(
        interface,
        outgoing,
        IPv4Address(data[12:16]),
        IPv4Address(data[16:20]),
        protocol,
        source_port,
        destination_port,
        flags,
        encapsulation,
    )


def _read_gre(data: bytes) -> tuple[Encapsulation, bytes]:
    header_end = (data[0] & 0x0F) * 4
    flags, protocol = struct.unpack_from("!HH", data, header_end)
    inner, key, redirect_header = header_end + 4, None, None
    if flags & 0x8000:
        inner += 4
    if flags & 0x2000:
        (key,) = struct.unpack_from("!I", data, inner)
        inner += 4
    if flags & 0x1000:
        inner += 4
    # WCCPv1 has no redirect header; Linux too tells by the nibble where IPv4 has its version.
    if protocol == GRE_WCCP and data[inner] >> 4 != 4:
        redirect_header = data[inner : inner + 4]
        inner += 4
    outer = Encapsulation(IPv4Address(data[12:16]), IPv4Address(data[16:20]), protocol, key, redirect_header)
    return outer, data[inner:]


def decode_with_tshark(file: Path, display_filter: str, fields: Sequence[str]) -> list[dict[str, list[str]]]:
    """What tshark makes of the packets in `file` that match: the values of `fields`, outermost first.

    Raises:
        LabError: tshark failed.
    """
    names = [argument for name in fields for argument in ("-e", name)]
    layout = ["-T", "fields", "-E", "occurrence=a", "-E", "aggregator=,", "-E", "separator=/t"]
    text = _tshark(file, display_filter, [*layout, *names])
    return [
        dict(zip(fields, ([v for v in column.split(",") if v] for column in line.split("\t")), strict=True))
        for line in text.splitlines()
    ]


def _tshark(file: Path, display_filter: str, output: Sequence[str]) -> str:
    # Without this it first runs every external capture program to ask what it can do.
    environment = ["env", "WIRESHARK_EXTCAP_DIR=/nonexistent"]
    return execute([*environment, "tshark", "-n", "-r", str(file), "-Y", display_filter, *output])


def describe_with_tshark(file: Path, display_filter: str) -> str:
    """What tshark prints of the first packet in `file` that matches: GRE in full, else a line a layer."""
    text = _tshark(file, display_filter, ["-O", "gre,wccp"])
    return text.split("\n\n", 1)[0]
