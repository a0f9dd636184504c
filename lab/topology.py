r"""What the lab consists of: nodes, links, addresses and static routes, as data.

    spoke1 10.1.0.10        spoke2 10.2.0.10
        |                       |
        | 10.1.0.0/24           | 10.2.0.0/24             Spoke VPCs
    .1  |                       |  .1
    +---+-----------------------+---+
    | tgw     two BIRD speakers     |                     Transit Gateway, ASN 64512, CIDR 10.99.0.0/24
    |   10.99.0.1      10.99.0.2    |
    +-----:----------------:--------+
          : GRE            : GRE                           Connect peers: 169.254.6.0/29, 169.254.7.0/29
          :                :  (tunnels travel through tgw's attachment, 10.100.1.4)
     .10  :           .11  :         .21        .22
    +-----+---+  +---------+--+  +---------+  +---------+
    | router1 |  | router2    |  | proxy1  |  | proxy2  |  wccpd + gobgpd          Squid, intercepting
    +----+----+  +----+-------+  +----+----+  +----+----+
         |            |               |            |
    -----+------------+-------+-------+------------+-----  proxy subnet of the Egress VPC, 10.100.1.0/24
                              | .1
                        +-----+-----+
                        | firewall  |                      stateful; routes to the spokes via router1
                        +-----+-----+
                              |  10.100.2.0/24
                        +-----+-----+
                        |    nat    |                      masquerades to 198.51.100.1
                        +-----+-----+
                              |  198.51.100.0/24
                        +-----+-----+
                        | internet  |                      203.0.113.10: HTTP 80 and 8080, HTTPS 443
                        +-----------+

Every address lives inside namespaces that the lab makes. Nothing here touches the system.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

NAMESPACE_PREFIX = "wccpd-lab-"

TGW_ASN = 64512
ROUTER_ASN = 65010
TGW_CIDR = IPv4Network("10.99.0.0/24")
SPOKE_NETWORKS = (IPv4Network("10.1.0.0/24"), IPv4Network("10.2.0.0/24"))
PROXY_SUBNET = IPv4Network("10.100.1.0/24")
ORIGIN = IPv4Address("203.0.113.10")
NAT_ADDRESS = IPv4Address("198.51.100.1")
FIREWALL_ADDRESS = IPv4Address("10.100.1.1")
TGW_ATTACHMENT = IPv4Address("10.100.1.4")

VPC_MTU_BYTES = 8500
INTERNET_MTU_BYTES = 1500
TGW_TUNNEL_MTU_BYTES = 8476
CACHE_TUNNEL_MTU_BYTES = 8472


@dataclass(frozen=True, slots=True)
class Port:
    """A node's end of a segment."""

    node: str
    interface: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class Segment:
    """A layer-2 network: a veth pair for two ports, a bridge in a namespace of its own for more."""

    name: str
    mtu_bytes: int
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A host of the lab, which is one network namespace."""

    name: str
    loopback: tuple[IPv4Interface, ...] = ()
    routes: tuple[tuple[str, IPv4Address], ...] = ()
    """Static routes: destination, next hop."""
    forwards: bool = False

    @property
    def namespace(self) -> str:
        """Name of the node's network namespace."""
        return NAMESPACE_PREFIX + self.name


