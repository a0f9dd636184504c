"""The difference between what is there and what should be: order, and nothing too much."""

from __future__ import annotations

from dataclasses import replace

from gre.tunnel import GreDevice, ObservedGre
from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.compile import Facts, compile_state
from wccpd.plan.diff import Observed, ObservedTable, Operations, diff
from wccpd.plan.model import LAYOUT, DesiredState, NftTable
from wccpd.plan.policy import KernelSettings, Policy, ServicePolicy
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.plan.verdict import Count
from wccpd.protocol.view import RouterView

POLICY = Policy(
    router_id=ROUTER_ID,
    services=(ServicePolicy(WEB_CACHE.key), ServicePolicy(HTTPS.key)),
    ingress=("wccp-tgw-a",),
)
SETTINGS = KernelSettings(services=("web-cache", "70"))


def desired(wanted: RouterView) -> DesiredState:
    plan = redirect_plan(wanted, POLICY, allocate_slots(Slots(), wanted_paths(wanted)))
    return compile_state(plan, (), SETTINGS, Facts()).state


def device(wanted: GreDevice) -> ObservedGre:
    """A device as a well-behaved kernel would have made it."""
    return ObservedGre(
        wanted.name, 2, wanted.local, wanted.remote, wanted.ttl, wanted.output_key,
        wanted.mtu_bytes or 1472, True, wanted.addresses, wanted.sysctls, 0, 0, 0, 0,
    )  # fmt: skip


def listed(table: NftTable) -> ObservedTable:
    """A table as the kernel lists it when everything was applied."""
    return ObservedTable(
        table.name,
        dict.fromkeys(table.counters, Count()),
        {each.name: each.elements for each in table.sets},
        {each.name: dict(each.elements or {}) for each in table.maps},
        {},
        {chain.name: tuple(rule.comment for rule in chain.rules) for chain in table.chains},
    )


def carried_out(state: DesiredState) -> Observed:
    assert state.nft is not None
    devices = {wanted.name: device(wanted) for wanted in state.devices}
    return Observed(devices, frozenset(state.rules), frozenset(state.routes), listed(state.nft))


def test_what_has_been_applied_needs_nothing_more() -> None:
    state = desired(view(group(WEB_CACHE, FIRST, SECOND), group(HTTPS, FIRST)))
    assert not diff(state, carried_out(state))


def test_an_empty_kernel_gets_declarations_before_what_refers_to_them() -> None:
    text = diff(desired(view(group(WEB_CACHE, FIRST))), Observed()).nft
    order = [
        "add table ip wccpd\n",
        f"add counter ip wccpd redirected-web-cache-{FIRST}\n",
        "add map ip wccpd redirected ",
        f"add chain ip wccpd to-web-cache-{FIRST}\n",
        "add chain ip wccpd prerouting ",
        "add element ip wccpd owners-web-cache ",
        "add rule ip wccpd prerouting ",
    ]
    positions = [text.index(piece) for piece in order]
    assert positions == sorted(positions)


def test_a_bucket_that_moves_touches_only_its_own_elements() -> None:
    before = desired(view(group(WEB_CACHE, FIRST, SECOND)))
    owners = list(group(WEB_CACHE, FIRST, SECOND).bucket_owners)
    owners[1] = FIRST
    after = desired(view(group(WEB_CACHE, FIRST, SECOND, owners=tuple(owners))))
    assert diff(after, carried_out(before)) == Operations(
        nft=(
            "delete element ip wccpd buckets-web-cache { 1 }\n"
            "add element ip wccpd buckets-web-cache { 1 : 65793 }\n"
            "delete element ip wccpd owners-web-cache { 1 }\n"
            f"add element ip wccpd owners-web-cache {{ 1 : goto to-web-cache-{FIRST} }}\n"
        )
    )


def test_a_cache_that_leaves_takes_its_path_with_it_after_the_classification() -> None:
    before = desired(view(group(WEB_CACHE, FIRST, SECOND)))
    after = desired(view(group(WEB_CACHE, FIRST)))
    operations = diff(after, carried_out(before))
    assert (operations.ensure_devices, operations.add_rules, operations.add_routes) == ((), (), ())
    assert [device.remote for device in operations.remove_devices] == [SECOND]
    assert [rule.table for rule in operations.remove_rules] == [18802]
    assert f"delete counter ip wccpd redirected-web-cache-{SECOND}\n" in operations.nft


def test_the_routes_of_a_device_that_is_down_are_put_back_with_it() -> None:
    state = desired(view(group(WEB_CACHE, FIRST)))
    observed = carried_out(state)
    (present,) = observed.devices.values()
    down = replace(present, up=False)
    operations = diff(state, replace(observed, devices={down.name: down}))
    assert [each.name for each in operations.ensure_devices] == [down.name]
    assert operations.add_routes == state.routes


def test_the_lease_is_never_compared() -> None:
    state = desired(view(group(WEB_CACHE, FIRST)))
    observed = carried_out(state)
    assert observed.nft is not None
    leased = replace(observed.nft, maps={**observed.nft.maps, "lease": {"wccp-tgw-a": "goto fresh"}})
    assert not diff(state, replace(observed, nft=leased))


def test_a_table_of_another_layout_is_replaced_whole() -> None:
    old = ObservedTable(chains={"layout-0": (), "prerouting": ("x",)})
    text = diff(desired(view(group(WEB_CACHE, FIRST))), Observed(nft=old)).nft
    assert text.startswith("delete table ip wccpd\nadd table ip wccpd\n")
    assert f"add chain ip wccpd {LAYOUT}\n" in text


def test_nothing_desired_removes_everything_observed() -> None:
    operations = diff(DesiredState(), carried_out(desired(view(group(WEB_CACHE, FIRST)))))
    assert operations.nft == "delete table ip wccpd\n"
    assert (
        len(operations.remove_devices) == len(operations.remove_rules) == len(operations.remove_routes) == 1
    )


def test_a_table_that_is_not_ours_is_never_deleted() -> None:
    assert not diff(DesiredState(), Observed(nft=ObservedTable(chains={"theirs": ()})))


def test_what_is_to_be_done_is_said_in_words() -> None:
    operations = diff(desired(view(group(WEB_CACHE, FIRST))), Observed())
    words = operations.words()
    assert words[:3] == (
        "make device wccp-0a640115",
        "add route of table 18801 to wccp-0a640115",
        "add rule 18801",
    )
    assert "add table ip wccpd" in words
