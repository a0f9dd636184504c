"""Which changes the planner finds, without a kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from bgp.events import IPNetwork, NextHop, RouteSet
from wccpd.dataplane.route_plan import Observed, Plan, Settings, plan_changes
from wccpd.dataplane.rtnetlink import Hop, HopGroup, Link

SETTINGS = Settings(protocol=118, hop_id_base=1000)
TUN_A, TUN_B = NextHop("tun-a"), NextHop("tun-b")
LINKS = {
    "tun-a": Link(11, "tun-a", is_up=True, has_carrier=True),
    "tun-b": Link(12, "tun-b", is_up=True, has_carrier=True),
    "tun-c": Link(13, "tun-c", is_up=True, has_carrier=False),
    "tun-d": Link(14, "tun-d", is_up=False, has_carrier=False),
}
HOP_A, HOP_B = Hop(1000, 118, 4, 11, None), Hop(1001, 118, 4, 12, None)
PREFIXES = [IPv4Network(f"10.{number}.0.0/16") for number in range(10)]


def wanted(*hops: NextHop, prefixes: list[IPNetwork] | None = None) -> RouteSet:
    return RouteSet.of({prefix: frozenset(hops) for prefix in prefixes or PREFIXES})


def by_group(routes: dict[IPNetwork, int]) -> dict[int, frozenset[IPNetwork]]:
    return {group: frozenset(each for each in routes if routes[each] == group) for group in routes.values()}


def observed(groups: dict[int, set[int]], routes: dict[IPNetwork, int]) -> Observed:
    return Observed(
        LINKS,
        {HOP_A.id: HOP_A, HOP_B.id: HOP_B},
        {each: HopGroup(each, 118, frozenset(members)) for each, members in groups.items()},
        by_group(routes),
    )


def plan(target: RouteSet, there: Observed) -> Plan:
    return plan_changes(target, there, SETTINGS)


def words(found: Plan) -> list[str]:
    requests = [request for _, request in found.hops] + [change.request for change in found.changes]
    return [f"{request.verb} {request.obj}" for request in requests]


def test_nothing_is_written_where_nothing_differs() -> None:
    there = observed({1002: {1000, 1001}}, dict.fromkeys(PREFIXES, 1002))
    assert words(plan(wanted(TUN_A, TUN_B), there)) == []


def test_an_empty_kernel_gets_hops_then_the_group_then_the_routes() -> None:
    there = Observed(LINKS, {}, {}, {}, taken_ids=frozenset({1000}))
    assert words(plan(wanted(TUN_A, TUN_B, prefixes=PREFIXES[:2]), there)) == [
        "add next hop 1001 by tun-a",
        "add next hop 1002 by tun-b",
        "add next hop group 1003",
        "add route 10.0.0.0/16",
        "add route 10.1.0.0/16",
    ]


def test_a_lost_tunnel_is_one_change_of_the_group() -> None:
    there = observed({1002: {1000, 1001}}, dict.fromkeys(PREFIXES, 1002))
    assert words(plan(wanted(TUN_B), there)) == ["replace next hop group 1002", "delete next hop 1000"]


def test_the_few_move_to_the_group_of_the_many() -> None:
    """Nine routes used both tunnels, one only the second: the nine stay, their group changes."""
    there = observed(
        {1002: {1000, 1001}, 1003: {1001}}, dict.fromkeys(PREFIXES[1:], 1002) | {PREFIXES[0]: 1003}
    )
    assert words(plan(wanted(TUN_B), there)) == [
        "replace next hop group 1002",
        "replace route 10.0.0.0/16",
        "delete next hop 1003",
        "delete next hop 1000",
    ]


def test_routes_that_want_another_set_leave_before_their_group_changes() -> None:
    there = observed({1002: {1000, 1001}}, dict.fromkeys(PREFIXES, 1002))
    target = RouteSet.of({**wanted(TUN_B).routes, PREFIXES[0]: frozenset({TUN_A})})
    assert words(plan(target, there)) == [
        "add next hop group 1003",
        "replace route 10.0.0.0/16",
        "replace next hop group 1002",
    ]


def test_what_is_no_longer_wanted_goes() -> None:
    there = observed({1002: {1000}}, dict.fromkeys(PREFIXES[:2], 1002))
    assert words(plan(wanted(TUN_A, prefixes=PREFIXES[:1]), there)) == [
        "delete route 10.1.0.0/16",
        "delete next hop 1001",
    ]
    assert words(plan(RouteSet(), there)) == [
        "delete route 10.0.0.0/16",
        "delete route 10.1.0.0/16",
        "delete next hop 1002",
        "delete next hop 1000",
        "delete next hop 1001",
    ]


def test_routes_do_without_a_tunnel_that_cannot_be_used_and_the_reason_is_told() -> None:
    there = observed({1002: {1000}}, dict.fromkeys(PREFIXES, 1002))
    found = plan(wanted(TUN_A, NextHop("tun-c"), NextHop("tun-d"), NextHop("tun-e")), there)
    assert words(found) == ["delete next hop 1001"]
    assert found.unusable == {
        "tun-c": "device has no carrier",
        "tun-d": "device is down",
        "tun-e": "no such device",
    }


def test_a_next_hop_that_the_kernel_refused_is_done_without() -> None:
    there = observed({1002: {1000}}, dict.fromkeys(PREFIXES, 1002))
    found = plan_changes(wanted(TUN_A, TUN_B), there, SETTINGS, {TUN_B: "no"})
    assert words(found) == ["delete next hop 1001"]
    assert found.unusable == {"tun-b": "no"}


def test_a_route_of_ours_with_another_metric_is_replaced_add_before_delete() -> None:
    there = replace(observed({1002: {1000}}, {}), misplaced=frozenset({(PREFIXES[0], 0)}))
    found = plan_changes(
        wanted(TUN_A, prefixes=PREFIXES[:1]), there, Settings(118, metric=50, hop_id_base=1000)
    )
    assert words(found)[:2] == ["add route 10.0.0.0/16", "delete route 10.0.0.0/16"]


def test_ip_versions_have_next_hops_and_groups_of_their_own() -> None:
    six = IPv6Network("2001:db8::/32")
    found = plan(wanted(TUN_A, prefixes=[PREFIXES[0], six]), observed({}, {}))
    assert words(found) == [
        "add next hop 1002 by tun-a",
        "add next hop group 1003",
        "add next hop group 1004",
        "add route 10.0.0.0/16",
        f"add route {six}",
        "delete next hop 1001",
    ]


def test_what_is_observed_reads_back_as_a_route_set() -> None:
    gateway = IPv4Address("169.254.6.2")
    via = Hop(1001, 118, 4, 12, gateway)
    there = Observed(
        LINKS,
        {1000: HOP_A, 1001: via},
        {1002: HopGroup(1002, 118, frozenset({1000, 1001})), 1003: HopGroup(1003, 118, frozenset())},
        {1002: frozenset({PREFIXES[0]}), 1003: frozenset({PREFIXES[2]})},
    )
    assert there.route_set().routes == {PREFIXES[0]: {TUN_A, NextHop("tun-b", gateway)}}
