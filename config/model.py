"""The settings of a wccpd router: frozen models, one for each section of the file, defaults included.

Each field's description is the reference text for operators; units are in the names. These models check
single values; `validate` checks what they mean together. Nothing here reads a file, YAML or the network.
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from config.fields import FieldError, parse_unicast_address
from config.kinds import (
    AbsolutePath,
    AcceptedNetwork,
    AnyNetwork,
    Asn,
    DevicePrefix,
    GroupName,
    InsideIpv6Network,
    InsideNetwork,
    LeftOut,
    Network,
    NftName,
    OuterAddress,
    RouteProtocol,
    SocketPath,
    TransitGatewayAsn,
    TunnelName,
    UnicastAddress,
    ZoneName,
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
        description=(
            "Router ID: an IPv4 address of this host. Caches send WCCP to it (in Squid `wccp2_router`), and "
            "redirected packets in GRE come from it."
        )
    )
    addresses: tuple[UnicastAddress, ...] = Field(
        default=(),
        description="Further IPv4 addresses of this host to which caches may send HERE_I_AM.",
        examples=[["10.100.2.10"]],
    )
    zone: Annotated[ZoneName | None, LeftOut("none")] = Field(
        default=None,
        description="The zone that this router is in, e.g. its Availability Zone; see services.prefer_zone.",
    )


class Tunnel(Section):
    """One GRE tunnel of a Transit Gateway Connect peer."""

    name: TunnelName = Field(
        description=(
            "Name of the tunnel. After kernel.device_prefix it names the device, 15 octets in all: "
            "`tgw-a` is device `wccp-tgw-a`. Not 8 hexadecimal digits: so the devices of caches are named."
        )
    )
    local: Annotated[OuterAddress, LeftOut("what router.id is")] = Field(
        description=(
            "Our end of the GRE tunnel, the Connect peer's `peer GRE address`. Of the same IP version as `remote`."
        ),
        examples=["10.100.1.10"],
    )
    remote: OuterAddress = Field(
        description=(
            "The Transit Gateway's end of the GRE tunnel, the Connect peer's `transit gateway GRE address`. "
            "This host needs a route to it through the VPC."
        )
    )
    inside: InsideNetwork = Field(
        description=(
            "The Connect peer's inside CIDR block. Its first host is ours, the second and third are the "
            "Transit Gateway's two BGP speakers."
        )
    )
    inside_ipv6: Annotated[InsideIpv6Network | None, LeftOut("no IPv6 in this tunnel")] = Field(
        default=None,
        description=(
            "The Connect peer's IPv6 inside CIDR block, if it has one. IPv6 prefixes are then exchanged in the "
            "same BGP sessions; its first host is ours."
        ),
    )
    mtu_bytes: Annotated[int, LeftOut("8476, over IPv6 8456")] = Field(
        default=TRANSIT_GATEWAY_MTU_BYTES - GRE_OVERHEAD_BYTES[4],
        strict=True,
        ge=576,
        le=TRANSIT_GATEWAY_MTU_BYTES - GRE_OVERHEAD_BYTES[4],
        description=(
            "MTU of the tunnel. The Transit Gateway carries 8500 bytes, of which GRE takes 24 over IPv4 and 44 "
            "over IPv6. Status says if the path carries less."
        ),
    )
    ttl: int = Field(
        default=255,
        strict=True,
        ge=1,
        le=255,
        description="TTL of the outer header; fixed, never copied from inside.",
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
        description=(
            "Our autonomous system number, the Connect peers' `peer ASN`. All routers of a fleet have the same, or "
            "the Transit Gateway does not spread traffic over them."
        )
    )
    peer_asn: TransitGatewayAsn = Field(
        description="The Transit Gateway's own autonomous system number; never the same as ours."
    )
    gobgp_socket: SocketPath = Field(
        default=Path("/run/wccpd/gobgpd.sock"), description="Unix socket on which gobgpd offers its API."
    )
    listen_port: int = Field(
        default=179,
        strict=True,
        ge=1,
        le=65535,
        description="TCP port on which gobgpd takes BGP sessions. The Transit Gateway knows only 179.",
    )
    hold_time_seconds: int = Field(
        default=30,
        strict=True,
        ge=3,
        le=65535,
        description=(
            "BGP hold time: how long a dead path may go unnoticed. The lower of both sides' counts, and the "
            "Transit Gateway offers 30. At least three keepalives."
        ),
    )
    keepalive_seconds: int = Field(
        default=10, strict=True, ge=1, le=21845, description="Time between two BGP keepalives of ours."
    )
    connect_retry_seconds: int = Field(
        default=5,
        strict=True,
        ge=1,
        le=65535,
        description="Time between two attempts to open a BGP session.",
    )
    advertise: tuple[AnyNetwork, ...] = Field(
        default=(IPv4Network("0.0.0.0/0"),),
        min_length=1,
        description="Networks advertised to the Transit Gateway; IPv6 ones need a tunnel with inside_ipv6.",
        examples=[["0.0.0.0/0", "::/0"]],
    )
    advertise_when: AdvertiseWhen = Field(
        default=AdvertiseWhen.FORWARDING,
        description=(
            "What this router must be able to do for its networks to be advertised; else the Transit Gateway uses "
            "other routers. `forwarding`: the kernel forwards, and the host has a route of its own towards each of "
            "them. `redirecting`: that, and every service has `quorum` usable caches. `always`: nothing."
        ),
        examples=["redirecting"],
    )
    quorum: int = Field(
        default=1,
        strict=True,
        ge=1,
        le=32,
        description="With `advertise_when: redirecting`: usable caches that every service needs.",
    )
    fail_seconds: int = Field(
        default=3,
        strict=True,
        ge=0,
        le=3600,
        description="How long the condition of advertise_when must fail before the networks are withdrawn.",
    )
    recover_seconds: int = Field(
        default=10,
        strict=True,
        ge=0,
        le=3600,
        description="After a withdrawal: how long the condition must hold before they are advertised again.",
    )
    med: Annotated[int | None, LeftOut("none is sent, which the Transit Gateway takes for 100")] = Field(
        default=None,
        strict=True,
        ge=0,
        le=2**32 - 1,
        description="MED sent with the networks. The Transit Gateway prefers the router with the lower one.",
        examples=[50],
    )
    prepend: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=10,
        description=(
            "How often our ASN is repeated in the path of the networks, for a standby router. The Transit Gateway "
            "spreads traffic only over routers with the same number."
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
        description=(
            "Ranges out of which spoke prefixes are accepted. Spokes with public or IPv6 addresses must be added; "
            "the default route cannot be."
        ),
        examples=[["10.0.0.0/8", "fd00::/8"]],
    )
    accept_max_length: int = Field(
        default=28,
        strict=True,
        ge=8,
        le=32,
        description="Longest IPv4 prefix accepted. 28 is the smallest VPC CIDR block; VPN hosts need 32.",
    )
    accept_max_length_ipv6: int = Field(
        default=64, strict=True, ge=8, le=128, description="Longest IPv6 prefix accepted."
    )
    max_prefixes: int = Field(
        default=10_000,
        strict=True,
        ge=1,
        le=100_000,
        description="Most prefixes taken from one session. A Transit Gateway sends 5,000 at most.",
    )
    local_networks: tuple[AnyNetwork, ...] = Field(
        default=(),
        description=(
            "Networks on this side, such as the Egress VPC's CIDR block: never routed into a tunnel, even where a "
            "learnt prefix covers them. Tunnel ends, caches and the host's own subnets always count."
        ),
        examples=[["10.100.0.0/16"]],
    )
    multipath_hash_policy: Annotated[int | None, LeftOut("left as it is; status says what it is")] = Field(
        default=None,
        strict=True,
        ge=0,
        le=2,
        description=(
            "Sets net.ipv4 and net.ipv6.fib_multipath_hash_policy for the whole host: how the kernel spreads "
            "flows over several tunnels. 0 is by addresses, 1 by ports too, 2 by inner addresses."
        ),
        examples=[1],
    )


class Control(Section):
    """How `wccpctl` reaches the daemon."""

    socket: SocketPath = Field(
        default=Path("/run/wccpd/control.sock"),
        description="Unix socket of the control API; its group may read. With another one, `wccpctl` needs --socket.",
    )
    read_group: Annotated[GroupName | None, LeftOut("`command_group`, or else the daemon's own group")] = (
        Field(
            default=None,
            description="Group of this host that owns the socket, so that its members may read: status, events.",
        )
    )
    command_group: Annotated[GroupName | None, LeftOut("only root and the daemon's own user")] = Field(
        default=None,
        description="Group of this host whose members may command: drain, reload. They must be able to open the "
        "socket, so put them into `read_group` too.",
    )


class Kernel(Section):
    """How our objects in the kernel are recognised. Everything that carries these marks is ours to remove."""

    device_prefix: DevicePrefix = Field(
        default="wccp-",
        description="Beginning of our devices' names; a tunnel's name or a cache's address in hexadecimal follows.",
    )
    mark_shift: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=8,
        description=(
            "Lowest of the 24 bits of the packet mark that we use. Shift them if other software "
            "on this host uses low bits; bits that are not ours stay as they are."
        ),
    )
    table_base: int = Field(
        default=18800,
        strict=True,
        ge=256,
        le=2**31 - 65536,
        description="Our routing tables have this number plus 1 to 255, one for each cache.",
    )
    rule_priority: int = Field(
        default=18800,
        strict=True,
        ge=1,
        le=32510,
        description="Our policy rules have this priority plus 1 to 255, so all before the main table's 32766.",
    )
    route_protocol: RouteProtocol = Field(
        default=118,
        description="Protocol number of our routes (`ip route show proto 118`); no other routing daemon may use it.",
    )
    nft_table: NftName = Field(
        default="wccpd", description="Name of our nftables table (`nft list table ip wccpd`)."
    )


class Log(Section):
    """What is logged, and how."""

    level: LogLevel = Field(
        default=LogLevel.INFO, description="The least severe event that is logged.", examples=["debug"]
    )
    format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="How events are written. `auto` is `text` on a terminal and `json` elsewhere.",
        examples=["json"],
    )


class Cache(Section):
    """What the operator knows of caches beforehand."""

    network: Network = Field(description="IPv4 network of caches, or the address of one.")
    zone: ZoneName = Field(
        description="Their zone, e.g. an Availability Zone. Where networks overlap, the longest prefix counts."
    )


class Config(Section):
    """The whole file."""

    router: Router = Field(description="The router itself, as caches know it.")
    tunnels: tuple[Tunnel, ...] = Field(
        default=(),
        description=(
            "GRE tunnels of the Transit Gateway Connect peers. "
            "Without any, traffic comes in through redirect.interfaces."
        ),
    )
    bgp: Annotated[Bgp | None, LeftOut("no BGP")] = Field(
        default=None, description="BGP towards the Transit Gateway. Needed with tunnels, and only then."
    )
    services: tuple[Service, ...] = Field(
        min_length=1, max_length=MAX_SERVICES, description="WCCP service groups that caches may join."
    )
    redirect: Redirect = Field(
        default=Redirect(), description="Which traffic is looked at, and how it is carried."
    )
    caches: tuple[Cache, ...] = Field(
        default=(), description="Which caches are in which zone, for services.prefer_zone."
    )
    control: Control = Field(default=Control(), description="How `wccpctl` reaches the daemon.")
    kernel: Kernel = Field(
        default=Kernel(),
        description="How our objects in the kernel are recognised. Whatever carries these marks is ours to remove.",
    )
    log: Log = Field(default=Log(), description="What is logged, and how.")
    state_directory: AbsolutePath = Field(
        default=Path("/var/lib/wccpd"),
        description="Directory for what must outlive a restart: drains, and what caches were told.",
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
