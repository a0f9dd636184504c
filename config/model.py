"""The settings of a wccpd router: frozen models, one for each section of the file, defaults included.

Each field's description is the reference text for operators; units are in the names. These models check
single values; `validate` checks what they mean together. Nothing here reads a file, YAML or the network.
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from config.fields import (
    AbsolutePath,
    AcceptedNetwork,
    AnyNetwork,
    Asn,
    DevicePrefix,
    FieldError,
    InsideIpv6Network,
    InsideNetwork,
    Network,
    NftName,
    OuterAddress,
    RouteProtocol,
    SocketPath,
    TransitGatewayAsn,
    TunnelName,
    UnicastAddress,
    ZoneName,
    parse_unicast_address,
)
from config.section import Section
from config.services import Redirect, Service

TRANSIT_GATEWAY_MTU_BYTES = 8500
GRE_OVERHEAD_BYTES = {4: 24, 6: 44}
"""What plain GRE takes of a packet, by the IP version of the outer header."""

MAX_SERVICES = 255
"""A packet's mark has 8 bits for its service, and 0 means none."""


class AdvertiseWhen(StrEnum):
    """What a router must be able to do for its prefixes to be advertised to the Transit Gateway."""

    ALWAYS = "always"
    FORWARDING = "forwarding"
    REDIRECTING = "redirecting"


class LogLevel(StrEnum):
    """The least severe event that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How an event is written."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class Router(Section):
    """The router itself, as caches know it."""

    id: UnicastAddress = Field(
        description="Router ID: an IPv4 address of this host. Caches send WCCP to it, it sends them GRE."
    )
    addresses: tuple[UnicastAddress, ...] = Field(
        default=(), description="Further IPv4 addresses of this host to which caches may send HERE_I_AM."
    )
    zone: ZoneName | None = Field(
        default=None,
        description="The zone that this router is in, e.g. an Availability Zone; see prefer_zone.",
    )


class Tunnel(Section):
    """One GRE tunnel of a Transit Gateway Connect peer."""

    name: TunnelName = Field(
        description=(
            "Name of the tunnel. After kernel.device_prefix it names the device; 15 octets in all. "
            "Not 8 hexadecimal digits: so the devices of caches are named."
        )
    )
    local: OuterAddress = Field(
        description=("Our GRE address, the Connect peer's 'peer address', IPv4 or IPv6. Default: router.id."),
    )
    remote: OuterAddress = Field(
        description="The Transit Gateway's GRE address, out of one of its CIDR blocks; IPv4 or IPv6 as local.",
    )
    inside: InsideNetwork = Field(
        description=(
            "The Connect peer's inside CIDR block, a /29 of 169.254.0.0/16. Its first host is ours, "
            "the second and third are the Transit Gateway's two BGP speakers."
        )
    )
    inside_ipv6: InsideIpv6Network | None = Field(
        default=None,
        description=(
            "The Connect peer's IPv6 inside CIDR block, a /125 of fd00::/8, if it has one: IPv6 prefixes are then "
            "exchanged in the same sessions. Its first host is ours."
        ),
    )
    mtu_bytes: int = Field(
        default=TRANSIT_GATEWAY_MTU_BYTES - GRE_OVERHEAD_BYTES[4],
        strict=True,
        ge=576,
        le=TRANSIT_GATEWAY_MTU_BYTES - GRE_OVERHEAD_BYTES[4],
        description=(
            "MTU of the tunnel in bytes; the Transit Gateway carries 8500, of which GRE takes 24 over IPv4 and 44 "
            "over IPv6. Default over IPv6: 8456. Status says if the path carries less."
        ),
    )
    ttl: int = Field(
        default=255,
        strict=True,
        ge=1,
        le=255,
        description="Fixed TTL of the outer header, never copied from inside.",
    )

    @property
    def inside_interface(self) -> IPv4Interface:
        """Our own inside address with its prefix length."""
        return IPv4Interface((self.inside.network_address + 1, self.inside.prefixlen))

    @property
    def inside_ipv6_interface(self) -> IPv6Interface | None:
        """Our own IPv6 inside address, if the tunnel has one."""
        if self.inside_ipv6 is None:
            return None
        return IPv6Interface((self.inside_ipv6.network_address + 1, self.inside_ipv6.prefixlen))

    @property
    def bgp_neighbors(self) -> tuple[IPv4Address, IPv4Address]:
        """The Transit Gateway's two BGP speakers."""
        return self.inside.network_address + 2, self.inside.network_address + 3


