"""Mask assignment: the sets of caches and of the router, and what I_SEE_YOU shows of them."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.support.scripted_cache import ScriptedCache
from tests.support.stage import FIRST, SECOND, Stage, only, reason
from wccpd.protocol.outputs import AssignmentChanged, Refusal
from wccpd.protocol.record import dump
from wccpd.protocol.resume import restore
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, OnLoss
from wccpd.protocol.tables import MAX_ROUTER_VALUES, USUAL_MASK, MaskTable, narrowed
from wccpd.protocol.view import AssignedBy, CacheState, OwnedSet, OwnedValue
from wccpd.wire.components import Capabilities
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod
from wccpd.wire.identity import MaskAssignment
from wccpd.wire.masks import Mask, MaskValueSet, Value, value_at

ZERO = IPv4Address(0)
ON_DESTINATION = Mask(ZERO, IPv4Address(USUAL_MASK), 0, 0)
GRE_MASK_GRE = Capabilities(
    forwarding=ForwardingMethod.GRE, assignment=AssignmentMethod.MASK, packet_return=PacketReturnMethod.GRE
)


def stage_of_masks(**settings: object) -> Stage:
    return Stage(**{"assignment": AssignmentMethod.HASH | AssignmentMethod.MASK, **settings})


def joined(stage: Stage, *addresses: IPv4Address, **details: object) -> list[ScriptedCache]:
    return stage.joined(*addresses, **{"capabilities": GRE_MASK_GRE, "mask": ON_DESTINATION, **details})


def dealt(mask: Mask, *caches: IPv4Address) -> MaskValueSet:
    """A set with every value of the mask, dealt out in turn."""
    numbers = range(1 << mask.bit_count)
    return MaskValueSet(
        mask, tuple(value_at(mask, number, caches[number % len(caches)]) for number in numbers)
    )


def owners(stage: Stage) -> list[object]:
    return [value.owner for each in stage.group.mask_sets for value in each.values]


def owned(*sets: MaskValueSet) -> tuple[OwnedSet, ...]:
    """Sets as a view shows them while every value belongs to the cache that it was assigned to."""
    return tuple(OwnedSet(each.mask, tuple(OwnedValue(*value) for value in each.values)) for each in sets)


def test_an_unassigned_cache_is_shown_with_its_own_set_and_an_assigned_one_without() -> None:
    stage = stage_of_masks()
    (cache,) = joined(stage, FIRST)
    assert cache.last is not None
    (element,) = cache.last.view.caches
    assert element.is_unassigned
    assert element.assignment == MaskAssignment((MaskValueSet(ON_DESTINATION),), 10000)
    assert cache.last.assignment_map is None

    stage.send(cache, cache.redirect_assign_sets(dealt(ON_DESTINATION, FIRST)))
    stage.hello(cache)
    (element,) = cache.last.view.caches
    assert not element.is_unassigned
    assert element.assignment == MaskAssignment((), 10000)
    assert cache.last.assignment_map is not None
    assert cache.last.assignment_map.sets == (dealt(ON_DESTINATION, FIRST),)


def test_several_sets_are_kept_in_their_order() -> None:
    stage = stage_of_masks()
    first, _ = joined(stage, FIRST, SECOND)
    ports = MaskValueSet(Mask(ZERO, ZERO, 0, 1), (Value(ZERO, ZERO, 0, 1, SECOND),))
    stage.send(first, first.redirect_assign_sets(ports, dealt(ON_DESTINATION, FIRST, SECOND)))
    assert [each.mask for each in stage.group.mask_sets] == [ports.mask, ON_DESTINATION]
    assert stage.group.values == 65


def test_the_alternate_form_of_2_01_means_the_same() -> None:
    stage = stage_of_masks()
    (cache,) = joined(stage, FIRST, minor_version=1)
    stage.send(cache, cache.redirect_assign_sets(dealt(ON_DESTINATION, FIRST), alternate=True))
    assert stage.group.mask_sets == owned(dealt(ON_DESTINATION, FIRST))


def test_the_alternate_form_is_refused_in_2_00() -> None:
    stage = stage_of_masks()
    (cache,) = joined(stage, FIRST)
    outputs = stage.send(cache, cache.redirect_assign_sets(dealt(ON_DESTINATION, FIRST), alternate=True))
    assert reason(outputs) is Refusal.WRONG_ASSIGNMENT_METHOD


def test_an_assignment_of_the_other_method_is_refused() -> None:
    stage = stage_of_masks()
    (cache,) = joined(stage, FIRST)
    assert reason(stage.send(cache, cache.redirect_assign((FIRST,)))) is Refusal.WRONG_ASSIGNMENT_METHOD
    hashes = Stage()
    (cache,) = hashes.joined(FIRST)
    outputs = hashes.send(cache, cache.redirect_assign_sets(dealt(ON_DESTINATION, FIRST)))
    assert reason(outputs) is Refusal.WRONG_ASSIGNMENT_METHOD


def test_more_values_than_a_table_may_have_are_refused() -> None:
    stage = stage_of_masks()
    (cache,) = joined(stage, FIRST, minor_version=1)
    outputs = stage.send(
        cache, cache.redirect_assign_sets(*[dealt(ON_DESTINATION, FIRST)] * 65, alternate=True)
    )
    assert reason(outputs) is Refusal.TOO_MANY_VALUES


def test_values_of_nobody_keep_their_place_so_that_no_later_set_is_asked_for_them() -> None:
    stage = stage_of_masks(on_loss=OnLoss.LEAVE)
    first, _ = joined(stage, FIRST, SECOND)
    ports = Mask(ZERO, ZERO, 0, 1)
    by_port = MaskValueSet(ports, (Value(ZERO, ZERO, 0, 1, SECOND), Value(ZERO, ZERO, 0, 0, FIRST)))
    everything = MaskValueSet(Mask(ZERO, ZERO, 0, 0), (Value(ZERO, ZERO, 0, 0, FIRST),))
    stage.send(first, first.redirect_assign_sets(by_port, everything))
    assert stage.group.mask_sets == owned(by_port, everything)
    stage.live(30, first)
    values = OwnedValue(ZERO, ZERO, 0, 1, None), OwnedValue(ZERO, ZERO, 0, 0, FIRST)
    assert stage.group.mask_sets == (OwnedSet(ports, values), *owned(everything))
    assert stage.group.mask_sets is stage.group.mask_sets, "made once for each table"


def test_a_value_assigned_to_a_stranger_is_shown_as_nobodys() -> None:
    stage = stage_of_masks()
    first, second = joined(stage, FIRST, SECOND)
    stranger = FIRST + 7
    stage.send(first, first.redirect_assign_sets(dealt(ON_DESTINATION, FIRST, stranger, SECOND)))
    assert owners(stage)[:6] == [FIRST, None, SECOND] * 2
    stage.hello(second)
    assert second.last is not None
    assert second.last.assignment_map is not None
    (told,) = second.last.assignment_map.sets
    assert [value.cache for value in told.values[:4]] == [FIRST, SECOND] * 2


def test_values_of_a_lost_cache_are_covered_and_no_other_moves() -> None:
    stage = stage_of_masks()
    first, second = joined(stage, FIRST, SECOND)
    stage.send(first, first.redirect_assign_sets(dealt(ON_DESTINATION, FIRST, SECOND)))
    assert owners(stage).count(FIRST) == 32
    stage.live(30, second)
    assert owners(stage) == [SECOND] * 64


def test_a_squid_that_never_assigns_gets_the_routers_values_for_its_own_mask() -> None:
    stage = stage_of_masks()
    squid = stage.cache(FIRST, capabilities=GRE_MASK_GRE, mask=ON_DESTINATION, reads_standard=False)
    stage.hello(squid)
    outputs = stage.live(60, squid)
    assert only(outputs, AssignmentChanged)[-1].assigned_by is AssignedBy.ROUTER
    assert stage.group.mask_sets == owned(dealt(ON_DESTINATION, FIRST))
    assert stage.group.caches[0].buckets == 64


def test_a_cache_that_comes_or_goes_moves_only_its_share_of_values() -> None:
    stage = stage_of_masks(policy=AssignmentPolicy.ROUTER)
    (first,) = joined(stage, FIRST)
    outputs = [*stage.hello(second := stage.cache(SECOND, capabilities=GRE_MASK_GRE, mask=ON_DESTINATION))]
    outputs += stage.live(10, first, second)
    assert [event.moved_buckets for event in only(tuple(outputs), AssignmentChanged)] == [32]


def test_a_wide_mask_is_narrowed_to_what_the_router_writes() -> None:
    wide = Mask(IPv4Address("255.255.255.255"), ZERO, 0, 0xF)
    kept = narrowed(wide)
    assert kept == Mask(IPv4Address(0x7), ZERO, 0, 0xF)
    assert len(MaskTable.of_mask(wide).owners) == MAX_ROUTER_VALUES


def test_the_only_cache_may_change_the_method_and_starts_without_an_assignment() -> None:
    stage = stage_of_masks(policy=AssignmentPolicy.AUTO)
    (cache,) = joined(stage, FIRST)
    stage.send(cache, cache.redirect_assign_sets(dealt(ON_DESTINATION, FIRST)))
    cache.capabilities, cache.mask = None, None
    stage.hello(cache)
    assert stage.state(FIRST) is CacheState.USABLE
    assert stage.group.mask_sets == ()
    assert stage.group.values == 256


@pytest.mark.parametrize("reads_standard", [True, False])
def test_a_restarted_router_resumes_the_values(reads_standard: bool) -> None:
    stage = stage_of_masks()
    first, second = joined(stage, FIRST, SECOND, reads_standard=True)
    stage.send(first, first.redirect_assign_sets(dealt(ON_DESTINATION, FIRST, SECOND)))
    first.reads_standard = second.reads_standard = reads_standard
    before = stage.group
    state = dump(stage.router)
    stage.router = Router(stage.router.settings)
    restore(stage.router, state, stage.now)
    assert stage.group.mask_sets == before.mask_sets
    first.reads_standard = second.reads_standard = True
    stage.live(20, first, second)
    assert stage.group.mask_sets == before.mask_sets