@dataclass(frozen=True, slots=True)
class Router:
    """A router under test and the Connect peer that belongs to it."""

    name: str
    address: IPv4Address
    tgw_address: IPv4Address
    inside: IPv4Network

    @property
    def tgw_device(self) -> str:
        """Name of the Transit Gateway's GRE device towards this router."""
        return f"gre-{self.name}"

    @property
    def inside_address(self) -> IPv4Address:
        """The router's address in the tunnel."""
        return self.inside.network_address + 1

    @property
    def speakers(self) -> tuple[IPv4Address, IPv4Address]:
        """The addresses of the Transit Gateway's two BGP speakers."""
        return self.inside.network_address + 2, self.inside.network_address + 3


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; Squid runs on it."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Spoke:
    """A host in a Spoke VPC."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole lab network."""

    nodes: tuple[Node, ...]
    segments: tuple[Segment, ...]
    routers: tuple[Router, ...]
    proxies: tuple[Proxy, ...]
    spokes: tuple[Spoke, ...]
    service_ids: dict[str, int] = field(default_factory=lambda: {"http": 0, "https": 70})

    def node(self, name: str) -> Node:
        """The node called `name`; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def proxy(self, name: str) -> Proxy:
        """The proxy called `name`; KeyError if there is none."""
        for proxy in self.proxies:
            if proxy.name == name:
                return proxy
        raise KeyError(name)

    def router(self, name: str) -> Router:
        """The router called `name`; KeyError if there is none."""
        for router in self.routers:
            if router.name == name:
                return router
        raise KeyError(name)


ROUTERS = (
    Router("router1", IPv4Address("10.100.1.10"), IPv4Address("10.99.0.1"), IPv4Network("169.254.6.0/29")),
    Router("router2", IPv4Address("10.100.1.11"), IPv4Address("10.99.0.2"), IPv4Network("169.254.7.0/29")),
)
PROXIES = (Proxy("proxy1", IPv4Address("10.100.1.21")), Proxy("proxy2", IPv4Address("10.100.1.22")))
SPOKES = (Spoke("spoke1", IPv4Address("10.1.0.10")), Spoke("spoke2", IPv4Address("10.2.0.10")))


def figure_one(router_count: int = 1) -> Topology:
    """The network drawn above, with its first `router_count` routers (1 or 2)."""
    routers = ROUTERS[:router_count]
    return Topology(
        nodes=_nodes(routers), segments=_segments(routers), routers=routers, proxies=PROXIES, spokes=SPOKES
    )


def _nodes(routers: tuple[Router, ...]) -> tuple[Node, ...]:
    to_spokes_by_router = tuple((str(network), routers[0].address) for network in SPOKE_NETWORKS)
    private_subnet_routes = (("default", FIREWALL_ADDRESS), (str(TGW_CIDR), TGW_ATTACHMENT))
    return (
        Node("spoke1", routes=(("default", IPv4Address("10.1.0.1")),)),
        Node("spoke2", routes=(("default", IPv4Address("10.2.0.1")),)),
        Node("tgw", loopback=tuple(IPv4Interface((r.tgw_address, 32)) for r in routers), forwards=True),
        *(Node(router.name, routes=private_subnet_routes, forwards=True) for router in routers),
        *(Node(proxy.name, routes=private_subnet_routes) for proxy in PROXIES),
        Node(
            "firewall", routes=(("default", IPv4Address("10.100.2.2")), *to_spokes_by_router), forwards=True
        ),
        Node(
            "nat",
            routes=(("default", IPv4Address("198.51.100.10")), ("10.0.0.0/8", IPv4Address("10.100.2.1"))),
            forwards=True,
        ),
        Node("internet", loopback=(IPv4Interface((ORIGIN, 32)),)),
    )


def _segments(routers: tuple[Router, ...]) -> tuple[Segment, ...]:
    subnet = (
        Port("firewall", "subnet", IPv4Interface("10.100.1.1/24")),
        Port("tgw", "attachment", IPv4Interface("10.100.1.4/24")),
        *(Port(r.name, "eth0", IPv4Interface((r.address, 24))) for r in routers),
        *(Port(p.name, "eth0", IPv4Interface((p.address, 24))) for p in PROXIES),
    )
    return (
        _pair("spoke1", VPC_MTU_BYTES, ("spoke1", "eth0", "10.1.0.10/24"), ("tgw", "spoke1", "10.1.0.1/24")),
        _pair("spoke2", VPC_MTU_BYTES, ("spoke2", "eth0", "10.2.0.10/24"), ("tgw", "spoke2", "10.2.0.1/24")),
        Segment("subnet", VPC_MTU_BYTES, subnet),
        _pair(
            "public",
            VPC_MTU_BYTES,
            ("firewall", "nat", "10.100.2.1/24"),
            ("nat", "firewall", "10.100.2.2/24"),
        ),
        _pair(
            "internet",
            INTERNET_MTU_BYTES,
            ("nat", "internet", f"{NAT_ADDRESS}/24"),
            ("internet", "eth0", "198.51.100.10/24"),
        ),
    )


def _pair(name: str, mtu_bytes: int, *ends: tuple[str, str, str]) -> Segment:
    return Segment(
        name, mtu_bytes, tuple(Port(node, dev, IPv4Interface(address)) for node, dev, address in ends)
    )
