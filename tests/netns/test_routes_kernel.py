"""Learned routes in a real kernel.

router tun-a 10.255.1.1 ---- veth ---- a 10.255.1.2 far
       tun-b 10.255.2.1 ---- veth ---- b 10.255.2.2 far
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from bgp.events import NextHop, RouteSet
from tests.support.namespaces import Namespace
from wccpd.dataplane.routes import GaveWayError, KernelRoutes, SyncResult
from wccpd.dataplane.rtnetlink import BATCH_MESSAGES
from wccpd.errors import KernelError

pytestmark = pytest.mark.netns

TUN_A, TUN_B = NextHop("tun-a"), NextHop("tun-b")
PREFIXES = [IPv4Network((0x14000000 + (number << 8), 24)) for number in range(3 * BATCH_MESSAGES + 1)]
SIX = IPv6Network("2001:db8::/32")


def routes(*hops: NextHop, prefixes: list[IPv4Network] | None = None) -> RouteSet:
    return RouteSet.of({prefix: frozenset(hops) for prefix in prefixes or PREFIXES})


@dataclass
class Bench:
    router: Namespace
    kernel: KernelRoutes
    witness: KernelRoutes
    """Only looks; the belief of `kernel` stays its own."""

    def sync(self, wanted: RouteSet, *, verify: bool = True) -> SyncResult:
        """Sync without a complaint."""
        result = self.kernel.sync(wanted, verify=verify)
        assert result.errors == ()
        return result

    def there(self) -> dict[object, frozenset[NextHop]]:
        return dict(self.witness.observe().route_set().routes)

    def link(self, device: str, to: str) -> None:
        self.router.run("ip", "link", "set", device, to)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        router, far = stack.enter_context(Namespace("r")), stack.enter_context(Namespace("f"))
        for number, name in enumerate(("a", "b"), 1):
            net = f"10.255.{number}"
            router.connect(f"tun-{name}", f"{net}.1/24", far, f"far-{name}", f"{net}.2/24")
        kernel, witness = router.call(KernelRoutes), router.call(KernelRoutes)
        stack.callback(kernel.close)
        stack.callback(witness.close)
        yield Bench(router, kernel, witness)


def test_routes_go_in_and_come_back_as_they_were_wanted(bench: Bench) -> None:
    via = NextHop("tun-b", IPv4Address("10.255.2.2"))
    wanted = RouteSet.of(
        {**routes(TUN_A, via).routes, SIX: frozenset({TUN_A}), PREFIXES[0]: frozenset({TUN_B})}
    )
    assert bench.sync(wanted).written == len(PREFIXES) + 1
    assert bench.there() == wanted.routes
    assert "proto 118" in bench.router.run("ip", "route", "show", str(PREFIXES[1]))
    assert "2001:db8::/32" in bench.router.run("ip", "-6", "route", "show", "proto", "118")
    again = bench.sync(wanted)
    assert (again.written, again.removed, again.hops_changed) == (0, 0, 0)


def test_losing_a_tunnel_rewrites_no_route(bench: Bench) -> None:
    bench.sync(routes(TUN_A, TUN_B))
    for target in (routes(TUN_B), routes(TUN_A, TUN_B)):
        result = bench.sync(target, verify=False)
        assert (result.written, result.removed, result.hops_changed) == (0, 0, 2)
        assert bench.there() == target.routes


def test_a_small_change_writes_little(bench: Bench) -> None:
    bench.sync(routes(TUN_A, TUN_B))
    target = RouteSet.of(
        {**routes(TUN_A, TUN_B, prefixes=PREFIXES[:-3]).routes, PREFIXES[0]: frozenset({TUN_A})}
    )
    result = bench.sync(target, verify=False)
    assert (result.written, result.removed, result.hops_changed) == (1, 3, 1)
    assert bench.there() == target.routes


@pytest.mark.parametrize("verify", [True, False], ids=["verifying", "believing"])
def test_what_the_kernel_drops_with_a_device_comes_back_with_it(bench: Bench, verify: bool) -> None:
    wanted = routes(TUN_A, TUN_B)
    bench.sync(wanted)
    bench.link("tun-a", "down")
    result = bench.sync(wanted, verify=verify)
    assert result.unusable == {"tun-a": "device is down"}
    assert bench.there() == routes(TUN_B).routes
    bench.link("tun-b", "down")
    assert not bench.there(), "the kernel deletes the group with its last member, and its routes"
    assert bench.sync(wanted, verify=verify).routes == 0
    bench.link("tun-b", "up")
    assert bench.sync(wanted, verify=verify).written == len(PREFIXES)
    bench.link("tun-a", "up")
    assert bench.sync(wanted, verify=verify).written == 0
    assert bench.there() == wanted.routes


def test_a_flap_that_nobody_saw_is_repaired_without_a_verifying_sync(bench: Bench) -> None:
    wanted = routes(TUN_A, TUN_B)
    bench.sync(wanted)
    for to in ("down", "up"):
        for device in ("tun-a", "tun-b"):
            bench.link(device, to)
    assert not bench.there()
    assert bench.sync(wanted, verify=False).written == len(PREFIXES)
    assert bench.there() == wanted.routes


def test_a_device_made_anew_under_its_old_name_gets_its_routes_back(bench: Bench) -> None:
    wanted = routes(TUN_A, prefixes=PREFIXES[:5])
    bench.sync(wanted)
    bench.router.run("ip", "link", "delete", "tun-a")
    assert bench.sync(wanted, verify=False).unusable == {"tun-a": "no such device"}
    bench.router.run("ip", "link", "add", "tun-a", "type", "veth", "peer", "name", "other")
    for device in ("tun-a", "other"):
        bench.link(device, "up")
    bench.sync(wanted, verify=False)
    assert bench.there() == wanted.routes


def test_a_route_that_somebody_removed_is_written_again(bench: Bench) -> None:
    wanted = routes(TUN_A, prefixes=PREFIXES[:5])
    bench.sync(wanted)
    bench.router.run("ip", "route", "delete", str(PREFIXES[0]))
    assert bench.sync(wanted).written == 1
    assert bench.there() == wanted.routes


def test_foreign_routes_and_next_hops_are_left_alone(bench: Bench) -> None:
    mine, theirs = str(PREFIXES[0]), "30.0.0.0/24"
    bench.router.run("ip", "route", "add", mine, "dev", "tun-b", "proto", "static")
    bench.router.run("ip", "route", "add", theirs, "dev", "tun-b", "proto", "186")
    bench.router.run("ip", "nexthop", "add", "id", "118000000", "dev", "tun-b", "proto", "186")
    result = bench.kernel.sync(routes(TUN_A, prefixes=PREFIXES[:3]))
    assert [(error.obj, error.verb, error.errno) for error in result.errors] == [
        (f"route {mine}", "add", errno.EEXIST)
    ]
    assert "not ours" in str(result.errors[0])
    assert set(bench.there()) == set(PREFIXES[1:3]), "one refusal does not stop the rest"
    bench.kernel.remove_all()
    shown = bench.router.run("ip", "route", "show")
    assert mine in shown
    assert theirs in shown
    assert bench.router.run("ip", "nexthop", "show").split()[:2] == ["id", "118000000"]


def test_a_next_hop_that_the_kernel_refuses_costs_only_itself(bench: Bench) -> None:
    nowhere = NextHop("tun-b", IPv4Address("203.0.113.9"))
    result = bench.kernel.sync(routes(TUN_A, nowhere, prefixes=PREFIXES[:3]))
    assert bench.there() == routes(TUN_A, prefixes=PREFIXES[:3]).routes
    (error,) = result.errors
    assert (error.verb, error.errno) == ("add", errno.ENETUNREACH)
    assert "gateway" in error.detail
    assert "refuses" in result.unusable["tun-b"]


def test_a_table_of_its_own_and_a_metric_are_kept_to(bench: Bench) -> None:
    def make() -> KernelRoutes:
        return KernelRoutes(protocol=77, table=1234, metric=50, hop_id_base=5000)

    kernel = bench.router.call(make)
    try:
        assert kernel.observe().routes == {}, "a table that does not exist is empty"
        wanted = RouteSet.of({PREFIXES[0]: frozenset({TUN_A}), SIX: frozenset({TUN_B})})
        assert kernel.sync(wanted).errors == ()
        shown = bench.router.run("ip", "route", "show", "table", "1234")
        assert "proto 77" in shown
        assert "metric 50" in shown
        assert kernel.observe().route_set().routes == wanted.routes
        assert not bench.there(), "another protocol number's routes are not ours"
        kernel.remove_all()
        assert kernel.observe().routes == {}
    finally:
        kernel.close()


def test_a_listing_that_only_verifies_gives_way_and_is_made_up_for(bench: Bench) -> None:
    bench.sync(routes(TUN_A, TUN_B))
    bench.router.run("ip", "route", "delete", str(PREFIXES[0]))
    bench.kernel.hurry()
    with pytest.raises(GaveWayError):
        bench.kernel.sync(routes(TUN_A, TUN_B))
    moved = bench.sync(routes(TUN_A), verify=False)
    assert (moved.written, moved.routes) == (0, len(PREFIXES)), (
        "it lists no routes: what was believed still is"
    )
    assert bench.there() == routes(TUN_A, prefixes=PREFIXES[1:]).routes
    assert bench.sync(routes(TUN_A)).written == 1, "the next one verifies to its end"


@pytest.mark.parametrize("before", ["nothing known", "all removed"])
def test_a_listing_that_is_needed_gives_way_to_nobody(bench: Bench, before: str) -> None:
    if before == "all removed":
        bench.sync(routes(TUN_A))
        bench.kernel.hurry()
        bench.kernel.remove_all()
        assert bench.there() == {}
    else:
        bench.kernel.hurry()
        assert bench.sync(routes(TUN_A)).written == len(PREFIXES)


def test_a_route_that_changed_between_two_listings_is_not_taken_for_the_old_one(bench: Bench) -> None:
    bench.sync(routes(TUN_A))
    bench.sync(routes(TUN_A))
    bench.router.run("ip", "route", "change", str(PREFIXES[3]), "dev", "tun-b", "proto", "118")
    bench.sync(routes(TUN_A))
    assert bench.there() == routes(TUN_A).routes


def test_removing_all_leaves_nothing_of_ours(bench: Bench) -> None:
    bench.sync(RouteSet.of({**routes(TUN_A, TUN_B).routes, SIX: frozenset({TUN_A})}))
    for _ in range(2):
        bench.kernel.remove_all()
        assert bench.router.run("ip", "nexthop", "show") == ""
        assert bench.router.run("ip", "route", "show", "proto", "118") == ""
        assert bench.router.run("ip", "-6", "route", "show", "proto", "118") == ""


def test_a_closed_socket_is_an_error_that_names_what_was_asked(bench: Bench) -> None:
    kernel = bench.router.call(KernelRoutes)
    kernel.close()
    with pytest.raises(KernelError, match="list next hops"):
        kernel.observe()
