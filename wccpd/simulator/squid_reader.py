"""Squid's way through an I_SEE_YOU, octet by octet, with the faults of its versions.

Up to 4.16 and 5.1 the strides are right. From 4.17 and 5.2 to 7.6 a component is taken to have a header of 8 octets
(the size of a pointer) instead of 4, so the next one is looked for 4 octets too far; the same happens among the
capability elements. Up to 6.14 a check for an overflow that cannot happen was also inverted and refuses every
Router View, after the Receive ID has been taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from wccpd.simulator.heard import Heard, HeardView, ListedCache
from wccpd.simulator.octets import (
    CAPABILITIES,
    ITEM_HEADER_OCTETS,
    MESSAGE_HEADER_OCTETS,
    ROUTER_ID,
    ROUTER_VIEW,
    SECURITY,
    SERVICE,
    Buffer,
    ReadError,
)
from wccpd.wire.elements import AssignmentKey
from wccpd.wire.enums import AssignmentMethod, CapabilityType

_NAMES = {
    SECURITY: "security definition",
    SERVICE: "service_info definition",
    ROUTER_ID: "router_identity_info definition",
    ROUTER_VIEW: "router_view definition",
    CAPABILITIES: "router_capability definition",
}
_SMALLEST = {SECURITY: 8, SERVICE: 28, ROUTER_ID: 20, ROUTER_VIEW: 16, CAPABILITIES: 4}
_VERSION = 0x0200
_BUFFER_OCTETS = 12448
_VIEW_HEADER_OCTETS = 16
_CAPABILITY_OCTETS = 8
_HASH_IDENTITY_OCTETS, _MASK_IDENTITY_OCTETS, _MASK_IDENTITY_SHORT_OCTETS = 44, 32, 16
_MASK_UNASSIGNED_FLAGS = 3
_METHODS: dict[int, CapabilityType] = {
    int(number): number
    for number in (
        CapabilityType.FORWARDING_METHOD,
        CapabilityType.ASSIGNMENT_METHOD,
        CapabilityType.PACKET_RETURN_METHOD,
    )
}


@dataclass(frozen=True, slots=True)
class SquidReader:
    """One version of Squid's parser."""

    service_id: int
    """It finds the service by the ID alone; the type is not looked at."""
    assignment: AssignmentMethod
    header_octets: int
    """What it takes for the size of a component's header: 4, or the 8 of a pointer."""
    checks: bool
    """Since 4.17: refuses duplicates and whatever is cut short. Before, it read on."""
    inverted_check: bool = False

    def read(self, datagram: bytes) -> Heard:
        """Read an I_SEE_YOU.

        Raises:
            ReadError: Nothing was learnt.
        """
        buffer = Buffer(datagram)
        length = buffer.uint16(6)
        if buffer.uint16(4) != _VERSION:
            raise ReadError("WCCP version unsupported")
        if length > buffer.length - MESSAGE_HEADER_OCTETS:
            raise ReadError("malformed packet claiming it's bigger than received data")
        items = self._items(buffer, MESSAGE_HEADER_OCTETS + length)
        service = items[SERVICE]
        if buffer.octets(service + 5, 1)[0] != self.service_id:
            raise ReadError("unknown service")
        identity = items[ROUTER_ID]
        router_id, receive_id = buffer.address(identity + 4), buffer.uint32(identity + 8)
        offer: dict[CapabilityType, int] | None = None
        try:
            if CAPABILITIES in items:
                offer = self._capabilities(buffer, items[CAPABILITIES])
            view = self._view(buffer, items[ROUTER_VIEW])
        except ReadError as error:
            return Heard(router_id, receive_id, offer, fault=str(error))
        return Heard(router_id, receive_id, offer, view)

    def _items(self, buffer: Buffer, end: int) -> dict[int, int]:
        """Where each component begins that it knows."""
        found: dict[int, int] = {}
        offset = MESSAGE_HEADER_OCTETS
        while offset + ITEM_HEADER_OCTETS <= end:
            number, length = buffer.item(offset)
            size = self.header_octets + length
            self._check(offset + size <= end, "truncated record")
            if number in _NAMES:
                self._check(number not in found, f"duplicate {_NAMES[number]}")
                self._check(size >= _SMALLEST[number], f"{_NAMES[number]} truncated")
                found[number] = offset
            offset += size
        for number in (SECURITY, SERVICE, ROUTER_ID, ROUTER_VIEW):
            if number not in found:
                raise ReadError(f"packet missing {_NAMES[number]}")
        return found

    def _capabilities(self, buffer: Buffer, start: int) -> dict[CapabilityType, int]:
        offset = start + ITEM_HEADER_OCTETS
        end = offset + buffer.uint16(start + 2)
        offer: dict[CapabilityType, int] = {}
        while offset < end:
            self._check(offset + _CAPABILITY_OCTETS <= end, "capability element header truncated")
            number, length = buffer.item(offset)
            size = self.header_octets + length
            self._check(offset + size <= end, "capability element truncated")
            if number in _METHODS:
                offer[_METHODS[number]] = buffer.uint32(offset + 4)
            offset += size
        return offer

    def _view(self, buffer: Buffer, start: int) -> HeardView:
        end = start + _VIEW_HEADER_OCTETS + buffer.uint16(start + 2)
        key = AssignmentKey(buffer.address(start + 8), buffer.uint32(start + 12))
        offset = start + _VIEW_HEADER_OCTETS
        routers = buffer.uint32(offset)
        if self.inverted_check:
            raise ReadError("huge IP address count")
        offset += 4
        self._check(offset + 4 * routers <= end, "invalid IP address count")
        offset += 4 * routers
        count = buffer.uint32(offset)
        offset += 4
        caches = []
        for _ in range(count):
            size = self._identity_octets(buffer, offset)
            self._check(offset + size <= end, "malformed packet (truncated router view info cache)")
            if offset > _BUFFER_OCTETS:
                raise ReadError("read past its own buffer")
            caches.append(ListedCache(buffer.address(offset), self._weight(buffer, offset)))
            offset += size
        return HeardView(buffer.uint32(start + 4), key, tuple(caches))

    def _check(self, holds: bool, complaint: str) -> None:
        if self.checks and not holds:
            raise ReadError(complaint)

    def _identity_octets(self, buffer: Buffer, offset: int) -> int:
        """The size it takes an element to have: in mask mode it looks at the flags and at no count."""
        if self.assignment is AssignmentMethod.HASH:
            return _HASH_IDENTITY_OCTETS
        if buffer.uint32(offset + 4) == _MASK_UNASSIGNED_FLAGS:
            return _MASK_IDENTITY_OCTETS
        return _MASK_IDENTITY_SHORT_OCTETS

    def _weight(self, buffer: Buffer, offset: int) -> int:
        return buffer.uint16(offset + 40) if self.assignment is AssignmentMethod.HASH else 0
