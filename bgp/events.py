"""The vocabulary of the package: what we want of gobgpd, what it tells, and the routes that follow.

Frozen values only. Addresses are `ipaddress` objects, times are seconds of the caller's monotonic clock. Knows
neither protobuf nor gRPC, and does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network


def lies_in(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether all addresses of `inner` are in `outer`; the ipaddress module's own answer takes ten times as long."""
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(inner.network_address) >> shift == int(outer.network_address) >> shift


MULTIHOP_TTL = 2
"""What a Transit Gateway Connect peer demands of eBGP sessions."""


class SessionState(IntEnum):
    """A BGP session's state, RFC 4271 section 8.2.2, numbered as GoBGP numbers it."""

    UNKNOWN = 0
    IDLE = 1
    CONNECT = 2
    ACTIVE = 3
    OPENSENT = 4
    OPENCONFIRM = 5
    ESTABLISHED = 6


@dataclass(frozen=True, slots=True)
class NextHop:
    """One way out for a prefix: a tunnel's interface, with a gateway only where the link needs one."""

    interface: str
    gateway: IPAddress | None = None
    """None on a point-to-point device such as GRE."""


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """One BGP session that gobgpd should hold."""

    address: IPAddress
    """The neighbour's address inside the tunnel."""
    asn: int
    local_address: IPAddress
    """Our address inside the tunnel."""
    interface: str
    """The tunnel's device: what routes from this neighbour point at."""
    gateway: IPAddress | None = None
    """Gateway of those routes; None on a point-to-point device."""
    description: str = ""
    local_ipv6: IPv6Address | None = None
    """Our IPv6 address inside the tunnel: IPv6 prefixes are exchanged too, with this as our next hop. None: IPv4
    only."""
    hold_time_seconds: int = 30
    keepalive_seconds: int = 10
    connect_retry_seconds: int = 5
    idle_hold_after_reset_seconds: int = 5
    """Pause after a session was closed; GoBGP's own default of 30 s is a long outage."""
    passive: bool = False
    """Only listen, never dial. AWS does not say who dials, so the default is to do both."""
    remote_port: int = 179

    @property
    def ipv6_unicast(self) -> bool:
        """Whether IPv6 prefixes are exchanged in this session, beside IPv4's."""
        return self.local_ipv6 is not None

    @property
    def next_hop(self) -> NextHop:
        """What routes from this neighbour point at."""
        return NextHop(self.interface, self.gateway)


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One prefix that we originate."""

    prefix: IPNetwork
    med: int | None = None
    """MULTI_EXIT_DISC, None to send none (the Transit Gateway then assumes 100)."""
    prepend: int = 0
    """How many times our ASN is repeated in the path, 0 to 10, beyond the one that eBGP adds."""

    def __post_init__(self) -> None:
        if not 0 <= self.prepend <= 10:
            raise ValueError(f"prepend must be 0 to 10, not {self.prepend}")


@dataclass(frozen=True, slots=True)
class PrefixRule:
    """Prefixes that may be learned: inside `prefix`, and of a length between the bounds (inclusive)."""

    prefix: IPNetwork
    min_length: int
    max_length: int

    def __post_init__(self) -> None:
        if not self.prefix.prefixlen <= self.min_length <= self.max_length <= self.prefix.max_prefixlen:
            raise ValueError(
                f"no prefix of {self.prefix} has a length of {self.min_length} to {self.max_length}"
            )
        if self.min_length == 0:
            raise ValueError("a rule may not admit the default route")

    def admits(self, prefix: IPNetwork) -> bool:
        """Whether the rule lets `prefix` in."""
        if (
            prefix.version != self.prefix.version
            or not self.min_length <= prefix.prefixlen <= self.max_length
        ):
            return False
        return lies_in(prefix, self.prefix)


@dataclass(frozen=True, slots=True)
class SpeakerSpec:
    """Everything that gobgpd should be, as one value.

    Raises:
        ValueError: A neighbour twice, a neighbour with our own ASN (the Transit Gateway would not install what
            we originate), or two gateways for one interface.
    """

    asn: int
    router_id: IPv4Address
    peers: tuple[PeerSpec, ...]
    advertisements: tuple[Advertisement, ...]
    accepted: tuple[PrefixRule, ...]
    listen_port: int = 179
    """TCP port, or -1: do not listen, only dial."""
    listen_addresses: tuple[IPAddress, ...] = ()
    """Empty: every address of the host. Others must exist before gobgpd is configured, and stay."""

    def __post_init__(self) -> None:
        if len({peer.address for peer in self.peers}) != len(self.peers):
            raise ValueError("a neighbour's address appears twice")
        for peer in self.peers:
            if peer.asn == self.asn:
                raise ValueError(f"{peer.address} has our own ASN {self.asn}: only eBGP carries our default")
        if len({peer.next_hop for peer in self.peers}) != len({peer.interface for peer in self.peers}):
            raise ValueError("an interface has two gateways")

    def next_hops(self) -> dict[IPAddress, NextHop]:
        """Neighbour -> what its routes point at, as `rib.Rib` wants it."""
        return {peer.address: peer.next_hop for peer in self.peers}


class Origin(IntEnum):
    """ORIGIN, RFC 4271 section 5.1.1."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


