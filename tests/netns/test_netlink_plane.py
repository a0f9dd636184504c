"""The netlink plane against this machine's kernel: what is nftables' own, beside the contract of all planes.

    spoke 10.1.0.10 --- 10.1.0.1 router 10.9.0.1 --- 10.9.0.2 far, which has every address
                                router 10.100.1.10 --- the segment of the caches

Caches take L2, so no GRE device is needed; where packets go is read from the counters.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from gre.tunnel import redirect_device
from tests.support.daemon import wait_for
from tests.support.namespaces import Namespace
from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.conntrack import Conntrack
from wccpd.dataplane.host import adjacent_networks
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.dataplane.nft import Nft
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.errors import KernelError
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.model import LAYOUT
from wccpd.plan.policy import KernelSettings, Policy, ServicePolicy
from wccpd.plan.redirect import Mode
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.plan.verdict import Reason, Verdict
from wccpd.protocol.assignment import EMPTY, assign
from wccpd.protocol.view import GroupView, RouterView
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

pytestmark = pytest.mark.netns

POLICY = Policy(
    router_id=ROUTER_ID,
    services=(ServicePolicy(WEB_CACHE.key), ServicePolicy(HTTPS.key)),
    ingress=("spokes",),
    never=(IPv4Network("203.0.113.128/25"), IPv4Network("203.0.113.7/32")),
)
SETTINGS = KernelSettings(services=("web-cache", "70"))


def by_l2(group_view: GroupView) -> GroupView:
    """The group with caches that take and return L2."""
    caches = (
        replace(cache, forwarding=ForwardingMethod.L2, packet_return=PacketReturnMethod.L2)
        for cache in group_view.caches
    )
    return replace(group_view, caches=tuple(caches))


class Bench:
    """The namespaces and the plane in the middle one."""

    def __init__(self, spoke: Namespace, router: Namespace, far: Namespace) -> None:
        self.spoke, self.router, self.far = spoke, router, far
        self.policy = POLICY
        self.plane = router.call(lambda: LinuxDataPlane(SETTINGS))

    def observe(self) -> Observation:
        return self.router.call(self.plane.observe)

    def wish(self, wanted: RouterView) -> Wish:
        wanted = RouterView(tuple(map(by_l2, wanted.groups)))
        return Wish(redirect_plan(wanted, self.policy, allocate_slots(Slots(), wanted_paths(wanted))))

    def apply(self, wanted: RouterView) -> Applied:
        """Bring the kernel to a view, with a lease."""
        wish = self.wish(wanted)
        applied = self.router.call(lambda: self.plane.bring_to(wish))
        assert applied.faults == ()
        self.router.call(self.plane.forget)
        assert self.router.call(lambda: self.plane.bring_to(wish)).changes == (), (
            "a second look finds nothing to do"
        )
        self.router.call(lambda: self.plane.renew_lease(60))
        return applied

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

    def redirected(self, service: str = "web-cache", cache: object = None) -> int:
        """Packets that went to a cache, or to all."""
        outcomes = self.observe().counters.outcomes
        return sum(
            count.packets
            for outcome, count in outcomes.items()
            if outcome.service == service
            and outcome.verdict is Verdict.REDIRECTED
            and cache in (None, outcome.cache)
        )

    def unassigned(self) -> int:
        return self.observe().counters.total("web-cache", Verdict.FORWARDED, Reason.UNASSIGNED).packets


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Namespace("spoke") as spoke, Namespace("router") as router, Namespace("far") as far:
        spoke.connect("uplink", "10.1.0.10/24", router, "spokes", "10.1.0.1/24")
        router.connect("out", "10.9.0.1/24", far, "in", "10.9.0.2/24")
        router.connect("farm", f"{ROUTER_ID}/24", far, "caches", f"{FIRST}/24")
        far.run("ip", "address", "add", f"{SECOND}/24", "dev", "caches")
        spoke.run("ip", "route", "add", "default", "via", "10.1.0.1")
        router.run("ip", "route", "add", "default", "via", "10.9.0.2")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        far.run("ip", "address", "add", "198.51.100.7/32", "dev", "lo")
        far.run("ip", "route", "add", "10.1.0.0/24", "via", "10.9.0.1")
        made = Bench(spoke, router, far)
        yield made
        router.call(made.plane.close)


SERVERS = [f"203.0.113.{host}" for host in range(10, 110)]
ANSWERING = "203.0.113.111"


def test_flows_are_divided_by_bucket_and_every_packet_is_counted(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.send(SERVERS)
    first, second = bench.redirected(cache=FIRST), bench.redirected(cache=SECOND)
    assert first + second == len(SERVERS)
    assert min(first, second) > len(SERVERS) / 5
    assert bench.unassigned() == 0


def test_a_bucket_of_nobody_is_forwarded_and_counted_as_unassigned(bench: Bench) -> None:
    half = tuple(owner if bucket < 128 else None for bucket, owner in enumerate(assign(EMPTY, {FIRST: 1})))
    bench.apply(view(group(WEB_CACHE, FIRST, owners=half)))
    bench.send(SERVERS)
    unassigned = bench.unassigned()
    assert bench.redirected() + unassigned == len(SERVERS)
    assert unassigned > len(SERVERS) / 5


def test_the_move_of_a_bucket_keeps_the_counters_of_the_others(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.send(SERVERS)
    before = bench.redirected(cache=SECOND)
    applied = bench.apply(view(group(WEB_CACHE, SECOND)))
    assert f"delete counter ip wccpd redirected-web-cache-{FIRST}" in applied.changes
    bench.send(SERVERS)
    assert bench.redirected(cache=SECOND) == before + len(SERVERS)


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
    assert min(bench.redirected(cache=each) for each in (FIRST, SECOND)) > 0
    assert f"packets {len(SERVERS)} " in bench.router.run("nft", "list", "counter", "ip", "other", "kept")


def test_a_restarted_plane_finds_nothing_to_do(bench: Bench) -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND), group(HTTPS, FIRST))
    bench.apply(wanted)
    bench.router.call(bench.plane.close)
    bench.plane = bench.router.call(lambda: LinuxDataPlane(SETTINGS))
    assert bench.observe().slots == bench.wish(wanted).plan.slots
    assert bench.apply(wanted).changes == ()


@pytest.mark.parametrize(
    "vandalism",
    [
        "flush ruleset",
        "flush chain ip wccpd prerouting",
        "flush map ip wccpd buckets-web-cache",
        "delete element ip wccpd ingress { spokes }",
        "insert rule ip wccpd prerouting accept",
        "add element ip wccpd caches { 192.0.2.1 }",
        "flush map ip wccpd pinned-web-cache",
        "add table ip wccpd { flags dormant; }",
    ],
)
def test_what_somebody_damaged_is_repaired(bench: Bench, vandalism: str) -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND))
    bench.apply(wanted)
    bench.router.run("nft", vandalism)
    assert bench.apply(wanted).changes
    bench.send(SERVERS[:7])
    assert bench.redirected() == 7


def test_a_table_of_another_layout_redirects_until_it_is_replaced_and_the_lease_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND))
    bench.apply(wanted)
    bench.router.run("nft", f"add chain ip wccpd layout-0; delete chain ip wccpd {LAYOUT}")
    wish = bench.wish(wanted)
    bench.router.call(lambda: bench.plane.renew_lease(60))
    transactions: list[str] = []
    run = Nft.run
    monkeypatch.setattr(Nft, "run", lambda nft, text: (transactions.append(text), run(nft, text))[1])
    bench.router.call(lambda: bench.plane.bring_to(wish))
    assert len(transactions) == 1, "from the old to the new, with nothing in between"
    assert bench.observe().leased
    bench.send(SERVERS)
    assert bench.redirected() == len(SERVERS)


def test_a_new_ingress_device_is_looked_at_before_anything_else_is_made(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    bench.policy = replace(POLICY, ingress=("spokes", "wccp-new"))
    wish = bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    changes = bench.router.call(lambda: bench.plane.bring_to(wish)).changes
    assert changes[0] == "add element ip wccpd ingress { wccp-new : goto lapsed }"
    assert bench.router.call(lambda: bench.plane.bring_to(wish)).changes == ()


def test_counters_of_another_version_do_not_keep_a_table_from_being_adopted(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    bench.router.run(
        "nft", "add counter ip wccpd forwarded-web-cache-later; add counter ip wccpd redirected-web-cache-x"
    )
    assert len(bench.observe().slots) == 1
    assert (
        "delete counter ip wccpd redirected-web-cache-x" in bench.apply(view(group(WEB_CACHE, FIRST))).changes
    )


def test_removal_takes_ours_and_leaves_what_is_not(bench: Bench) -> None:
    bench.router.run("nft", "add table ip other")
    bench.router.run("ip", "rule", "add", "fwmark", "0x1/0xff", "lookup", "100", "priority", "18700")
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    assert len(bench.observe().slots) == 2
    assert bench.router.call(bench.plane.remove).faults == ()
    assert bench.observe().slots == {}
    assert bench.router.run("nft", "list", "tables").split() == ["table", "ip", "other"]
    rules = bench.router.run("ip", "rule", "list")
    assert "18700:" in rules
    assert "18801:" not in rules


def test_a_table_of_our_name_that_is_not_ours_is_refused_and_left_alone(bench: Bench) -> None:
    bench.router.run("nft", "add table ip wccpd; add chain ip wccpd theirs")
    with pytest.raises(KernelError, match="nft table wccpd") as caught:
        bench.observe()
    assert caught.value.errno == errno.EEXIST
    assert "theirs" in bench.router.run("nft", "list", "table", "ip", "wccpd")


def test_a_refused_transaction_changes_nothing_and_says_object_and_errno(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    before = bench.router.run("nft", "-s", "list", "table", "ip", "wccpd")
    nft = bench.router.call(lambda: Nft("wccpd"))
    with pytest.raises(KernelError, match="change nft table wccpd: Device or resource busy") as caught:
        bench.router.call(lambda: nft.run("add chain ip wccpd x\ndelete map ip wccpd redirected\n"))
    assert caught.value.errno == errno.EBUSY
    assert bench.router.run("nft", "-s", "list", "table", "ip", "wccpd") == before


def test_while_the_classification_is_refused_no_path_that_it_marks_for_is_removed(bench: Bench) -> None:
    bench.policy = replace(POLICY, services=(ServicePolicy(WEB_CACHE.key, Mode.CLOSED),))
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.router.run(
        "nft", "flush chain ip wccpd errors; flush chain ip wccpd exempt; delete set ip wccpd never;"
        "add set ip wccpd never { type inet_service; flags interval; }",
    )  # fmt: skip
    wish = bench.wish(view(group(WEB_CACHE, SECOND)))
    applied = bench.router.call(lambda: bench.plane.bring_to(wish))
    assert [fault.obj for fault in applied.faults] == ["nft table wccpd"]
    assert "fwmark 0x2/0xff" in bench.router.run("ip", "rule", "list"), (
        "marked packets would pass uninspected"
    )


def test_what_somebody_put_into_our_table_goes_with_all_that_refers_to_it(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    bench.router.run("nft", "add map ip wccpd theirs { type mark : verdict; }")
    bench.router.run("nft", "add chain ip wccpd mine; add rule ip wccpd mine meta mark vmap @theirs")
    bench.router.run("nft", "add rule ip wccpd count meta mark vmap @theirs")
    assert bench.apply(view(group(WEB_CACHE, FIRST))).changes
    assert "theirs" not in bench.router.run("nft", "list", "table", "ip", "wccpd")


def test_thousands_of_foreign_routes_cost_an_observation_nothing(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    batch = "".join(f"route add 172.16.{i // 256}.{i % 256}/32 via 10.9.0.2 proto 118\n" for i in range(2000))
    bench.router.run("sh", "-c", f"printf '{batch}' | ip -batch -")
    assert len(bench.observe().slots) == 2


def test_a_host_that_does_not_forward_is_noticed(bench: Bench) -> None:
    assert bench.observe().forwards
    bench.router.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert not bench.observe().forwards


def test_a_segment_whose_filter_would_drop_what_caches_return_is_noticed(bench: Bench) -> None:
    bench.router.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.farm.rp_filter=0")
    assert bench.observe().hindrances == ()
    bench.apply(view(group(WEB_CACHE, FIRST)))
    assert bench.observe().hindrances == (
        "net.ipv4.conf.farm.rp_filter is strict: it drops what caches return by L2 "
        "(remedy: sysctl -w net.ipv4.conf.farm.rp_filter=2)",
    )
    bench.router.run("sysctl", "-qw", "net.ipv4.conf.farm.rp_filter=2")
    assert bench.observe().hindrances == ()


def test_an_ingress_device_that_is_missing_or_renamed_is_noticed(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    assert bench.observe().hindrances == ()
    bench.router.run("ip", "link", "set", "spokes", "down")
    bench.router.run("ip", "link", "set", "spokes", "name", "ens6")
    assert bench.observe().hindrances == (
        "there is no device spokes: what should come in by it passes uninspected if it comes in elsewhere",
    )


@pytest.mark.parametrize(("mode", "passing"), [(Mode.CLOSED, 0), (Mode.REJECT, 0), (Mode.OPEN, 3)])
def test_when_the_segment_of_the_caches_goes_down_a_closed_service_lets_nothing_pass(
    bench: Bench, mode: Mode, passing: int
) -> None:
    bench.policy = replace(POLICY, services=(ServicePolicy(WEB_CACHE.key, mode),))
    bench.far.run(
        "nft", "add table ip seen; add counter ip seen passed;"
        "add chain ip seen pre { type filter hook prerouting priority 0; };"
        "add rule ip seen pre iifname in tcp dport 80 counter name passed",
    )  # fmt: skip
    bench.apply(view(group(WEB_CACHE, FIRST)))
    bench.router.run("ip", "link", "set", "farm", "down")
    bench.send(SERVERS[:3])
    assert f"packets {passing} " in bench.far.run("nft", "list", "counter", "ip", "seen", "passed")


def test_a_cache_whose_neighbour_entry_was_lost_is_still_known_by_its_frames(bench: Bench) -> None:
    bench.policy = replace(POLICY, ingress=("spokes", "farm"))
    bench.far.run("ping", "-c1", "-W5", str(ROUTER_ID))
    bench.apply(view(group(WEB_CACHE, FIRST)))
    known = bench.router.run("nft", "list", "set", "ip", "wccpd", "cache-macs")
    assert "elements" in known
    bench.router.run("ip", "neigh", "flush", "dev", "farm")
    bench.apply(view(group(WEB_CACHE, FIRST)))
    assert bench.router.run("nft", "list", "set", "ip", "wccpd", "cache-macs") == known


def test_a_spoke_that_sends_under_the_mac_of_a_cache_is_redirected_like_any_other(bench: Bench) -> None:
    bench.policy = replace(POLICY, ingress=("spokes", "farm"))
    mac = bench.far.run("cat", "/sys/class/net/caches/address").strip()
    bench.router.run("ping", "-c1", "-W5", str(FIRST))
    bench.apply(view(group(WEB_CACHE, FIRST)))
    assert mac in bench.router.run("nft", "list", "set", "ip", "wccpd", "cache-macs")
    bench.spoke.run("ip", "link", "set", "uplink", "address", mac)
    bench.spoke.run("ip", "route", "replace", "default", "via", "10.1.0.1")
    bench.send(SERVERS[:5])
    wait_for(lambda: bench.redirected() == 5, "all are redirected")


def test_networks_on_ethernet_segments_are_adjacent_and_others_are_not(bench: Bench) -> None:
    bench.router.run("ip", "tuntap", "add", "mode", "tun", "name", "point")
    bench.router.run("ip", "address", "add", "169.254.6.1/29", "dev", "point")
    found = bench.router.call(adjacent_networks)
    assert IPv4Network("10.100.1.0/24") in found
    assert IPv4Network("169.254.6.0/29") not in found


def test_a_cache_behind_a_router_that_asks_for_l2_has_no_path_and_that_is_said(bench: Bench) -> None:
    bench.router.run("ip", "route", "add", f"{SECOND}/32", "via", "10.9.0.2")
    wish = bench.wish(view(group(WEB_CACHE, FIRST, SECOND)))
    applied = bench.router.call(lambda: bench.plane.bring_to(wish))
    assert [str(fault) for fault in applied.faults] == [
        f"find path to {SECOND}: No route to host (it asked for L2 and is on no segment of this host)"
    ]
    assert [path.cache for path in applied.refused] == [SECOND]


def test_a_slot_whose_flows_cannot_be_freed_of_it_is_not_given_to_another_cache(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST)))
    wish = bench.wish(view(group(WEB_CACHE, SECOND)))
    (path,) = wish.plan.slots
    bench.plane._conntrack.close()
    applied = bench.router.call(lambda: bench.plane.bring_to(wish))
    assert [fault.obj for fault in applied.faults] == ["conntrack table"]
    assert applied.refused == {path}
    bench.send(SERVERS)
    assert (bench.redirected(), bench.unassigned()) == (0, len(SERVERS))
    bench.plane._conntrack = bench.router.call(Conntrack)
    applied = bench.router.call(lambda: bench.plane.bring_to(wish))
    assert (applied.faults, applied.refused) == ((), frozenset())
    bench.send(["198.51.100.9"])
    assert bench.redirected(cache=SECOND) == 1


def live_flows(bench: Bench) -> dict[IPv4Address, int]:
    return dict(bench.router.call(bench.plane.live_flows))


def test_live_flows_are_counted_by_cache_and_ended_ones_are_not(bench: Bench) -> None:
    bench.apply(view(group(WEB_CACHE, FIRST, SECOND)))
    bench.send(SERVERS)
    flows = live_flows(bench)
    assert flows == {each: bench.redirected(cache=each) for each in (FIRST, SECOND)}
    bench.far.run("ip", "address", "add", f"{ANSWERING}/32", "dev", "lo")
    bench.send([ANSWERING])  # nobody listens: it is reset, and so ended
    wait_for(lambda: bench.redirected() == len(SERVERS) + 1, "the packet was redirected")
    wait_for(lambda: live_flows(bench) == flows, "the ended connection does not count")


def test_a_closed_service_stays_closed_after_we_have_left(bench: Bench) -> None:
    bench.policy = replace(POLICY, services=(ServicePolicy(WEB_CACHE.key, Mode.CLOSED),))
    wish = bench.wish(view(group(WEB_CACHE, FIRST)))
    bench.apply(view(group(WEB_CACHE, FIRST)))
    bench.router.call(lambda: bench.plane.remove(wish.plan))
    before = bench.observe().counters.total("web-cache", Verdict.DROPPED, Reason.LAPSED).packets
    bench.send(SERVERS[:3])
    after = bench.observe().counters.total("web-cache", Verdict.DROPPED, Reason.LAPSED).packets
    assert after - before == 3
    assert bench.observe().slots == {}


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
