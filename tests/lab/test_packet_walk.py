"""The packet walk, letter by letter: a redirected and a bypassed flow, seen by capture at every hop.

(A) spoke to Transit Gateway, (B) GRE to the router, (C) redirect to a proxy or (CD) straight on, (D) proxy to
firewall, (E) firewall to NAT, (F) NAT to the Internet; back: (G) to NAT, (H) to the firewall, (I) to the proxy or
(IJ) to the router, (J) proxy to router, (K) GRE to the Transit Gateway, (L) out of its attachment, (M) at the spoke.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from gre.header import RedirectFlags
from lab.capture import GRE_IPV4, GRE_WCCP, Capture, Encapsulation, Packet, decode_with_tshark
from lab.laboratory import Lab
from lab.services import CANARY
from lab.topology import NAT_ADDRESS, ORIGIN, ROUTERS, SPOKES

pytestmark = [pytest.mark.gre, pytest.mark.lab]

NODES = ("spoke1", "tgw", "router1", "proxy1", "proxy2", "firewall", "nat", "internet")
SPOKE = SPOKES[0].address
ROUTER = ROUTERS[0]
WEB_CACHE, HTTPS_SERVICE = 0, 70
TO_ROUTER = Encapsulation(ROUTER.tgw_address, ROUTER.address, GRE_IPV4, None, None)
FROM_ROUTER = Encapsulation(ROUTER.address, ROUTER.tgw_address, GRE_IPV4, None, None)


@dataclass(frozen=True)
class Flow:
    """A flow from the spoke, known by the port it came from."""

    client_port: int
    port: int


REDIRECTED = Flow(client_port=40001, port=80)
BYPASSED = Flow(client_port=40002, port=8080)
BOTH = pytest.mark.parametrize("flow", [REDIRECTED, BYPASSED], ids=["redirected", "bypassed"])


@dataclass(frozen=True)
class Walk:
    """The captures of one page over each flow, and what the router said about itself meanwhile."""

    captures: dict[str, Capture]
    proxy: str
    proxy_address: IPv4Address
    tunnel_device: str

    def out(
        self, node: str, interface: str, flow: Flow, source: IPv4Address = SPOKE, wrapped: bool | None = None
    ) -> Packet:
        """The flow's opening packet from `source` on an interface of a node; `wrapped` asks for GRE or none."""

        def wanted(packet: Packet) -> bool:
            return (
                packet.is_opening
                and packet.interface == interface
                and (packet.source, packet.destination) == (source, ORIGIN)
                and packet.destination_port == flow.port
                and (source != SPOKE or packet.source_port == flow.client_port)
                and (wrapped is None or wrapped == (packet.encapsulation is not None))
            )

        return self.captures[node].wait_for(wanted, f"{flow} from {source} on {interface}", 5)

    def back(
        self,
        node: str,
        interface: str,
        flow: Flow,
        destination: IPv4Address = SPOKE,
        wrapped: bool | None = None,
    ) -> Packet:
        """The answer to the opening packet, on its way to `destination`."""

        def wanted(packet: Packet) -> bool:
            return (
                packet.is_opening_answer
                and packet.interface == interface
                and (packet.source, packet.destination) == (ORIGIN, destination)
                and packet.source_port == flow.port
                and (destination != SPOKE or packet.destination_port == flow.client_port)
                and (wrapped is None or wrapped == (packet.encapsulation is not None))
            )

        return self.captures[node].wait_for(wanted, f"answer of {flow} to {destination} on {interface}", 5)

    def redirected(self) -> Packet:
        """The redirected flow's opening packet in WCCP's GRE, as the router sent it."""

        def wanted(packet: Packet) -> bool:
            outer = packet.encapsulation
            return (
                packet.is_opening
                and packet.source_port == REDIRECTED.client_port
                and outer is not None
                and outer.gre_protocol == GRE_WCCP
            )

        return self.captures["router1"].wait_for(wanted, "redirected packet", 5)

    def source_behind_router(self, flow: Flow) -> IPv4Address:
        """Under which address the flow passes the firewall."""
        return self.proxy_address if flow == REDIRECTED else SPOKE


