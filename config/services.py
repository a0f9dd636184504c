"""The settings of service groups and of the redirect: frozen models, defaults included.

A part of `model`, with the same rules: each field's description is the reference text for operators.
"""

from enum import StrEnum
from ipaddress import IPv4Network
from math import prod
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretBytes, model_validator
from pydantic.json_schema import SkipJsonSchema

from config.fields import FieldError, refuse_open_password
from config.interop import Interop
from config.kinds import (
    CredentialName,
    EnvironmentName,
    FilePath,
    HttpPath,
    InterfaceName,
    IpProtocol,
    LeftOut,
    MulticastAddress,
    Network,
    Port,
    PortRange,
    ServiceName,
    UnicastAddress,
)
from config.section import Section


class Mode(StrEnum):
    """What happens to a packet that a service takes while no cache can have it."""

    OPEN = "open"
    CLOSED = "closed"
    REJECT = "reject"


class Assignment(StrEnum):
    """Who fills the 256 buckets, or the values of the masks, of a service group."""

    AUTO = "auto"
    CACHE = "cache"
    ROUTER = "router"


class OnLoss(StrEnum):
    """What becomes of the buckets of a cache that is lost."""

    COVER = "cover"
    LEAVE = "leave"


class LostFlows(StrEnum):
    """What becomes of the established flows of a cache that is lost."""

    MOVE = "move"
    RESET = "reset"


class Method(StrEnum):
    """A way to carry packets to a cache, or back."""

    GRE = "gre"
    L2 = "l2"


class AssignmentMethod(StrEnum):
    """How flows are divided among caches."""

    HASH = "hash"
    MASK = "mask"


class DataPlaneKind(StrEnum):
    """How packets are redirected."""

    AUTO = "auto"
    NETLINK = "netlink"
    EBPF = "ebpf"


class HashField(StrEnum):
    """A field of a packet that a hash is made of."""

    SOURCE_IP = "source_ip"
    DESTINATION_IP = "destination_ip"
    SOURCE_PORT = "source_port"
    DESTINATION_PORT = "destination_port"


class PortsAre(StrEnum):
    """Which ports of a packet a list means."""

    DESTINATION = "destination"
    SOURCE = "source"


class Action(StrEnum):
    """What a line of a redirect list says."""

    PERMIT = "permit"
    DENY = "deny"


class Match(Section):
    """What a dynamic service redirects (draft 5.6.2). Proxies must announce the same, value by value."""

    protocol: Annotated[IpProtocol, LeftOut("`tcp`")] = Field(
        default=6,
        description="IP protocol of the service's packets. `any` is every protocol, and then without ports.",
    )
    ports: tuple[Port, ...] = Field(
        default=(),
        max_length=8,
        description="Ports of the service's packets, 8 at most; only with tcp and udp. Empty: all ports.",
        examples=[[443, 8443]],
    )
    ports_are: PortsAre = Field(
        default=PortsAre.DESTINATION,
        description=(
            "Whether `ports` are `destination` or `source` ports. `source` is for the second service of a "
            "spoofing proxy, which takes what servers answer."
        ),
    )
    priority: int = Field(
        default=200,
        strict=True,
        ge=0,
        le=255,
        description=(
            "Services with a higher priority are asked first, equal ones in the file's order; `web-cache` has 240. "
            "The first whose protocol and ports fit a packet decides about it."
        ),
    )
    hash: tuple[HashField, ...] = Field(
        default=(HashField.SOURCE_IP,),
        min_length=1,
        description=(
            "Fields of a packet whose hash is its bucket, and so its cache. `source_ip` keeps a client at one "
            "cache, `destination_ip` keeps a web site at one."
        ),
    )
    alternate_hash: tuple[HashField, ...] = Field(
        default=(),
        description="Fields of the second hash, for buckets that the caches flag as overloaded.",
        examples=[["source_port"]],
    )

    @model_validator(mode="after")
    def _ports_need_a_protocol_that_has_them(self) -> Self:
        if self.ports and self.protocol not in {6, 17}:
            raise FieldError("must be tcp or udp where ports are listed")
        return self


class ProbeKind(StrEnum):
    """What a probe takes for success."""

    TCP = "tcp"
    HTTP = "http"


