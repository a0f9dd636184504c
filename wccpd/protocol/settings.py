"""What the operator decided about the service groups, in the engine's own vocabulary.

`wccpd.assemble` makes these from the configuration; the engine never sees YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from wccpd.wire.elements import TimerScale, TransmitT
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.elements import ServiceKey


class AssignmentPolicy(StrEnum):
    """Who may assign the buckets or values of a group."""

    AUTO = "auto"
    """The designated cache; the router when no valid REDIRECT_ASSIGN comes in time."""
    CACHE = "cache"
    """Only the designated cache, as the draft has it."""
    ROUTER = "router"
    """Only the router: every REDIRECT_ASSIGN is refused."""


class OnLoss(StrEnum):
    """What becomes of the buckets or values of a cache that is lost."""

    COVER = "cover"
    """The survivors have them at once, by weight."""
    LEAVE = "leave"
    """They are nobody's until somebody assigns anew, as draft 4.14 has it; at once where the router assigns."""


@dataclass(frozen=True, slots=True)
class Timers:
    """The base timers of a group and what follows from them (draft 4.1, 4.8, 4.14; 2.01, 2.1).

    The defaults are those of 2.00, where nothing is negotiated.
    """

    transmit_seconds: float = 10.0
    """TRANSMIT_T: time between two HERE_I_AMs, 0.5 to 60."""
    timeout_scale: int = 1
    """TIMEOUT_BASE_T = this times TRANSMIT_T; 1 to 5."""
    ra_timer_scale: int = 1
    """RA_TIMER_BASE_T = this times TRANSMIT_T; 1 to 5."""

    @property
    def removal_query_seconds(self) -> float:
        """Silence after which a cache is asked whether it lives."""
        return 2.5 * self.timeout_scale * self.transmit_seconds

    @property
    def removal_seconds(self) -> float:
        """Silence after which a cache is gone."""
        return 3 * self.timeout_scale * self.transmit_seconds

    @property
    def flush_seconds(self) -> float:
        """Policy `cache`: age at which an assignment older than a membership change is dropped."""
        return 5 * self.ra_timer_scale * self.transmit_seconds

    @property
    def assignment_wait_seconds(self) -> float:
        """Policy `auto`: patience for a REDIRECT_ASSIGN.

        The designated cache hears of a change within one interval and then waits 1.5 RA_TIMER_BASE_T; a fifth
        of an interval is left for its clock and for the way.
        """
        return (1.5 * self.ra_timer_scale + 1.2) * self.transmit_seconds

    @property
    def multicast_seconds(self) -> float:
        """Between two I_SEE_YOUs to a group address, before jitter."""
        return 0.9 * self.transmit_seconds


@dataclass(frozen=True, slots=True)
class TimerOffer:
    """Ranges of timers that a group offers to caches that can negotiate them (2.01, 6.11)."""

    transmit: TransmitT = TransmitT(60000, 500)
    scale: TimerScale = TimerScale(5, 1, 5, 1)


@dataclass(frozen=True, slots=True)
class Interop:
    """The points on which the drafts and real peers disagree; ARCHITECTURE.md says why each default is what it is."""

    answer_unusable: bool = True
    """Answer a HERE_I_AM with a stale Receive ID or an unsupported method (2.01); False: only a first one (2.00)."""
    removal_query_takes_receive_id: bool = True
    """A REMOVAL_QUERY has a Receive ID of its own (2017 draft, IOS); False: it repeats the last one."""
    accepted_receive_ids: int = 1
    """How many of the last Receive IDs sent to a cache count as an echo, 1 to 4; the drafts say 1. With more, a
    lost answer costs a cache nothing."""
    priority_defines_service: bool = False
    """Refuse a cache whose service definition differs in nothing but its priority."""
    flush_when_not_listed: bool = False
    """A REDIRECT_ASSIGN that does not list this router flushes its table (2.00, 4.8.1); False: it is ignored."""
    bucket_vector_low_bit_first: bool = False
    """Bit order of the bucket vector that I_SEE_YOU shows."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service group."""

    key: ServiceKey
    passwords: tuple[bytes, ...] = field(default=(), repr=False)
    """1 to 8 octets each. Any of them is accepted, and a cache is answered with the one that it signs with, so that
    caches may change over one by one. Empty: no authentication."""
    group_list: tuple[IPv4Network, ...] = ()
    """Who may join, by source address. Empty: everybody who knows the password."""
    group_address: IPv4Address | None = None
    """Multicast address on which the group meets, beside the unicast ones."""
    policy: AssignmentPolicy = AssignmentPolicy.AUTO
    assignment_wait_seconds: float | None = None
    """Policy `auto`: patience for a REDIRECT_ASSIGN; None: what follows from the timers."""
    forwarding: ForwardingMethod = ForwardingMethod.GRE
    packet_return: PacketReturnMethod = PacketReturnMethod.GRE
    assignment: AssignmentMethod = AssignmentMethod.HASH
    timer_offer: TimerOffer = field(default_factory=TimerOffer)
    minor_version: int = 1
    """Highest minor version spoken: 0 for WCCP 2.00 alone, 1 for 2.01 with those that speak it."""
    interop: Interop = field(default_factory=Interop)
    definition: ServiceInfo | None = None
    """What the service is, by the operator's word: a cache that says otherwise is refused. None: by the word of
    the first usable cache. Of a standard service the number alone counts."""
    on_loss: OnLoss = OnLoss.COVER

    def __post_init__(self) -> None:
        if self.definition is not None and self.definition.key != self.key:
            raise ValueError(f"a definition of {self.definition.key} for {self.key}")

    @property
    def own_password(self) -> bytes | None:
        """The password for a cache of which it is not known which one it has; None without authentication."""
        return self.passwords[0] if self.passwords else None


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
    adjacent: tuple[IPv4Network, ...] | None = None
    """Networks on a segment of ours. L2, there and back, is offered only to caches inside them (draft 4.12.2);
    None: every cache is taken for adjacent."""
