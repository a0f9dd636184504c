"""The numbers of the drafts, each written once. Names are the drafts' own without their WCCP2_ prefix.

Small fields are counted from the low end, as every implementation does, although the drawings suggest the
opposite.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

WCCP_PORT = 2048
"""UDP port of the protocol (draft 5)."""
MAJOR_VERSION = 2
MAX_CACHES = 32
"""Web-caches in a service group: a bucket's index is 0 to 31 (draft 5.6.7)."""
MAX_ROUTERS = 32
"""Routers in a service group, the limit of IOS and Traffic Server."""
BUCKETS = 256
"""Entries of the redirection hash table (draft 4.11.1)."""
BUCKET_VECTOR_OCTETS = 32
"""Length of the bucket bit vector in a Web-Cache Identity Element (draft 5.7.2)."""
UNASSIGNED_BUCKET = 0xFF
"""Bucket octet of nobody's bucket (draft 5.6.7)."""
BUCKET_INDEX_MASK = 0x7F
BUCKET_ALTERNATE_HASH = 0x80
"""The A flag of a bucket octet: decide by the alternate hash."""
PORTS = 8
"""Port fields of a Service Info (draft 5.6.2)."""
STANDARD_SERVICE_PRIORITY = 240
"""What a standard service's priority counts as (draft 5.6.2)."""
PASSWORD_OCTETS = 8
DIGEST_OCTETS = 16


class MessageType(IntEnum):
    """Message header type (draft 5.5)."""

    HERE_I_AM = 10
    I_SEE_YOU = 11
    REDIRECT_ASSIGN = 12
    REMOVAL_QUERY = 13


class ComponentType(IntEnum):
    """Component type (draft 5.6; 16 and 17 are 2.01, 5.3.4 and 5.1.5)."""

    SECURITY_INFO = 0
    SERVICE_INFO = 1
    ROUTER_ID_INFO = 2
    WC_ID_INFO = 3
    RTR_VIEW_INFO = 4
    WC_VIEW_INFO = 5
    REDIRECT_ASSIGNMENT = 6
    QUERY_INFO = 7
    CAPABILITIES_INFO = 8
    ALT_ASSIGNMENT = 13
    ASSIGN_MAP = 14
    COMMAND_EXTENSION = 15
    ALT_ASSIGNMENT_MAP = 16
    ADDRESS_TABLE = 17
    EMPTY = 0x7FFF
    """Ours, undefined in the drafts: fills the stride of Squid 4.17 to 7.6, see `encode_message`."""


class SecurityOption(IntEnum):
    """How a message is authenticated (draft 5.6.1)."""

    NONE = 0
    MD5 = 1


class ServiceType(IntEnum):
    """Kind of service (draft 5.6.2)."""

    STANDARD = 0
    DYNAMIC = 1


class CapabilityType(IntEnum):
    """Capability element type (draft 5.7.5; 4 and 5 are 2.01, 6.11)."""

    FORWARDING_METHOD = 1
    ASSIGNMENT_METHOD = 2
    PACKET_RETURN_METHOD = 3
    TRANSMIT_T = 4
    TIMER_SCALE = 5


class CommandType(IntEnum):
    """Command element type (draft 5.6.12)."""

    SHUTDOWN = 1
    SHUTDOWN_RESPONSE = 2


class AssignmentType(IntEnum):
    """What an Alternate Assignment (draft 5.6.10), its map or extended data (2.01, 6.10) holds."""

    HASH = 0
    MASK = 1
    ALTERNATE_MASK = 2
    WEIGHT_STATUS = 3
    """Only in an Extended Assignment Data Element."""


class AssignmentDataType(IntEnum):
    """Type bits of a Web-Cache Identity Element's flags (draft 5.7.2; 2.01, 6.4)."""

    HASH = 0x0000
    MASK = 0x0002
    NONE = 0x0004
    EXTENDED = 0x0006


ASSIGNMENT_DATA_TYPE_MASK = 0x0006


class AddressFamily(IntEnum):
    """IANA address family of an Address Table (2.01, 5.1.5)."""

    IPV4 = 1
    IPV6 = 2


class OpenFlag(IntFlag):
    """Flags of a peer, at most 32 bits: those without a name are kept.

    The standard library remembers every combination it ever saw; a stranger could fill the memory with
    combinations of undefined bits, so these are made anew each time.
    """

    @classmethod
    def _missing_(cls, value: object) -> Any:  # noqa: ANN401 - the signature of enum
        if isinstance(value, int) and max(value, ~value) & ~sum(cls):
            flags = int.__new__(cls, value & 0xFFFFFFFF)
            flags._name_ = None
            flags._value_ = value & 0xFFFFFFFF
            return flags
        return super()._missing_(value)


class ServiceFlags(OpenFlag):
    """Service flags (draft 5.6.2)."""

    SOURCE_IP_HASH = 0x0001
    DESTINATION_IP_HASH = 0x0002
    SOURCE_PORT_HASH = 0x0004
    DESTINATION_PORT_HASH = 0x0008
    PORTS_DEFINED = 0x0010
    """Only the listed ports match."""
    PORTS_SOURCE = 0x0020
    """The listed ports are source ports."""
    REDIRECT_ONLY_PROTOCOL_0 = 0x0040
    """2.01: protocol 0 means just protocol 0."""
    SOURCE_IP_ALTERNATE_HASH = 0x0100
    DESTINATION_IP_ALTERNATE_HASH = 0x0200
    SOURCE_PORT_ALTERNATE_HASH = 0x0400
    DESTINATION_PORT_ALTERNATE_HASH = 0x0800


class IdentityFlags(OpenFlag):
    """Flags of a Web-Cache Identity Element without its type bits (draft 5.7.2; 2.01, 6.4)."""

    UNASSIGNED = 0x0001
    """U: no assignment now, the data that follows is historical."""
    MINIMUM_VERSION = 0x0008
    """V, 2.01: the version in the header is the web-cache's lowest (clear: its highest)."""
    UNASSIGNED_HIGH = 0x8000
    """U where Traffic Server puts it."""


class ForwardingMethod(OpenFlag):
    """How packets reach a web-cache (draft 5.7.5)."""

    GRE = 0x1
    L2 = 0x2


class AssignmentMethod(OpenFlag):
    """How flows are divided among web-caches (draft 5.7.5)."""

    HASH = 0x1
    MASK = 0x2


class PacketReturnMethod(OpenFlag):
    """How packets that a web-cache will not take come back (draft 5.7.5)."""

    GRE = 0x1
    L2 = 0x2