class Probe(Section):
    """Connections of the router's own that go through the redirect to each cache of the service."""

    kind: ProbeKind = Field(
        default=ProbeKind.TCP,
        description="`tcp`: the cache accepts the connection. `http`: it answers a request with a status below 500.",
    )
    canary: UnicastAddress = Field(
        description=(
            "Whom the connection is for, as the cache sees it. With `tcp` best an address that nobody has, so that "
            "only a cache that intercepts can answer; with `http` a server that the caches can reach."
        )
    )
    canary_port: Port = Field(description="TCP port of that address: one that the caches intercept, e.g. 80.")
    path: HttpPath = Field(default="/", description="With `http`: what is asked for.")
    interval_milliseconds: int = Field(
        default=500, strict=True, ge=100, le=60_000, description="Time from one probe of a cache to the next."
    )
    timeout_milliseconds: int = Field(
        default=1000, strict=True, ge=50, le=60_000, description="How long a probe may take."
    )
    fail_after: int = Field(
        default=2,
        strict=True,
        ge=1,
        le=20,
        description=(
            "So many failures in a row take a cache out of the service. Only once some cache of the service has "
            "passed: until then the probe itself may be wrong."
        ),
    )
    recover_after: int = Field(
        default=2, strict=True, ge=1, le=20, description="So many successes in a row bring it back."
    )


class AclLine(Section):
    """One line of a redirect list; it matches a packet if all that it names does."""

    action: Action = Field(
        description=(
            "What is done with packets that the line matches. "
            "`permit`: they are redirected, `deny`: they are forwarded without inspection."
        ),
        examples=["permit"],
    )
    protocol: Annotated[IpProtocol, LeftOut("`any`")] = Field(
        default=None, description="IP protocol that the line matches. Ports need tcp or udp."
    )
    sources: tuple[Network, ...] = Field(
        default=(),
        description="Source networks that the line matches. Empty: any.",
        examples=[["10.1.9.0/24"]],
    )
    destinations: tuple[Network, ...] = Field(
        default=(),
        description="Destination networks that the line matches. Empty: any.",
        examples=[["203.0.113.0/24", "198.51.100.7"]],
    )
    source_ports: tuple[PortRange, ...] = Field(
        default=(), description="Source ports that the line matches. Empty: any.", examples=[["1024-65535"]]
    )
    destination_ports: tuple[PortRange, ...] = Field(
        default=(),
        description="Destination ports that the line matches. Empty: any.",
        examples=[[80, "8000-8099"]],
    )

    @model_validator(mode="after")
    def _ports_need_a_protocol_that_has_them(self) -> Self:
        if (self.source_ports or self.destination_ports) and self.protocol not in {6, 17}:
            raise FieldError("must have `protocol: tcp` or `udp`, since it names ports")
        return self

    @property
    def combinations(self) -> int:
        """How many lines of single networks and port ranges it stands for."""
        fields = (self.sources, self.destinations, self.source_ports, self.destination_ports)
        return prod(len(each) or 1 for each in fields)

    def __str__(self) -> str:
        """The line in Cisco's order, e.g. `deny tcp any 203.0.113.0/24 80,8000-8099`."""
        protocol = {None: "ip", 6: "tcp", 17: "udp", 1: "icmp"}.get(self.protocol, str(self.protocol))
        ends = (
            _end(self.sources, self.source_ports),
            _end(self.destinations, self.destination_ports),
        )
        return f"{self.action} {protocol} {' '.join(ends)}"


def _end(networks: tuple[IPv4Network, ...], ports: tuple[tuple[int, int], ...]) -> str:
    where = ",".join(map(str, networks)) or "any"
    which = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports)
    return f"{where} {which}" if which else where


Password = Annotated[SkipJsonSchema[SecretBytes | None], BeforeValidator(refuse_open_password)]
"""Never written in the file: only the loader sets one."""


