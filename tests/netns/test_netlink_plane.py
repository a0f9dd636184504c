"""The netlink plane against this machine's kernel, as far as it goes without a GRE device.

    spoke 10.1.0.10 --- 10.1.0.1 router 10.9.0.1 --- 10.9.0.2 far, which has every address

Marks are read from the counters: a marked packet without a routing table of its own goes on to `far`.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from gre.tunnel import redirect_device
from tests.support.namespaces import Namespace
from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.errors import KernelError
from wccpd.plan.compile import Policy, compile_state
from wccpd.plan.diff import Observed, Operations, diff
from wccpd.plan.model import DesiredState, TableRoute
from wccpd.protocol.assignment import EMPTY, assign
from wccpd.protocol.view import RouterView

pytestmark = pytest.mark.netns

POLICY = Policy(
    router_id=ROUTER_ID,
    services=(WEB_CACHE.key, HTTPS.key),
    ingress=("spokes",),
    never=(IPv4Network("203.0.113.128/25"), IPv4Network("203.0.113.7/32")),
)
SLOTS = {FIRST: 1, SECOND: 2}


class Bench:
    """The three namespaces and the plane in the middle one."""

    def __init__(self, spoke: Namespace, router: Namespace, far: Namespace) -> None:
        self.spoke, self.router, self.far = spoke, router, far
        self.policy = POLICY
        self.plane = router.call(lambda: LinuxDataPlane(POLICY))

    def observe(self) -> Observed:
        return self.router.call(self.plane.observe)

    def apply(self, wanted: RouterView) -> Operations:
        """Reconcile rules and nft; devices and their routes need a kernel with GRE."""
        desired = replace(compile_state(wanted, self.policy, SLOTS), devices=(), routes=())
        operations = diff(desired, self.observe())
        failures = self.router.call(lambda: self.plane.apply(operations))
        assert failures == ()
        assert not diff(desired, self.observe()), "a second look finds nothing to do"
        return operations

    def send(self, destinations: list[str], port: int = 80, mark: int = 0) -> None:
        """Send one SYN to each destination."""

        def connect() -> None:
            for destination in destinations:
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
                    if mark:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                    with contextlib.suppress(BlockingIOError):
                        sock.connect((destination, port))

        self.spoke.call(connect)

    def packets(self, counter: str) -> int:
        table = self.observe().nft
        assert table is not None
        return table.counters[counter][0]

    def redirected(self) -> int:
        table = self.observe().nft
        assert table is not None
        return sum(value[0] for name, value in table.counters.items() if name.startswith("redirected-"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Namespace("spoke") as spoke, Namespace("router") as router, Namespace("far") as far:
        spoke.connect("uplink", "10.1.0.10/24", router, "spokes", "10.1.0.1/24")
        router.connect("out", "10.9.0.1/24", far, "in", "10.9.0.2/24")
        spoke.run("ip", "route", "add", "default", "via", "10.1.0.1")
        router.run("ip", "route", "add", "default", "via", "10.9.0.2")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        far.run("ip", "address", "add", "198.51.100.7/32", "dev", "lo")
        far.run("ip", "route", "add", "10.1.0.0/24", "via", "10.9.0.1")
        made = Bench(spoke, router, far)
        yield made
        router.call(made.plane.close)


SERVERS = [f"203.0.113.{host}" for host in range(10, 110)]


def test_flows_are_divided_by_bucket_and_every_packet_is_counted(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.send(SERVERS)
    first = bench.packets(f"redirected-web-cache-{FIRST}")
    second = bench.packets(f"redirected-web-cache-{SECOND}")
    assert first + second == len(SERVERS)
    assert min(first, second) > len(SERVERS) / 5
    assert bench.packets("unassigned-web-cache") == 0


def test_a_bucket_of_nobody_is_forwarded_and_counted_as_unassigned(bench: Bench) -> None:
    half = tuple(owner if bucket < 128 else None for bucket, owner in enumerate(assign(EMPTY, {FIRST: 1})))
    bench.apply(view(group(WEB_CACHE, FIRST, owners=half)))
    bench.send(SERVERS)
    unassigned = bench.packets("unassigned-web-cache")
    assert bench.redirected() + unassigned == len(SERVERS)
    assert unassigned > len(SERVERS) / 5


def test_ports_of_other_services_and_of_none_are_told_apart(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST), group(HTTPS, SECOND)))
    for port in (80, 443, 8443, 8080):
        bench.send(SERVERS[:10], port)
    assert bench.packets(f"redirected-web-cache-{FIRST}") == 10
    assert bench.packets(f"redirected-70-{SECOND}") == 20
    assert bench.redirected() == 30


def test_never_redirect_networks_the_router_itself_and_caches_are_left_alone(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    bench.send(["203.0.113.7", "203.0.113.200", "10.1.0.1"])
    bench.spoke.run("ip", "address", "add", f"{FIRST}/32", "dev", "uplink")
    bench.spoke.run("ip", "route", "replace", "default", "via", "10.1.0.1", "src", str(FIRST))
    bench.send(SERVERS[:5])
    assert bench.redirected() == 0


def test_the_move_of_a_bucket_keeps_the_counters_of_the_others(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.send(SERVERS)
    before = bench.packets(f"redirected-web-cache-{SECOND}")
    operations = bench.apply(view(group(WEB_CACHE, SECOND)))
    assert f"delete counter ip wccpd redirected-web-cache-{FIRST}" in operations.nft
    bench.send(SERVERS)
    assert bench.packets(f"redirected-web-cache-{SECOND}") == before + len(SERVERS)


def test_marks_of_others_survive_and_do_not_hide_a_packet(bench: Bench) -> None:
    bench.router.run(
        "nft", "add table ip other; add chain ip other pre { type filter hook prerouting priority -200; };"
        "add chain ip other post { type filter hook postrouting priority 0; };"
        "add rule ip other pre meta mark set 0x5a000007;"
        "add counter ip other kept; add rule ip other post meta mark & 0xff000000 == 0x5a000000 counter name kept",
    )  # fmt: skip
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.send(SERVERS)
    assert bench.redirected() == len(SERVERS)
    assert min(bench.packets(f"redirected-web-cache-{each}") for each in (FIRST, SECOND)) > 0
    assert f"packets {len(SERVERS)} " in bench.router.run("nft", "list", "counter", "ip", "other", "kept")


def test_a_restarted_plane_finds_nothing_to_do(bench: Bench) -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND), group(HTTPS, FIRST))
    bench.apply(wanted)
    bench.router.call(bench.plane.close)
    bench.plane = bench.router.call(lambda: LinuxDataPlane(POLICY))
    assert not bench.apply(wanted)


@pytest.mark.parametrize(
    "vandalism",
    [
        "flush ruleset",
        "flush chain ip wccpd prerouting",
        "flush map ip wccpd buckets-web-cache",
        "delete element ip wccpd ingress { spokes }",
        "insert rule ip wccpd prerouting accept",
        "add element ip wccpd caches { 192.0.2.1 }",
    ],
)
def test_what_somebody_damaged_is_repaired(bench: Bench, vandalism: str) -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND))
    bench.apply(wanted)
    bench.router.run("nft", vandalism)
    assert bench.apply(wanted).nft
    bench.send(SERVERS[:7])
    assert bench.redirected() == 7


def test_removal_takes_ours_and_leaves_what_is_not(bench: Bench) -> None:
    bench.router.run("nft", "add table ip other")
    bench.router.run("ip", "rule", "add", "fwmark", "0x1/0xff", "lookup", "100", "priority", "18700")
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    assert len(bench.observe().rules) == 2
    operations = diff(DesiredState(), bench.observe())
    assert bench.router.call(lambda: bench.plane.apply(operations)) == ()
    left = bench.observe()
    assert (left.nft, left.rules) == (None, frozenset())
    assert bench.router.run("nft", "list", "tables").split() == ["table", "ip", "other"]
    assert "18700:" in bench.router.run("ip", "rule", "list")


def test_a_table_of_our_name_that_is_not_ours_is_refused_and_left_alone(bench: Bench) -> None:
    bench.router.run("nft", "add table ip wccpd; add chain ip wccpd theirs")
    with pytest.raises(KernelError, match="nft table wccpd") as caught:
        bench.observe()
    assert caught.value.errno == errno.EEXIST
    assert "theirs" in bench.router.run("nft", "list", "table", "ip", "wccpd")


def test_a_refused_transaction_changes_nothing_and_says_which_object(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    before = bench.observe()
    bad = Operations(nft="delete map ip wccpd redirected\nadd chain ip wccpd x\n")
    (failure,) = bench.router.call(lambda: bench.plane.apply(bad))
    assert failure.error.obj == "nft table wccpd"
    assert bench.observe() == before


def test_one_refused_object_keeps_none_of_the_others_back(bench: Bench) -> None:
    desired = compile_state(view(group(WEB_CACHE, FIRST)), POLICY, {FIRST: 1})
    nowhere = (TableRoute(18801, "no-such-device", 118),)
    operations = diff(replace(desired, devices=(), routes=nowhere), bench.observe())
    (failure,) = bench.router.call(lambda: bench.plane.apply(operations))
    assert (failure.error.errno, failure.device, failure.table) == (errno.ENODEV, "no-such-device", 18801)
    observed = bench.observe()
    assert observed.nft is not None
    assert len(observed.rules) == 1


def test_thousands_of_foreign_routes_cost_an_observation_nothing(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    batch = "".join(f"route add 172.16.{i // 256}.{i % 256}/32 via 10.9.0.2 proto 118\n" for i in range(2000))
    bench.router.run("sh", "-c", f"printf '{batch}' | ip -batch -")
    assert bench.observe().routes == frozenset()


def test_a_host_that_does_not_forward_is_noticed(bench: Bench) -> None:
    assert bench.observe().forwards
    bench.router.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert not bench.observe().forwards


def test_loose_reverse_path_filtering_of_a_device_overrules_a_strict_default(bench: Bench) -> None:
    # The kernel takes the greater of the device's and all's setting: 0 would leave strict in force.
    bench.far.run("ping", "-c1", "-W5", "10.9.0.1")
    bench.router.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    bench.router.run("ip", "route", "replace", "198.51.100.0/24", "via", "10.1.0.10")
    (setting,) = (
        value for key, value in redirect_device("wccp-", ROUTER_ID, FIRST).sysctls if key == "rp_filter"
    )
    for wanted, arrives in (("0", False), (setting, True)):
        bench.router.run("sysctl", "-qw", f"net.ipv4.conf.out.rp_filter={wanted}")
        assert returned_packet_arrives(bench) is arrives


def returned_packet_arrives(bench: Bench) -> bool:
    """Send from `far` with the source of a server whose route leads elsewhere; does it reach the spoke?"""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.1.0.10", 4000))
        sock.settimeout(0.5)
        return sock

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("198.51.100.7", 0))
            sock.sendto(b"answer", ("10.1.0.10", 4000))

    with bench.spoke.call(listen) as listener:
        bench.far.call(send)
        try:
            return listener.recv(100) == b"answer"
        except TimeoutError:
            return False
