"""Numbers for paths: who keeps one, who gets a former one, and who gets none."""

from __future__ import annotations

from ipaddress import IPv4Address

from wccpd.plan.redirect import Path
from wccpd.plan.slots import MAX_SLOT, Slots, allocate_slots
from wccpd.wire.enums import ForwardingMethod

GRE, L2 = ForwardingMethod.GRE, ForwardingMethod.L2
FIRST, SECOND, THIRD = (IPv4Address(f"10.0.0.{host}") for host in (1, 2, 3))


def many(count: int) -> list[Path]:
    return [Path(IPv4Address("10.1.0.0") + number, GRE) for number in range(count)]


def test_numbers_are_given_in_the_order_of_addresses_and_stay() -> None:
    slots = allocate_slots(Slots(), [Path(SECOND, GRE), Path(FIRST, GRE)])
    assert slots.paths == {Path(FIRST, GRE): 1, Path(SECOND, GRE): 2}
    after = allocate_slots(slots, [Path(SECOND, GRE), Path(THIRD, GRE)])
    assert after.paths == {Path(SECOND, GRE): 2, Path(THIRD, GRE): 3}
    assert after.former == {1: FIRST}
    assert allocate_slots(after, after.paths) == after


def test_a_cache_that_comes_back_gets_its_number_again() -> None:
    gone = allocate_slots(allocate_slots(Slots(), [Path(FIRST, GRE)]), [Path(SECOND, GRE)])
    back = allocate_slots(gone, [Path(FIRST, GRE), Path(SECOND, GRE)])
    assert back.paths == {Path(FIRST, GRE): 1, Path(SECOND, GRE): 2}
    assert back.former == {}


def test_a_cache_that_changes_its_method_keeps_its_number() -> None:
    before = allocate_slots(Slots(), [Path(FIRST, GRE), Path(SECOND, GRE)])
    after = allocate_slots(before, [Path(FIRST, L2), Path(SECOND, GRE)])
    assert after.paths == {Path(FIRST, L2): 1, Path(SECOND, GRE): 2}


def test_both_paths_of_a_cache_have_numbers_and_the_freed_one_goes_on_meaning_it() -> None:
    both = allocate_slots(Slots(), [Path(FIRST, GRE), Path(FIRST, L2)])
    assert sorted(both.paths.values()) == [1, 2]
    one = allocate_slots(both, [Path(FIRST, L2)])
    assert one.former == {both.paths[Path(FIRST, GRE)]: FIRST}


def test_another_cache_gets_a_former_number_only_when_none_is_unused_and_then_the_oldest() -> None:
    everything = allocate_slots(Slots(), many(MAX_SLOT))
    without = [path for path in everything.paths if everything.paths[path] not in {7, 100}]
    freed = allocate_slots(everything, [path for path in everything.paths if everything.paths[path] != 100])
    freed = allocate_slots(freed, without)
    assert list(freed.former) == [100, 7]
    after = allocate_slots(freed, [*without, Path(FIRST, GRE)])
    assert after.paths[Path(FIRST, GRE)] == 100
    assert list(after.former) == [7]


def test_a_number_by_which_flows_still_find_a_cache_that_is_there_is_the_last_to_be_given_away() -> None:
    everything = allocate_slots(Slots(), [*many(MAX_SLOT - 2), Path(FIRST, GRE), Path(FIRST, L2)])
    alias, stranger = everything.paths[Path(FIRST, GRE)], everything.paths[many(1)[0]]
    wanted = [path for path in everything.paths if path not in {Path(FIRST, GRE), many(1)[0]}]
    freed = allocate_slots(allocate_slots(everything, [*wanted, many(1)[0]]), wanted)
    assert list(freed.former) == [alias, stranger]
    after = allocate_slots(freed, [*wanted, Path(SECOND, GRE)])
    assert after.paths[Path(SECOND, GRE)] == stranger
    last = allocate_slots(after, [*after.paths, Path(THIRD, GRE)])
    assert last.paths[Path(THIRD, GRE)] == alias


def test_what_is_too_many_is_named_and_those_that_had_a_number_keep_it() -> None:
    before = allocate_slots(Slots(), many(300)[200:])
    after = allocate_slots(before, many(300))
    assert len(after.paths) == MAX_SLOT
    assert sorted(after.paths.values()) == list(range(1, MAX_SLOT + 1))
    assert before.paths.items() <= after.paths.items()
    assert set(after.surplus) == set(many(300)) - after.paths.keys()
    assert len(after.surplus) == 45
