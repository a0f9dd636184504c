"""The rows and small structures inside components (draft 5.7; 2.01, 6).

Rows that come by the dozen are named tuples, which are quicker to make than dataclasses. Each element reads
itself from a `Reader` and writes itself to a `Writer`; it knows no component and no message.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from wccpd.wire.enums import (
    BUCKET_ALTERNATE_HASH,
    BUCKET_INDEX_MASK,
    MAX_CACHES,
    MAX_ROUTERS,
    UNASSIGNED_BUCKET,
    CommandType,
    ServiceType,
)
from wccpd.wire.errors import WireReason
from wccpd.wire.reader import Limit, rows

if TYPE_CHECKING:
    from wccpd.wire.reader import IPAddress, Reader
    from wccpd.wire.writer import Writer

_TWO_UINT32 = Struct("!II")
_THREE_UINT32 = Struct("!III")
_UINT16_PAIR = Struct("!HH")
_FOUR_OCTETS = Struct("!BBBB")


ROUTERS = Limit(MAX_ROUTERS, WireReason.TOO_MANY_ROUTERS, "routers")
CACHES = Limit(MAX_CACHES, WireReason.TOO_MANY_CACHES, "web-caches")


class ServiceKey(NamedTuple):
    """What identifies a service group: standard 5 and dynamic 5 are two groups (draft 5.6.2)."""

    service_type: ServiceType
    service_id: int
    """0 to 255."""

    def __str__(self) -> str:
        if self.service_type is ServiceType.STANDARD:
            return "web-cache" if self.service_id == 0 else f"standard {self.service_id}"
        return f"dynamic {self.service_id}"


class AssignmentKey(NamedTuple):
    """Names one assignment; echoed by routers as its acknowledgement (draft 5.7.3).

    0: address of the designated web-cache (4); 4: its key change number (4).
    """

    address: IPAddress
    change_number: int

    @classmethod
    def none(cls) -> AssignmentKey:
        """The key of no assignment, as routers show it before the first one."""
        return cls(IPv4Address(0), 0)

    @classmethod
    def decode(cls, reader: Reader) -> AssignmentKey:
        """Read 8 octets."""
        address, change_number = reader.unpack(_TWO_UINT32)
        return cls(reader.as_address(address), change_number)

    def encode(self, writer: Writer) -> None:
        """Write 8 octets."""
        writer.pack(_TWO_UINT32, writer.field(self.address), self.change_number)


class RouterIdReceiveId(NamedTuple):
    """Router Identity Element (draft 5.7.1), as a web-cache knows a router: Router ID (4), Receive ID (4)."""

    router_id: IPAddress
    receive_id: int
    """The last Receive ID that the web-cache had from it; 0 for none."""

    def encode(self, writer: Writer) -> None:
        """Write 8 octets."""
        writer.pack(_TWO_UINT32, writer.field(self.router_id), self.receive_id)


class RouterAssignment(NamedTuple):
    """A router in a REDIRECT_ASSIGN (Router Assignment Element, draft 5.7.4): three 32-bit fields."""

    router_id: IPAddress
    receive_id: int
    change_number: int
    """The Member Change Number that the assignment was made for."""

    def encode(self, writer: Writer) -> None:
        """Write 12 octets."""
        writer.pack(_THREE_UINT32, writer.field(self.router_id), self.receive_id, self.change_number)


def read_router_ids(reader: Reader) -> tuple[tuple[IPAddress, ...], tuple[int, ...]]:
    """Read a count and that many Router Identity Elements: their Router IDs and their Receive IDs.

    As two columns, since they come with every HERE_I_AM and few of the rows are ever looked at.

    Raises:
        WireError: COUNT_PAST_COMPONENT, TOO_MANY_ROUTERS, ADDRESS_INDEX.
    """
    fields = reader.rows(2, ROUTERS)
    return reader.as_addresses(fields[::2]), fields[1::2]


def read_router_assignments(reader: Reader) -> tuple[RouterAssignment, ...]:
    """Read a count and that many Router Assignment Elements.

    Raises:
        WireError: COUNT_PAST_COMPONENT, TOO_MANY_ROUTERS, ADDRESS_INDEX.
    """
    fields = reader.rows(3, ROUTERS)
    return rows(RouterAssignment, reader.as_addresses(fields[::3]), fields[1::3], fields[2::3])


def read_caches(reader: Reader) -> tuple[IPAddress, ...]:
    """Read a count and that many web-cache addresses.

    Raises:
        WireError: COUNT_PAST_COMPONENT, TOO_MANY_CACHES, ADDRESS_INDEX.
    """
    return reader.address_list(CACHES)


def read_routers(reader: Reader) -> tuple[IPAddress, ...]:
    """Read a count and that many Router IDs.

    Raises:
        WireError: COUNT_PAST_COMPONENT, TOO_MANY_ROUTERS, ADDRESS_INDEX.
    """
    return reader.address_list(ROUTERS)


def write_addresses(writer: Writer, addresses: tuple[IPAddress, ...]) -> None:
    """Write a count and the addresses."""
    writer.uint32(len(addresses))
    writer.addresses(addresses)


def bucket_index(octet: int) -> int:
    """Position of the web-cache in the list, from the octet of a bucket (draft 5.6.7).

    Meaningless where the octet is `UNASSIGNED_BUCKET`.
    """
    return octet & BUCKET_INDEX_MASK


def bucket_uses_alternate_hash(octet: int) -> bool:
    """Whether the bucket sends its packets to the alternate hash (draft 4.11.1)."""
    return octet != UNASSIGNED_BUCKET and bool(octet & BUCKET_ALTERNATE_HASH)


def bucket_octet(index: int, *, alternate_hash: bool = False) -> int:
    """The octet of a bucket that belongs to a web-cache.

    Args:
        index: Position of the web-cache in the list, 0 to 31.
        alternate_hash: The A flag.
    """
    return index | BUCKET_ALTERNATE_HASH if alternate_hash else index


@dataclass(frozen=True, slots=True)
class UnknownElement:
    """A capability or command without a meaning here, kept as it came."""

    element_type: int
    octets: bytes = b""


@dataclass(frozen=True, slots=True)
class Command:
    """A known command (draft 5.6.12): SHUTDOWN of a web-cache, or the router's SHUTDOWN_RESPONSE."""

    command: CommandType
    address: IPAddress
    """The web-cache that shuts down."""


