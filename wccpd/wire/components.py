"""The components of a message (draft 5.6; 2.01, 5). Each reads and writes its body, without type and length.

Offsets in the drawings count from the start of the body. Which message has which component is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from wccpd.wire.elements import (
    AssignmentKey,
    Command,
    RouterIdReceiveId,
    ServiceKey,
    TimerScale,
    TransmitT,
    UnknownElement,
    read_caches,
    read_router_ids,
    read_routers,
    write_addresses,
)
from wccpd.wire.enums import (
    MAX_CACHES,
    PORTS,
    STANDARD_SERVICE_PRIORITY,
    AssignmentMethod,
    CapabilityType,
    CommandType,
    ComponentType,
    ForwardingMethod,
    PacketReturnMethod,
    ServiceFlags,
    ServiceType,
)
from wccpd.wire.errors import WireReason
from wccpd.wire.identity import WebCacheIdentity
from wccpd.wire.reader import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wccpd.wire.reader import IPAddress, Reader
    from wccpd.wire.writer import Writer

_FOUR_UINT32 = Struct("!IIII")
_THREE_UINT32 = Struct("!III")
_TYPE_LENGTH = Struct("!HH")
_SERVICE = Struct(f"!BBBBI{PORTS}H")
_TCP, _UDP = 6, 17
_WEB_CACHE_PORTS = (80,)
_NO_FLAGS = ServiceFlags(0)
_IDENTITY_MINIMUM = 8
"""Octets of an identity element without assignment data."""
MAX_ELEMENTS = 64
"""Capabilities or commands in one component; the drafts define five and two."""


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """Service Info (draft 5.6.2): which packets a service group is about.

    0: service type (1); 1: service ID (1); 2: priority (1); 3: IP protocol (1); 4: flags (4);
    8: eight ports (2 each).
    """

    service_type: ServiceType
    service_id: int
    """0 to 255; 0 to 50 were meant for standard services."""
    priority: int = 0
    """0 to 255, higher first; what standard services send here does not count."""
    protocol: int = 0
    """IP protocol; 0 is every protocol unless REDIRECT_ONLY_PROTOCOL_0 is set."""
    flags: ServiceFlags = _NO_FLAGS
    ports: tuple[int, ...] = (0,) * PORTS
    """The eight fields as they are on the wire; a zero ends the list."""

    @classmethod
    def web_cache(cls) -> ServiceInfo:
        """The one standard service that the drafts define: HTTP."""
        return cls(ServiceType.STANDARD, 0)

    @classmethod
    def dynamic(
        cls, service_id: int, priority: int, protocol: int, flags: ServiceFlags, ports: tuple[int, ...] = ()
    ) -> ServiceInfo:
        """A dynamic service with up to eight ports."""
        padded = (*ports, *(0,) * (PORTS - len(ports)))
        return cls(ServiceType.DYNAMIC, service_id, priority, protocol, flags, padded)

    @property
    def key(self) -> ServiceKey:
        """What identifies the group."""
        return ServiceKey(self.service_type, self.service_id)

    @property
    def is_standard(self) -> bool:
        """A standard service is defined by its number alone."""
        return self.service_type is ServiceType.STANDARD

    @property
    def effective_priority(self) -> int:
        """The priority that counts, 0 to 255."""
        return STANDARD_SERVICE_PRIORITY if self.is_standard else self.priority

    @property
    def effective_protocol(self) -> int:
        """The IP protocol that counts: TCP for the standard web-cache service."""
        return _TCP if self.key == _WEB_CACHE else self.protocol

    @property
    def effective_ports(self) -> tuple[int, ...]:
        """The ports that packets must have; empty when any will do.

        The list counts only for TCP and UDP and only with PORTS_DEFINED (2.01, 5.1.2).
        """
        if self.key == _WEB_CACHE:
            return _WEB_CACHE_PORTS
        if self.protocol not in {_TCP, _UDP} or not self.flags & ServiceFlags.PORTS_DEFINED:
            return ()
        return self.ports[: self.ports.index(0)] if 0 in self.ports else self.ports

    @classmethod
    def decode(cls, reader: Reader) -> ServiceInfo:
        """Read the body.

        Raises:
            WireError: COMPONENT_TOO_SHORT, SERVICE_TYPE.
        """
        fields = reader.unpack(_SERVICE)
        number, service_id, priority, protocol, flags = fields[:5]
        service_type = _SERVICE_TYPES.get(number)
        if service_type is None:
            raise reader.fail(WireReason.SERVICE_TYPE, f"service type {number}")
        return cls(service_type, service_id, priority, protocol, ServiceFlags(flags), fields[5:])

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        fixed = self.service_type, self.service_id, self.priority, self.protocol, self.flags
        writer.pack(_SERVICE, *fixed, *self.ports)

    def __str__(self) -> str:
        if self.is_standard:
            return str(self.key)
        ports = self.effective_ports
        side = "source" if self.flags & ServiceFlags.PORTS_SOURCE else "destination"
        listed = f"{side} ports {', '.join(map(str, ports))}" if ports else "all ports"
        flags = f"flags {self.flags:#x}"
        return f"{self.key}: protocol {self.protocol}, {listed}, priority {self.priority}, {flags}"


_SERVICE_TYPES = {member.value: member for member in ServiceType}
_WEB_CACHE = ServiceKey(ServiceType.STANDARD, 0)


@dataclass(frozen=True, slots=True)
class RouterIdentity:
    """Router Identity Info (draft 5.6.3).

    0: Router ID (4); 4: Receive ID (4); 8: Sent-To (4); 12: n (4); 16: n addresses.
    """

    router_id: IPAddress
    receive_id: int
    """1 to 2^32-1; the web-cache echoes it in its next HERE_I_AM."""
    sent_to: IPAddress
    """Destination of the HERE_I_AM that is answered; the group's address in a multicast answer."""
    caches: tuple[IPAddress, ...]
    """The web-caches addressed."""

    @classmethod
    def decode(cls, reader: Reader) -> RouterIdentity:
        """Read the body."""
        router_id, receive_id, sent_to = reader.unpack(_THREE_UINT32)
        return cls(reader.as_address(router_id), receive_id, reader.as_address(sent_to), read_caches(reader))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        writer.address(self.router_id)
        writer.uint32(self.receive_id)
        writer.address(self.sent_to)
        write_addresses(writer, self.caches)