class Bgp(Section):
    """BGP towards the Transit Gateway, spoken by a GoBGP sidecar."""

    asn: Asn = Field(
        description="Our autonomous system number. All routers of a fleet share it, or ECMP fails."
    )
    peer_asn: TransitGatewayAsn = Field(description="The Transit Gateway's ASN; must differ from ours.")
    gobgp_socket: SocketPath = Field(
        default=Path("/run/wccpd/gobgpd.sock"), description="Unix socket on which gobgpd offers its API."
    )
    listen_port: int = Field(
        default=179, strict=True, ge=1, le=65535, description="TCP port on which gobgpd takes BGP sessions."
    )
    hold_time_seconds: int = Field(
        default=30,
        strict=True,
        ge=3,
        le=65535,
        description="BGP hold time in seconds, at least three keepalives.",
    )
    keepalive_seconds: int = Field(
        default=10, strict=True, ge=1, le=21845, description="Time between BGP keepalives in seconds."
    )
    connect_retry_seconds: int = Field(
        default=5, strict=True, ge=1, le=65535, description="Time between attempts to connect in seconds."
    )
    advertise: tuple[AnyNetwork, ...] = Field(
        default=(IPv4Network("0.0.0.0/0"),),
        min_length=1,
        description="Networks advertised to the Transit Gateway; IPv6 ones need a tunnel with inside_ipv6.",
    )
    advertise_when: AdvertiseWhen = Field(
        default=AdvertiseWhen.FORWARDING,
        description=(
            "What this router must be able to do for its networks to be advertised: `forwarding` (the kernel "
            "forwards, and the host has a route of its own towards each of them), `redirecting` (that, and "
            "every service group has `quorum` usable caches), or `always`. Else the Transit Gateway uses other routers."
        ),
    )
    quorum: int = Field(
        default=1,
        strict=True,
        ge=1,
        le=32,
        description="With `redirecting`: usable caches that every service group needs.",
    )
    fail_seconds: int = Field(
        default=3,
        strict=True,
        ge=0,
        le=3600,
        description="How long the condition must fail before the networks are withdrawn.",
    )
    recover_seconds: int = Field(
        default=10,
        strict=True,
        ge=0,
        le=3600,
        description="After a withdrawal: how long the condition must hold before they are advertised again.",
    )
    med: int | None = Field(
        default=None,
        strict=True,
        ge=0,
        le=2**32 - 1,
        description="MED sent with them: the Transit Gateway prefers the router with the lower. None counts as 100.",
    )
    prepend: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=10,
        description=(
            "How often our ASN is repeated in their path, for a standby router. The Transit Gateway "
            "spreads only over routers with the same number."
        ),
    )
    accept: tuple[AcceptedNetwork, ...] = Field(
        default=(
            IPv4Network("10.0.0.0/8"),
            IPv4Network("172.16.0.0/12"),
            IPv4Network("192.168.0.0/16"),
            IPv4Network("100.64.0.0/10"),
        ),
        min_length=1,
        description="Ranges out of which spoke prefixes are accepted; never the default route.",
    )
    accept_max_length: int = Field(
        default=28,
        strict=True,
        ge=8,
        le=32,
        description="Longest IPv4 prefix accepted; 28 is the smallest VPC CIDR block. Raise it for VPN hosts.",
    )
    accept_max_length_ipv6: int = Field(
        default=64, strict=True, ge=8, le=128, description="Longest IPv6 prefix accepted."
    )
    max_prefixes: int = Field(
        default=10_000,
        strict=True,
        ge=1,
        le=100_000,
        description="Most prefixes taken from one session; a Transit Gateway sends 5,000 at most.",
    )
    local_networks: tuple[AnyNetwork, ...] = Field(
        default=(),
        description=(
            "Networks on this side, such as the Egress VPC's CIDR block: never routed into a tunnel, even where a "
            "learnt prefix covers them. Tunnel ends, caches and the host's own subnets always count."
        ),
    )
    multipath_hash_policy: int | None = Field(
        default=None,
        strict=True,
        ge=0,
        le=2,
        description=(
            "Set net.ipv4 and net.ipv6.fib_multipath_hash_policy for the whole host: 1 spreads by ports too. "
            "Default: leave it, status says what it is."
        ),
    )


class Control(Section):
    """How `wccpctl` reaches the daemon."""

    socket: SocketPath = Field(
        default=Path("/run/wccpd/control.sock"),
        description="Unix socket of the control API; its group may read.",
    )


