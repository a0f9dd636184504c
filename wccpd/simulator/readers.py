"""The other ways to read an I_SEE_YOU: the drafts' own, Traffic Server's, OpenNOP's; and who reads which way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol, assert_never

from wccpd.simulator.heard import Heard, HeardView, ListedCache
from wccpd.simulator.octets import (
    ASSIGNMENT_MAP,
    CAPABILITIES,
    MESSAGE_HEADER_OCTETS,
    REDIRECT_ASSIGNMENT,
    ROUTER_ID,
    ROUTER_VIEW,
    SECURITY,
    SERVICE,
    Buffer,
    ReadError,
)
from wccpd.simulator.profiles import ReaderKind
from wccpd.simulator.squid_reader import SquidReader
from wccpd.wire.elements import AssignmentKey
from wccpd.wire.enums import MAX_CACHES, AssignmentMethod, CapabilityType
from wccpd.wire.errors import WireError
from wccpd.wire.identity import WebCacheIdentity
from wccpd.wire.messages import ISeeYou, Message, decode_message
from wccpd.wire.reader import Reader

if TYPE_CHECKING:
    from wccpd.wire.components import Capabilities, ServiceInfo

_DRAWN_ORDER = (
    SECURITY,
    SERVICE,
    ROUTER_ID,
    ROUTER_VIEW,
    REDIRECT_ASSIGNMENT,
    ASSIGNMENT_MAP,
    CAPABILITIES,
)
_MANDATORY = 4
_CAPABILITY_OCTETS = 8
_HASH_IDENTITY_OCTETS = 44


class ISeeYouReader(Protocol):
    """A way to read an I_SEE_YOU."""

    def read(self, datagram: bytes) -> Heard:
        """Read one.

        Raises:
            ReadError: Nothing was learnt.
        """
        ...


@dataclass(frozen=True, slots=True)
class DraftReader:
    """Reads as 2.01, 4.1 asks: any order, unknown components skipped, other people's answers left alone."""

    service: ServiceInfo
    address: IPv4Address

    def read(self, datagram: bytes) -> Heard:
        """Read an I_SEE_YOU.

        Raises:
            ReadError: It is malformed, of another service or for other caches.
        """
        try:
            message = _decoded(datagram)
        except WireError as error:
            raise ReadError(str(error)) from None
        if not isinstance(message, ISeeYou) or message.service.key != self.service.key:
            raise ReadError("no I_SEE_YOU of this service")
        if self.address not in message.identity.caches:
            raise ReadError("not addressed to this cache")
        router_id, key = message.identity.router_id, message.view.key
        if not isinstance(router_id, IPv4Address):
            raise ReadError("an IPv6 Router ID")
        caches = tuple(
            ListedCache(each.address, each.weight)
            for each in message.view.caches
            if isinstance(each.address, IPv4Address)
        )
        return Heard(
            router_id,
            message.identity.receive_id,
            _offer(message.capabilities),
            HeardView(message.view.change_number, key, caches),
            transmit_t=message.capabilities.transmit_t if message.capabilities is not None else None,
            timer_scale=message.capabilities.timer_scale if message.capabilities is not None else None,
            shutdown_acknowledged=message.shutdown_response == self.address,
        )


@lru_cache(maxsize=64)
def _decoded(datagram: bytes) -> Message:
    """All caches at a group address read the same."""
    return decode_message(datagram)


def _offer(capabilities: Capabilities | None) -> dict[CapabilityType, int] | None:
    if capabilities is None:
        return None
    methods = {
        CapabilityType.FORWARDING_METHOD: capabilities.forwarding,
        CapabilityType.ASSIGNMENT_METHOD: capabilities.assignment,
        CapabilityType.PACKET_RETURN_METHOD: capabilities.packet_return,
    }
    return {kind: int(method) for kind, method in methods.items() if method is not None}