@pytest.fixture(scope="module")
def walk(put_in_order: Callable[[], Lab]) -> Iterator[Walk]:
    lab = put_in_order()
    captures = {node: lab.capture(node) for node in NODES}
    for capture in captures.values():
        capture.wait_ready()
    for flow in (REDIRECTED, BYPASSED):
        page = lab.fetch(
            "spoke1", f"http://{ORIGIN}:{flow.port}/walk-{flow.port}", client_port=flow.client_port
        )
        assert (page.status, page.body) == (200, f"the page at /walk-{flow.port}\n"), page.error
    proxy = lab.topology.proxy(lab.wait_access("/walk-80")[0])
    yield Walk(captures, proxy.name, proxy.address, lab.status(ROUTER.name)["tunnels"][0]["device"])
    for capture in captures.values():
        capture.stop()


@BOTH
def test_a_the_flow_enters_the_transit_gateway_from_its_spoke(walk: Walk, flow: Flow) -> None:
    packet = walk.out("tgw", "spoke1", flow)
    assert not packet.outgoing
    assert packet.encapsulation is None


@BOTH
def test_b_the_transit_gateway_sends_it_in_plain_gre_to_the_router(walk: Walk, flow: Flow) -> None:
    sent = walk.out("tgw", "attachment", flow)
    assert sent.outgoing
    assert sent.encapsulation == TO_ROUTER
    received = walk.out("router1", "eth0", flow)
    assert received.encapsulation == TO_ROUTER
    inside = walk.out("router1", walk.tunnel_device, flow)
    assert not inside.outgoing
    assert inside.encapsulation is None


def test_c_the_router_redirects_the_flow_to_a_proxy_in_wccps_gre(walk: Walk) -> None:
    sent = walk.redirected()
    assert sent.outgoing
    assert sent.interface == "eth0"
    assert sent.encapsulation is not None
    outer = sent.encapsulation
    assert (outer.source, outer.destination) == (ROUTER.address, walk.proxy_address)
    assert outer.key is None
    assert outer.redirect_header is not None
    flags, service, alternate_bucket, _ = outer.redirect_header
    assert (flags, service, alternate_bucket) == (0, WEB_CACHE, 0)
    received = walk.out(walk.proxy, "wccp1", REDIRECTED)
    assert not received.outgoing
    assert received.encapsulation is None


def test_c_the_routers_own_probe_goes_the_same_way_with_the_header_of_its_service(walk: Walk) -> None:
    def wanted(packet: Packet) -> bool:
        return packet.is_opening and packet.interface == "eth0" and str(packet.destination) == CANARY

    probe = walk.captures["router1"].wait_for(wanted, "probe", 15)
    assert (probe.source, probe.destination_port) == (ROUTER.address, 443)
    assert probe.encapsulation is not None
    assert probe.encapsulation.redirect_header is not None
    flags, service, *_ = probe.encapsulation.redirect_header
    assert (flags, service) == (RedirectFlags.DYNAMIC, HTTPS_SERVICE)


def test_c_tshark_decodes_the_redirected_packet_as_wccp_with_its_service(walk: Walk) -> None:
    fields = (
        "ip.src",
        "ip.dst",
        "gre.proto",
        "gre.wccp.service_id",
        "gre.wccp.primary_bucket",
        "tcp.dstport",
    )
    file = walk.captures["router1"].file
    decoded = decode_with_tshark(
        file, f"gre.proto == 0x883e && tcp.srcport == {REDIRECTED.client_port}", fields
    )
    outer = walk.redirected().encapsulation
    assert outer is not None
    assert outer.redirect_header is not None
    assert decoded[0] == {
        "ip.src": [str(ROUTER.address), str(SPOKE)],
        "ip.dst": [str(walk.proxy_address), str(ORIGIN)],
        "gre.proto": ["0x883e"],
        "gre.wccp.service_id": [str(WEB_CACHE)],
        "gre.wccp.primary_bucket": [str(outer.redirect_header[3])],
        "tcp.dstport": ["80"],
    }


