"""Which learnt routes may be written, and what is pinned before: without a kernel."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from bgp.events import IPNetwork, NextHop, RouteSet
from wccpd.dataplane.guard import Guard, Judgement, has_own_route
from wccpd.dataplane.rtnetlink import RTPROT_KERNEL, TableRoute, WayOut

TUNNEL = frozenset({NextHop("tun-a")})
DEFAULT = IPv4Network("0.0.0.0/0")
END = IPv4Network("10.99.0.1/32")
CACHE = IPv4Network("10.100.2.21/32")
VIA_FIREWALL, VIA_OTHER, ON_LINK = (WayOut(scope, 0, ((5, bytes([scope])),)) for scope in (0, 1, 253))
UNICAST, BLACKHOLE = 1, 6


def host(
    prefix: str | IPNetwork, way: WayOut = VIA_FIREWALL, metric: int = 0, protocol: int = 4, kind: int = UNICAST,
    dead: bool = False,
) -> TableRoute:  # fmt: skip
    network = IPv6Network(prefix) if ":" in str(prefix) else IPv4Network(prefix)
    return TableRoute(network, metric, protocol, kind, dead, way)


HOSTS = (host(DEFAULT), host("10.100.1.0/24", ON_LINK, protocol=RTPROT_KERNEL))


def judge(
    *learnt: str,
    protected: tuple[IPNetwork, ...] = (END, CACHE),
    hosts: tuple[TableRoute, ...] = HOSTS,
    **more: dict[IPNetwork, str],
) -> Judgement:
    wanted = RouteSet.of({(IPv6Network if ":" in each else IPv4Network)(each): TUNNEL for each in learnt})
    return Guard().judge(wanted, protected, hosts, **more)


def test_a_summary_is_taken_and_what_it_covers_of_ours_is_pinned_to_the_hosts_own_way() -> None:
    found = judge("10.0.0.0/8")
    assert found.allowed.routes == {IPv4Network("10.0.0.0/8"): TUNNEL}
    assert found.pins == {END: VIA_FIREWALL, CACHE: VIA_FIREWALL}
    assert not found.withheld


def test_what_no_learnt_prefix_covers_is_not_pinned() -> None:
    assert judge("10.1.0.0/16", "10.98.0.0/16").pins == {}


def test_where_the_hosts_own_route_is_longer_than_the_summary_nothing_is_pinned() -> None:
    hosts = (*HOSTS, host("10.99.0.0/24"), host("10.100.0.0/16"))
    assert judge("10.0.0.0/8", hosts=hosts).pins == {}


def test_a_longer_learnt_prefix_beside_the_summary_makes_the_pin_needed() -> None:
    hosts = (*HOSTS, host("10.99.0.0/24", VIA_OTHER))
    assert judge("10.0.0.0/8", "10.99.0.0/28", hosts=hosts, protected=(END,)).pins == {END: VIA_OTHER}


def test_without_a_way_of_its_own_the_host_can_make_nothing_safe() -> None:
    found = judge("10.0.0.0/8", "10.1.0.0/16", hosts=HOSTS[1:], protected=(END,))
    assert found.allowed.routes.keys() == {IPv4Network("10.1.0.0/16")}
    assert found.withheld == {
        IPv4Network("10.0.0.0/8"): "covers 10.99.0.1/32, to which the host has no route of its own"
    }


@pytest.mark.parametrize(
    "route", [host(DEFAULT, kind=BLACKHOLE), host(DEFAULT, dead=True)], ids=["blackhole", "dead"]
)
def test_a_route_that_leads_nowhere_is_no_way(route: TableRoute) -> None:
    assert judge("10.0.0.0/8", hosts=(route,), protected=(END,)).withheld


def test_a_pin_that_the_kernel_refuses_keeps_the_summary_out() -> None:
    found = judge("10.0.0.0/8", protected=(END,), refused={END: "and the kernel refuses it"})
    assert found.withheld == {IPv4Network("10.0.0.0/8"): "covers 10.99.0.1/32, and the kernel refuses it"}
    assert not found.pins


@pytest.mark.parametrize("learnt", ["10.100.1.0/24", "10.100.1.128/25", "10.99.0.1/32"])
def test_a_prefix_inside_what_is_ours_is_withheld(learnt: str) -> None:
    found = judge(learnt)
    assert not found.allowed.ways
    (reason,) = found.withheld.values()
    assert "which is on our side" in reason


def test_a_local_network_is_pinned_whole_and_nothing_inside_it_is_taken() -> None:
    vpc = IPv4Network("10.100.0.0/16")
    found = judge("10.0.0.0/8", "10.100.0.0/16", "10.100.7.0/24", protected=(vpc,))
    assert found.pins == {vpc: VIA_FIREWALL}
    assert found.withheld.keys() == {vpc, IPv4Network("10.100.7.0/24")}


def test_the_route_of_the_lowest_metric_is_the_hosts_way() -> None:
    hosts = (host(DEFAULT, VIA_OTHER, metric=200), host(DEFAULT, VIA_FIREWALL, metric=100))
    assert judge("10.0.0.0/8", hosts=hosts, protected=(END,)).pins == {END: VIA_FIREWALL}
    down = (hosts[0], host(DEFAULT, VIA_FIREWALL, metric=100, dead=True))
    assert judge("10.0.0.0/8", hosts=down, protected=(END,)).pins == {END: VIA_OTHER}


def test_ip_versions_are_judged_apart() -> None:
    end = IPv6Network("2001:db8:99::1/128")
    found = judge("2001:db8::/32", "10.0.0.0/8", protected=(end,), hosts=(*HOSTS, host("::/0", VIA_OTHER)))
    assert found.pins == {end: VIA_OTHER}
    assert judge("2001:db8::/32", protected=(end,)).withheld.keys() == {IPv6Network("2001:db8::/32")}


def test_whatever_is_learnt_no_protected_address_is_led_into_a_tunnel() -> None:
    """The kernel's longest match, done by hand, over random tables."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    def network(shortest: int) -> IPv4Network:
        return IPv4Network(
            (0x0A000000 | chance.randrange(1 << 10) << 14, chance.randrange(shortest, 25)), strict=False
        )

    guard = Guard()
    for _ in range(300):
        hosts = tuple(
            host(
                network(8),
                metric=chance.choice([0, 100]),
                protocol=chance.choice([2, 4]),
                dead=chance.random() < 0.1,
            )
            for _ in range(chance.randrange(6))
        ) + ((host(DEFAULT),) if chance.random() < 0.7 else ())
        protected = tuple(
            network(24) if chance.random() < 0.5 else IPv4Network(network(8)[1]) for _ in range(4)
        )
        learnt = {network(6) for _ in range(20)}
        found = guard.judge(RouteSet.of(dict.fromkeys(learnt, TUNNEL)), protected, hosts)
        ours = set(found.allowed.routes)
        alive = {route.prefix for route in hosts if not route.is_dead} | set(found.pins)
        for address in (each[chance.randrange(each.num_addresses)] for each in protected):
            assert not led_into_a_tunnel(address, ours, alive), f"{address}, seed {seed}"
        assert ours | found.withheld.keys() == learnt


def led_into_a_tunnel(address: IPv4Address, learnt: set[IPNetwork], others: set[IPNetwork]) -> bool:
    def longest(routes: set[IPNetwork]) -> int:
        return max((each.prefixlen for each in routes if address in each), default=-1)

    return longest(learnt) > -1 and longest(learnt) >= longest(others)


def test_the_host_has_a_way_where_one_route_covers_or_two_halve_it() -> None:
    assert has_own_route(DEFAULT, HOSTS)
    assert not has_own_route(DEFAULT, HOSTS[1:])
    assert has_own_route(IPv4Network("10.100.1.0/25"), HOSTS[1:])
    assert has_own_route(DEFAULT, (host("0.0.0.0/1"), host("128.0.0.0/1")))
    assert not has_own_route(DEFAULT, (host(DEFAULT, kind=BLACKHOLE),))
