"""What the operator decided about the service groups, in the engine's own vocabulary.

`wccpd.assemble` makes these from the configuration; the engine never sees YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from wccpd.wire.elements import ServiceKey


class AssignmentPolicy(StrEnum):
    """Who may fill the buckets of a group."""

    AUTO = "auto"
    """The designated cache; the router when no valid REDIRECT_ASSIGN comes in time."""
    CACHE = "cache"
    """Only the designated cache, as the draft has it."""
    ROUTER = "router"
    """Only the router: every REDIRECT_ASSIGN is refused."""


@dataclass(frozen=True, slots=True)
class Timers:
    """Timers of one group in seconds; the defaults are draft 4.1, 4.8 and 4.14 at HERE_I_AM_T = 10 s."""

    removal_query_seconds: float = 25.0
    removal_seconds: float = 30.0
    flush_seconds: float = 50.0
    """An assignment older than a membership change by this much is dropped (policy `cache`)."""
    assignment_wait_seconds: float = 25.0
    """Policy `auto`: a cache sends REDIRECT_ASSIGN 15 s after a change; one HERE_I_AM_T of slack on top."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service group."""

    key: ServiceKey
    passwords: tuple[bytes, ...] = ()
    """1 to 8 octets each, the first is ours; any of them is accepted. Empty: no authentication."""
    group_list: tuple[IPv4Network, ...] = ()
    """Who may join, by source address. Empty: everybody who knows the password."""
    policy: AssignmentPolicy = AssignmentPolicy.AUTO
    timers: Timers = Timers()
    forwarding: ForwardingMethod = ForwardingMethod.GRE
    packet_return: PacketReturnMethod = PacketReturnMethod.GRE
    assignment: AssignmentMethod = AssignmentMethod.HASH


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The router as the engine knows it."""

    router_id: IPv4Address
    addresses: tuple[IPv4Address, ...]
    """Every local address on which caches may reach us, the Router ID among them."""
    services: tuple[ServiceSettings, ...]
    first_number: int = 1
    """Start of change numbers and Receive IDs, 1 to 2^32-1; taken from the clock so that a restarted
    router never shows a number that Squid still remembers (it assigns only when the number differs)."""
