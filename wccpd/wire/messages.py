"""The four messages (draft 5.1-5.4) and the way in and out of them.

Sending: components in the order in which the drafts draw them, because Traffic Server reads them in no other.
Receiving: any order, and as tolerant as 2.01, 4.1 asks: unknown components are skipped by their length and
kept in `unknown`, a second component of a type and one that runs past the end are left aside and noted in
`tolerated`. Whether a message makes sense for the state of a service group is not known here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, assert_never

from wccpd.wire.addresses import AddressTable, TableBuilder
from wccpd.wire.assignments import (
    AlternateAssignment,
    AlternateAssignmentMap,
    AssignmentInfo,
    AssignmentMap,
)
from wccpd.wire.components import (
    CacheView,
    Capabilities,
    CommandExtension,
    RouterIdentity,
    RouterQuery,
    RouterView,
    ServiceInfo,
)
from wccpd.wire.enums import (
    DIGEST_OCTETS,
    MAJOR_VERSION,
    AddressFamily,
    CommandType,
    ComponentType,
    MessageType,
    SecurityOption,
)
from wccpd.wire.errors import Tolerated, WireError, WireReason
from wccpd.wire.framing import HEADER_OCTETS, read_frame
from wccpd.wire.identity import WebCacheIdentity
from wccpd.wire.reader import Reader
from wccpd.wire.security import SecurityInfo, sign
from wccpd.wire.writer import Writer, ipv4_field

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from wccpd.wire.framing import Frame

_HEADER = struct.Struct("!IBBH")
_DIGEST_OFFSET = 16
"""Security Info is the first component we write: header, type and length, option, digest."""
_NO_SECURITY = SecurityInfo()
_UNSIGNED = SecurityInfo(SecurityOption.MD5, bytes(DIGEST_OCTETS))


@dataclass(frozen=True, slots=True)
class UnknownComponent:
    """A component that the message should not have or that nobody knows, kept as it came."""

    component_type: int
    octets: bytes = b""


@dataclass(frozen=True, kw_only=True)
class _Envelope:
    """What every message has. Without slots: see `_of_parts`."""

    TYPE: ClassVar[MessageType]

    service: ServiceInfo
    security: SecurityInfo = _NO_SECURITY
    minor_version: int = 0
    """0 for 2.00, 1 for 2.01."""
    unknown: tuple[UnknownComponent, ...] = ()
    address_table: AddressTable | None = field(default=None, compare=False)
    """2.01: the table it came with; in sending, order and entry size to keep, None to make one if needed."""
    tolerated: tuple[Tolerated, ...] = field(default=(), compare=False)
    """What had to be overlooked to read the message."""

    def __str__(self) -> str:
        return f"{self.TYPE.name} {MAJOR_VERSION}.{self.minor_version:02} {self.service.key}"


@dataclass(frozen=True, kw_only=True)
class HereIAm(_Envelope):
    """WCCP2_HERE_I_AM, web-cache to router (draft 5.1)."""

    TYPE = MessageType.HERE_I_AM

    identity: WebCacheIdentity
    view: CacheView
    capabilities: Capabilities | None = None
    commands: CommandExtension | None = None

    @property
    def shutdown(self) -> IPv4Address | IPv6Address | None:
        """The web-cache that a SHUTDOWN command names; None without one."""
        return self.commands.address_of(CommandType.SHUTDOWN) if self.commands else None


@dataclass(frozen=True, kw_only=True)
class ISeeYou(_Envelope):
    """WCCP2_I_SEE_YOU, router to web-cache (draft 5.2)."""

    TYPE = MessageType.I_SEE_YOU

    identity: RouterIdentity
    view: RouterView
    assignment_map: AssignmentMap | None = None
    alternate_assignment_map: AlternateAssignmentMap | None = None
    """2.01, instead of `assignment_map`."""
    capabilities: Capabilities | None = None
    commands: CommandExtension | None = None

    @property
    def shutdown_response(self) -> IPv4Address | IPv6Address | None:
        """The web-cache whose SHUTDOWN is acknowledged; None without such a command."""
        return self.commands.address_of(CommandType.SHUTDOWN_RESPONSE) if self.commands else None


@dataclass(frozen=True, kw_only=True)
class RedirectAssign(_Envelope):
    """WCCP2_REDIRECT_ASSIGN, designated web-cache to router (draft 5.3), with one of two assignments."""

    TYPE = MessageType.REDIRECT_ASSIGN

    assignment: AssignmentInfo | None = None
    alternate_assignment: AlternateAssignment | None = None

    @property
    def hash_assignment(self) -> AssignmentInfo | None:
        """The bucket table, whichever component it came in; None for mask assignment."""
        if self.assignment is not None:
            return self.assignment
        alternate = self.alternate_assignment
        return alternate.hash_assignment if alternate is not None else None


@dataclass(frozen=True, kw_only=True)
class RemovalQuery(_Envelope):
    """WCCP2_REMOVAL_QUERY, router to web-cache (draft 5.4)."""

    TYPE = MessageType.REMOVAL_QUERY

    query: RouterQuery


Message = HereIAm | ISeeYou | RedirectAssign | RemovalQuery


class _Component(Protocol):
    def encode(self, writer: Writer) -> None: ...


class _Slot(NamedTuple):
    """A component's place in a message."""

    attribute: str
    component_type: ComponentType
    decode: Callable[[Reader], object]
    mandatory: bool = False
    recurs: bool = False
    """It is the same in every message of a web-cache."""


