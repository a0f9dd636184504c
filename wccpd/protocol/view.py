"""Frozen read-outs of the engine: what the plan compiles and what status shows.

Times are the engine's own `now` values (a monotonic clock); whoever renders them subtracts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from wccpd.protocol.settings import Timers
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.elements import ServiceKey
    from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod
    from wccpd.wire.masks import Mask
    from wccpd.wire.reader import IPAddress


class CacheState(StrEnum):
    """Where a cache stands in its group."""

    NEGOTIATING = "negotiating"
    """We answer; it has not echoed our Receive ID yet."""
    INCOMPATIBLE = "incompatible"
    """It echoes, but selected a method that we do not offer."""
    USABLE = "usable"
    SHUTDOWN = "shutdown"
    """It sent SHUTDOWN; acknowledged until it falls silent."""


class Rung(StrEnum):
    """The compatibility ladder (ARCHITECTURE.md, "The ladder"), from the draft's own way downwards."""

    STANDARD = "standard"
    """A standard I_SEE_YOU."""
    DUAL_VALID = "dual-valid"
    """The I_SEE_YOU that correct and broken Squids can both read, after two standard ones went unechoed."""
    ROUTER_ASSIGNS = "router-assigns"
    """Echoed, but no valid REDIRECT_ASSIGN came in time: the router assigned the buckets itself."""


class AssignedBy(StrEnum):
    """Whose assignment is in force."""

    NOBODY = "nobody"
    CACHE = "cache"
    ROUTER = "router"


@dataclass(frozen=True, slots=True)
class CacheView:
    """One cache of one group."""

    address: IPv4Address
    state: CacheState
    rung: Rung
    reason: str
    """One line: what we know about why it stands there."""
    forwarding: ForwardingMethod
    """What it selected; the drafts' default until it has."""
    packet_return: PacketReturnMethod
    weight: int
    buckets: int
    """Buckets or values that it owns."""
    last_heard: float
    usable_since: float | None


class OwnedValue(NamedTuple):
    """A value of a mask, and the cache that gets the packets whose picked bits equal it."""

    source_address: IPAddress
    destination_address: IPAddress
    source_port: int
    destination_port: int
    owner: IPv4Address | None
    """None: such packets are nobody's, and no later set is asked for them (draft 4.11.2)."""


class OwnedSet(NamedTuple):
    """A mask and its values in the order in which they are compared; a value may come again and then never counts."""

    mask: Mask
    values: tuple[OwnedValue, ...]


@dataclass(frozen=True, slots=True)
class GroupView:
    """One service group."""

    key: ServiceKey
    definition: ServiceInfo | None
    """What the operator, or else the first usable cache said the service is; None while nobody has."""
    caches: tuple[CacheView, ...]
    bucket_owners: tuple[IPv4Address | None, ...] = field(repr=False)
    """256 entries; all None in a group that assigns by mask."""
    assigned_by: AssignedBy
    designated: IPv4Address | None
    change_number: int
    alternate_buckets: frozenset[int] = field(default=frozenset(), repr=False)
    """Buckets whose packets are decided by the alternate hash."""
    mask_sets: tuple[OwnedSet, ...] = field(default=(), repr=False)
    """All mask/value sets in the order in which they are asked; empty in a group that assigns by hash."""
    values: int = BUCKETS
    """Entries that can be owned: 256 buckets, or the values of all sets."""
    routers: tuple[IPAddress, ...] = ()
    """Routers that usable caches report, by Router ID."""
    timers: Timers = field(default_factory=Timers)


@dataclass(frozen=True, slots=True)
class RouterView:
    """All groups, in the order of the settings."""

    groups: tuple[GroupView, ...]