@dataclass(frozen=True, slots=True)
class RouterView:
    """Router View Info (draft 5.6.5).

    0: Member Change Number (4); 4: Assignment Key (8); 12: R (4); 16: R Router IDs;
    then C (4), C identity elements.
    """

    change_number: int
    key: AssignmentKey
    """Of the last assignment accepted."""
    routers: tuple[IPAddress, ...]
    """Router IDs learnt from web-caches."""
    caches: tuple[WebCacheIdentity, ...]
    """Usable web-caches only."""

    @classmethod
    def decode(cls, reader: Reader) -> RouterView:
        """Read the body."""
        change_number = reader.uint32()
        key = AssignmentKey.decode(reader)
        routers = read_routers(reader)
        count = reader.count(_IDENTITY_MINIMUM)
        if count > MAX_CACHES:
            raise reader.fail(WireReason.TOO_MANY_CACHES, f"{count} web-caches, at most {MAX_CACHES}")
        caches = tuple(WebCacheIdentity.decode(reader) for _ in range(count))
        return cls(change_number, key, routers, caches)

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        writer.uint32(self.change_number)
        self.key.encode(writer)
        write_addresses(writer, self.routers)
        writer.uint32(len(self.caches))
        for cache in self.caches:
            cache.encode(writer)


class CacheView(NamedTuple):
    """Web-Cache View Info (draft 5.6.6).

    0: change number (4); 4: R (4); 8: R times Router ID, Receive ID; then C (4), C addresses.
    """

    change_number: int
    router_ids: tuple[IPAddress, ...]
    """Router IDs of the routers that it knows."""
    receive_ids: tuple[int, ...]
    """The last Receive ID that it had from each of them; 0 for none."""
    caches: tuple[IPAddress, ...]
    """Learnt from I_SEE_YOUs; Squid never lists any."""

    @classmethod
    def of(
        cls, change_number: int, routers: Iterable[RouterIdReceiveId], caches: tuple[IPAddress, ...] = ()
    ) -> CacheView:
        """A view from its rows."""
        rows = tuple(routers)
        return cls(
            change_number,
            tuple(row.router_id for row in rows),
            tuple(row.receive_id for row in rows),
            caches,
        )

    @property
    def routers(self) -> tuple[RouterIdReceiveId, ...]:
        """The rows: each Router ID with its Receive ID."""
        return rows(RouterIdReceiveId, self.router_ids, self.receive_ids)

    @classmethod
    def decode(cls, reader: Reader) -> CacheView:
        """Read the body."""
        change_number = reader.uint32()
        router_ids, receive_ids = read_router_ids(reader)
        return cls(change_number, router_ids, receive_ids, read_caches(reader))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        writer.uint32(self.change_number)
        writer.uint32(len(self.router_ids))
        for router in self.routers:
            router.encode(writer)
        write_addresses(writer, self.caches)