_SECURITY = _Slot("security", ComponentType.SECURITY_INFO, SecurityInfo.decode, mandatory=True)
_SERVICE = _Slot("service", ComponentType.SERVICE_INFO, ServiceInfo.decode, mandatory=True, recurs=True)
_CAPABILITIES = _Slot("capabilities", ComponentType.CAPABILITIES_INFO, Capabilities.decode, recurs=True)
_COMMANDS = _Slot("commands", ComponentType.COMMAND_EXTENSION, CommandExtension.decode)

_LAYOUTS: dict[MessageType, tuple[type[Message], tuple[_Slot, ...]]] = {
    MessageType.HERE_I_AM: (
        HereIAm,
        (
            _SECURITY,
            _SERVICE,
            _Slot("identity", ComponentType.WC_ID_INFO, WebCacheIdentity.decode, mandatory=True, recurs=True),
            _Slot("view", ComponentType.WC_VIEW_INFO, CacheView.decode, mandatory=True),
            _CAPABILITIES,
            _COMMANDS,
        ),
    ),
    MessageType.I_SEE_YOU: (
        ISeeYou,
        (
            _SECURITY,
            _SERVICE,
            _Slot("identity", ComponentType.ROUTER_ID_INFO, RouterIdentity.decode, mandatory=True),
            _Slot("view", ComponentType.RTR_VIEW_INFO, RouterView.decode, mandatory=True),
            _Slot("assignment_map", ComponentType.ASSIGN_MAP, AssignmentMap.decode),
            _Slot(
                "alternate_assignment_map",
                ComponentType.ALT_ASSIGNMENT_MAP,
                AlternateAssignmentMap.decode,
            ),
            _CAPABILITIES,
            _COMMANDS,
        ),
    ),
    MessageType.REDIRECT_ASSIGN: (
        RedirectAssign,
        (
            _SECURITY,
            _SERVICE,
            _Slot("assignment", ComponentType.REDIRECT_ASSIGNMENT, AssignmentInfo.decode),
            _Slot("alternate_assignment", ComponentType.ALT_ASSIGNMENT, AlternateAssignment.decode),
        ),
    ),
    MessageType.REMOVAL_QUERY: (
        RemovalQuery,
        (
            _SECURITY,
            _SERVICE,
            _Slot("query", ComponentType.QUERY_INFO, RouterQuery.decode, mandatory=True),
        ),
    ),
}
"""Components of each message in drawn order; the Address Table comes after all of them."""
_READINGS = {
    message_type: (kind, tuple((each.attribute, int(each.component_type), *each[2:]) for each in slots))
    for message_type, (kind, slots) in _LAYOUTS.items()
}
"""The same with plain numbers, which are found quicker than enum members."""
_ADDRESS_TABLE = int(ComponentType.ADDRESS_TABLE)


