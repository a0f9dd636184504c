"""Message header and component boundaries (draft 5.5, 5.6; 2.01, 4.1 and 4.6).

    0: type (4); 4: major version (1); 5: minor version (1); 6: length of what follows (2)
    then components: type (2), length of the body (2), body

What is inside a component is not known here. Octets of the datagram past the message are ignored.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from wccpd.wire.enums import MAJOR_VERSION, ComponentType, MessageType
from wccpd.wire.errors import Tolerated, WireError, WireReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADER = Struct("!IBBH")
_TYPE_LENGTH = Struct("!HH")
_VERSION_1_TYPES = frozenset({b"\0\0\0\x07", b"\0\0\0\x08", b"\0\0\0\x09"})
_MESSAGE_TYPES = {member.value: member for member in MessageType}
HEADER_OCTETS = _HEADER.size
MAX_COMPONENTS = 64
"""The fullest message has 8 components, and as many empty ones in the dual-valid form."""


Span = tuple[int, int, int]
"""A component: its type, where its body begins in the datagram, where it ends."""


class Header(NamedTuple):
    """A message header that says WCCP version 2."""

    message_type: MessageType
    minor_version: int
    """0 for 2.00, 1 for 2.01; later ones are read as 2.01."""
    end: int
    """Octets of the whole message, header included."""


class Frame(NamedTuple):
    """A message cut into components."""

    header: Header
    first: Mapping[int, Span]
    """The first component of each type, in the order of the message."""
    spans: Sequence[Span]
    """All components that lie within the message."""
    tolerated: Sequence[Tolerated]


def read_header(datagram: bytes) -> Header:
    """Read and check the header.

    Raises:
        WireError: WCCP_VERSION_1, DATAGRAM_TOO_SHORT, MAJOR_VERSION, MESSAGE_TYPE, MESSAGE_PAST_END.
    """
    if len(datagram) < HEADER_OCTETS:
        raise _no_header(datagram)
    number, major, minor, length = _HEADER.unpack_from(datagram)
    message_type = _MESSAGE_TYPES.get(number)
    if message_type is None or major != MAJOR_VERSION:
        raise _foreign_header(datagram, number, major, minor)
    end = HEADER_OCTETS + length
    if end > len(datagram):
        raise WireError(
            WireReason.MESSAGE_PAST_END, f"the message has {end} octets, the datagram {len(datagram)}", 6
        )
    return Header(message_type, minor, end)


def _no_header(datagram: bytes) -> WireError:
    if datagram[:4] in _VERSION_1_TYPES:
        return WireError(WireReason.WCCP_VERSION_1, "a WCCPv1 message", 0)
    detail = f"{len(datagram)} octets, a header has {HEADER_OCTETS}"
    return WireError(WireReason.DATAGRAM_TOO_SHORT, detail, 0)


def _foreign_header(datagram: bytes, number: int, major: int, minor: int) -> WireError:
    if datagram[:4] in _VERSION_1_TYPES:
        return WireError(WireReason.WCCP_VERSION_1, "a WCCPv1 message", 0)
    if major != MAJOR_VERSION:
        return WireError(WireReason.MAJOR_VERSION, f"WCCP version {major}.{minor:02}", 4)
    return WireError(WireReason.MESSAGE_TYPE, f"message type {number}", 0)


def message_length(datagram: bytes) -> int:
    """Octets of the message at the start of a datagram, header included: what the digest covers.

    Raises:
        WireError: Those of `read_header`.
    """
    return read_header(datagram).end


class _Memory:
    """What was read last: service, digest and contents of a datagram are read one after another."""

    last: tuple[bytes, Frame] | None = None


def read_frame(datagram: bytes) -> Frame:
    """Find the components of a message. Those of the last one are remembered.

    Raises:
        WireError: Those of `read_header`, COMPONENT_UNALIGNED, TOO_MANY_COMPONENTS.
    """
    last = _Memory.last
    if last is not None and last[0] is datagram:
        return last[1]
    frame = _read_frame(datagram)
    _Memory.last = datagram, frame
    return frame


def _read_frame(datagram: bytes) -> Frame:
    header = read_header(datagram)
    end = header.end
    offset = HEADER_OCTETS
    spans: list[Span] = []
    first: dict[int, Span] = {}
    tolerated: list[Tolerated] = []
    unpack_from = _TYPE_LENGTH.unpack_from
    for _ in range(MAX_COMPONENTS):
        if end - offset < 4:
            break
        component_type, length = unpack_from(datagram, offset)
        body = offset + 4
        end_of_body = body + length
        if end_of_body > end:
            detail = f"component {component_type} has {length} octets, the message {end - body} more"
            tolerated.append(Tolerated(WireReason.COMPONENT_PAST_END, detail, offset))
            offset = end
            break
        if length & 3:
            detail = f"a length of {length} is no multiple of 4"
            raise WireError(WireReason.COMPONENT_UNALIGNED, detail, offset, component_type)
        span = component_type, body, end_of_body
        spans.append(span)
        if component_type not in first:
            first[component_type] = span
        elif component_type in _KNOWN:
            detail = f"component {component_type} came before"
            tolerated.append(Tolerated(WireReason.COMPONENT_DUPLICATE, detail, offset))
        offset = end_of_body
    else:
        if end - offset >= 4:
            raise WireError(WireReason.TOO_MANY_COMPONENTS, f"more than {MAX_COMPONENTS} components", offset)
    if offset != end:
        detail = f"{end - offset} octets are no component"
        tolerated.append(Tolerated(WireReason.STRAY_OCTETS, detail, offset))
    return Frame(header, first, spans, tolerated)


_KNOWN = frozenset(ComponentType) - {ComponentType.EMPTY}
