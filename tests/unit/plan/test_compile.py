"""From a view to the desired kernel state."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from gre.tunnel import REDIRECT_KEY
from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, STANDARD_5, WEB_CACHE, group, view
from wccpd.plan.compile import Policy, allocate_slots, compile_state, usable_caches
from wccpd.plan.marks import MarkLayout
from wccpd.plan.model import MarkRule, NftChain, NftTable, TableRoute
from wccpd.protocol.view import CacheState, RouterView
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ServiceFlags

POLICY = Policy(router_id=ROUTER_ID, services=(WEB_CACHE.key, HTTPS.key), ingress=("wccp-tgw-a",))


def table(wanted: RouterView, policy: Policy = POLICY) -> NftTable:
    slots = allocate_slots({}, usable_caches(wanted))
    nft = compile_state(wanted, policy, slots).nft
    assert nft is not None
    return nft


def chain(nft: NftTable, name: str) -> NftChain:
    return next(each for each in nft.chains if each.name == name)


def elements(nft: NftTable, name: str) -> dict[str, str]:
    return dict(next(each for each in nft.maps if each.name == name).elements)


def conditions(nft: NftTable) -> list[str]:
    return [rule.text for rule in chain(nft, "prerouting").rules if "goto" in rule.text]


def test_each_usable_cache_has_a_device_a_rule_and_a_table() -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND), group(HTTPS, FIRST))
    desired = compile_state(wanted, POLICY, {FIRST: 1, SECOND: 2})
    assert [(device.name, device.local, device.remote) for device in desired.devices] == [
        ("wccp-0a640115", ROUTER_ID, FIRST),
        ("wccp-0a640116", ROUTER_ID, SECOND),
    ]
    assert {device.output_key for device in desired.devices} == {REDIRECT_KEY}
    assert desired.rules[0] == MarkRule(priority=18801, mark=1, mask=0xFF, table=18801)
    assert desired.routes[1] == TableRoute(18802, "wccp-0a640116", 118)


def test_a_cache_that_is_not_usable_gets_nothing_but_is_never_redirected_itself() -> None:
    groups = group(WEB_CACHE, FIRST, SECOND)
    fresh = replace(groups.caches[1], state=CacheState.NEGOTIATING)
    wanted = view(replace(groups, caches=(groups.caches[0], fresh)))
    assert usable_caches(wanted) == {FIRST}
    nft = table(view(replace(group(WEB_CACHE, FIRST), caches=(groups.caches[0], fresh))))
    assert next(each for each in nft.sets if each.name == "caches").elements == {str(FIRST), str(SECOND)}


def test_the_mark_carries_bucket_service_and_cache() -> None:
    nft = table(view(group(WEB_CACHE, FIRST), group(HTTPS, FIRST, SECOND)))
    buckets = elements(nft, "buckets-70")
    assert (int(buckets["0"]), int(buckets["1"])) == (0x000201, 0x010202)
    assert elements(nft, "redirected")[str(0x0202)] == f"redirected-70-{SECOND}"


def test_the_redirect_header_names_service_kind_and_bucket() -> None:
    headers = elements(table(view(group(WEB_CACHE, FIRST), group(HTTPS, FIRST))), "headers")
    assert int(headers[str(0x2A0100)]) == 0x0000002A
    assert int(headers[str(0x2A0200)]) == 0x0146002A


def test_the_mark_layout_may_be_shifted_and_leaves_all_other_bits() -> None:
    layout = MarkLayout(8)
    assert (layout.mask, layout.foreign_mask) == (0xFFFFFF00, 0x000000FF)
    assert layout.mark(cache_slot=9, service_slot=3, bucket=255) == 0xFF030900
    nft = table(view(group(WEB_CACHE, FIRST)), replace(POLICY, marks=layout))
    assert int(elements(nft, "buckets-web-cache")["255"]) == 0xFF010100


def test_services_are_asked_in_order_of_priority_and_web_cache_counts_as_240() -> None:
    low = view(group(HTTPS, FIRST), group(WEB_CACHE, FIRST))
    assert [text.split("goto ")[1] for text in conditions(table(low))] == ["service-web-cache", "service-70"]
    high = group(replace(HTTPS, priority=250), FIRST)
    assert [text.split("goto ")[1] for text in conditions(table(view(group(WEB_CACHE, FIRST), high)))] == [
        "service-70",
        "service-web-cache",
    ]


def dynamic(protocol: int, flags: ServiceFlags, *ports: int) -> ServiceInfo:
    return ServiceInfo.dynamic(70, 1, protocol, flags, ports)


DEFINED = ServiceFlags.PORTS_DEFINED
EVERY_KEY = ServiceFlags(0xF)


@pytest.mark.parametrize(
    ("info", "condition", "hash_key"),
    [
        (
            dynamic(6, DEFINED | ServiceFlags.SOURCE_IP_HASH, 8080, 80),
            "ip protocol 6 th dport { 80, 8080 }",
            "ip saddr",
        ),
        (
            dynamic(6, DEFINED | ServiceFlags.PORTS_SOURCE | ServiceFlags.DESTINATION_IP_HASH, 80),
            "ip protocol 6 th sport { 80 }",
            "ip daddr",
        ),
        (dynamic(17, ServiceFlags.SOURCE_PORT_HASH, 53), "ip protocol 17", "th sport"),
        (dynamic(0, DEFINED | EVERY_KEY, 80), "ip protocol >= 0", "ip saddr . ip daddr"),
        (dynamic(6, EVERY_KEY), "ip protocol 6", "ip saddr . ip daddr . th sport . th dport"),
        (dynamic(47, ServiceFlags(0)), "ip protocol 47", "ip daddr"),
    ],
)
def test_a_definition_becomes_a_condition_and_a_hash_key(
    info: ServiceInfo, condition: str, hash_key: str
) -> None:
    nft = table(view(group(info, FIRST)))
    assert conditions(nft) == [f"{condition} goto service-70"]
    assert f"jhash {hash_key} mod 256" in chain(nft, "service-70").rules[0].text


def test_undefined_dynamic_and_unknown_standard_services_match_nothing() -> None:
    policy = replace(POLICY, services=(HTTPS.key, STANDARD_5.key))
    assert conditions(table(view(group(HTTPS), group(STANDARD_5, FIRST)), policy)) == []


def test_web_cache_counts_what_passes_uninspected_before_any_cache_has_come() -> None:
    nft = table(view(group(WEB_CACHE)))
    assert conditions(nft) == ["ip protocol tcp th dport 80 goto service-web-cache"]
    assert "unassigned-web-cache" in nft.counters


def test_never_redirected_networks_are_merged_as_the_kernel_lists_them() -> None:
    never = tuple(map(IPv4Network, ("10.0.0.0/9", "10.128.0.0/9", "192.0.2.1/32")))
    nft = table(view(group(WEB_CACHE, FIRST)), replace(POLICY, never=never))
    assert next(each for each in nft.sets if each.name == "never").elements == {"10.0.0.0/8", "192.0.2.1"}


def test_slots_stay_when_others_go_and_come() -> None:
    first, second, third = (IPv4Address(f"10.0.0.{host}") for host in (1, 2, 3))
    slots = allocate_slots({}, [second, first])
    assert slots == {first: 1, second: 2}
    assert allocate_slots(slots, [second, third]) == {second: 2, third: 1}


def test_more_caches_than_slots_are_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="255"):
        allocate_slots({}, [IPv4Address(10 * 2**24 + i) for i in range(256)])