@dataclass(frozen=True, slots=True)
class RouterQuery:
    """Router Query Info (draft 5.6.8).

    0: Router ID (4); 4: Receive ID (4); 8: Sent-To (4); 12: target web-cache (4).
    """

    router_id: IPAddress
    receive_id: int
    sent_to: IPAddress
    """The address that the web-cache last sent a HERE_I_AM to."""
    cache: IPAddress

    @classmethod
    def decode(cls, reader: Reader) -> RouterQuery:
        """Read the body."""
        router_id, receive_id, sent_to, cache = reader.unpack(_FOUR_UINT32)
        address = reader.as_address
        return cls(address(router_id), receive_id, address(sent_to), address(cache))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        writer.address(self.router_id)
        writer.uint32(self.receive_id)
        writer.address(self.sent_to)
        writer.address(self.cache)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities Info (draft 5.6.9, 5.7.5): elements of type (2), length (2), value.

    An absent element means the drafts' default: GRE, hash, GRE, 10 s, scales of 1.
    """

    forwarding: ForwardingMethod | None = None
    assignment: AssignmentMethod | None = None
    packet_return: PacketReturnMethod | None = None
    transmit_t: TransmitT | None = None
    timer_scale: TimerScale | None = None
    unknown: tuple[UnknownElement, ...] = ()

    @classmethod
    def decode(cls, reader: Reader) -> Capabilities:
        """Read the body. Of two elements of a type the first counts.

        Raises:
            WireError: ELEMENT_PAST_COMPONENT, TOO_MANY_ELEMENTS, CAPABILITY_LENGTH, TRANSMIT_T, TIMER_SCALE.
        """
        values: dict[str, Any] = {}
        unknown: list[UnknownElement] = []
        for element_type, length in _elements(reader):
            known = _CAPABILITIES.get(element_type)
            if known is None:
                unknown.append(UnknownElement(element_type, reader.octets(length)))
                continue
            if length != 4:
                detail = f"capability {element_type} has {length} octets, not 4"
                raise reader.fail(WireReason.CAPABILITY_LENGTH, detail)
            name, read = known
            if name in values:
                reader.octets(length)
                reader.tolerate(WireReason.ELEMENT_DUPLICATE, f"capability {element_type} came before")
            else:
                values[name] = read(reader)
        return cls(**values, unknown=tuple(unknown))

    def encode(self, writer: Writer) -> None:
        """Write the body, a filler after each element where the writer is told to be dual-valid."""
        filler = None
        for number, flags in (
            (CapabilityType.FORWARDING_METHOD, self.forwarding),
            (CapabilityType.ASSIGNMENT_METHOD, self.assignment),
            (CapabilityType.PACKET_RETURN_METHOD, self.packet_return),
        ):
            if flags is not None:
                start = writer.begin(number)
                writer.uint32(flags)
                filler = _end_capability(writer, start)
        for number, value in (
            (CapabilityType.TRANSMIT_T, self.transmit_t),
            (CapabilityType.TIMER_SCALE, self.timer_scale),
        ):
            if value is not None:
                start = writer.begin(number)
                value.encode(writer)
                filler = _end_capability(writer, start)
        for element in self.unknown:
            start = writer.begin(element.element_type)
            writer.octets(element.octets)
            filler = _end_capability(writer, start)
        if filler is not None:
            writer.octets(_LAST_FILLER)
            writer.end(filler)


_LAST_FILLER = ComponentType.EMPTY.to_bytes(2, "big") + bytes(6)
"""Contents of the last filler. Squid wants 8 octets for an element wherever one begins. Whether it steps right and
begins at the filler, or steps 4 octets too far and begins here: they are there, and both end with the component."""


def _end_capability(writer: Writer, start: int) -> int | None:
    """End an element; in the dual-valid form begin the filler behind it, which has no contents yet."""
    writer.end(start)
    if not writer.dual_valid:
        return None
    filler = writer.begin(ComponentType.EMPTY)
    writer.end(filler)
    return filler


_CAPABILITIES: dict[int, tuple[str, Callable[[Reader], object]]] = {
    CapabilityType.FORWARDING_METHOD: ("forwarding", lambda element: ForwardingMethod(element.uint32())),
    CapabilityType.ASSIGNMENT_METHOD: ("assignment", lambda element: AssignmentMethod(element.uint32())),
    CapabilityType.PACKET_RETURN_METHOD: (
        "packet_return",
        lambda element: PacketReturnMethod(element.uint32()),
    ),
    CapabilityType.TRANSMIT_T: ("transmit_t", TransmitT.decode),
    CapabilityType.TIMER_SCALE: ("timer_scale", TimerScale.decode),
}


@dataclass(frozen=True, slots=True)
class CommandExtension:
    """Command Extension (draft 5.6.12): elements of command (2), length (2), data."""

    commands: tuple[Command | UnknownElement, ...]

    def address_of(self, command: CommandType) -> IPAddress | None:
        """The web-cache that the first such command names; None without one."""
        for each in self.commands:
            if isinstance(each, Command) and each.command is command:
                return each.address
        return None

    @classmethod
    def decode(cls, reader: Reader) -> CommandExtension:
        """Read the body.

        Raises:
            WireError: ELEMENT_PAST_COMPONENT, TOO_MANY_ELEMENTS, COMMAND_LENGTH, ADDRESS_INDEX.
        """
        commands: list[Command | UnknownElement] = []
        for number, length in _elements(reader):
            if number not in _COMMANDS:
                commands.append(UnknownElement(number, reader.octets(length)))
                continue
            if length != 4:
                detail = f"command {number} has {length} octets, not 4"
                raise reader.fail(WireReason.COMMAND_LENGTH, detail)
            commands.append(Command(_COMMANDS[number], reader.address()))
        return cls(tuple(commands))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        for each in self.commands:
            match each:
                case Command(command, address):
                    start = writer.begin(command)
                    writer.address(address)
                case UnknownElement(element_type, octets):
                    start = writer.begin(element_type)
                    writer.octets(octets)
                case _:
                    assert_never(each)
            writer.end(start)


_COMMANDS = {member.value: member for member in CommandType}


def _elements(reader: Reader) -> Iterator[tuple[int, int]]:
    """Type and length of each element that is left; whoever asks reads the value before the next one."""
    elements = 0
    while remaining := reader.remaining:
        element_type, length = reader.unpack(_TYPE_LENGTH)
        if length > remaining - _TYPE_LENGTH.size:
            raise reader.fail(
                WireReason.ELEMENT_PAST_COMPONENT,
                f"element {element_type} has {length} octets, the component {reader.remaining} more",
            )
        elements += 1
        if elements > MAX_ELEMENTS:
            raise reader.fail(WireReason.TOO_MANY_ELEMENTS, f"more than {MAX_ELEMENTS} elements")
        yield element_type, length
