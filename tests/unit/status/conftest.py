"""Status trees as the daemon would show them in four situations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wccpd.status.view import (
    SCHEMA_VERSION,
    BgpStatus,
    CacheStatus,
    Health,
    ListLineStatus,
    OutcomeStatus,
    PeerStatus,
    RefusalStatus,
    RouterStatus,
    RouteStatus,
    ServiceStatus,
    Status,
    TunnelStatus,
)

CACHES = ("10.100.1.21", "10.100.1.22")


def _tunnel(name: str, remote: str, inside: str) -> TunnelStatus:
    return TunnelStatus(
        name=name,
        state=Health.UP,
        reason="",
        device=f"wccp-{name}",
        local="10.100.1.10",
        remote=remote,
        inside=inside,
        mtu_bytes=8476,
        received_packets=12_345_678,
        received_bytes=9_876_543_210,
        sent_packets=99_999,
        sent_bytes=1_234_567,
    )


def _peer(address: str, tunnel: str) -> PeerStatus:
    return PeerStatus(address, tunnel, "established", 11_520.0, 3, 2, 1)


def _cache(address: str) -> CacheStatus:
    return CacheStatus(
        service="web-cache",
        address=address,
        state="usable",
        rung="standard",
        reason="",
        forwarding="gre",
        packet_return="gre",
        weight=10_000,
        buckets=128,
        packets_redirected=1_234_567,
        bytes_redirected=987_654_321,
        packets_returned=42,
        bytes_returned=4_200,
        last_here_i_am_seconds=4.2,
        usable_seconds=11_400.0,
        zone="",
        draining=False,
    )


@pytest.fixture
def healthy() -> Status:
    """Two tunnels, four sessions, two caches that share the buckets."""
    return Status(
        version=SCHEMA_VERSION,
        inspecting=True,
        reasons=(),
        router=RouterStatus(
            "10.100.1.10", "0.1.0", 11_700.0, "netlink", Health.UP, "", "jhash", "/etc/wccpd/wccpd.yaml"
        ),
        tunnels=(
            _tunnel("tgw-a", "10.99.0.1", "169.254.6.1/29"),
            _tunnel("tgw-b", "10.99.0.2", "169.254.7.1/29"),
        ),
        bgp=BgpStatus(
            state=Health.UP,
            reason="",
            since_seconds=11_520.0,
            asn=65010,
            peer_asn=64512,
            advertising=True,
            advertised_prefixes=("0.0.0.0/0",),
            peers=(
                _peer("169.254.6.2", "tgw-a"),
                _peer("169.254.6.3", "tgw-a"),
                _peer("169.254.7.2", "tgw-b"),
                _peer("169.254.7.3", "tgw-b"),
            ),
            routes=(
                RouteStatus("10.1.0.0/16", ("tgw-a", "tgw-b"), stale=False),
                RouteStatus("10.2.0.0/16", ("tgw-a",), stale=True),
            ),
            refused=("0.0.0.0/0 from 169.254.6.2: the default route is never accepted",),
        ),
        services=(
            ServiceStatus(
                service="web-cache",
                state=Health.UP,
                reason="",
                mode="open",
                definition="tcp to port 80",
                priority=240,
                caches_usable=2,
                caches_seen=2,
                buckets_assigned=256,
                assigned_by="cache",
                designated_cache=CACHES[0],
                change_number=7,
                packets_redirected=2_469_134,
                bytes_redirected=1_975_308_642,
                packets_unassigned=0,
                bytes_unassigned=0,
                bucket_owners=tuple(CACHES[index % 2] for index in range(256)),
                buckets_total=256,
                assignment_method="hash",
                packets_uninspected=0,
                bytes_uninspected=0,
                uninspected_seconds=0.0,
                not_redirected=(),
                redirect_list=(),
                routers=("10.100.1.10",),
            ),
        ),
        caches=tuple(map(_cache, CACHES)),
        refused=(),
    )


@pytest.fixture
def nothing_joined(healthy: Status) -> Status:
    """The daemon runs, no cache has spoken to it."""
    service = replace(
        healthy.services[0],
        state=Health.DOWN,
        reason="no cache has sent a HERE_I_AM",
        definition="",
        priority=0,
        caches_usable=0,
        caches_seen=0,
        buckets_assigned=0,
        assigned_by="nobody",
        designated_cache="",
        change_number=0,
        packets_redirected=0,
        packets_unassigned=1_234,
        packets_uninspected=1_234,
        redirect_list=(ListLineStatus("deny tcp any 203.0.113.0/24 80", 12, 720),),
        not_redirected=(OutcomeStatus("forwarded", "unassigned", 1_234, 99_000),),
        bucket_owners=("",) * 256,
    )
    return replace(
        healthy,
        inspecting=False,
        reasons=("web-cache: no cache has sent a HERE_I_AM; its traffic is forwarded without inspection",),
        services=(service,),
        caches=(),
    )


@pytest.fixture
def bgp_down(healthy: Status) -> Status:
    """gobgpd has died: caches are well, but the Transit Gateway sends nothing."""
    assert healthy.bgp is not None
    bgp = replace(
        healthy.bgp,
        state=Health.DOWN,
        reason="gobgpd does not answer at /run/wccpd/gobgpd.sock",
        since_seconds=75.0,
        advertising=False,
        advertised_prefixes=(),
        peers=tuple(
            replace(peer, state="active", uptime_seconds=0.0, received=0) for peer in healthy.bgp.peers
        ),
        routes=tuple(replace(route, stale=True) for route in healthy.bgp.routes),
        refused=(),
    )
    down = replace(
        healthy.tunnels[1], state=Health.DOWN, reason="the device is missing, creating it failed: EPERM"
    )
    return replace(
        healthy,
        inspecting=False,
        reasons=("no BGP session is established, so the Transit Gateway sends no traffic",),
        bgp=bgp,
        tunnels=(healthy.tunnels[0], down),
    )


@pytest.fixture
def refused_messages(nothing_joined: Status) -> Status:
    """A cache speaks, and is not let in."""
    cache = replace(
        _cache(CACHES[0]),
        state="incompatible",
        rung="two unechoed",
        reason="it returns packets by L2 only, this router takes them back by GRE only",
        buckets=0,
        packets_redirected=0,
        packets_returned=0,
    )
    return replace(
        nothing_joined,
        caches=(cache,),
        refused=(
            RefusalStatus("wrong_password", 812, "10.100.1.22", "web-cache: the MD5 does not match", 3.0),
            RefusalStatus(
                "not_in_group_list", 2, "192.0.2.66", "bad\x1b[31m text\nfrom the network", 7_000.0
            ),
        ),
    )
