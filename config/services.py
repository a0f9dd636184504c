"""The settings of service groups and of the redirect: frozen models, defaults included.

A part of `model`, with the same rules: each field's description is the reference text for operators.
"""

from enum import StrEnum
from ipaddress import IPv4Network
from math import prod
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretBytes, model_validator
from pydantic.json_schema import SkipJsonSchema

from config.fields import (
    FieldError,
    FilePath,
    HttpPath,
    InterfaceName,
    IpProtocol,
    MulticastAddress,
    Network,
    Port,
    PortRange,
    ServiceName,
    UnicastAddress,
    refuse_open_password,
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


class Interop(Section):
    """Points on which WCCP's drafts and real proxies disagree; the defaults suit all proxies that are known."""

    minor_version: int = Field(
        default=1, strict=True, ge=0, le=1, description="Highest version spoken: 0 is WCCP 2.00, 1 is 2.01."
    )
    answer_unusable: bool = Field(
        default=True,
        strict=True,
        description="Answer a HERE_I_AM with a stale Receive ID or an unsupported method, as 2.01 has it.",
    )
    removal_query_takes_receive_id: bool = Field(
        default=True,
        strict=True,
        description="A REMOVAL_QUERY has a Receive ID of its own, as IOS does, rather than repeating the last.",
    )
    accepted_receive_ids: int = Field(
        default=1,
        strict=True,
        ge=1,
        le=4,
        description="How many of the last Receive IDs count as an echo; more than 1 helps on lossy paths.",
    )
    priority_defines_service: bool = Field(
        default=False,
        strict=True,
        description="Refuse a cache whose definition of the service differs in nothing but its priority.",
    )
    flush_when_not_listed: bool = Field(
        default=False,
        strict=True,
        description="A REDIRECT_ASSIGN that omits this router flushes its table, as 2.00 has it.",
    )
    bucket_vector_low_bit_first: bool = Field(
        default=False,
        strict=True,
        description="Bit order of the bucket vector that an I_SEE_YOU shows.",
    )


class Match(Section):
    """What a dynamic service redirects (draft 5.6.2)."""

    protocol: IpProtocol | None = Field(
        default=6, description="`tcp`, `udp`, `icmp`, a protocol number, or `any` for every protocol."
    )
    ports: tuple[Port, ...] = Field(
        default=(), max_length=8, description="Up to 8 ports; empty: all. Only with tcp and udp."
    )
    ports_are: PortsAre = Field(
        default=PortsAre.DESTINATION,
        description="Whether the ports are the packet's `destination` or `source` ports.",
    )
    priority: int = Field(
        default=200,
        strict=True,
        ge=0,
        le=255,
        description="Higher is asked first; web-cache has 240.",
    )
    hash: tuple[HashField, ...] = Field(
        default=(HashField.SOURCE_IP,), min_length=1, description="Fields of which the hash is made."
    )
    alternate_hash: tuple[HashField, ...] = Field(
        default=(), description="Fields of the alternate hash, for buckets that the caches flag."
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
    address: UnicastAddress = Field(
        description=(
            "Whom the connection is for, as the cache sees it. With `tcp` best an address that nobody has, so that "
            "only a cache that intercepts can answer; with `http` a server that the caches can reach."
        )
    )
    port: Port = Field(description="TCP port of that address: one that the caches intercept, e.g. 80.")
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

    action: Action = Field(description="`permit`: may be redirected. `deny`: forwarded without inspection.")
    protocol: IpProtocol | None = Field(
        default=None, description="`tcp`, `udp`, `icmp`, a protocol number, or `any`. Ports need tcp or udp."
    )
    sources: tuple[Network, ...] = Field(default=(), description="Source networks; empty: any.")
    destinations: tuple[Network, ...] = Field(default=(), description="Destination networks; empty: any.")
    source_ports: tuple[PortRange, ...] = Field(
        default=(), description="Source ports, each a number or a range such as `8000-8099`; empty: any."
    )
    destination_ports: tuple[PortRange, ...] = Field(
        default=(), description="Destination ports, each a number or a range; empty: any."
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


class Service(Section):
    """One WCCP service group that caches may join."""

    service: ServiceName = Field(
        description="The well-known group `web-cache` (TCP port 80), or the number 0 to 255 of a dynamic one."
    )
    password_file: FilePath | None = Field(
        default=None,
        description=(
            "File with the group's password, 1 to 8 octets; a newline at its end does not count. "
            "A relative name starts at the configuration file's directory."
        ),
    )
    password: Annotated[SkipJsonSchema[SecretBytes | None], BeforeValidator(refuse_open_password)] = Field(
        default=None,
        exclude=True,
        repr=False,
        description="What password_file holds; only the loader sets it.",
    )
    previous_password_file: FilePath | None = Field(
        default=None,
        description=(
            "File with the password that the group had before: still accepted while proxies are moved, never sent."
        ),
    )
    previous_password: Annotated[
        SkipJsonSchema[SecretBytes | None], BeforeValidator(refuse_open_password)
    ] = Field(
        default=None,
        exclude=True,
        repr=False,
        description="What previous_password_file holds; only the loader sets it.",
    )
    group_address: MulticastAddress | None = Field(
        default=None,
        description="IPv4 multicast address at which the group meets; unicast caches are served beside it.",
    )
    group_list: tuple[Network, ...] = Field(
        default=(),
        description="IPv4 networks whose caches may join. Empty: every cache that knows the password.",
    )
    match: Match | None = Field(
        default=None,
        description=(
            "What a dynamic service redirects. Default: what its first cache says. With it, a cache that says "
            "otherwise is refused; the modes `closed` and `reject` need it, since they hold before any cache came."
        ),
    )
    mode: Mode = Field(
        default=Mode.OPEN,
        description=(
            "Packets that no cache can have: `open` forwards them without inspection, `closed` drops them, "
            "`reject` answers with a TCP reset or ICMP."
        ),
    )
    redirect_list: tuple[AclLine, ...] = Field(
        default=(),
        description=(
            "Which packets of the service are redirected: the first line that matches decides, what none "
            "matches is denied, i.e. forwarded without inspection. Empty: all are redirected."
        ),
    )
    fallthrough: bool = Field(
        default=False,
        strict=True,
        description=(
            "Offer packets that the list denies, or that no cache has in mode `open`, to services of lower "
            "priority (Cisco's `check services all`)."
        ),
    )
    forwarding: tuple[Method, ...] = Field(
        default=(Method.GRE,),
        min_length=1,
        description="How packets may be carried to caches: `gre`, `l2`. L2 is offered to caches on our segments only.",
    )
    packet_return: tuple[Method, ...] = Field(
        default=(Method.GRE,),
        min_length=1,
        description="How caches may give packets back: `gre`, `l2`.",
    )
    assignment_method: tuple[AssignmentMethod, ...] = Field(
        default=(AssignmentMethod.HASH,),
        min_length=1,
        description="How flows may be divided among caches: `hash` into 256 buckets, `mask` of addresses and ports.",
    )
    affinity: bool = Field(
        default=True,
        strict=True,
        description=(
            "Keep established flows at their cache whatever happens to the buckets, and TCP connections that "
            "began uninspected as they are. Costs connection tracking."
        ),
    )
    lost_flows: LostFlows = Field(
        default=LostFlows.MOVE,
        description=(
            "Established flows of a lost cache: `move` sends them to the cache that covers, `reset` resets TCP "
            "connections at once. Needs affinity."
        ),
    )
    on_loss: OnLoss = Field(
        default=OnLoss.COVER,
        description=(
            "Buckets of a lost cache: `cover` gives them to the others at once, `leave` leaves them to the mode "
            "until they are assigned anew."
        ),
    )
    prefer_zone: bool = Field(
        default=False,
        strict=True,
        description="Send new flows to caches of router.zone only, as long as zone_quorum of them are usable.",
    )
    zone_quorum: int = Field(
        default=1,
        strict=True,
        ge=1,
        le=32,
        description="Usable caches of our zone below which all zones are used.",
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
            "Who fills the buckets: the designated `cache`, the `router`, or `auto`: "
            "the cache if its assignment comes in time, else the router."
        ),
    )
    assignment_wait_seconds: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=600,
        description=(
            "With `auto`: seconds to wait for a REDIRECT_ASSIGN before the router assigns by itself. "
            "Default: what follows from the group's timers, 27 at the usual ones."
        ),
    )
    interop: Interop = Field(
        default=Interop(), description="Points on which WCCP's drafts and real proxies disagree."
    )


class Redirect(Section):
    """Which traffic is looked at."""

    interfaces: tuple[InterfaceName, ...] = Field(
        default=(),
        description=(
            "Ingress interfaces whose traffic is redirected, besides all tunnels. Each is one full name "
            "of letters, digits, '.', '_' and '-', a letter first."
        ),
    )
    dataplane: DataPlaneKind = Field(
        default=DataPlaneKind.NETLINK,
        description="`netlink`: policy routing and nftables; `ebpf`: programs at the devices, several times faster; "
        "`auto`: ebpf where it loads. They hash differently: all routers of a group must use the same.",
    )
    exclude_interfaces: tuple[InterfaceName, ...] = Field(
        default=(),
        description="Devices of tunnels, e.g. `wccp-tgw-b`, whose traffic is not looked at.",
    )
    never: tuple[Network, ...] = Field(
        default=(), description="Destination networks that are never redirected."
    )
    lease_seconds: int = Field(
        default=30,
        strict=True,
        ge=3,
        le=3600,
        description=(
            "How long the kernel goes on redirecting without the daemon: shorter outages pass unnoticed, after "
            "longer ones every service is in its mode."
        ),
    )
    clamp_mss: bool = Field(
        default=True,
        strict=True,
        description="Lower the MSS of redirected TCP connections, both ways, to what fits through the redirect.",
    )
    clear_df: bool = Field(
        default=False,
        strict=True,
        description="Let redirected packets that are too big be fragmented even if they forbid it (DF).",
    )