@dataclass(frozen=True, slots=True)
class TrafficServerReader:
    """Traffic Server 9.2: the drawn order, its own Service Info back, and not an octet left over.

    It knows a Command Extension but does not consume it, so an unasked one is such a leftover.
    """

    service: ServiceInfo
    address: IPv4Address

    def read(self, datagram: bytes) -> Heard:
        """Read an I_SEE_YOU.

        Raises:
            ReadError: Anything is not where it is drawn.
        """
        buffer = Buffer(datagram)
        items = self._items(buffer)
        if buffer.octets(items[SERVICE], 28) != _service_octets(self.service):
            raise ReadError("service group mismatch")
        identity = items[ROUTER_ID]
        addressed = [
            buffer.address(identity + 20 + 4 * i)
            for i in range(min(buffer.uint32(identity + 16), MAX_CACHES))
        ]
        if self.address not in addressed:
            raise ReadError("not addressed to this cache")
        offer = self._capabilities(buffer, items[CAPABILITIES]) if CAPABILITIES in items else None
        view = self._view(buffer, items[ROUTER_VIEW])
        return Heard(buffer.address(identity + 4), buffer.uint32(identity + 8), offer, view)

    def _items(self, buffer: Buffer) -> dict[int, int]:
        end = MESSAGE_HEADER_OCTETS + buffer.uint16(6)
        if end != buffer.length:
            raise ReadError("octets after the message")
        offset, found = MESSAGE_HEADER_OCTETS, {}
        for position, expected in enumerate(_DRAWN_ORDER):
            number, length = buffer.item(offset)
            if offset < end and number == expected:
                found[number] = offset
                offset += 4 + length
            elif position < _MANDATORY:
                raise ReadError(f"component {number} where {expected} belongs")
        if offset != end:
            raise ReadError(f"{end - offset} octets left over")
        return found

    def _capabilities(self, buffer: Buffer, start: int) -> dict[CapabilityType, int] | None:
        """Elements of exactly 8 octets; a value other than 1 to 3 is nothing offered."""
        methods = (
            CapabilityType.FORWARDING_METHOD,
            CapabilityType.ASSIGNMENT_METHOD,
            CapabilityType.PACKET_RETURN_METHOD,
        )
        offer: dict[CapabilityType, int] = {}
        for index in range(buffer.uint16(start + 2) // _CAPABILITY_OCTETS):
            offset = start + 4 + index * _CAPABILITY_OCTETS
            number, _ = buffer.item(offset)
            value = buffer.uint32(offset + 4)
            if number in methods and 1 <= value <= 3:
                offer[CapabilityType(number)] = value
        return offer

    def _view(self, buffer: Buffer, start: int) -> HeardView:
        """Real counts, and at most 32 of either."""
        routers = buffer.uint32(start + 16)
        count_offset = start + 20 + 4 * routers
        count = buffer.uint32(count_offset) if routers <= MAX_CACHES else 0
        if routers > MAX_CACHES or count > MAX_CACHES:
            raise ReadError("a view of more than 32")
        reader = Reader(
            buffer.octets(0, buffer.length), count_offset + 4, start + 4 + buffer.uint16(start + 2)
        )
        try:
            elements = [WebCacheIdentity.decode(reader) for _ in range(count)]
        except WireError as error:
            raise ReadError(str(error)) from None
        caches = tuple(
            ListedCache(each.address, each.weight)
            for each in elements
            if isinstance(each.address, IPv4Address)
        )
        key = AssignmentKey(buffer.address(start + 8), buffer.uint32(start + 12))
        return HeardView(buffer.uint32(start + 4), key, caches)


def _service_octets(service: ServiceInfo) -> bytes:
    head = bytes((service.service_type, service.service_id, service.priority, service.protocol))
    ports = b"".join(port.to_bytes(2, "big") for port in service.ports)
    return b"\0\x01\0\x18" + head + int(service.flags).to_bytes(4, "big") + ports


@dataclass(frozen=True, slots=True)
class OpenNopReader:
    """OpenNOP: four components in a row, their types not looked at."""

    def read(self, datagram: bytes) -> Heard:
        """Read an I_SEE_YOU; whatever stands in its place is believed."""
        buffer = Buffer(datagram)
        starts = [MESSAGE_HEADER_OCTETS]
        for _ in range(_MANDATORY - 1):
            starts.append(starts[-1] + 4 + buffer.item(starts[-1])[1])
        identity, view = starts[2], starts[3]
        routers = min(buffer.uint32(view + 16), MAX_CACHES)
        first = view + 20 + 4 * routers
        count = min(buffer.uint32(first), MAX_CACHES)
        caches = tuple(
            ListedCache(buffer.address(first + 4 + _HASH_IDENTITY_OCTETS * i), 0) for i in range(count)
        )
        key = AssignmentKey(buffer.address(view + 8), buffer.uint32(view + 12))
        return Heard(
            buffer.address(identity + 4),
            buffer.uint32(identity + 8),
            view=HeardView(buffer.uint32(view + 4), key, caches),
        )


def make_reader(
    kind: ReaderKind, service: ServiceInfo, address: IPv4Address, assignment: AssignmentMethod
) -> ISeeYouReader:
    """The reader of a kind of cache, for one cache in one group."""
    match kind:
        case ReaderKind.DRAFT:
            return DraftReader(service, address)
        case ReaderKind.SQUID:
            return SquidReader(service.service_id, assignment, 4, checks=False)
        case ReaderKind.SQUID_WRONG_STRIDE:
            return SquidReader(service.service_id, assignment, 8, checks=True)
        case ReaderKind.SQUID_INVERTED_CHECK:
            return SquidReader(service.service_id, assignment, 8, checks=True, inverted_check=True)
        case ReaderKind.TRAFFIC_SERVER:
            return TrafficServerReader(service, address)
        case ReaderKind.OPENNOP:
            return OpenNopReader()
        case _:
            assert_never(kind)
