"""The whole daemon with two tunnels of the kernel's own GRE, gobgpd and two BIRDs: both IP versions, ECMP, loss.

The topology is drawn in tests/support/bgp_lab.py. One stage serves all tests, which come in the order of a day:
everything comes up, one tunnel is lost, and is there again.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support.bgp_lab import ROUTER_ASN, TGW_ASN, Lab, missing_tools
from tests.support.daemon import Daemon, wait_for

pytestmark = [
    pytest.mark.gre,
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "nothing is missing"),
]

SPOKE, SPOKE_IPV6 = "10.1.0.0/24", "2001:db8:100::/64"
PACKETS = 200
LONG = 180
"""Seconds: where the processor is emulated everything takes its time."""
CONFIG = f"""\
router: {{id: 10.99.1.10}}
tunnels:
  - {{name: a, remote: 10.99.1.1, inside: 169.254.6.0/29, inside_ipv6: fd00:6::/125, mtu_bytes: 1400}}
  - {{name: b, remote: 10.99.1.2, inside: 169.254.7.0/29, inside_ipv6: fd00:7::/125, mtu_bytes: 1400}}
bgp:
  asn: {ROUTER_ASN}
  peer_asn: {TGW_ASN}
  gobgp_socket: SOCKET
  accept: [10.0.0.0/8, "2001:db8:100::/40"]
  hold_time_seconds: 15
  keepalive_seconds: 5
services:
  - {{service: web-cache, group_list: [10.99.1.0/24]}}
control: {{socket: DIRECTORY/control.sock}}
state_directory: DIRECTORY/state
"""


class Stage:
    def __init__(self, lab: Lab, daemon: Daemon) -> None:
        self.lab, self.daemon = lab, daemon

    def tunnels_of(self, prefix: str) -> list[str]:
        routes = self.daemon.status()["bgp"]["routes"]
        return next((route["tunnels"] for route in routes if route["prefix"] == prefix), [])

    def arrive(self, addresses: list[str]) -> dict[str, int]:
        """Packets from the router to these spokes, by the tunnel that each came out of."""
        before = self._received()
        self.lab.router.call(lambda: send(addresses))
        wait_for(
            lambda: sum(self._received().values()) >= sum(before.values()) + len(addresses), "they arrive", 60
        )
        return {tunnel: count - before[tunnel] for tunnel, count in self._received().items()}

    def _received(self) -> dict[str, int]:
        """What the gateway's own firewall counts, BGP aside."""
        listed = json.loads(self.lab.gateway.run("nft", "-j", "list", "counters", "table", "inet", "count"))
        counters = [item["counter"] for item in listed["nftables"] if "counter" in item]
        return {each["name"]: each["packets"] for each in counters}


def send(addresses: list[str]) -> None:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"to a spoke", (address, 9))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("gre")
    with Lab(passive=False, ipv6=True, gre=True) as lab:
        lab.announce([SPOKE, SPOKE_IPV6])
        lab.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        lab.router.run("ip", "route", "add", "default", "via", "10.99.1.1")
        rules = "; ".join(
            f"add counter inet count {name}; "
            f"add rule inet count in iifname tgw-{name} udp dport 9 counter name {name}"
            for name in ("a", "b")
        )
        lab.gateway.run(
            "nft",
            "add table inet count; add chain inet count in { type filter hook prerouting priority 0; }; "
            + rules,
        )
        lab.start_gobgpd()
        config = directory / "wccpd.yaml"
        config.write_text(CONFIG.replace("SOCKET", str(lab.socket)).replace("DIRECTORY", str(directory)))
        daemon = Daemon(lab.router, config)
        try:
            yield Stage(lab, daemon.ready(LONG))
        finally:
            daemon.stop(signal.SIGKILL)


def test_four_sessions_over_two_tunnels_bring_prefixes_of_both_ip_versions(stage: Stage) -> None:
    wait_for(
        lambda: [peer["state"] for peer in stage.daemon.status()["bgp"]["peers"]] == ["established"] * 4,
        "all sessions",
        LONG,
    )
    for prefix in (SPOKE, SPOKE_IPV6):
        wait_for(
            lambda prefix=prefix: stage.tunnels_of(prefix) == ["a", "b"], f"{prefix} by both tunnels", LONG
        )
    assert [tunnel["state"] for tunnel in stage.daemon.status()["tunnels"]] == ["up", "up"]
    for bird in stage.lab.birds:
        wait_for(lambda bird=bird: bird.sees("0.0.0.0/0"), "the default is advertised", LONG)


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_what_goes_to_the_spokes_is_spread_over_both_tunnels(stage: Stage, version: int) -> None:
    arrived = stage.arrive(spokes(version))
    assert sum(arrived.values()) == PACKETS
    assert min(arrived.values()) >= PACKETS // 10, arrived


def test_a_tunnel_that_is_lost_is_used_no_more_and_is_again_when_it_comes_back(stage: Stage) -> None:
    stage.lab.gateway.run("ip", "link", "set", "tgw-b", "down")
    for prefix in (SPOKE, SPOKE_IPV6):
        wait_for(
            lambda prefix=prefix: stage.tunnels_of(prefix) == ["a"], f"{prefix} by the other alone", LONG
        )
    for version in (4, 6):
        assert stage.arrive(spokes(version)) == {"a": PACKETS, "b": 0}
    stage.lab.gateway.run("ip", "link", "set", "tgw-b", "up")
    for number in (2, 3):  # which a device that goes down loses
        stage.lab.gateway.run("ip", "address", "replace", f"fd00:7::{number}/125", "dev", "tgw-b", "nodad")
    for prefix in (SPOKE, SPOKE_IPV6):
        wait_for(
            lambda prefix=prefix: stage.tunnels_of(prefix) == ["a", "b"], f"{prefix} by both again", LONG
        )


def spokes(version: int) -> list[str]:
    """Addresses of many hosts in the spoke."""
    if version == 4:
        return [f"10.1.0.{number}" for number in range(1, PACKETS + 1)]
    return [f"2001:db8:100::{number:x}" for number in range(1, PACKETS + 1)]