class Service(Section):
    """One WCCP service group that caches may join."""

    service: ServiceName = Field(
        description=(
            "Which service group: `web-cache` (TCP port 80), or the number of a dynamic one. Must be the number "
            "in the proxies, e.g. in Squid `wccp2_service dynamic 70`."
        ),
        examples=[70],
    )
    password_file: Annotated[FilePath | None, LeftOut("no password")] = Field(
        default=None,
        description=(
            "File with the group's password, 1 to 8 octets; a newline at its end does not count. "
            "A relative name starts at the configuration file's directory. "
            "Nobody else should be able to read it: mode 0600."
        ),
    )
    password_environment: Annotated[EnvironmentName | None, LeftOut("no password")] = Field(
        default=None,
        description=(
            "Environment variable of wccpd with the group's password, in place of password_file. "
            "Root can read it under /proc while wccpd runs; a new value counts after a restart."
        ),
    )
    password_credential: Annotated[CredentialName | None, LeftOut("no password")] = Field(
        default=None,
        description=(
            "systemd credential with the group's password, in place of password_file. The unit must pass it: "
            "`LoadCredential=` or `LoadCredentialEncrypted=`. A new value counts after a restart."
        ),
    )
    password: Password = Field(
        default=None, exclude=True, repr=False, description="The group's password; only the loader sets it."
    )
    previous_password_file: Annotated[FilePath | None, LeftOut("none")] = Field(
        default=None,
        description=(
            "File with the password that the group had before: still accepted while proxies are moved to the new "
            "one, never sent. Remove it after the last proxy."
        ),
        examples=["web-cache.password.old"],
    )
    previous_password_environment: Annotated[EnvironmentName | None, LeftOut("none")] = Field(
        default=None,
        description="Environment variable with the previous password, in place of previous_password_file.",
        examples=["WCCP_PREVIOUS_PASSWORD"],
    )
    previous_password_credential: Annotated[CredentialName | None, LeftOut("none")] = Field(
        default=None,
        description="systemd credential with the previous password, in place of previous_password_file.",
        examples=["web-cache-previous-password"],
    )
    previous_password: Password = Field(
        default=None, exclude=True, repr=False, description="The previous password; only the loader sets it."
    )
    group_address: Annotated[MulticastAddress | None, LeftOut("the group meets by unicast alone")] = Field(
        default=None,
        description=(
            "IPv4 multicast address at which the group meets; caches that use unicast are served beside it. "
            "AWS carries multicast only in a multicast domain."
        ),
    )
    group_list: tuple[Network, ...] = Field(
        default=(),
        description=(
            "Networks whose caches may join the group; messages of others are refused. "
            "Empty: every cache that knows the password. A group needs this, a password, or best both."
        ),
        examples=[["10.100.1.0/24", "10.100.2.0/24"]],
    )
    match: Annotated[Match | None, LeftOut("what the group's first cache says")] = Field(
        default=None,
        description=(
            "What a dynamic service redirects. With it, a cache that says otherwise is refused. The modes `closed` "
            "and `reject` need it, since they hold before any cache came."
        ),
    )
    mode: Mode = Field(
        default=Mode.OPEN,
        description=(
            "What is done with packets of the service while no cache can have them. `open` forwards them without "
            "inspection, `closed` drops them, `reject` answers with a TCP reset or ICMP."
        ),
        examples=["closed"],
    )
    redirect_list: tuple[AclLine, ...] = Field(
        default=(),
        description=(
            "Which packets of the service are redirected. The first line that matches decides; what none "
            "matches is denied, i.e. forwarded without inspection. Empty: all are redirected."
        ),
        examples=[[{"action": "deny", "sources": ["10.1.9.0/24"]}, {"action": "permit"}]],
    )
    fallthrough: bool = Field(
        default=False,
        strict=True,
        description=(
            "Offer packets that the list denies, or that no cache can have in mode `open`, to services of lower "
            "priority (Cisco's `check services all`). `false`: they are forwarded."
        ),
    )
    forwarding: tuple[Method, ...] = Field(
        default=(Method.GRE,),
        min_length=1,
        description=(
            "How packets may be carried to caches; the cache chooses. `gre` works across subnets and costs 28 bytes "
            "of MTU; `l2` is faster and is offered only to caches on a network of one of our interfaces."
        ),
        examples=[["gre", "l2"]],
    )
    packet_return: tuple[Method, ...] = Field(
        default=(Method.GRE,),
        min_length=1,
        description=(
            "How caches may give back packets that they do not want; the cache chooses. "
            "List what `forwarding` lists unless the proxy's manual says otherwise."
        ),
        examples=[["gre", "l2"]],
    )
    assignment_method: tuple[AssignmentMethod, ...] = Field(
        default=(AssignmentMethod.HASH,),
        min_length=1,
        description=(
            "How flows may be divided among caches; the cache chooses. `hash` spreads them over 256 buckets, `mask` "
            "by bits of addresses and ports, as proxies made for Catalyst and Nexus switches want it."
        ),
        examples=[["hash", "mask"]],
    )
    affinity: bool = Field(
        default=True,
        strict=True,
        description=(
            "Keep established flows at their cache whatever happens to the buckets, and TCP connections that "
            "began uninspected as they are. Costs connection tracking: mind net.netfilter.nf_conntrack_max."
        ),
    )
    lost_flows: LostFlows = Field(
        default=LostFlows.MOVE,
        description=(
            "What becomes of established flows of a lost cache. `move` sends them to the cache that covers, "
            "which may not know them; `reset` resets TCP connections at once. Needs affinity."
        ),
        examples=["reset"],
    )
    on_loss: OnLoss = Field(
        default=OnLoss.COVER,
        description=(
            "What becomes of the buckets of a lost cache. `cover` gives them to the others at once, `leave` leaves "
            "them to `mode` until they are assigned anew, for a minute or so."
        ),
        examples=["leave"],
    )
    prefer_zone: bool = Field(
        default=False,
        strict=True,
        description=(
            "Send new flows only to caches in our own zone (router.zone), as long as zone_quorum of them are usable. "
            "Saves traffic between Availability Zones; caches of other zones stand by."
        ),
    )
    zone_quorum: int = Field(
        default=1,
        strict=True,
        ge=1,
        le=32,
        description="With prefer_zone: usable caches of our zone below which caches of all zones get flows.",
    )
    probe: Probe | None = Field(
        default=None,
        description=(
            "Try the caches through the redirect: one that takes no traffic gets none, although it goes on sending "
            "HERE_I_AM. Needs `redirect.dataplane: netlink`."
        ),
    )
    assignment: Assignment = Field(
        default=Assignment.AUTO,
        description=(
            "Who divides the buckets among the caches. `cache`: the designated cache, as the drafts have it; `router`: "
            "this router; `auto`: the cache if its assignment comes in time, else the router. "
            "Squid 4.17 to 6.14 never assigns, so do not set `cache` with it."
        ),
        examples=["router"],
    )
    assignment_wait_seconds: Annotated[
        int | None, LeftOut("what follows from the group's timers, 27 at the usual ones")
    ] = Field(
        default=None,
        strict=True,
        ge=1,
        le=600,
        description="With `assignment: auto`: how long the router waits for a cache's REDIRECT_ASSIGN.",
        examples=[40],
    )
    interop: Interop = Field(
        default=Interop(), description="Points on which WCCP's drafts and real proxies disagree."
    )

    @property
    def has_password_source(self) -> bool:
        """Whether the file names a place for the group's password."""
        return any((self.password_file, self.password_environment, self.password_credential))


