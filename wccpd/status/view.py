"""The one status tree: what `wccpctl`, the control API and every later read-out render.

Frozen values only; nothing here reads a clock, a socket or the kernel. Times are ages in seconds, so that
a reader on another machine needs no common clock. Keys of the JSON are the field names below and are stable:
fields may be added, never renamed or removed while `SCHEMA_VERSION` stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA_VERSION = 1


class Health(StrEnum):
    """One word for a part of the router."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """One Transit Gateway Connect tunnel as the kernel has it."""

    name: str
    state: Health
    reason: str
    """Why it is not up, empty when it is."""
    device: str
    local: str
    remote: str
    inside: str
    """Our inside addresses with their prefix length, e.g. `169.254.6.1/29, fd00:6::1/125`."""
    mtu_bytes: int
    received_packets: int
    received_bytes: int
    sent_packets: int
    sent_bytes: int
    path_mtu_bytes: int = 0
    """What the path to `remote` carries, outer header included, as far as the kernel has found out; 0: not known."""
    errors: int = 0
    """Packets that the device could not receive or send."""
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One BGP session."""

    address: str
    tunnel: str
    state: str
    """BGP's own word: idle, connect, active, opensent, openconfirm, established."""
    uptime_seconds: float
    received: int
    accepted: int
    advertised: int
    flops: int = 0
    """How often the session fell since gobgpd was configured."""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One prefix learnt from the Transit Gateway."""

    prefix: str
    tunnels: tuple[str, ...]
    stale: bool


@dataclass(frozen=True, slots=True)
class BgpStatus:
    """The GoBGP sidecar and what it has told us."""

    state: Health
    reason: str
    since_seconds: float
    asn: int
    peer_asn: int
    advertising: bool
    advertised_prefixes: tuple[str, ...]
    peers: tuple[PeerStatus, ...]
    routes: tuple[RouteStatus, ...]
    refused: tuple[str, ...]
    """Prefixes not taken, each with its reason, in words."""
    refused_total: int = 0
    """Paths refused since the start; `refused` holds the newest thousand that are still announced."""
    advertise_reason: str = ""
    """Why our prefixes are not advertised, or about to be withdrawn; empty when all is well."""
    drained: bool = False
    """Whether an operator took this router out of service (`wccpctl drain router`)."""
    pins: tuple[str, ...] = ()
    """Networks of our side that a learnt prefix covers, kept on the host's own way by a route of ours."""
    warnings: tuple[str, ...] = ()
    """What of the host's settings makes BGP's routes work less well than they could, in words."""
    sidecar: str = ""
    """Which API gobgpd speaks: `GoBGP 3` or `GoBGP 4`; empty while unknown."""


@dataclass(frozen=True, slots=True)
class OutcomeStatus:
    """Packets that a service took and did not redirect."""

    verdict: str
    """forwarded, dropped or rejected."""
    reason: str
    """unassigned, denied, established, lapsed or lost (wccpd/plan/verdict.py tells what each means)."""
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ListLineStatus:
    """One line of a service's redirect list; counted is a packet at the first line that matches it."""

    line: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service group."""

    service: str
    """web-cache, or the number of a dynamic service."""
    state: Health
    reason: str
    mode: str
    definition: str
    """What it redirects, in words, e.g. `tcp to port 80`; empty until a cache has defined it."""
    priority: int
    caches_usable: int
    caches_seen: int
    buckets_assigned: int
    """Buckets, or values of masks, that belong to a usable cache."""
    assigned_by: str
    """cache, router or nobody."""
    designated_cache: str
    """The cache whose assignment is in force; empty when the router assigned."""
    change_number: int
    packets_redirected: int
    bytes_redirected: int
    packets_unassigned: int
    """Matched the service but no cache owns their bucket: what became of them is the mode's."""
    bytes_unassigned: int
    bucket_owners: tuple[str, ...] = field(repr=False)
    """256 cache addresses; an empty string where nobody owns the bucket."""
    buckets_total: int
    """256, or the number of values of the masks."""
    assignment_method: str
    """hash or mask."""
    packets_uninspected: int
    """Forwarded without inspection for any reason but the redirect list."""
    bytes_uninspected: int
    uninspected_seconds: float
    """How long in this run of the daemon some or all of its traffic was not inspected."""
    not_redirected: tuple[OutcomeStatus, ...]
    redirect_list: tuple[ListLineStatus, ...]
    routers: tuple[str, ...] = ()
    """Router IDs that the group's usable caches name, this router's among them."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """One cache in one service group."""

    service: str
    address: str
    state: str
    """negotiating, incompatible, usable or shutdown."""
    rung: str
    """How far down the compatibility ladder we had to go for it (ARCHITECTURE.md, "The ladder")."""
    reason: str
    forwarding: str
    packet_return: str
    weight: int
    buckets: int
    packets_redirected: int
    bytes_redirected: int
    packets_returned: int
    bytes_returned: int
    """Returned counters are the cache's device and so the sum over the services it shares."""
    last_here_i_am_seconds: float
    usable_seconds: float
    zone: str
    """Empty where none is configured."""
    draining: bool
    """It gets no new flows."""
    probe: str = ""
    """How it stands in the operator's probe through the redirect, in words; empty where there is none."""


@dataclass(frozen=True, slots=True)
class RefusalStatus:
    """Datagrams dropped for one reason."""

    reason: str
    count: int
    last_source: str
    last_detail: str
    last_seconds: float


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """The daemon itself."""

    id: str
    software_version: str
    uptime_seconds: float
    dataplane: str
    dataplane_state: Health
    dataplane_reason: str
    hash_function: str
    config_file: str
    config_unlike_file: str = ""
    """Why what is in force is not what the file held when it was last taken, in words; empty when it is."""
    rollback_in_seconds: float | None = None
    """Until a reload on trial is rolled back unless it is confirmed; None: none is on trial."""


@dataclass(frozen=True, slots=True)
class Status:
    """Everything. `inspecting` answers the question of 3 a.m.; `reasons` says why not."""

    version: int
    inspecting: bool
    reasons: tuple[str, ...]
    router: RouterStatus
    tunnels: tuple[TunnelStatus, ...]
    bgp: BgpStatus | None
    services: tuple[ServiceStatus, ...]
    caches: tuple[CacheStatus, ...]
    refused: tuple[RefusalStatus, ...]