class TransmitT(NamedTuple):
    """TRANSMIT_T (2.01, 6.11): time between HERE_I_AMs, in milliseconds.

    0: upper limit (2), 0 for a single value; 2: lower limit or the single value (2).
    """

    upper_milliseconds: int
    """0 for a single value; a router offers a range."""
    lower_milliseconds: int

    @classmethod
    def decode(cls, reader: Reader) -> TransmitT:
        """Read 4 octets.

        Raises:
            WireError: TRANSMIT_T for zero or a range upside down.
        """
        upper, lower = reader.unpack(_UINT16_PAIR)
        if lower == 0 or 0 < upper < lower:
            raise reader.fail(WireReason.TRANSMIT_T, f"TRANSMIT_T from {lower} to {upper} ms")
        return cls(upper, lower)

    def encode(self, writer: Writer) -> None:
        """Write 4 octets."""
        writer.pack(_UINT16_PAIR, *self)


class TimerScale(NamedTuple):
    """TIMER_SCALE (2.01, 6.11): two ranges of factors, four octets; an upper limit of 0 is a single value."""

    timeout_upper: int
    timeout_lower: int
    ra_timer_upper: int
    ra_timer_lower: int

    @classmethod
    def decode(cls, reader: Reader) -> TimerScale:
        """Read 4 octets.

        Raises:
            WireError: TIMER_SCALE for zero or a range upside down.
        """
        scale = cls._make(reader.unpack(_FOUR_OCTETS))
        for upper, lower in (scale[:2], scale[2:]):
            if lower == 0 or 0 < upper < lower:
                raise reader.fail(WireReason.TIMER_SCALE, f"timer scale from {lower} to {upper}")
        return scale

    def encode(self, writer: Writer) -> None:
        """Write 4 octets."""
        writer.pack(_FOUR_OCTETS, *self)