class Redirect(Section):
    """Which traffic is looked at, and how it is carried."""

    interfaces: tuple[InterfaceName, ...] = Field(
        default=(),
        description="Ingress interfaces whose traffic is redirected, besides all tunnels; full names, no wildcards.",
        examples=[["ens6"]],
    )
    dataplane: DataPlaneKind = Field(
        default=DataPlaneKind.NETLINK,
        description=(
            "What redirects packets. `netlink`: policy routing and nftables; `ebpf`: programs at the devices, several "
            "times faster; `auto`: ebpf where it loads. "
            "They hash differently: all routers of a group must use the same."
        ),
        examples=["ebpf"],
    )
    exclude_interfaces: tuple[InterfaceName, ...] = Field(
        default=(),
        description="Devices of tunnels whose traffic is not redirected.",
        examples=[["wccp-tgw-b"]],
    )
    never: tuple[Network, ...] = Field(
        default=(),
        description=(
            "Destination networks that are never redirected, whatever the services say. "
            "Good for internal networks that clients reach through this router."
        ),
        examples=[["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]],
    )
    lease_seconds: int = Field(
        default=30,
        strict=True,
        ge=3,
        le=3600,
        description=(
            "How long the kernel goes on redirecting without the daemon. Shorter outages (upgrade, crash and "
            "restart) pass unnoticed; after longer ones every service is in its `mode`."
        ),
    )
    clamp_mss: bool = Field(
        default=True,
        strict=True,
        description=(
            "Lower the MSS of redirected TCP connections, both ways, to what fits through the redirect. Without "
            "it, clients whose path MTU discovery is broken hang on big transfers."
        ),
    )
    clear_df: bool = Field(
        default=False,
        strict=True,
        description=(
            "Fragment redirected packets that are too big although they forbid it (DF). For clients that "
            "ignore ICMP `fragmentation needed`; costs the proxies CPU."
        ),
    )