def decode_message(datagram: bytes) -> Message:
    """Read the message at the start of a datagram. The digest is not checked, see `security`.

    Raises:
        WireError: The octets are no WCCPv2 message; nothing else is ever raised, whatever the octets.
    """
    frame = read_frame(datagram)
    header, first, spans, tolerated = frame
    kind, slots = _READINGS[header.message_type]
    reader = Reader(datagram, 0, 0)
    table = _read_table(frame, reader) if _ADDRESS_TABLE in first else None
    if table is not None:
        reader.resolve = table.resolve
    parts: dict[str, Any] = {}
    for attribute, component_type, decode, mandatory, recurs in slots:
        span = first.get(component_type)
        if span is None:
            if mandatory:
                raise _missing(frame, ComponentType(component_type))
            continue
        _, offset, end = span
        # Under an Address Table the same octets may mean another address each time.
        if recurs and end - offset <= RECURRING_OCTETS and table is None:
            value = _recurring(decode, datagram[offset:end])
            if value is not None:
                parts[attribute] = value
                continue
        reader.move(offset, end, component_type)
        parts[attribute] = decode(reader)
        reader.finish()
    if kind is RedirectAssign and len(parts) == _ENVELOPE_COMPONENTS:
        raise _missing(frame, ComponentType.REDIRECT_ASSIGNMENT)
    if len(spans) > len(parts):
        parts["unknown"] = _unknown(frame, datagram)
    if header.minor_version:
        parts["minor_version"] = header.minor_version
    if table is not None:
        parts["address_table"] = table
    if tolerated or reader.tolerated:
        parts["tolerated"] = (*tolerated, *reader.tolerated)
    return _of_parts(kind, parts)


def _of_parts(kind: type[Message], parts: dict[str, Any]) -> Message:
    """A message whose parts are known to be right: its own constructor sets each frozen field by a call.

    What is not among the parts has its default, which is found in the class.
    """
    message = object.__new__(kind)
    message.__dict__.update(parts)
    return message


_ENVELOPE_COMPONENTS = 2
RECURRING_OCTETS = 64
"""Longest body that is remembered: real ones have 24 to 40 octets, and strangers must not fill the memory."""


@lru_cache(maxsize=4096)
def _recurring(decode: Callable[[Reader], object], body: bytes) -> object | None:
    """What a body stands for, remembered from the last message that had it; None for a faulty one."""
    reader = Reader(body, 0, len(body))
    try:
        value = decode(reader)
        reader.finish()
    except WireError:
        return None
    return None if reader.tolerated else value


def peek_service(datagram: bytes) -> ServiceInfo:
    """Read the Service Info alone: the digest cannot be checked before it is known whose password to take.

    Raises:
        WireError: The octets have no readable Service Info; nothing else is ever raised.
    """
    frame = read_frame(datagram)
    span = frame.first.get(ComponentType.SERVICE_INFO)
    if span is None:
        raise _missing(frame, ComponentType.SERVICE_INFO)
    component_type, offset, end = span
    service = (
        _recurring(ServiceInfo.decode, datagram[offset:end]) if end - offset <= RECURRING_OCTETS else None
    )
    if not isinstance(service, ServiceInfo):
        reader = Reader(datagram, offset, end, component_type)
        service = ServiceInfo.decode(reader)
        reader.finish()
    return service


