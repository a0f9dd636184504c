"""WCCP messages and redirected packets in captures or hexadecimal, in words: what `wccpctl decode` prints.

scapy reads the files and what is around WCCP; the messages are read by the router's own decoder, so that what it says
here is what it thinks of them when they arrive.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum, Flag
from typing import TYPE_CHECKING

from gre.header import GRE_PROTOCOL_WCCP, RedirectFlags
from wccpd.wire.enums import WCCP_PORT
from wccpd.wire.errors import WireError
from wccpd.wire.messages import decode_message
from wccpd.wire.security import check_digest, peek_security

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scapy.packet import Packet as ScapyPacket

CAPTURE_MAGIC = (
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\xc3\xd4",
    b"\x4d\x3c\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x0a\x0d\x0d\x0a",
)
"""pcap in either byte order, with micro- or nanoseconds, and pcapng."""
BYTES_SHOWN = 16


class SourceError(ValueError):
    """What is to be decoded can be neither read as a capture nor as hexadecimal; the text says why."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One message or redirected packet."""

    title: str
    """Who to whom, and what."""
    content: object
    """Plain JSON values."""
    fault: str = ""
    """Why a router would not take the message."""


def decode_hex(text: str, password: bytes | None = None) -> Decoded:
    """One message in hexadecimal; blanks, colons and line ends do not count.

    Raises:
        SourceError: It is no hexadecimal.
    """
    digits = "".join(text.split()).replace(":", "").removeprefix("0x")
    try:
        datagram = bytes.fromhex(digits)
    except ValueError:
        raise SourceError("it is neither a file nor hexadecimal digits in pairs") from None
    return _message(datagram, "", password)


def decode_file(path: Path, password: bytes | None = None) -> Iterator[Decoded]:
    """Everything of WCCP in a capture, in its order; or the one message that a file holds as hexadecimal.

    Raises:
        SourceError: It is neither, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic not in CAPTURE_MAGIC:
            yield decode_hex(path.read_text(encoding="ascii", errors="replace"), password)
            return
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    from scapy.error import Scapy_Exception  # noqa: PLC0415 - slow to import
    from scapy.layers import inet, l2  # noqa: F401, PLC0415 - reading links and IP needs them
    from scapy.utils import PcapReader  # noqa: PLC0415

    try:
        with PcapReader(str(path)) as reader:
            for number, packet in enumerate(reader, start=1):
                decoded = decode_packet(packet, number, password)
                if decoded is not None:
                    yield decoded
    except (Scapy_Exception, EOFError) as error:
        raise SourceError(f"{path} is a capture that cannot be read: {error}") from error


def decode_packet(packet: ScapyPacket, number: int, password: bytes | None = None) -> Decoded | None:
    """What is of WCCP in one captured packet; None if nothing is."""
    from scapy.layers.inet import IP, UDP  # noqa: PLC0415 - see decode_file
    from scapy.layers.l2 import GRE  # noqa: PLC0415

    if IP not in packet:
        return None
    ip = packet[IP]
    where = f"packet {number}: {ip.src} to {ip.dst}"
    if ip.frag == 0 and UDP in ip and WCCP_PORT in {ip[UDP].sport, ip[UDP].dport} and GRE not in ip:
        return _message(bytes(ip[UDP].payload), where, password)
    if GRE in ip and ip[GRE].proto == GRE_PROTOCOL_WCCP:
        return _redirected(bytes(ip[GRE].payload), where)
    return None


def decode_ip(octets: bytes, number: int, password: bytes | None = None) -> Decoded | None:
    """The same of a packet that begins with its IPv4 header."""
    from scapy.layers.inet import IP  # noqa: PLC0415 - see decode_file

    return decode_packet(IP(octets), number, password)


def text(decoded: Decoded) -> str:
    """One message as indented lines."""
    lines = [decoded.title]
    if decoded.fault:
        lines.append(f"  a router refuses it: {decoded.fault}")
    return "\n".join((*lines, *_lines(decoded.content, 1)))


def _message(datagram: bytes, where: str, password: bytes | None) -> Decoded:
    try:
        message = decode_message(datagram)
    except WireError as error:
        fault = f"{error} ({error.reason})"
        return Decoded(
            ": ".join(filter(None, (where, "not a WCCPv2 message"))), {"octets": datagram.hex()}, fault
        )
    content = _plain(message)
    assert isinstance(content, dict)
    if password is not None:
        content["digest"] = _digest(datagram, password)
    return Decoded(": ".join(filter(None, (where, str(message)))), content)


def _digest(datagram: bytes, password: bytes) -> str:
    if not peek_security(datagram):
        return "none"
    return "right" if check_digest(datagram, password) else "wrong"


def _redirected(payload: bytes, where: str) -> Decoded:
    """GRE of type 0x883E: a redirect header (draft 4.12.1), which WCCPv1 and some caches leave out, and a packet."""
    from scapy.layers.inet import IP  # noqa: PLC0415 - see decode_file

    content: dict[str, object] = {}
    if len(payload) >= 4 and payload[0] >> 4 != 4:
        flags = RedirectFlags(payload[0] & 0x03)
        content["redirect_header"] = {
            "dynamic": RedirectFlags.DYNAMIC in flags,
            "service_id": payload[1],
            "alternate_bucket": payload[2] if RedirectFlags.ALTERNATE in flags else None,
            "primary_bucket": payload[3],
        }
        payload = payload[4:]
    inner = IP(payload) if len(payload) >= 20 and payload[0] >> 4 == 4 else None
    content["packet"] = inner.summary() if inner is not None else payload[:BYTES_SHOWN].hex()
    return Decoded(f"{where}: redirected or returned packet", content)


def _plain(value: object) -> object:
    """A message's values as JSON has them: flags by their names, addresses as text, what is absent left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(each) for name, each in found if each is not None and each != ()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(each) for each in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    match value:
        case Flag():
            return [flag.name for flag in value if flag.name] or [f"{value.value:#x}"]
        case Enum():
            return value.name
        case bytes():
            return value.hex()
        case bool() | int() | float() | None:
            return value
        case _:
            return str(value)


def _lines(value: object, depth: int) -> Iterator[str]:
    """JSON values as indented lines: short lists in one, long ones wrapped, records one below the other."""
    blank = "  " * depth
    if isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, dict) or (
                isinstance(each, list) and any(isinstance(item, dict) for item in each)
            ):
                yield f"{blank}{name}:"
                yield from _lines(each, depth + 1)
            else:
                yield f"{blank}{name}: {_short(each)}"
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield f"{blank}[{number}]"
            yield from _lines(each, depth + 1)
    else:
        yield f"{blank}{value}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
