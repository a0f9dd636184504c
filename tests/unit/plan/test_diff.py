"""The difference between what is there and what should be: order, and nothing too much."""

from __future__ import annotations

from tests.support.views import FIRST, HTTPS, ROUTER_ID, SECOND, WEB_CACHE, group, view
from wccpd.dataplane.fake import FakeDataPlane
from wccpd.plan.compile import Policy, allocate_slots, compile_state, usable_caches
from wccpd.plan.diff import Observed, ObservedTable, Operations, diff
from wccpd.plan.model import LAYOUT, DesiredState
from wccpd.protocol.view import RouterView

POLICY = Policy(router_id=ROUTER_ID, services=(WEB_CACHE.key, HTTPS.key), ingress=("wccp-tgw-a",))


def desired(wanted: RouterView) -> DesiredState:
    return compile_state(wanted, POLICY, allocate_slots({}, usable_caches(wanted)))


def carried_out(state: DesiredState) -> FakeDataPlane:
    plane = FakeDataPlane()
    plane.apply(diff(state, plane.observe()))
    assert state.nft is not None
    plane.show_table(state.nft)
    return plane


def test_what_has_been_applied_needs_nothing_more() -> None:
    state = desired(view(group(WEB_CACHE, FIRST, SECOND), group(HTTPS, FIRST)))
    assert not diff(state, carried_out(state).observe())


def test_an_empty_kernel_gets_declarations_before_what_refers_to_them() -> None:
    text = diff(desired(view(group(WEB_CACHE, FIRST))), Observed()).nft
    order = [
        "add table ip wccpd\n",
        f"add counter ip wccpd redirected-web-cache-{FIRST}\n",
        "add map ip wccpd redirected ",
        f"add chain ip wccpd mark-web-cache-{FIRST}\n",
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
    assert diff(after, carried_out(before).observe()) == Operations(
        nft=(
            "delete element ip wccpd buckets-web-cache { 1 }\n"
            "add element ip wccpd buckets-web-cache { 1 : 65793 }\n"
            "delete element ip wccpd owners-web-cache { 1 }\n"
            f"add element ip wccpd owners-web-cache {{ 1 : jump mark-web-cache-{FIRST} }}\n"
        )
    )


def test_a_cache_that_leaves_takes_its_path_with_it_after_the_classification() -> None:
    before = desired(view(group(WEB_CACHE, FIRST, SECOND)))
    after = desired(view(group(WEB_CACHE, FIRST)))
    operations = diff(after, carried_out(before).observe())
    assert (operations.ensure_devices, operations.add_rules, operations.add_routes) == ((), (), ())
    assert [device.remote for device in operations.remove_devices] == [SECOND]
    assert [rule.table for rule in operations.remove_rules] == [18802]
    assert f"delete counter ip wccpd redirected-web-cache-{SECOND}\n" in operations.nft


def test_the_routes_of_a_device_that_is_down_are_put_back_with_it() -> None:
    state = desired(view(group(WEB_CACHE, FIRST)))
    plane = carried_out(state)
    (device,) = plane.state.devices.values()
    down = type(device)(**{**{name: getattr(device, name) for name in device.__slots__}, "up": False})
    observed = Observed({down.name: down}, plane.state.rules, plane.state.routes, plane.state.nft)
    operations = diff(state, observed)
    assert [each.name for each in operations.ensure_devices] == [down.name]
    assert operations.add_routes == state.routes


def test_a_table_of_another_layout_is_replaced_whole() -> None:
    old = ObservedTable(chains={"layout-0": (), "prerouting": ("x",)})
    text = diff(desired(view(group(WEB_CACHE, FIRST))), Observed(nft=old)).nft
    assert text.startswith("delete table ip wccpd\nadd table ip wccpd\n")
    assert f"add chain ip wccpd {LAYOUT}\n" in text


def test_nothing_desired_removes_everything_observed() -> None:
    state = desired(view(group(WEB_CACHE, FIRST)))
    plane = carried_out(state)
    operations = diff(DesiredState(), plane.observe())
    assert operations.nft == "delete table ip wccpd\n"
    assert (
        len(operations.remove_devices) == len(operations.remove_rules) == len(operations.remove_routes) == 1
    )


def test_a_table_that_is_not_ours_is_never_deleted() -> None:
    assert not diff(DesiredState(), Observed(nft=ObservedTable(chains={"theirs": ()})))