def encode_message(message: Message, *, password: bytes | None = None, dual_valid: bool = False) -> bytes:
    """Write a message.

    Args:
        message: Its `security` is written as it is unless there is a password.
        password: 1 to 8 octets; the message then carries an MD5 digest.
        dual_valid: Put an empty component after every component and a filler after every capability.
            A correct receiver skips them as unknown; Squid 4.17 to 7.6, which steps 4 octets too far, lands
            on the real ones.

    Raises:
        ValueError: The message cannot be written: an address of another family than the message's, a table in
            2.00, a field out of range, too long. Ours, never a peer's fault.
    """
    builder = _table_builder(message)
    writer = Writer(ipv4_field if builder is None else builder.field, dual_valid=dual_valid)
    _, slots = _LAYOUTS[message.TYPE]
    try:
        writer.pack(_HEADER, message.TYPE, MAJOR_VERSION, message.minor_version, 0)
        for slot in slots:
            signed = password is not None and slot is _SECURITY
            component: _Component | None = _UNSIGNED if signed else getattr(message, slot.attribute)
            if component is not None:
                _write_component(writer, slot.component_type, component)
        for unknown in message.unknown:
            start = writer.begin(unknown.component_type)
            writer.octets(unknown.octets)
            _end_component(writer, start)
        if builder is not None:
            _write_component(writer, ComponentType.ADDRESS_TABLE, builder.table())
    except struct.error as error:
        raise ValueError(f"a field of {message} is out of range: {error}") from error
    writer.end(HEADER_OCTETS)
    if password is not None:
        sign(writer.buffer, _DIGEST_OFFSET, password)
    return bytes(writer.buffer)


def _write_component(writer: Writer, component_type: int, component: _Component) -> None:
    start = writer.begin(component_type)
    component.encode(writer)
    _end_component(writer, start)


def _end_component(writer: Writer, start: int) -> None:
    writer.end(start)
    if writer.dual_valid:
        writer.end(writer.begin(ComponentType.EMPTY))


def _table_builder(message: Message) -> TableBuilder | None:
    """What numbers the addresses; None for a message of plain IPv4 fields."""
    template = message.address_table
    if template is None and _main_address(message).version == 6:
        template = AddressTable.of_family(AddressFamily.IPV6)
    if template is None:
        return None
    if message.minor_version == 0:
        raise ValueError("version 2.00 has no Address Table")
    return TableBuilder(template)


def _main_address(message: Message) -> IPv4Address | IPv6Address:
    """An address that is never unspecified: its family is the message's."""
    match message:
        case HereIAm():
            return message.identity.address
        case ISeeYou():
            return message.identity.router_id
        case RemovalQuery():
            return message.query.router_id
        case RedirectAssign():
            assignment = message.assignment or message.alternate_assignment
            if assignment is None:
                raise ValueError("a REDIRECT_ASSIGN without an assignment")
            return assignment.key.address
        case _:
            assert_never(message)


def _read_table(frame: Frame, reader: Reader) -> AddressTable | None:
    """The Address Table, wherever it stands: no address means anything before it is known."""
    span = frame.first.get(ComponentType.ADDRESS_TABLE)
    if span is None:
        return None
    component_type, offset, end = span
    reader.move(offset, end, component_type)
    if frame.header.minor_version == 0:
        raise reader.fail(WireReason.ADDRESS_TABLE_IN_2_00, "version 2.00 has no Address Table")
    table = AddressTable.decode(reader)
    reader.finish()
    return table


def _unknown(frame: Frame, datagram: bytes) -> tuple[UnknownComponent, ...]:
    _, slots = _LAYOUTS[frame.header.message_type]
    expected = {slot.component_type for slot in slots} | {ComponentType.ADDRESS_TABLE}
    return tuple(
        UnknownComponent(component_type, datagram[offset:end])
        for component_type, offset, end in frame.spans
        if component_type not in expected
    )


def _missing(frame: Frame, component_type: ComponentType) -> WireError:
    """The error for an absent mandatory component; blames the one that runs past the end if there is one."""
    detail = f"{frame.header.message_type.name} has no {component_type.name}"
    for fault in frame.tolerated:
        if fault.reason is WireReason.COMPONENT_PAST_END:
            return WireError(fault.reason, f"{fault.detail}; {detail}", fault.offset)
    return WireError(WireReason.COMPONENT_MISSING, detail, frame.header.end)
