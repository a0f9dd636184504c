"""A tunnel of the kernel's own GRE is added to a running daemon and taken away again; the other one never notices.

The topology is drawn in tests/support/bgp_lab.py. One stage serves all tests, which come in the order of a day.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bgp_lab import ROUTER_ASN, TGW_ASN, Lab, missing_tools
from tests.support.daemon import Daemon, wait_for
from wccpd.status.client import RefusedError, command

pytestmark = [
    pytest.mark.gre,
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "nothing is missing"),
]

SPOKE = "10.1.0.0/24"
LONG = 180
"""Seconds: where the processor is emulated everything takes its time."""
TUNNEL_B = "  - {name: b, remote: 10.99.1.2, inside: 169.254.7.0/29, mtu_bytes: 1400}\n"
CONFIG = f"""\
router: {{id: 10.99.1.10}}
tunnels:
  - {{name: a, remote: 10.99.1.1, inside: 169.254.6.0/29, mtu_bytes: 1400}}
{TUNNEL_B}bgp:
  asn: {ROUTER_ASN}
  peer_asn: {TGW_ASN}
  gobgp_socket: SOCKET
  accept: [10.0.0.0/8]
  hold_time_seconds: 30
services:
  - {{service: web-cache, group_list: [10.99.1.0/24]}}
control: {{socket: DIRECTORY/control.sock}}
state_directory: DIRECTORY/state
"""


class Stage:
    def __init__(self, lab: Lab, config: Path) -> None:
        self.lab, self.config = lab, config
        self.write(CONFIG.replace(TUNNEL_B, ""))
        self.daemon = Daemon(lab.router, config)

    def write(self, text: str) -> None:
        folder = str(self.config.parent)
        self.config.write_text(text.replace("SOCKET", str(self.lab.socket)).replace("DIRECTORY", folder))

    def take(self) -> None:
        command(self.daemon.socket_path, "/v1/reload", timeout_seconds=LONG)

    def up(self) -> dict[str, int]:
        """Established sessions, each with how often it fell."""
        peers = self.daemon.status()["bgp"]["peers"]
        return {each["address"]: each["flops"] for each in peers if each["state"] == "established"}

    def tunnels_of_spoke(self) -> list[str]:
        routes = self.daemon.status()["bgp"]["routes"]
        return next((route["tunnels"] for route in routes if route["prefix"] == SPOKE), [])

    def devices(self) -> str:
        return self.lab.router.run("ip", "-o", "link", "show", "type", "gre")

    def arrived(self) -> int:
        listing = self.lab.gateway.run("nft", "list", "counter", "inet", "count", "all")
        return int(listing.split("packets ")[1].split()[0])

    def send(self, first: int, count: int) -> None:
        def packets() -> None:
            for port in range(first, first + count):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind(("10.99.1.10", port))
                    sock.sendto(b"to a spoke", ("10.1.0.7", 9))

        self.lab.router.call(packets)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("reload")
    with Lab(passive=False, gre=True) as lab:
        lab.announce([SPOKE])
        lab.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        lab.router.run("ip", "route", "add", "default", "via", "10.99.1.1")
        lab.gateway.run(
            "nft",
            "add table inet count; add counter inet count all; "
            "add chain inet count in { type filter hook prerouting priority 0; }; "
            'add rule inet count in iifname "tgw-*" udp dport 9 counter name all',
        )
        lab.start_gobgpd()
        made = Stage(lab, directory / "wccpd.yaml")
        try:
            made.daemon.ready(LONG)
            yield made
        finally:
            made.daemon.stop(signal.SIGKILL)


def test_a_tunnel_is_added_and_carries_its_share(stage: Stage) -> None:
    wait_for(lambda: len(stage.up()) == 2 and stage.tunnels_of_spoke() == ["a"], "a is up", LONG)
    assert "wccp-b" not in stage.devices()
    stage.send(20000, 100)
    stage.write(CONFIG)
    stage.take()
    stage.send(21000, 100)
    assert "wccp-b" in stage.devices()
    wait_for(lambda: len(stage.up()) == 4, "b's sessions are up", LONG)
    wait_for(lambda: stage.tunnels_of_spoke() == ["a", "b"], "and its routes are used", LONG)
    stage.send(22000, 100)
    wait_for(lambda: stage.arrived() == 300, "every packet arrives", LONG)
    assert set(stage.up().values()) == {0}, "no session fell"


def test_a_tunnel_is_removed_and_the_other_carries_all(stage: Stage) -> None:
    before = stage.arrived()
    stage.write(CONFIG.replace(TUNNEL_B, ""))
    stage.take()
    assert "wccp-b" not in stage.devices()
    wait_for(lambda: stage.tunnels_of_spoke() == ["a"], "only a is left", LONG)
    stage.send(23000, 100)
    wait_for(lambda: stage.arrived() == before + 100, "every packet arrives", LONG)
    assert stage.up() == {"169.254.6.2": 0, "169.254.6.3": 0}
    assert stage.daemon.events("kernel_refused") == []


def test_a_tunnel_that_the_kernel_refuses_leaves_the_other_and_gobgpd_alone(stage: Stage) -> None:
    stage.lab.router.run("ip", "link", "add", "wccp-b", "type", "bridge")
    stage.write(CONFIG)
    with pytest.raises(RefusedError, match="GRE device wccp-b"):
        stage.take()
    assert stage.up() == {"169.254.6.2": 0, "169.254.6.3": 0}
    assert len(stage.daemon.status()["bgp"]["peers"]) == 2
    assert stage.daemon.status()["router"]["dataplane_state"] == "up"
    stage.lab.router.run("ip", "link", "delete", "wccp-b")
