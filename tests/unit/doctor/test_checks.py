"""Every check over facts that differ from a healthy router's in one respect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from gre.tunnel import GreDevice
from wccpd.doctor.checks import examine
from wccpd.doctor.facts import (
    ClockFact,
    ConntrackFact,
    DiskFact,
    Ec2Fact,
    Facts,
    FlowsFact,
    HostFacts,
    LinkFact,
    RepairFact,
    RouteFact,
    RouterFacts,
    RuleFact,
    SocketFact,
    TrafficFact,
    Wanted,
)
from wccpd.doctor.findings import Finding, Severity, document, from_document, worst
from wccpd.doctor.foreign import Fate, ForeignChain
from wccpd.exit_codes import ExitCode
from wccpd.status.view import (
    BgpStatus,
    CacheStatus,
    Health,
    PeerStatus,
    RefusalStatus,
    RouterStatus,
    RouteStatus,
    ServiceStatus,
    Status,
    TunnelStatus,
)

ROUTER = IPv4Address("10.100.1.10")
CACHE = IPv4Address("10.100.1.21")
REMOTE = IPv4Address("10.99.0.1")
TUNNEL = GreDevice("wccp-tgw-a", ROUTER, REMOTE, addresses=(IPv4Interface("169.254.6.1/29"),))
WANTED = Wanted(
    wccp_addresses=(ROUTER,),
    tunnels=(TUNNEL,),
    ingress=("wccp-tgw-a",),
    gobgp_socket="/run/wccpd/gobgpd.sock",
    password_octets={"web-cache": 6},
)
HOST = HostFacts(
    ip_forward=True,
    rp_filter={"all": 0, "wccp-tgw-a": 2, "wccp-0a640115": 2, "eth0": 0},
    links=(
        LinkFact("eth0", True, 9001),
        LinkFact("wccp-tgw-a", True, 8476, "gre"),
        LinkFact("wccp-0a640115", True, 8973, "gre"),
    ),
    addresses=frozenset({"10.100.1.10", "169.254.6.1"}),
    has_gre=True,
    has_nft=True,
    default_route=RouteFact("eth0", "10.100.1.1"),
    routes={CACHE: RouteFact("eth0"), REMOTE: RouteFact("eth0", "10.100.1.1")},
    rules=(RuleFact(0, 255), RuleFact(18801, 18801, 1, 0xFF), RuleFact(32766, 254)),
    sockets=(SocketFact("10.100.1.10", 0),),
    conntrack=ConntrackFact(10, 1000),
    clock=ClockFact(True, 0.001),
    disk=DiskFact(1 << 32, 1000),
    allowances={"eth0 conntrack_allowance_exceeded": 0},
    has_ena=True,
    unread={"ec2": "not on EC2"},
)


def peer(number: int, state: str = "established", tunnel: str = "tgw-a") -> PeerStatus:
    return PeerStatus(f"169.254.6.{number}", tunnel, state, 60.0, 2, 2, 1)


BGP = BgpStatus(
    state=Health.UP, reason="", since_seconds=60.0, asn=65010, peer_asn=64512, advertising=True,
    advertised_prefixes=("0.0.0.0/0",), peers=(peer(2), peer(3)),
    routes=(RouteStatus("10.1.0.0/16", ("tgw-a",), False),), refused=(),
)  # fmt: skip
SERVICE = ServiceStatus(
    service="web-cache", state=Health.UP, reason="", mode="open", definition="tcp to port 80", priority=240,
    caches_usable=1, caches_seen=1, buckets_assigned=256, assigned_by="cache", designated_cache=str(CACHE),
    change_number=1, packets_redirected=0, bytes_redirected=0, packets_unassigned=0, bytes_unassigned=0,
    bucket_owners=(), buckets_total=256, assignment_method="hash", packets_uninspected=0, bytes_uninspected=0,
    uninspected_seconds=0.0, not_redirected=(), redirect_list=(),
)  # fmt: skip
A_CACHE = CacheStatus(
    service="web-cache", address=str(CACHE), state="usable", rung="standard", reason="", forwarding="GRE",
    packet_return="GRE", weight=100, buckets=256, packets_redirected=0, bytes_redirected=0, packets_returned=0,
    bytes_returned=0, last_here_i_am_seconds=3.0, usable_seconds=60.0, zone="", draining=False,
)  # fmt: skip
A_TUNNEL = TunnelStatus(
    name="tgw-a", state=Health.UP, reason="", device="wccp-tgw-a", local=str(ROUTER), remote=str(REMOTE),
    inside="169.254.6.1/29", mtu_bytes=8476, received_packets=9, received_bytes=9, sent_packets=9, sent_bytes=9,
)  # fmt: skip
STATUS = Status(
    version=1, inspecting=True, reasons=(),
    router=RouterStatus(str(ROUTER), "0.1.0", 60.0, "netlink", Health.UP, "", "jhash", "wccpd.yaml"),
    tunnels=(A_TUNNEL,), bgp=BGP, services=(SERVICE,), caches=(A_CACHE,), refused=(),
)  # fmt: skip
HEALTHY = Facts(WANTED, HOST, RouterFacts(STATUS, traffic={CACHE: TrafficFact(60.0, 50, 40)}))
IN_FORWARD = ForeignChain("inet fw", "onward", "forward", 0)
Change = Callable[[Facts], Facts]


def host(**changes: object) -> Change:
    return lambda facts: replace(facts, host=replace(facts.host, **changes))  # type: ignore[arg-type]


def wanted(**changes: object) -> Change:
    return lambda facts: replace(facts, wanted=replace(facts.wanted, **changes))  # type: ignore[arg-type]


def router(**changes: object) -> Change:
    return lambda facts: replace(facts, router=replace(facts.router, **changes))  # type: ignore[type-var]


def status(**changes: object) -> Change:
    return router(status=replace(STATUS, **changes))  # type: ignore[arg-type]


def chain(**changes: object) -> Change:
    return host(foreign_chains=(replace(IN_FORWARD, **changes),))  # type: ignore[arg-type]


def refusal(reason: str, seconds: float = 5.0) -> Change:
    return status(refused=(RefusalStatus(reason, 3, "10.100.1.22", "as it says", seconds),))


NO_BGP_STATE = replace(BGP, peers=(peer(2, "active"), peer(3, "active")), advertising=False)
TWO_TUNNELS = replace(BGP, peers=(peer(2), peer(3), peer(2, tunnel="tgw-b"), peer(3, tunnel="tgw-b")))
FAULT, WARNING, SKIPPED, OK = Severity.FAULT, Severity.WARNING, Severity.SKIPPED, Severity.OK
CASES: dict[str, tuple[Change, str, Severity, str]] = {
    "no forwarding": (host(ip_forward=False), "forwarding", FAULT, "ip_forward is 0"),
    "strict": (host(rp_filter={"all": 0, "wccp-0a640115": 1}), "rp_filter", FAULT, "wccp-0a640115.rp_filter is 1"),
    "all strict": (host(rp_filter={"all": 1, "wccp-tgw-a": 0}), "rp_filter", FAULT, "conf.all.rp_filter is 1"),
    "no GRE": (host(has_gre=False), "modules", FAULT, "makes no GRE devices"),
    "no nft": (host(has_nft=False), "modules", FAULT, "nftables does not answer"),
    "no conntrack": (host(conntrack=None), "modules", WARNING, "no connection tracking"),
    "no Router ID": (host(addresses=frozenset({"10.9.9.9"})), "addresses", FAULT, "10.100.1.10"),
    "no ingress": (wanted(ingress=("ens6",)), "devices", FAULT, "ens6 is not there"),
    "small underlay": (
        host(links=(LinkFact("eth0", True, 1500), LinkFact("wccp-tgw-a", True, 8476, "gre"))),
        "mtu", FAULT, "eth0 carries 1500 bytes to 10.99.0.1, which leaves 1476",
    ),
    "small route": (
        host(routes={REMOTE: RouteFact("eth0", "10.100.1.1", 8400)}), "mtu", FAULT, "carries 8400 bytes",
    ),
    "small redirect, not clamped": (
        lambda facts: wanted(clamps_mss=False)(host(routes={CACHE: RouteFact("eth0", "", 1500)})(facts)),
        "mtu", WARNING, "1472 fit through eth0 to cache 10.100.1.21; nothing tells TCP so",
    ),
    "small redirect, clamped": (
        host(routes={CACHE: RouteFact("eth0", "", 1500)}), "mtu", OK, "TCP is clamped to it",
    ),
    "no default": (host(default_route=None), "default route", FAULT, "no default route"),
    "default loops": (host(default_route=RouteFact("wccp-tgw-a")), "default route", FAULT, "it loops"),
    "chain drops": (chain(transit=Fate.DROPS), "nftables", FAULT, "chain onward of table inet fw (forward"),
    "chain may drop": (chain(transit=Fate.MAY_DROP), "nftables", WARNING, "may drop packets"),
    "chain drops invalid": (chain(drops_invalid=True), "nftables", WARNING, "ct state invalid"),
    "chain drops unrouted": (chain(drops_unrouted=True), "nftables", FAULT, "not routed back"),
    "chain marks": (chain(marks=0x0100_00FF), "nftables", FAULT, "changes bits 0xff of the packet mark"),
    "chain marks others": (chain(marks=0x0100_0000), "nftables", OK, "1 chains of others"),
    "chain marks connections": (chain(connection_marks=1), "nftables", FAULT, "connection mark"),
    "chain untracks": (chain(untracks=True), "nftables", WARNING, "out of connection tracking"),
    "WCCP blocked": (chain(hook="input", wccp=Fate.DROPS), "local firewall", FAULT, "drops UDP port 2048"),
    "GRE perhaps blocked": (chain(hook="input", gre=Fate.MAY_DROP), "local firewall", WARNING, "protocol 47"),
    "iptables": (host(legacy_iptables=("filter",)), "nftables", WARNING, "old iptables has rules (filter)"),
    "rule for all": (host(rules=(RuleFact(100, 99),)), "ip rules", FAULT, "ip rule 100 (from all lookup 99)"),
    "rule for our marks": (host(rules=(RuleFact(100, 99, 1, 0xFF),)), "ip rules", FAULT, "fwmark 0x1/0xff"),
    "rule for a network": (
        host(rules=(RuleFact(100, 99, selector="from 10.1.0.0/16"),)), "ip rules", WARNING, "from 10.1.0.0/16",
    ),
    "socket drops": (host(sockets=(SocketFact("10.100.1.10", 7),)), "udp 2048", WARNING, "dropped 7 datagrams"),
    "nobody listens": (host(sockets=(SocketFact("10.9.9.9", 0),)), "udp 2048", FAULT, "nobody listens at"),
    "conntrack full": (host(conntrack=ConntrackFact(990, 1000)), "conntrack", FAULT, "990 of 1000"),
    "conntrack filling": (host(conntrack=ConntrackFact(800, 1000)), "conntrack", WARNING, "800 of 1000"),
    "conntrack dropped": (host(conntrack=ConntrackFact(8, 1000, 5)), "conntrack", WARNING, "5 packets were dropped"),
    "clock": (host(clock=ClockFact(False, 16.0)), "clock", WARNING, "not synchronised"),
    "clock far off": (host(clock=ClockFact(True, 3.0)), "clock", WARNING, "wrong by 3.0 s"),
    "clock not asked": (host(clock=None, unread={"clock": "forbidden"}), "clock", SKIPPED, "forbidden"),
    "disk full": (host(disk=DiskFact(4096, 10000)), "disk", FAULT, "4 KiB"),
    "no files left": (host(disk=DiskFact(1 << 32, 3)), "disk", FAULT, "3 files left"),
    "disk filling": (host(disk=DiskFact(1 << 24, 1000)), "disk", WARNING, "16 MiB left"),
    "disk read-only": (host(disk=DiskFact(1 << 32, 1000, read_only=True)), "disk", FAULT, "read-only"),
    "not saved": (router(save_fault="no space"), "disk", FAULT, "state cannot be saved: no space"),
    "throttled": (host(allowances={"eth0 pps_allowance_exceeded": 9}), "ena", WARNING, "pps_allowance_exceeded is 9"),
    "no ENA": (host(has_ena=False), "ena", SKIPPED, "no device"),
    "on EC2": (
        host(ec2=Ec2Fact("i-1", ("eni-1",))), "source/destination check", SKIPPED, "must be off on eni-1",
    ),
    "no daemon": (
        lambda facts: replace(facts, router=None, unreachable="wccpd is not running"), "daemon", FAULT, "not running",
    ),
    "plane degraded": (
        status(router=replace(STATUS.router, dataplane_state=Health.DEGRADED, dataplane_reason="EPERM")),
        "data plane", FAULT, "EPERM",
    ),
    "lease": (status(reasons=("kernel: the lease is not running",)), "lease", FAULT, "lease"),
    "no cache": (
        status(services=(replace(SERVICE, state=Health.DOWN, reason="no cache has sent", caches_seen=0),), caches=()),
        "service web-cache", FAULT, "no cache has sent",
    ),
    "incompatible": (
        status(caches=(replace(A_CACHE, state="incompatible", reason="it asks for L2"),)),
        "cache 10.100.1.21, web-cache", FAULT, "it asks for L2",
    ),
    "negotiating": (
        status(caches=(replace(A_CACHE, state="negotiating", reason="no echo"),)),
        "cache 10.100.1.21, web-cache", FAULT, "no echo",
    ),
    "silent": (
        status(caches=(replace(A_CACHE, last_here_i_am_seconds=17.0),)),
        "cache 10.100.1.21, web-cache", WARNING, "silent for 17 s",
    ),
    "draining": (
        status(caches=(replace(A_CACHE, draining=True),)), "cache 10.100.1.21, web-cache", WARNING, "drained",
    ),
    "leaving": (
        status(caches=(replace(A_CACHE, state="shutdown"),)), "cache 10.100.1.21, web-cache", WARNING, "leaves",
    ),
    "no decapsulation": (
        router(traffic={CACHE: TrafficFact(60.0, 50, 0)}, flows={CACHE: FlowsFact(11, 9)}),
        "cache 10.100.1.21", FAULT, "9 connections were never answered",
    ),
    "nothing returned": (
        router(traffic={CACHE: TrafficFact(60.0, 50, 0)}), "cache 10.100.1.21", WARNING, "none came back",
    ),
    "answered past us": (
        router(traffic={CACHE: TrafficFact(60.0, 50, 0)}, flows={CACHE: FlowsFact(9, 2)}),
        "cache 10.100.1.21", OK, "2 of 9 connections unanswered",
    ),
    "tunnel down": (
        status(tunnels=(replace(A_TUNNEL, state=Health.DOWN, reason="device wccp-tgw-a is down"),)),
        "tunnel tgw-a", FAULT, "is down",
    ),
    "tunnel deaf": (
        status(tunnels=(replace(A_TUNNEL, received_packets=0, sent_packets=30),)),
        "protocol 47", FAULT, "none ever came",
    ),
    "gobgpd dead": (host(gobgp="connection refused"), "gobgpd", FAULT, "connection refused"),
    "sessions down": (status(bgp=NO_BGP_STATE), "bgp sessions", FAULT, "169.254.6.2 (active)"),
    "a session down": (
        status(bgp=replace(BGP, peers=(peer(2), peer(3, "idle")))), "bgp sessions", WARNING, "169.254.6.3 (idle)",
    ),
    "unequal paths": (status(bgp=TWO_TUNNELS), "equal paths", WARNING, "10.1.0.0/16: tgw-b is not used"),
    "not advertising": (
        status(bgp=replace(BGP, advertising=False, advertise_reason="no route")), "advertising", FAULT, "no route",
    ),
    "router drained": (status(bgp=replace(BGP, drained=True)), "drain", WARNING, "this router is drained"),
    "hash policy": (status(bgp=replace(BGP, warnings=("policy is 0",))), "bgp", WARNING, "policy is 0"),
    "wrong password": (refusal("authentication_wrong"), "messages", FAULT, "3 refused, last from 10.100.1.22"),
    "odd message": (refusal("too_short"), "messages", WARNING, "too_short"),
    "repairs": (
        router(repairs=RepairFact(2, 5.0, ("add rule 18801",))), "foreign changes", WARNING, "add rule 18801",
    ),
    "open group": (wanted(open_services=("70",)), "password", WARNING, "service 70 has neither"),
    "long password": (wanted(password_octets={"web-cache": 8}), "password", OK, "8 octets; Squid up to 4.12"),
}  # fmt: skip


def is_there(found: tuple[Finding, ...], check: str, severity: Severity, said: str) -> bool:
    return any((each.check, each.severity) == (check, severity) and said in each.measured for each in found)


def test_a_healthy_router_has_nothing_wrong() -> None:
    found = examine(HEALTHY)
    assert {each.severity for each in found} == {OK, SKIPPED}
    assert [each.check for each in found if each.severity is SKIPPED] == ["source/destination check"]


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_found(name: str) -> None:
    change, check, severity, said = CASES[name]
    assert not is_there(examine(HEALTHY), check, severity, said)
    found = examine(change(HEALTHY))
    assert is_there(found, check, severity, said), "\n".join(map(str, found))
    for each in found:
        if each.severity in {FAULT, WARNING}:
            assert each.remedy, each


HARMLESS: dict[str, Change] = {
    "loose beats strict": host(rp_filter={"all": 1, "wccp-tgw-a": 2}),
    "a chain that marks before ours does": chain(marks=0xFF, hook="prerouting", priority=-300),
    "a chain that sets other bits": chain(marks=0x0100_0000),
    "a rule for other marks": host(rules=(RuleFact(100, 99, 1 << 24, 0xFF000000),)),
    "a rule behind ours": host(rules=(RuleFact(19500, 99),)),
    "strict where nothing is returned": host(rp_filter={"all": 0, "eth9": 1}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_looks_bad_and_is_not_is_no_finding(name: str) -> None:
    found = examine(HARMLESS[name](HEALTHY))
    assert worst(found) is SKIPPED, "\n".join(map(str, found))


@pytest.mark.parametrize("reason", ["stale_receive_id", "router_assigns", "too_often"])
def test_what_belongs_to_a_groups_ordinary_life_is_no_finding(reason: str) -> None:
    assert examine(refusal(reason)(HEALTHY)) == examine(HEALTHY)


def test_a_refusal_of_long_ago_is_no_finding() -> None:
    assert examine(refusal("authentication_wrong", 4000.0)(HEALTHY)) == examine(HEALTHY)


@pytest.mark.parametrize(
    ("severities", "code"),
    [
        ((), ExitCode.OK),
        ((OK, SKIPPED), ExitCode.OK),
        ((WARNING, OK), ExitCode.WARNING),
        ((WARNING, FAULT, SKIPPED), ExitCode.FAILURE),
    ],
)
def test_findings_survive_the_way_to_the_command_line(
    severities: tuple[Severity, ...], code: ExitCode
) -> None:
    found = tuple(Finding(f"check {each}", each, "seen", "do") for each in severities)
    written = document(found)
    assert written["exit_code"] == code
    assert sorted(written) == ["exit_code", "findings", "severity", "version"]
    for each in written["findings"]:
        assert sorted(each) == ["check", "exit_code", "measured", "remedy", "severity"]
    assert set(from_document(written)) == set(found)
    assert worst(from_document(written)) is worst(found)