@dataclass(frozen=True, slots=True)
class PathAttributes:
    """What the choice among paths looks at, and what status shows."""

    as_path: tuple[int, ...] = ()
    """All ASNs of the path in order, those of sets included."""
    as_path_length: int = 0
    """Length as the decision process counts it: a set counts once, confederation segments not at all."""
    med: int | None = None


@dataclass(frozen=True, slots=True)
class PathLearned:
    """A neighbour announces a prefix, or announces it anew with other attributes."""

    neighbour: IPAddress
    prefix: IPNetwork
    attributes: PathAttributes


@dataclass(frozen=True, slots=True)
class PathWithdrawn:
    """A neighbour no longer announces a prefix."""

    neighbour: IPAddress
    prefix: IPNetwork


@dataclass(frozen=True, slots=True)
class PeerStateChanged:
    """A session is in this state now."""

    neighbour: IPAddress
    state: SessionState


@dataclass(frozen=True, slots=True)
class PathUnreadable:
    """gobgpd reported a path that we could not read; it is counted and otherwise passed over."""

    detail: str


PathEvent: TypeAlias = PathLearned | PathWithdrawn | PathUnreadable
Event: TypeAlias = PathEvent | PeerStateChanged


Way: TypeAlias = "tuple[int, frozenset[NextHop]]"
"""An IP version and the tunnels to spread over."""


@dataclass(frozen=True, slots=True)
class RouteSet:
    """The routes that the kernel should have for what BGP taught us.

    Prefixes with the same way out are held together: there are thousands of prefixes, and a handful of ways.
    """

    ways: Mapping[Way, frozenset[IPNetwork]] = field(default_factory=lambda: MappingProxyType({}))
    """Way -> its prefixes, all of the way's IP version; no way and no set of tunnels is empty."""

    @classmethod
    def of(cls, routes: Mapping[IPNetwork, frozenset[NextHop]]) -> Self:
        """The same from a table of prefix -> tunnels."""
        ways: dict[Way, set[IPNetwork]] = {}
        for prefix, hops in routes.items():
            ways.setdefault((prefix.version, hops), set()).add(prefix)
        return cls(MappingProxyType({way: frozenset(prefixes) for way, prefixes in ways.items()}))

    @property
    def routes(self) -> dict[IPNetwork, frozenset[NextHop]]:
        """Prefix -> tunnels. Made anew each time."""
        return {prefix: hops for (_, hops), prefixes in self.ways.items() for prefix in prefixes}


class SpeakerState(StrEnum):
    """How far we are with gobgpd."""

    CONNECTING = "connecting"
    """Not reached yet since the start."""
    CONFIGURING = "configuring"
    """It answers and is being brought to what we want."""
    RUNNING = "running"
    """It answers and is as we want it."""
    UNREACHABLE = "unreachable"
    """It is gone or does not answer; tried again and again."""
    REFUSED = "refused"
    """It answers but does not take our configuration; tried again and again. The reason says what to do."""
    CLOSED = "closed"
    """`close()` was called."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """One BGP session as gobgpd last told it."""

    neighbour: IPAddress
    interface: str
    asn: int
    state: SessionState
    since_seconds: float
    """How long it has been in `state` as far as we know."""
    description: str
    received: int
    """Prefixes announced to us."""
    accepted: int
    """Of those, how many gobgpd kept: without the ones that hold our own ASN, before its import policy."""
    advertised: int
    """Prefixes announced by us."""
    flops: int
    """How often the session fell since gobgpd was configured."""
    negotiated_hold_time_seconds: int
    falls_lately: int = 0
    """How often it fell within the last minutes, as we saw it."""
    sends_default: bool = False
    """Whether the neighbour announces a default route, which gobgpd's import policy rejects."""
    not_accepted: int = 0
    """How many other prefixes gobgpd's import policy rejects, as far as can be told."""


@dataclass(frozen=True, slots=True)
class SpeakerView:
    """The sidecar at one moment, for status."""

    state: SpeakerState
    reason: str
    """In words what is wrong; empty when nothing is. While running: the peers that gobgpd would not take."""
    since_seconds: float
    """How long it has been in `state`."""
    api: str
    """`GoBGP 3` or `GoBGP 4`; empty while unknown."""
    asn: int
    router_id: IPv4Address
    wanted: bool | None
    """Whether our prefixes should be advertised; None: not decided yet, gobgpd is left as found."""
    advertised: bool | None
    """Whether gobgpd was last told to; None: not told since it was last reached."""
    advertisements: tuple[IPNetwork, ...]
    sessions: tuple[SessionView, ...]
    configured: int
    """How often an empty gobgpd was configured."""
    failures: int
    """Calls to gobgpd that failed."""
