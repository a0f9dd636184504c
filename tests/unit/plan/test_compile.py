"""From a redirect plan to the desired kernel state of the netlink plane."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from gre.tunnel import REDIRECT_KEY
from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.compile import Facts, compile_state, without_paths
from wccpd.plan.marks import MarkLayout
from wccpd.plan.model import DesiredState, MarkRule, NftTable, TableRoute
from wccpd.plan.policy import KernelSettings, Policy, ServicePolicy
from wccpd.plan.redirect import (
    AclLine,
    Action,
    HashAssignment,
    HashFields,
    LostFlows,
    MaskAssignment,
    MaskFields,
    MaskSet,
    Mode,
    PacketMatch,
    Path,
    RedirectPlan,
)
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.protocol.view import RouterView
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

POLICY = Policy(
    router_id=ROUTER_ID,
    services=(ServicePolicy(WEB_CACHE.key), ServicePolicy(HTTPS.key)),
    ingress=("wccp-tgw-a",),
)
SETTINGS = KernelSettings(services=("web-cache", "70"))
BOTH = view(group(WEB_CACHE, FIRST), group(HTTPS, FIRST, SECOND))


def planned(wanted: RouterView = BOTH, policy: Policy = POLICY) -> RedirectPlan:
    return redirect_plan(wanted, policy, allocate_slots(Slots(), wanted_paths(wanted)))


def joined(nft: NftTable, chain: str) -> str:
    return "\n".join(rules(nft, chain))


def with_service(plan: RedirectPlan, **changes: object) -> RedirectPlan:
    """The plan with its first service changed."""
    return replace(plan, services=(replace(plan.services[0], **changes), *plan.services[1:]))


def state(
    plan: RedirectPlan, settings: KernelSettings = SETTINGS, facts: Facts | None = None
) -> DesiredState:
    return compile_state(plan, (), settings, facts or Facts()).state


def table(plan: RedirectPlan, settings: KernelSettings = SETTINGS, facts: Facts | None = None) -> NftTable:
    nft = state(plan, settings, facts).nft
    assert nft is not None
    return nft


def rules(nft: NftTable, chain: str) -> list[str]:
    return [rule.text for each in nft.chains if each.name == chain for rule in each.rules]


def elements(nft: NftTable, name: str) -> dict[str, str]:
    return dict(next(each for each in nft.maps if each.name == name).elements or {})


def members(nft: NftTable, name: str) -> frozenset[str]:
    return next(each for each in nft.sets if each.name == name).elements


def test_each_path_has_a_device_a_rule_and_a_table() -> None:
    desired = state(planned(view(group(WEB_CACHE, FIRST, SECOND))))
    assert [(device.name, device.local, device.remote) for device in desired.devices] == [
        ("wccp-0a640115", ROUTER_ID, FIRST),
        ("wccp-0a640116", ROUTER_ID, SECOND),
    ]
    assert {device.output_key for device in desired.devices} == {REDIRECT_KEY}
    assert desired.rules[0] == MarkRule(priority=18801, mark=1, mask=0xFF, table=18801)
    assert desired.routes[1] == TableRoute(18802, "wccp-0a640116", 118)


def by_l2(wanted: RouterView, packet_return: PacketReturnMethod) -> RouterView:
    l2 = {"forwarding": ForwardingMethod.L2, "packet_return": packet_return}
    return RouterView(
        tuple(
            replace(each, caches=tuple(replace(cache, **l2) for cache in each.caches))
            for each in wanted.groups
        )
    )


def test_an_l2_path_leads_to_the_cache_on_its_segment_and_needs_no_device() -> None:
    plan = planned(by_l2(view(group(WEB_CACHE, FIRST)), PacketReturnMethod.L2))
    desired = state(plan, facts=Facts(links={FIRST: "ens6"}))
    assert desired.devices == ()
    assert desired.routes == (TableRoute(18801, "ens6", 118, FIRST),)


def test_an_l2_path_to_a_cache_on_no_segment_of_ours_has_no_route() -> None:
    assert state(planned(by_l2(view(group(WEB_CACHE, FIRST)), PacketReturnMethod.L2))).routes == ()


def test_a_cache_that_is_sent_l2_and_returns_gre_has_a_device_to_take_it_back() -> None:
    plan = planned(by_l2(view(group(WEB_CACHE, FIRST)), PacketReturnMethod.GRE))
    assert [device.name for device in state(plan, facts=Facts(links={FIRST: "ens6"})).devices] == [
        "wccp-0a640115"
    ]


NEIGHBOUR = Facts(macs={FIRST: ("ens6", "02:00:00:00:00:15")})


def test_frames_of_caches_behind_an_ingress_device_are_known_by_their_mac_once_it_is_known() -> None:
    policy = replace(POLICY, ingress=("wccp-tgw-a", "ens6"))
    plan = planned(by_l2(view(group(WEB_CACHE, FIRST)), PacketReturnMethod.L2), policy)
    assert members(table(plan), "cache-macs") == frozenset()
    known = table(plan, facts=NEIGHBOUR)
    assert members(known, "cache-macs") == {"ens6 . 02:00:00:00:00:15"}
    assert elements(known, "returned") == {"ens6 . 02:00:00:00:00:15": f"returned-{FIRST}"}
    by_gre = table(planned(view(group(WEB_CACHE, FIRST)), policy), facts=NEIGHBOUR)
    assert members(by_gre, "cache-macs") == {"ens6 . 02:00:00:00:00:15"}
    assert elements(by_gre, "returned") == {}


def test_where_no_cache_is_behind_an_ingress_device_no_packet_meets_a_rule_about_macs() -> None:
    plan = planned(by_l2(view(group(WEB_CACHE, FIRST)), PacketReturnMethod.L2))
    assert "ether" not in joined(table(plan, facts=NEIGHBOUR), "exempt")


def test_the_mark_carries_bucket_page_and_slot() -> None:
    nft = table(planned())
    buckets = elements(nft, "buckets-70")
    assert (int(buckets["0"]), int(buckets["1"])) == (0x000201, 0x010202)
    assert elements(nft, "redirected")[str(0x0202)] == f"redirected-70-{SECOND}"


def test_a_service_keeps_its_page_when_another_is_not_defined() -> None:
    alone = table(planned(view(group(HTTPS, FIRST))))
    assert int(elements(alone, "buckets-70")["0"]) == 0x000201


def test_the_redirect_header_names_service_kind_and_bucket() -> None:
    headers = elements(table(planned()), "headers")
    assert int(headers[str(0x2A0100)]) == 0x0000002A
    assert int(headers[str(0x2A0200)]) == 0x0146002A


def test_the_mark_layout_may_be_shifted_and_leaves_all_other_bits() -> None:
    layout = MarkLayout(8)
    assert (layout.mask, layout.foreign_mask) == (0xFFFFFF00, 0x000000FF)
    assert layout.mark(slot=9, page=3, bucket=255) == 0xFF030900
    nft = table(planned(view(group(WEB_CACHE, FIRST))), replace(SETTINGS, marks=layout))
    assert int(elements(nft, "buckets-web-cache")["255"]) == 0xFF010100


def flagged(*buckets: int) -> RedirectPlan:
    plan = planned(view(group(WEB_CACHE, FIRST, SECOND)))
    assignment = plan.services[0].assignment
    assert isinstance(assignment, HashAssignment)
    return with_service(
        plan,
        assignment=replace(
            assignment, alternate=HashFields(source_address=True), alternate_buckets=frozenset(buckets)
        ),
    )


def test_a_bucket_with_the_a_flag_has_a_page_of_its_own_and_shows_both_buckets() -> None:
    nft = table(flagged(7))
    assert "7" not in elements(nft, "buckets-web-cache")
    assert elements(nft, "alternates-web-cache") == {"7": "goto alternate-web-cache-7"}
    assert int(elements(nft, "alternate-web-cache-7")["8"]) == 0x08FF01
    assert int(elements(nft, "headers")[str(0x08FF00)]) == 0x02000807
    assert any("jhash ip saddr mod 256" in rule for rule in rules(nft, "alternate-web-cache-7"))


def test_pages_that_run_out_leave_the_later_buckets_on_their_services_page() -> None:
    nft = table(flagged(*range(256)))
    assert int(elements(nft, "alternate-web-cache-0")["1"]) == 0x01FF02
    assert int(elements(nft, "alternate-web-cache-255")["1"]) == 0x010102


@pytest.mark.parametrize(
    ("match", "fields", "with_ports", "without"),
    [
        (PacketMatch(6, (80,)), HashFields(True, False, True, True), None, "ip saddr . th sport . th dport"),
        (PacketMatch(6), HashFields(True, False, True, True), "ip saddr . th sport . th dport", "ip saddr"),
        (PacketMatch(None), HashFields(False, True, False, True), "ip daddr . th dport", "ip daddr"),
        (PacketMatch(47), HashFields(True, False, True, False), None, "ip saddr"),
    ],
)
def test_a_packet_without_ports_is_hashed_without_them(
    match: PacketMatch, fields: HashFields, with_ports: str | None, without: str
) -> None:
    plan = planned(view(group(WEB_CACHE, FIRST)))
    assignment = replace(plan.services[0].assignment, primary=fields)
    nft = table(with_service(plan, match=match, assignment=assignment))
    assert f"meta mark & 0xff000000 == 0 meta mark set jhash {without} mod" in joined(
        nft, "permitted-web-cache"
    )
    ported = next((chain for chain in nft.chains if chain.name == "permitted-web-cache-ported"), None)
    if with_ports is None:
        assert ported is None
    else:
        assert f"meta mark set jhash {with_ports} mod" in joined(nft, "permitted-web-cache-ported")
        assert "th dport >= 0 goto permitted-web-cache-ported" in joined(nft, "permitted-web-cache")


def test_a_hash_of_nothing_is_bucket_0() -> None:
    plan = planned(view(group(WEB_CACHE, FIRST)))
    nothing = replace(plan.services[0].assignment, primary=HashFields(False, False, True, False))
    nft = table(with_service(plan, match=PacketMatch(1), assignment=nothing))
    assert "meta mark set meta length & 0 map" in joined(nft, "permitted-web-cache")


def test_a_list_that_looks_at_ports_has_one_beside_it_for_packets_without() -> None:
    plan = planned(view(group(WEB_CACHE, FIRST)))
    lines = (
        AclLine(Action.DENY, protocol=6, destination_ports=(8000, 8099)),
        AclLine(Action.PERMIT, protocol=6, destination_ports=(0, 1023)),
        AclLine(Action.PERMIT, protocol=17),
    )
    nft = table(with_service(plan, match=PacketMatch(None), acl=lines))
    _, has_ports, *portless = rules(nft, "service-web-cache")
    assert has_ports == "th dport >= 0 goto listed-web-cache"
    assert "8000" not in "".join(portless)
    assert "8000" in "".join(elements(nft, "acl-web-cache-0-24r"))
    assert not any("th " in each for each in portless)


def masked(match: PacketMatch, *sets: MaskSet) -> NftTable:
    plan = planned(view(group(WEB_CACHE, FIRST, SECOND)))
    return table(with_service(plan, match=match, assignment=MaskAssignment(sets)))


def test_masks_are_asked_in_order_and_a_value_of_nobody_ends_the_search() -> None:
    first = MaskSet(MaskFields(0, 3, 0, 0), {MaskFields(0, 1, 0, 0): FIRST, MaskFields(0, 2, 0, 0): None})
    second = MaskSet(MaskFields(0x100, 0, 0, 1), {MaskFields(0x100, 0, 0, 1): SECOND})
    nft = masked(PacketMatch(6), first, second)
    looked_up = [rule for rule in rules(nft, "permitted-web-cache-ported") if "values" in rule]
    assert looked_up == [
        "ip daddr & 0.0.0.3 vmap @values-web-cache-0-1",
        "(ip saddr & 0.0.1.0) . (th dport & 1) vmap @values-web-cache-1-03",
    ]
    looked_up = [rule for rule in rules(nft, "permitted-web-cache") if "values" in rule]
    assert looked_up == ["ip daddr & 0.0.0.3 vmap @values-web-cache-0-1"]
    assert elements(nft, "values-web-cache-0-1") == {
        "0.0.0.1": f"goto to-web-cache-{FIRST}",
        "0.0.0.2": "goto unassigned-web-cache",
    }
    assert elements(nft, "values-web-cache-1-03") == {"0.0.1.0 . 1": f"goto to-web-cache-{SECOND}"}


def test_a_value_with_bits_outside_its_mask_matches_nothing() -> None:
    nft = masked(PacketMatch(6), MaskSet(MaskFields(0, 1, 0, 0), {MaskFields(0, 3, 0, 0): FIRST}))
    assert not [rule for rule in rules(nft, "permitted-web-cache") if "values" in rule]


def test_a_mask_of_no_bits_takes_every_packet() -> None:
    zero = MaskFields(0, 0, 0, 0)
    nft = masked(PacketMatch(6), MaskSet(zero, {zero: FIRST}))
    assert f"goto to-web-cache-{FIRST}" in rules(nft, "permitted-web-cache")


def test_values_of_ports_are_compared_only_with_packets_that_have_them() -> None:
    mask = MaskFields(0, 1, 0, 1)
    values = {MaskFields(0, 1, 0, 1): FIRST, MaskFields(0, 1, 0, 0): SECOND}
    nft = masked(PacketMatch(None), MaskSet(mask, values))
    assert elements(nft, "values-web-cache-0-1") == {"0.0.0.1": f"goto to-web-cache-{SECOND}"}
    assert len(elements(nft, "values-web-cache-0-13")) == 2


@pytest.mark.parametrize(
    ("mode", "verdicts"),
    [
        (Mode.OPEN, ["accept"]),
        (Mode.CLOSED, ["drop"]),
        (Mode.REJECT, ["reject with tcp reset", "reject with icmp type admin-prohibited"]),
    ],
)
def test_the_mode_decides_about_what_nobody_owns_and_about_everything_without_a_lease(
    mode: Mode, verdicts: list[str]
) -> None:
    nft = table(with_service(planned(view(group(WEB_CACHE, FIRST))), mode=mode))
    for chain in ("unassigned-web-cache", "lapsed-web-cache"):
        found = [rule for rule in rules(nft, chain) if "counter name" in rule]
        assert [rule.endswith(verdict) for rule, verdict in zip(found, verdicts, strict=True)] == [
            True
        ] * len(found)


def test_a_service_that_falls_through_is_jumped_to_and_returns() -> None:
    nft = table(with_service(planned(view(group(WEB_CACHE, FIRST))), fallthrough=True))
    assert elements(nft, "dispatch-0-destination") == {"6 . 80": "jump service-web-cache"}
    assert rules(nft, "unassigned-web-cache")[-1].endswith("return")


def test_services_that_exclude_each_other_are_found_by_one_look_up() -> None:
    nft = table(planned())
    assert elements(nft, "dispatch-0-destination") == {
        "6 . 80": "goto service-web-cache",
        "6 . 443": "goto service-70",
        "6 . 8443": "goto service-70",
    }
    assert [rule for rule in rules(nft, "classify") if "dispatch" in rule] == [
        "meta l4proto . th dport vmap @dispatch-0-destination"
    ]


def test_a_service_of_every_protocol_comes_behind_those_of_higher_priority() -> None:
    plan = planned()
    every = replace(plan.services[1], match=PacketMatch(None))
    nft = table(replace(plan, services=(plan.services[0], every)))
    assert [rule for rule in rules(nft, "classify") if "service" in rule or "dispatch" in rule] == [
        "meta l4proto . th dport vmap @dispatch-0-destination",
        "goto service-70",
    ]


def test_flows_pinned_by_another_service_turn_to_the_same_cache_of_this_one() -> None:
    nft = table(planned())
    pinned = elements(nft, "pinned-70")
    assert pinned[str(0x0201)] == "goto keep"
    assert pinned[str(0x0100)] == "goto established-70"
    assert str(0x0101) not in pinned
    assert elements(nft, "turns-70") == {"1": f"goto turn-70-{FIRST}", "2": f"goto turn-70-{SECOND}"}
    assert str(0x0101) in members(nft, "live")


def test_what_is_kept_about_pins_grows_with_services_and_caches_not_with_their_product() -> None:
    caches = tuple(IPv4Address(int(FIRST) + number) for number in range(32))
    infos = [replace(HTTPS, service_id=number, ports=(1000 + number,)) for number in range(20, 52)]
    wanted = view(*(group(info, *caches) for info in infos))
    names = tuple(str(info.service_id) for info in infos)
    nft = table(planned(wanted), KernelSettings(services=names))
    assert all(len(elements(nft, f"{kind}-{name}")) <= 64 for kind in ("pinned", "turns") for name in names)


def test_a_closed_service_honours_no_flow_that_began_uninspected() -> None:
    pinned = elements(table(with_service(planned(), mode=Mode.CLOSED)), "pinned-web-cache")
    assert not any("established" in target for target in pinned.values())


def test_without_affinity_nothing_tracks_connections() -> None:
    plan = planned()
    nft = table(replace(plan, services=tuple(replace(each, affinity=False) for each in plan.services)))
    assert not [rule.text for chain in nft.chains for rule in chain.rules if "ct " in rule.text]
    assert rules(nft, "reassemble") == ["meta l4proto tcp tproxy to :1"]
    assert "reassemble" not in {chain.name for chain in table(plan).chains}


def test_where_there_is_no_tproxy_connections_are_tracked_so_that_fragments_are_reassembled() -> None:
    plan = with_service(planned(view(group(WEB_CACHE, FIRST))), affinity=False)
    assert rules(table(plan, facts=Facts(has_tproxy=False)), "reassemble") == ["ct state new"]


def test_flows_of_a_lost_cache_are_reset_where_that_is_wanted() -> None:
    nft = table(with_service(planned(), lost_flows=LostFlows.RESET))
    found = rules(nft, "permitted-web-cache")
    place = next(index for index, rule in enumerate(found) if "reject with tcp reset" in rule)
    pins = [index for index, rule in enumerate(found) if "@pinned-web-cache" in rule or "@live" in rule]
    assert max(pins) < place < min(index for index, rule in enumerate(found) if "jhash" in rule)


def test_segments_are_clamped_to_the_device_of_the_cache_both_ways() -> None:
    nft = table(planned(view(group(WEB_CACHE, FIRST))), facts=Facts(mtu_bytes={"wccp-0a640115": 1472}))
    assert elements(nft, "mss") == {"1": "1432"}
    assert [rule.split(" tcp option")[1] for rule in rules(nft, "forward")] == [
        " maxseg size set rt mtu",
        " maxseg size set ct mark & 0xff map @mss",
    ]


def test_gre_that_a_spoke_forges_is_dropped_where_gre_is_taken_back_at_all() -> None:
    forgery = "ip protocol gre ip saddr @caches fib saddr . iif oif missing counter drop"
    plan = planned(view(group(WEB_CACHE, FIRST)))
    assert rules(table(plan), "classify")[0] == forgery
    by_l2 = Path(FIRST, ForwardingMethod.L2)
    l2 = with_service(
        replace(plan, slots={by_l2: 1}, returns={FIRST: frozenset({PacketReturnMethod.L2})}),
        paths={FIRST: by_l2},
    )
    assert forgery not in rules(table(l2), "classify")
    either = replace(l2, returns={FIRST: frozenset({PacketReturnMethod.GRE})})
    assert rules(table(either), "classify")[0] == forgery


def test_never_redirected_networks_are_merged_as_the_kernel_lists_them() -> None:
    never = tuple(map(IPv4Network, ("10.0.0.0/9", "10.128.0.0/9", "192.0.2.1/32")))
    nft = table(planned(view(group(WEB_CACHE, FIRST)), replace(POLICY, never=never)))
    assert members(nft, "never") == {"10.0.0.0/8", "192.0.2.1"}


def test_a_path_that_is_missing_leaves_its_buckets_to_the_mode() -> None:
    plan = planned(view(group(WEB_CACHE, FIRST, SECOND)))
    missing = next(path for path in plan.slots if path.cache == FIRST)
    nft = table(without_paths(plan, {missing}))
    assert len(elements(nft, "buckets-web-cache")) == 128
    assert not any("10.100.1.21" in name for name in nft.counters)


def test_every_chain_comes_behind_those_that_its_rules_go_to() -> None:
    for plan in (planned(), flagged(3, 5)):
        seen: set[str] = set()
        for chain in table(plan).chains:
            for rule in chain.rules:
                goes_to = {word for word, before in zip(rule.text.split()[1:], rule.text.split(), strict=False)
                           if before in {"goto", "jump"}}  # fmt: skip
                assert goes_to <= seen, (chain.name, rule.text)
            seen.add(chain.name)


def test_comments_fit_into_the_kernels_user_data() -> None:
    for chain in table(planned()).chains:
        assert all(len(rule.comment) <= 128 for rule in chain.rules)
