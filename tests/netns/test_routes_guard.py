"""Learnt summaries never swallow what is on the router's side: real packets, real kernel.

router eth0  10.100.1.10 ---- veth ---- 10.100.1.1 net   (default route; answers for 10.99.0.1 and 10.100.2.21)
       tun-a 169.254.6.1 ---- veth ---- 169.254.6.2 tunnel's far end (a Transit Gateway that takes everything)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

import pytest

from bgp.events import NextHop, RouteSet
from tests.support.namespaces import Namespace
from wccpd.dataplane.routes import KernelRoutes, SyncResult
from wccpd.dataplane.watch import HostWatch

pytestmark = pytest.mark.netns

SUMMARY = IPv4Network("10.0.0.0/8")
END, CACHE = IPv4Network("10.99.0.1/32"), IPv4Network("10.100.2.21/32")
SPOKE = "10.1.0.10"
TUNNEL = frozenset({NextHop("tun-a")})


@dataclass
class Stage:
    router: Namespace
    net: Namespace
    kernel: KernelRoutes
    watch: HostWatch

    def sync(self, *prefixes: IPv4Network, verify: bool = False) -> SyncResult:
        """What the daemon does whenever something changed, its own or the host's."""
        if self.watch.drain():
            self.kernel.host_changed()
        return self.kernel.sync(RouteSet.of(dict.fromkeys(prefixes, TUNNEL)), (END, CACHE), verify=verify)

    def device(self, address: str) -> str:
        words = self.router.run("ip", "route", "get", address).split()
        return words[words.index("dev") + 1]

    def answers(self, address: str) -> bool:
        done = self.router.run(
            "sh", "-c", f"ping -c 2 -i 0.2 -W 1 {address} >/dev/null && echo yes || echo no"
        )
        return done.strip() == "yes"

    def ours(self) -> set[str]:
        lines = self.router.run("ip", "route", "show", "proto", "118").splitlines()
        return {line.split()[0] for line in lines if not line[0].isspace()}


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        router, net, far = (stack.enter_context(Namespace(each)) for each in ("r", "n", "f"))
        router.connect("eth0", "10.100.1.10/24", net, "eth0", "10.100.1.1/24")
        router.connect("tun-a", "169.254.6.1/29", far, "tgw", "169.254.6.2/29")
        router.run("ip", "route", "add", "default", "via", "10.100.1.1")
        for address in ("10.99.0.1", "10.100.2.21"):
            net.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        far.run("ip", "address", "add", f"{SPOKE}/32", "dev", "lo")
        kernel, watch = router.call(KernelRoutes), router.call(lambda: HostWatch(118))
        stack.callback(kernel.close)
        stack.enter_context(watch)
        yield Stage(router, net, kernel, watch)


def test_a_summary_leads_to_the_spokes_and_packets_to_our_side_still_arrive(stage: Stage) -> None:
    result = stage.sync(SUMMARY)
    assert result.errors == ()
    assert (set(result.pins), dict(result.withheld)) == ({END, CACHE}, {})
    assert (stage.device("10.99.0.1"), stage.device("10.100.2.21"), stage.device(SPOKE)) == (
        "eth0",
        "eth0",
        "tun-a",
    )
    assert stage.answers("10.99.0.1")
    assert stage.answers("10.100.2.21")
    assert stage.sync(SUMMARY).hops_changed == stage.sync(SUMMARY, verify=True).written == 0


def test_pins_go_with_the_summary_and_nothing_stays(stage: Stage) -> None:
    stage.sync(SUMMARY)
    assert stage.ours() == {"10.0.0.0/8", "10.99.0.1", "10.100.2.21"}
    stage.sync()
    assert stage.ours() == set()


def test_pins_follow_the_hosts_own_route(stage: Stage) -> None:
    stage.sync(SUMMARY)
    stage.net.run("ip", "address", "add", "10.100.1.2/24", "dev", "eth0")
    stage.router.run("ip", "route", "replace", "default", "via", "10.100.1.2")
    stage.sync(SUMMARY)
    assert "via 10.100.1.2" in stage.router.run("ip", "route", "get", "10.99.0.1")
    assert stage.answers("10.99.0.1")


def test_without_the_hosts_default_the_summary_is_withdrawn_from_the_kernel_and_comes_back(
    stage: Stage,
) -> None:
    stage.sync(SUMMARY)
    stage.router.run("ip", "route", "delete", "default")
    result = stage.sync(SUMMARY)
    assert "no route of its own" in result.withheld[SUMMARY]
    assert stage.ours() == set()
    stage.router.run("ip", "route", "add", "default", "via", "10.100.1.1")
    assert stage.sync(SUMMARY).withheld == {}
    assert stage.answers("10.99.0.1")


def test_a_device_that_went_down_and_up_gets_its_pins_back(stage: Stage) -> None:
    stage.sync(SUMMARY)
    stage.router.run("ip", "link", "set", "eth0", "down")
    stage.sync(SUMMARY)
    assert stage.ours() == set()
    stage.router.run("ip", "link", "set", "eth0", "up")
    stage.router.run("ip", "route", "add", "default", "via", "10.100.1.1")
    stage.sync(SUMMARY)
    assert stage.ours() == {"10.0.0.0/8", "10.99.0.1", "10.100.2.21"}


def test_a_learnt_prefix_inside_our_own_subnet_is_not_written(stage: Stage) -> None:
    result = stage.sync(IPv4Network("10.100.1.0/25"), IPv4Network("10.99.0.1/32"))
    assert stage.ours() == set()
    assert "10.100.1.0/24" in result.withheld[IPv4Network("10.100.1.0/25")]


def test_a_prefix_that_was_learnt_and_is_now_a_caches_becomes_a_pin(stage: Stage) -> None:
    learnt = RouteSet.of(dict.fromkeys((SUMMARY, CACHE), TUNNEL))
    stage.kernel.sync(learnt, (END,))
    assert stage.device("10.100.2.21") == "tun-a"
    result = stage.kernel.sync(learnt, (END, CACHE), verify=False)
    assert result.errors == ()
    assert stage.device("10.100.2.21") == "eth0"


def test_a_multipath_default_is_followed_with_all_its_ways(stage: Stage) -> None:
    stage.net.run("ip", "address", "add", "10.100.1.2/24", "dev", "eth0")
    stage.router.run(
        "ip", "route", "replace", "default", "nexthop", "via", "10.100.1.1", "nexthop", "via", "10.100.1.2"
    )
    assert stage.sync(SUMMARY).errors == ()
    shown = stage.router.run("ip", "route", "show", "10.99.0.1")
    assert "10.100.1.1" in shown
    assert "10.100.1.2" in shown
    assert stage.sync(SUMMARY, verify=True).errors == ()


def test_ipv6_is_guarded_the_same_way(stage: Stage) -> None:
    end, summary = IPv6Network("2001:db8:99::1/128"), IPv6Network("2001:db8::/32")
    stage.router.run("ip", "address", "add", "2001:db8:100::10/64", "dev", "eth0", "nodad")
    stage.router.run("ip", "-6", "route", "add", "default", "via", "2001:db8:100::1")
    result = stage.kernel.sync(RouteSet.of({summary: TUNNEL}), (end,))
    assert (result.errors, set(result.pins)) == ((), {end})
    assert stage.device("2001:db8:99::1") == "eth0"
    assert stage.device("2001:db8:1::1") == "tun-a"
    assert stage.kernel.sync(RouteSet(), (end,)).errors == ()
    assert stage.router.run("ip", "-6", "route", "show", "proto", "118") == ""