class Kernel(Section):
    """How our objects in the kernel are recognised. Everything that carries these marks is ours to remove."""

    device_prefix: DevicePrefix = Field(
        default="wccp-",
        description="Beginning of our devices' names; at most 7 octets, a cache's address adds 8 to it.",
    )
    mark_shift: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=8,
        description="Lowest of the 24 packet mark bits we use; the rest stays as is.",
    )
    table_base: int = Field(
        default=18800,
        strict=True,
        ge=256,
        le=2**31 - 65536,
        description="First routing table of ours; each cache takes one from here upwards.",
    )
    rule_priority: int = Field(
        default=18800,
        strict=True,
        ge=1,
        le=32510,
        description="Our policy rules have this priority plus 1 to 255; 32766, the main table, comes after them.",
    )
    route_protocol: RouteProtocol = Field(
        default=118, description="Route protocol number of our routes; no other routing daemon may use it."
    )
    nft_table: NftName = Field(default="wccpd", description="Name of our nftables table.")


class Log(Section):
    """What is logged, and how."""

    level: LogLevel = Field(default=LogLevel.INFO, description="The least severe event that is logged.")
    format: LogFormat = Field(
        default=LogFormat.AUTO, description="`json`, `text`, or `auto`: text on a terminal, JSON elsewhere."
    )


class Cache(Section):
    """What the operator knows of caches beforehand."""

    network: Network = Field(description="IPv4 network of caches, or the address of one.")
    zone: ZoneName = Field(description="Their zone, e.g. an Availability Zone; the longest network counts.")


class Config(Section):
    """The whole file."""

    router: Router = Field(description="The router itself, as caches know it.")
    tunnels: tuple[Tunnel, ...] = Field(
        default=(),
        description="GRE tunnels of the Transit Gateway Connect peers; may be empty, then without bgp.",
    )
    bgp: Bgp | None = Field(default=None, description="BGP towards the Transit Gateway; goes with tunnels.")
    services: tuple[Service, ...] = Field(
        min_length=1, max_length=MAX_SERVICES, description=f"WCCP service groups, 1 to {MAX_SERVICES}."
    )
    redirect: Redirect = Field(
        default=Redirect(), description="Which traffic is looked at, and how it is carried."
    )
    caches: tuple[Cache, ...] = Field(default=(), description="Zones of caches.")
    control: Control = Field(default=Control(), description="How `wccpctl` reaches the daemon.")
    kernel: Kernel = Field(default=Kernel(), description="How our objects in the kernel are recognised.")
    log: Log = Field(default=Log(), description="What is logged, and how.")
    state_directory: AbsolutePath = Field(
        default=Path("/var/lib/wccpd"), description="Directory for what must outlive a restart."
    )

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, data: object) -> object:
        return with_derived_values(data)

    def device_name(self, tunnel: Tunnel) -> str:
        """The network device of one of our tunnels."""
        return self.kernel.device_prefix + tunnel.name

    def with_services(self, services: tuple[Service, ...]) -> Self:
        """The same settings with other service groups."""
        return self.model_copy(update={"services": services})


def with_derived_values(data: object) -> object:
    """Fill in what follows from other keys of the raw file: a tunnel's `local` defaults to the Router ID.

    Data not shaped like a configuration, or a Router ID that is none, passes unchanged: it is refused later.
    """
    if not isinstance(data, dict):
        return data
    router, tunnels = data.get("router"), data.get("tunnels")
    router_id = router.get("id") if isinstance(router, dict) else getattr(router, "id", None)
    if not isinstance(tunnels, list | tuple) or not is_unicast(router_id):
        return data
    filled = [
        {"local": router_id, **_derived_mtu(item), **item} if isinstance(item, dict) else item
        for item in tunnels
    ]
    return {**data, "tunnels": filled}


def _derived_mtu(tunnel: dict[str, object]) -> dict[str, int]:
    if ":" not in str(tunnel.get("remote", "")):
        return {}
    return {"mtu_bytes": TRANSIT_GATEWAY_MTU_BYTES - GRE_OVERHEAD_BYTES[6]}


def is_unicast(value: object) -> bool:
    """Whether a raw value is a host's IPv4 address."""
    try:
        parse_unicast_address(value)
    except FieldError:
        return False
    return True


def redacted(config: Config) -> dict[str, object]:
    """The settings as plain JSON values, defaults filled in, without any password (its file's name stays)."""
    return config.model_dump(mode="json")
