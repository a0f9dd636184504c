"""What a doctor looks at: the host, what this router is configured for, and what the daemon knows. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from gre.tunnel import GreDevice, IPAddress
    from wccpd.doctor.foreign import ForeignChain
    from wccpd.status.view import Status


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says of this router, as far as the host must fit to it."""

    wccp_addresses: tuple[IPv4Address, ...]
    """The Router ID first."""
    tunnels: tuple[GreDevice, ...] = ()
    ingress: tuple[str, ...] = ()
    device_prefix: str = "wccp-"
    nft_table: str = "wccpd"
    marks_mask: int = 0xFFFFFF
    slot_mask: int = 0xFF
    route_protocol: int = 118
    rule_priority: int = 18800
    """Rules before it come before ours."""
    sends_gre: bool = True
    sends_l2: bool = False
    is_netlink: bool = True
    has_affinity: bool = True
    clamps_mss: bool = True
    gobgp_socket: str = ""
    """Empty without BGP."""
    password_octets: Mapping[str, int] = field(default_factory=dict)
    """Length of the password by service; 0: it has none."""
    open_services: tuple[str, ...] = ()
    """Services without a password and without a group list."""
    state_directory: str = "/var/lib/wccpd"


@dataclass(frozen=True, slots=True)
class LinkFact:
    """A network device."""

    name: str
    up: bool
    mtu_bytes: int
    kind: str = ""
    """The kernel's word, e.g. `gre`; empty for a physical one."""


@dataclass(frozen=True, slots=True)
class RouteFact:
    """Where the host's routing leads."""

    device: str
    gateway: str = ""
    mtu_bytes: int | None = None
    """Of the route, where one is set or was learnt."""


@dataclass(frozen=True, slots=True)
class RuleFact:
    """A policy rule."""

    priority: int
    table: int
    mark: int | None = None
    mask: int | None = None
    selector: str = ""
    """What else it asks for, e.g. a source or a device; of a rule that takes all but what it names, all of it. Empty:
    it takes every packet with its mark."""


@dataclass(frozen=True, slots=True)
class ConntrackFact:
    """Connection tracking."""

    count: int
    limit: int
    dropped: int = 0
    """Packets dropped because the table was full or an entry could not be made, since the start of the host."""


@dataclass(frozen=True, slots=True)
class DiskFact:
    """The file system of the state directory."""

    free_bytes: int
    free_files: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ClockFact:
    """The kernel's opinion of its clock (adjtimex(2))."""

    synchronised: bool
    error_seconds: float


@dataclass(frozen=True, slots=True)
class SocketFact:
    """A UDP socket on WCCP's port."""

    address: str
    dropped: int
    """Datagrams dropped because the socket's buffer was full."""


@dataclass(frozen=True, slots=True)
class Ec2Fact:
    """The instance, by its metadata service."""

    instance: str
    interfaces: tuple[str, ...]
    """ENI numbers."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host. What could not be read is None, with a reason in `unread`."""

    ip_forward: bool | None = None
    rp_filter: Mapping[str, int] = field(default_factory=dict)
    """By device, `all` included; 0 off, 1 strict, 2 loose."""
    links: tuple[LinkFact, ...] = ()
    addresses: frozenset[str] = frozenset()
    has_gre: bool | None = None
    """Whether the kernel makes GRE devices."""
    has_nft: bool | None = None
    default_route: RouteFact | None = None
    routes: Mapping[IPAddress, RouteFact | None] = field(default_factory=dict)
    """To caches and to the far ends of tunnels; None: there is none."""
    rules: tuple[RuleFact, ...] = ()
    foreign_chains: tuple[ForeignChain, ...] = ()
    legacy_iptables: tuple[str, ...] = ()
    """Tables of the old iptables, which cannot be read here."""
    sockets: tuple[SocketFact, ...] = ()
    conntrack: ConntrackFact | None = None
    clock: ClockFact | None = None
    disk: DiskFact | None = None
    allowances: Mapping[str, int] = field(default_factory=dict)
    """ENA: packets queued or dropped for exceeding an allowance, by device and counter."""
    has_ena: bool = False
    ec2: Ec2Fact | None = None
    gobgp: str = ""
    """Why gobgpd's socket takes no connection; empty if it does, or there is no BGP."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """What could not be read, and why."""


@dataclass(frozen=True, slots=True)
class TrafficFact:
    """What went to a cache and came back of it lately."""

    seconds: float
    redirected: int
    returned: int


@dataclass(frozen=True, slots=True)
class FlowsFact:
    """Tracked connections that are held to a cache."""

    flows: int
    unanswered: int
    """Of which no packet of the other direction was ever seen here."""


@dataclass(frozen=True, slots=True)
class RepairFact:
    """What others changed of ours, and the daemon put right."""

    count: int
    last_seconds: float
    changes: tuple[str, ...]
    """Of the last time."""


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What the daemon knows."""

    status: Status
    traffic: Mapping[IPv4Address, TrafficFact] = field(default_factory=dict)
    flows: Mapping[IPv4Address, FlowsFact] = field(default_factory=dict)
    repairs: RepairFact | None = None
    save_fault: str = ""
    """Why the engine's memory cannot be saved; empty if it can."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything."""

    wanted: Wanted
    host: HostFacts
    router: RouterFacts | None = None
    unreachable: str = ""
    """Why the daemon was not asked."""
