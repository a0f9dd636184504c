"""From view and policy to the plan: who is sent new flows, and by which path."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, STANDARD_5, WEB_CACHE, group, view
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.policy import Policy, ServicePolicy
from wccpd.plan.redirect import (
    HashAssignment,
    HashFields,
    MaskAssignment,
    MaskFields,
    PacketMatch,
    Path,
    RedirectPlan,
)
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.protocol.view import CacheState, GroupView, OwnedSet, OwnedValue, RouterView
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod, ServiceFlags
from wccpd.wire.masks import Mask

POLICY = Policy(router_id=ROUTER_ID, services=(ServicePolicy(WEB_CACHE.key), ServicePolicy(HTTPS.key)))
THIRD = IPv4Address("10.100.1.23")
GRE = ForwardingMethod.GRE


def plan(wanted: RouterView, policy: Policy = POLICY, **more: object) -> RedirectPlan:
    return redirect_plan(wanted, policy, allocate_slots(Slots(), wanted_paths(wanted)), **more)


def shares(made: RedirectPlan, service: int = 0) -> Counter[IPv4Address | None]:
    assignment = made.services[service].assignment
    assert isinstance(assignment, HashAssignment)
    return Counter(assignment.owners)


def moved(before: RedirectPlan, after: RedirectPlan) -> set[IPv4Address | None]:
    """Whose buckets have another owner now."""
    first, second = before.services[0].assignment, after.services[0].assignment
    assert isinstance(first, HashAssignment)
    assert isinstance(second, HashAssignment)
    return {old for old, new in zip(first.owners, second.owners, strict=True) if old != new}


def test_services_are_asked_in_order_of_priority_and_web_cache_counts_as_240() -> None:
    low = view(group(HTTPS, FIRST), group(WEB_CACHE, FIRST))
    assert [service.name for service in plan(low).services] == ["web-cache", "70"]
    high = group(replace(HTTPS, priority=250), FIRST)
    assert [service.name for service in plan(view(group(WEB_CACHE, FIRST), high)).services] == [
        "70",
        "web-cache",
    ]


def test_equal_priorities_are_asked_as_they_are_configured() -> None:
    same = group(replace(HTTPS, priority=240), FIRST)
    swapped = replace(POLICY, services=POLICY.services[::-1])
    wanted = view(group(WEB_CACHE, FIRST), same)
    assert [service.name for service in plan(wanted).services] == ["web-cache", "70"]
    assert [service.name for service in plan(wanted, swapped).services] == ["70", "web-cache"]


def test_undefined_dynamic_and_unknown_standard_services_take_nothing() -> None:
    assert plan(view(group(HTTPS), group(STANDARD_5, FIRST))).services == ()


def test_web_cache_is_there_before_any_cache_has_come() -> None:
    (service,) = plan(view(group(WEB_CACHE))).services
    assert service.match == PacketMatch(6, (80,))
    assert service.paths == {}


DEFINED = ServiceFlags.PORTS_DEFINED


@pytest.mark.parametrize(
    ("protocol", "flags", "ports", "match"),
    [
        (6, DEFINED, (8080, 80, 80), PacketMatch(6, (80, 8080))),
        (6, DEFINED | ServiceFlags.PORTS_SOURCE, (80,), PacketMatch(6, (80,), source_ports=True)),
        (17, ServiceFlags(0), (53,), PacketMatch(17)),
        (0, DEFINED, (80,), PacketMatch(None)),
        (0, ServiceFlags.REDIRECT_ONLY_PROTOCOL_0, (), PacketMatch(0)),
        (47, DEFINED, (80,), PacketMatch(47)),
    ],
)
def test_a_definition_becomes_a_match(
    protocol: int, flags: ServiceFlags, ports: tuple[int, ...], match: PacketMatch
) -> None:
    made = plan(view(group(ServiceInfo.dynamic(70, 1, protocol, flags, ports), FIRST)))
    assert made.services[0].match == match


def test_hash_fields_follow_the_flags_and_default_to_the_destination() -> None:
    flags = (
        ServiceFlags.SOURCE_IP_HASH
        | ServiceFlags.DESTINATION_PORT_HASH
        | ServiceFlags.SOURCE_PORT_ALTERNATE_HASH
    )
    dynamic = plan(view(group(ServiceInfo.dynamic(70, 1, 6, flags, ()), FIRST))).services[0].assignment
    assert isinstance(dynamic, HashAssignment)
    assert dynamic.primary == HashFields(source_address=True, destination_port=True)
    assert dynamic.alternate == HashFields(source_port=True)
    web_cache = plan(view(group(WEB_CACHE, FIRST))).services[0].assignment
    assert isinstance(web_cache, HashAssignment)
    assert web_cache.primary == HashFields(destination_address=True)


def test_a_cache_that_is_not_usable_has_no_path_but_is_known() -> None:
    groups = group(WEB_CACHE, FIRST, SECOND)
    fresh = replace(groups.caches[1], state=CacheState.NEGOTIATING)
    made = plan(view(replace(groups, caches=(groups.caches[0], fresh))))
    assert set(made.services[0].paths) == {FIRST}
    assert made.caches == {FIRST, SECOND}
    assert set(made.returns) == {FIRST}


def test_a_cache_with_two_methods_has_two_paths() -> None:
    by_l2 = group(HTTPS, FIRST)
    cache = replace(by_l2.caches[0], forwarding=ForwardingMethod.L2, packet_return=PacketReturnMethod.L2)
    made = plan(view(group(WEB_CACHE, FIRST), replace(by_l2, caches=(cache,))))
    assert set(made.slots) == {Path(FIRST, GRE), Path(FIRST, ForwardingMethod.L2)}
    assert made.returns[FIRST] == {PacketReturnMethod.GRE, PacketReturnMethod.L2}


def test_a_draining_cache_keeps_its_path_and_gets_no_new_flows() -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND, THIRD))
    before, after = plan(wanted), plan(wanted, drained={SECOND})
    assert shares(after) == {FIRST: 128, THIRD: 128}
    assert moved(before, after) == {SECOND}
    assert SECOND in after.services[0].paths


def test_when_every_cache_is_draining_new_flows_are_in_the_mode() -> None:
    assert shares(plan(view(group(WEB_CACHE, FIRST)), drained={FIRST})) == {None: 256}


def test_a_refused_path_is_planned_again_while_the_others_cover() -> None:
    wanted = view(group(WEB_CACHE, FIRST, SECOND))
    made = plan(wanted, refused={Path(FIRST, GRE)})
    assert shares(made) == {SECOND: 256}
    assert set(made.services[0].paths) == {SECOND}
    assert Path(FIRST, GRE) in made.slots


ZONES = ((IPv4Network("10.100.1.0/24"), "b"), (IPv4Network("10.100.1.21/32"), "a"))


@pytest.mark.parametrize(("quorum", "expected"), [(1, {FIRST: 256}), (2, {FIRST: 86, SECOND: 85, THIRD: 85})])
def test_new_flows_stay_in_the_zone_while_it_has_a_quorum(
    quorum: int, expected: dict[IPv4Address, int]
) -> None:
    service = ServicePolicy(WEB_CACHE.key, prefer_zone=True, zone_quorum=quorum)
    policy = replace(POLICY, services=(service,), zone="a", zones=ZONES)
    assert shares(plan(view(group(WEB_CACHE, FIRST, SECOND, THIRD)), policy)) == expected


def masked(*owners: IPv4Address | None) -> GroupView:
    """A group with one mask of a bit of the destination, and its values in the order 0, 1, 1 again."""
    zero, one = IPv4Address(0), IPv4Address(1)
    values = (
        OwnedValue(zero, zero, 0, 0, owners[0]),
        OwnedValue(zero, one, 0, 0, owners[1]),
        OwnedValue(zero, one, 0, 0, owners[2]),
    )
    made = group(WEB_CACHE, FIRST, SECOND)
    return replace(made, mask_sets=(OwnedSet(Mask(zero, one, 0, 0), values),), values=3)


def test_of_equal_values_of_a_mask_the_first_counts_even_if_it_is_nobodys() -> None:
    made = plan(view(masked(FIRST, None, SECOND))).services[0].assignment
    assert isinstance(made, MaskAssignment)
    assert dict(made.sets[0].owners) == {MaskFields(0, 0, 0, 0): FIRST, MaskFields(0, 1, 0, 0): None}


def test_values_of_a_draining_cache_are_covered_too() -> None:
    made = plan(view(masked(FIRST, SECOND, SECOND)), drained={FIRST}).services[0].assignment
    assert isinstance(made, MaskAssignment)
    assert set(made.sets[0].owners.values()) == {SECOND}
