"""Everything the engine can say: a closed set of frozen values.

`Send` is for the socket, `Refused` for the counters and the log, the rest are the facts that an operator
wants to see in the journal. None of them is an exception: what a peer sends never makes the engine raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.protocol.view import AssignedBy, Rung
    from wccpd.wire.elements import ServiceKey


class Refusal(StrEnum):
    """Why a message was not taken, beyond the wire's own reasons; metric label and log field."""

    UNKNOWN_SERVICE = "unknown_service"
    NOT_IN_GROUP_LIST = "not_in_group_list"
    AUTHENTICATION_MISSING = "authentication_missing"
    AUTHENTICATION_UNEXPECTED = "authentication_unexpected"
    AUTHENTICATION_WRONG = "authentication_wrong"
    UNEXPECTED_MESSAGE = "unexpected_message"
    BAD_CACHE_ADDRESS = "bad_cache_address"
    SOURCE_MISMATCH = "source_mismatch"
    DEFINITION_DIFFERS = "definition_differs"
    GROUP_FULL = "group_full"
    NOT_A_USABLE_CACHE = "not_a_usable_cache"
    ROUTER_NOT_LISTED = "router_not_listed"
    STALE_RECEIVE_ID = "stale_receive_id"
    STALE_CHANGE_NUMBER = "stale_change_number"
    WRONG_ASSIGNMENT_METHOD = "wrong_assignment_method"
    ROUTER_ASSIGNS = "router_assigns"
    COMMAND_ADDRESS_MISMATCH = "command_address_mismatch"
    ASSIGNS_NOBODY = "assigns_nobody"
    TOO_OFTEN = "too_often"
    TOO_MANY_VALUES = "too_many_values"
    IDENTITY_TOO_LONG = "identity_too_long"
    VERSION_NOT_SPOKEN = "version_not_spoken"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a group does not take a message; `router` makes a `Refused` of it."""

    reason: Refusal
    detail: str


@dataclass(frozen=True, slots=True)
class Send:
    """A datagram to send from `local` port 2048 to `remote`."""

    datagram: bytes
    local: IPv4Address
    remote: IPv4Address
    remote_port: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that was dropped. `reason` is a `Refusal` or a `WireReason`."""

    reason: StrEnum
    source: IPv4Address
    service: ServiceKey | None
    detail: str


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """A cache sent its first HERE_I_AM; it is answered but not yet usable."""

    service: ServiceKey
    cache: IPv4Address


@dataclass(frozen=True, slots=True)
class CacheUsable:
    """A cache echoed our Receive ID with compatible capabilities: it may be given traffic."""

    service: ServiceKey
    cache: IPv4Address


@dataclass(frozen=True, slots=True)
class CacheIncompatible:
    """A cache asks for a method that this group does not offer."""

    service: ServiceKey
    cache: IPv4Address
    reason: str


@dataclass(frozen=True, slots=True)
class CacheLost:
    """A cache fell silent, said goodbye or asks for what we do not offer; buckets that it had are covered."""

    service: ServiceKey
    cache: IPv4Address
    reason: str


@dataclass(frozen=True, slots=True)
class RungChanged:
    """We went one step along the compatibility ladder for a cache."""

    service: ServiceKey
    cache: IPv4Address
    rung: Rung
    reason: str


@dataclass(frozen=True, slots=True)
class AssignmentChanged:
    """The bucket table was replaced."""

    service: ServiceKey
    assigned_by: AssignedBy
    moved_buckets: int
    assigned_buckets: int
    reason: str


Event = CacheSeen | CacheUsable | CacheIncompatible | CacheLost | RungChanged | AssignmentChanged
Output = Send | Refused | Event