def test_cd_the_bypassed_flow_goes_straight_to_the_firewall(walk: Walk) -> None:
    sent = walk.out("router1", "eth0", BYPASSED, wrapped=False)
    assert sent.outgoing
    received = walk.out("firewall", "subnet", BYPASSED)
    assert not received.outgoing
    assert received.encapsulation is None
    for proxy in ("proxy1", "proxy2"):
        assert not [p for p in walk.captures[proxy].packets() if p.destination_port == BYPASSED.port]


def test_d_the_proxied_flow_leaves_the_proxy_under_the_proxys_own_address(walk: Walk) -> None:
    sent = walk.out(walk.proxy, "eth0", REDIRECTED, source=walk.proxy_address)
    assert sent.outgoing
    assert sent.encapsulation is None
    received = walk.out("firewall", "subnet", REDIRECTED, source=walk.proxy_address)
    assert not received.outgoing
    assert not [p for p in walk.captures["firewall"].packets() if p.source_port == REDIRECTED.client_port]


@BOTH
def test_e_the_firewall_sends_it_to_the_nat_gateway(walk: Walk, flow: Flow) -> None:
    source = walk.source_behind_router(flow)
    assert walk.out("firewall", "nat", flow, source).outgoing
    assert not walk.out("nat", "firewall", flow, source).outgoing


@BOTH
def test_f_the_nat_gateway_sends_it_to_the_internet_under_its_own_address(walk: Walk, flow: Flow) -> None:
    assert walk.out("nat", "internet", flow, NAT_ADDRESS).outgoing
    assert not walk.out("internet", "eth0", flow, NAT_ADDRESS).outgoing


@BOTH
def test_g_the_answer_enters_the_same_nat_gateway(walk: Walk, flow: Flow) -> None:
    assert walk.back("internet", "eth0", flow, NAT_ADDRESS).outgoing
    assert not walk.back("nat", "internet", flow, NAT_ADDRESS).outgoing


@BOTH
def test_h_the_nat_gateway_forwards_the_answer_to_the_firewall(walk: Walk, flow: Flow) -> None:
    destination = walk.source_behind_router(flow)
    assert walk.back("nat", "firewall", flow, destination).outgoing
    assert not walk.back("firewall", "nat", flow, destination).outgoing


def test_i_the_firewall_sends_the_answer_of_the_proxied_flow_to_the_proxy(walk: Walk) -> None:
    assert walk.back("firewall", "subnet", REDIRECTED, walk.proxy_address).outgoing
    received = walk.back(walk.proxy, "eth0", REDIRECTED, walk.proxy_address)
    assert not received.outgoing
    assert received.encapsulation is None


def test_ij_the_firewall_sends_the_answer_of_the_bypassed_flow_to_the_router(walk: Walk) -> None:
    assert walk.back("firewall", "subnet", BYPASSED).outgoing
    received = walk.back("router1", "eth0", BYPASSED, wrapped=False)
    assert not received.outgoing


def test_j_the_proxy_answers_the_spoke_through_the_router_in_gre(walk: Walk) -> None:
    sent = walk.back(walk.proxy, "eth0", REDIRECTED)
    assert sent.outgoing
    assert sent.encapsulation is not None
    outer = sent.encapsulation
    assert (outer.source, outer.destination) == (walk.proxy_address, ROUTER.address)
    assert outer.gre_protocol in (GRE_IPV4, GRE_WCCP)
    received = walk.back("router1", "eth0", REDIRECTED)
    assert not received.outgoing
    assert received.encapsulation == outer


@BOTH
def test_k_the_router_sends_the_answer_into_the_tunnel_to_the_transit_gateway(walk: Walk, flow: Flow) -> None:
    inside = walk.back("router1", walk.tunnel_device, flow)
    assert inside.outgoing
    assert inside.encapsulation is None
    received = walk.back("tgw", "attachment", flow)
    assert not received.outgoing
    assert received.encapsulation == FROM_ROUTER


@BOTH
def test_l_the_transit_gateway_forwards_the_answer_to_the_spokes_attachment(walk: Walk, flow: Flow) -> None:
    sent = walk.back("tgw", "spoke1", flow)
    assert sent.outgoing
    assert sent.encapsulation is None


@BOTH
def test_m_the_answer_reaches_the_spoke_with_the_servers_address(walk: Walk, flow: Flow) -> None:
    assert not walk.back("spoke1", "eth0", flow).outgoing
