"""Flows that stay where they are, and what becomes of them when that is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.stage import (
    NOWHERE,
    OUT,
    PASSED,
    RESET,
    Fate,
    Place,
    Stage,
    answer_to,
    everything_to,
    fresh,
    redirected,
)
from tests.support.plans import (
    BY_DESTINATION,
    BY_SOURCE,
    CACHES,
    EVERYTHING,
    FIRST,
    FROM_WEB,
    INGRESS,
    NOBODY,
    SECOND,
    SERVER,
    THIRD,
    deny,
    evenly,
    hashed,
    paths_to,
    permit,
    plan,
    service,
    slot_of,
)
from wccpd.plan.hashes import HASH_FUNCTIONS
from wccpd.plan.redirect import (
    TCP,
    UDP,
    HashAssignment,
    LostFlows,
    Mode,
    PacketMatch,
    Path,
    RedirectPlan,
    ServicePlan,
)
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.plan.verdict import Outcome, Reason, Verdict
from wccpd.wire.enums import ForwardingMethod

ICMP, ESP = 1, 50


def moved_to(made: ServicePlan, *caches: object) -> ServicePlan:
    """The service with all buckets dealt out anew; its caches stay."""
    return replace(made, assignment=hashed(evenly(*caches)))  # type: ignore[arg-type]


def both(stage: Stage, **details: object) -> ServicePlan:
    """A service with two caches, of which the first owns everything."""
    paths = paths_to((FIRST, SECOND), stage.forwarding)
    made = everything_to(stage, "70", FIRST, match=EVERYTHING, paths=paths)
    return replace(made, **details)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP, ESP])
def test_a_flow_stays_with_its_cache_and_new_ones_go_by_the_buckets(stage: Stage, protocol: int) -> None:
    made = both(stage, assignment=hashed(evenly(FIRST), BY_SOURCE))
    stage.bring_to(plan(made))
    flow = fresh(SERVER + 1, protocol=protocol)
    before = stage.send(flow)
    assert before.cache == FIRST
    stage.bring_to(plan(replace(made, assignment=hashed(evenly(SECOND), BY_SOURCE))))
    assert stage.send_all([flow, fresh(SERVER + 2, protocol=protocol)]) == [
        before,
        replace_cache(before, SECOND),
    ]


def replace_cache(fate: Fate, cache: object) -> Fate:
    assert fate.path is not None
    return replace(fate, path=replace(fate.path, cache=cache))  # type: ignore[arg-type]


def test_without_affinity_every_packet_goes_by_the_buckets(stage: Stage) -> None:
    made = both(stage, affinity=False)
    stage.bring_to(plan(made))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.bring_to(plan(moved_to(made, SECOND)))
    assert stage.send(flow).cache == SECOND


def test_later_packets_have_the_header_of_the_first_also_that_of_an_alternate_bucket(stage: Stage) -> None:
    flow = fresh()
    primary = HASH_FUNCTIONS[stage.hash_function](BY_DESTINATION, flow.fields)
    flagged = HashAssignment(BY_DESTINATION, evenly(*CACHES), BY_SOURCE, frozenset({primary}))
    made = service("70", *CACHES, forwarding=stage.forwarding, assignment=flagged)
    stage.bring_to(plan(made))
    first = stage.send(flow)
    assert first.place is Place.CACHE
    stage.bring_to(plan(moved_to(made, *CACHES[1:])))
    stage.bring_to(plan(replace(made, assignment=replace(flagged, owners=evenly(*CACHES[::-1])))))
    assert stage.send(flow) == first


def test_a_flow_that_the_alternate_hash_gave_away_stays_when_its_bucket_has_no_flag_any_more(
    stage: Stage,
) -> None:
    flow = fresh()
    primary = HASH_FUNCTIONS[stage.hash_function](BY_DESTINATION, flow.fields)
    flagged = HashAssignment(BY_DESTINATION, NOBODY, BY_SOURCE, frozenset({primary}))
    owned = replace(flagged, owners=tuple(FIRST if bucket != primary else None for bucket in range(256)))
    made = replace(both(stage), assignment=owned)
    stage.bring_to(plan(made))
    assert stage.send(flow).cache == FIRST
    stage.bring_to(plan(moved_to(made, SECOND)))
    assert stage.send(flow).cache == FIRST


def test_a_draining_cache_keeps_its_flows(stage: Stage) -> None:
    made = both(stage)
    stage.bring_to(plan(made))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.bring_to(plan(replace(moved_to(made, SECOND), mode=Mode.CLOSED)))
    assert stage.send(flow).cache == FIRST
    assert stage.send(fresh()).cache == SECOND


def test_a_flow_of_a_lost_cache_moves_and_no_other_does(stage: Stage) -> None:
    made = service("70", *CACHES, forwarding=stage.forwarding)
    stage.bring_to(plan(made))
    flows = [fresh(SERVER + number) for number in range(40)]
    before = stage.send_all(flows)
    left = service("70", SECOND, THIRD, forwarding=stage.forwarding)
    stage.bring_to(plan(left))
    after = stage.send_all(flows)
    for was, now in zip(before, after, strict=True):
        assert now.cache in {SECOND, THIRD} if was.cache == FIRST else now == was
    assert FIRST in {fate.cache for fate in before}
    stage.bring_to(plan(made))
    assert stage.send_all(flows) == after, "they stay where they have moved"


@pytest.mark.parametrize("mode", Mode)
def test_a_connection_of_a_lost_cache_is_reset_if_so_wished(stage: Stage, mode: Mode) -> None:
    made = both(stage, lost_flows=LostFlows.RESET, mode=mode)
    stage.bring_to(plan(made))
    tcp, udp = fresh(), fresh(protocol=UDP)
    assert {fate.cache for fate in stage.send_all([tcp, udp])} == {FIRST}
    left = replace(moved_to(made, SECOND), paths=paths_to([SECOND], stage.forwarding))
    stage.bring_to(plan(left))
    assert stage.send(tcp) == RESET
    assert stage.send(udp).cache == SECOND
    assert stage.observe().counters.total("70", Verdict.REJECTED, Reason.LOST).packets == 1


def test_what_still_comes_of_a_connection_that_was_reset_is_reset_too(stage: Stage) -> None:
    made = both(stage, lost_flows=LostFlows.RESET)
    stage.bring_to(plan(made))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    left = replace(moved_to(made, SECOND), paths=paths_to([SECOND], stage.forwarding))
    stage.bring_to(plan(left))
    assert [stage.send(flow) for _ in range(3)] == [RESET] * 3
    assert stage.send(fresh()).cache == SECOND


@pytest.mark.parametrize(
    ("mode", "fate"), [(Mode.OPEN, PASSED), (Mode.CLOSED, NOWHERE), (Mode.REJECT, RESET)]
)
def test_when_the_last_cache_is_lost_its_flows_are_in_the_mode(stage: Stage, mode: Mode, fate: Fate) -> None:
    made = everything_to(stage, "70", FIRST, mode=mode)
    stage.bring_to(plan(made))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.bring_to(plan(replace(made, paths={}, assignment=hashed(NOBODY))))
    assert stage.send(flow) == fate


# --- numbers of paths, by which flows are pinned

L2, GRE = ForwardingMethod.L2, ForwardingMethod.GRE


@pytest.mark.parametrize("lost_flows", LostFlows)
def test_a_flow_stays_with_its_cache_when_the_path_gets_another_number(
    stage: Stage, lost_flows: LostFlows
) -> None:
    made = both(stage, lost_flows=lost_flows)
    stage.bring_to(plan(made))
    flow = fresh()
    before = stage.send(flow)
    assert before.cache == FIRST
    ways = paths_to((FIRST, SECOND), stage.forwarding)
    moved = plan(moved_to(made, SECOND), slots={ways[FIRST]: 77, ways[SECOND]: slot_of(ways[SECOND])})
    stage.bring_to(replace(moved, former={slot_of(ways[FIRST]): FIRST}))
    assert [stage.send(flow) for _ in range(2)] == [before] * 2
    assert stage.send(fresh()).cache == SECOND
    outcomes = stage.observe().counters.outcomes
    assert outcomes[Outcome("70", Verdict.REDIRECTED, cache=FIRST)].packets == 3


def test_the_other_direction_finds_a_cache_whose_path_got_another_number(stage: Stage) -> None:
    out, back = pair(stage)
    stage.bring_to(plan(out, back, ingress=(INGRESS, OUT)))
    flow, lonely = fresh(), fresh(SERVER + 1)
    assert [stage.send(each).cache for each in (flow, lonely)] == [FIRST] * 2
    ways = paths_to((FIRST, SECOND), stage.forwarding)
    details = {
        "slots": {ways[FIRST]: 77, ways[SECOND]: slot_of(ways[SECOND])},
        "former": {slot_of(ways[FIRST]): FIRST},
        "ingress": (INGRESS, OUT),
    }
    stage.bring_to(plan(out, back, **details))
    assert stage.send(answer_to(flow)) == redirected(stage, back, FIRST)
    without = replace(back, paths=paths_to([SECOND], stage.forwarding))
    stage.bring_to(plan(out, without, **details))
    assert stage.send(answer_to(lonely)).cache == FIRST
    assert stage.send_error(lonely).cache == FIRST


@pytest.mark.parametrize(("before", "after"), [(GRE, L2), (L2, GRE)], ids=["gre to l2", "l2 to gre"])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "beside another service"])
def test_a_flow_stays_with_a_cache_that_changes_its_method(
    versatile: Stage, before: ForwardingMethod, after: ForwardingMethod, shared: bool
) -> None:
    stage, numbers = versatile, Slots()
    neighbour = service("80", FIRST, forwarding=before, match=PacketMatch(UDP, (53,)))
    made = service("70", FIRST, SECOND, forwarding=before, lost_flows=LostFlows.RESET)
    made = replace(made, assignment=hashed(evenly(FIRST)))
    changed = replace(made, paths=paths_to((FIRST, SECOND), after), assignment=hashed(evenly(SECOND)))

    def wished(*services: ServicePlan) -> RedirectPlan:
        nonlocal numbers
        numbers = allocate_slots(numbers, {way for each in services for way in each.paths.values()})
        return plan(*services, slots=numbers.paths, former=numbers.former)

    beside = (neighbour,) if shared else ()
    stage.bring_to(wished(made, *beside))
    flow = fresh()
    assert stage.send(flow).path == Path(FIRST, before)
    stage.bring_to(wished(changed, *beside))
    assert [stage.send(flow).path for _ in range(2)] == [Path(FIRST, after)] * 2
    assert stage.send(fresh()).path == Path(SECOND, after)
    stage.bring_to(wished(replace(made, assignment=hashed(evenly(SECOND))), *beside))
    assert stage.send(flow).path == Path(FIRST, before)


@pytest.mark.parametrize("meanwhile", ["", "a restart", "a removal"])
def test_a_number_that_another_cache_gets_takes_no_flows_along(stage: Stage, meanwhile: str) -> None:
    ways = paths_to(CACHES, stage.forwarding)
    made = service("70", FIRST, forwarding=stage.forwarding, match=EVERYTHING)
    stage.bring_to(plan(made, slots={ways[FIRST]: 9}))
    flows = [fresh(protocol=protocol) for protocol in (TCP, UDP, ICMP)]
    assert [fate.cache for fate in stage.send_all(flows)] == [FIRST] * 3
    if meanwhile == "a removal":
        stage.remove()
    if meanwhile:
        stage.restart()
    heir = service("70", SECOND, THIRD, forwarding=stage.forwarding, match=EVERYTHING)
    heir = replace(heir, assignment=hashed(evenly(THIRD)))
    stage.bring_to(plan(heir, slots={ways[SECOND]: 9, ways[THIRD]: 10}))
    assert [fate.cache for fate in stage.send_all(flows)] == [THIRD] * 3


def test_what_numbers_meant_is_known_to_the_next_run(stage: Stage) -> None:
    made = everything_to(stage, "70", FIRST)
    stage.bring_to(plan(made, former={8: SECOND, 9: THIRD}))
    stage.restart()
    seen = stage.observe()
    assert seen.former == {8: SECOND, 9: THIRD}
    assert set(seen.slots) == set(made.paths.values())


def test_live_flows_are_counted_by_cache_whatever_number_they_have(stage: Stage) -> None:
    made = both(stage)
    stage.bring_to(plan(made))
    assert stage.send(fresh()).cache == FIRST
    ways = paths_to((FIRST, SECOND), stage.forwarding)
    slots = {ways[FIRST]: 77, ways[SECOND]: slot_of(ways[SECOND])}
    stage.bring_to(plan(made, slots=slots, former={slot_of(ways[FIRST]): FIRST}))
    assert stage.send(fresh()).cache == FIRST
    assert stage.live_flows() == {FIRST: 2}


# --- connections that began without a cache


def test_a_connection_that_began_unassigned_stays_forwarded(stage: Stage) -> None:
    made = everything_to(stage, "70", FIRST, match=EVERYTHING)
    stage.bring_to(plan(replace(made, assignment=hashed(NOBODY))))
    tcp, udp = fresh(), fresh(SERVER + 1, protocol=UDP)
    assert stage.send_all([tcp, udp]) == [PASSED] * 2
    stage.bring_to(plan(made))
    assert stage.send(tcp) == PASSED
    assert stage.send(udp).cache == FIRST
    assert stage.send(fresh()).cache == FIRST
    outcome = Outcome("70", Verdict.FORWARDED, Reason.ESTABLISHED)
    assert stage.observe().counters.outcomes[outcome].packets == 1


def test_a_connection_that_began_denied_stays_forwarded(stage: Stage) -> None:
    made = everything_to(stage, "70", FIRST)
    stage.bring_to(plan(replace(made, acl=(deny(),))))
    flow = fresh()
    assert stage.send(flow) == PASSED
    stage.bring_to(plan(made))
    assert stage.send(flow) == PASSED
    assert stage.send(fresh()).cache == FIRST


@pytest.mark.parametrize("mode", [Mode.CLOSED, Mode.REJECT])
def test_a_mode_that_is_not_open_brings_forwarded_connections_under_inspection(
    stage: Stage, mode: Mode
) -> None:
    made = everything_to(stage, "70", FIRST)
    stage.bring_to(plan(replace(made, assignment=hashed(NOBODY))))
    flow = fresh()
    assert stage.send(flow) == PASSED
    stage.bring_to(plan(replace(made, mode=mode)))
    assert stage.send(flow).cache == FIRST


def test_a_redirected_connection_that_is_denied_later_comes_back_when_permitted(stage: Stage) -> None:
    made = both(stage)
    stage.bring_to(plan(made))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.bring_to(plan(replace(made, acl=(deny(),))))
    assert stage.send(flow) == PASSED
    stage.bring_to(plan(moved_to(made, SECOND)))
    assert stage.send(flow).cache == FIRST


def test_a_connection_that_fell_through_stays_with_the_service_that_has_it(stage: Stage) -> None:
    picky = everything_to(stage, "70", FIRST, acl=(deny(),), fallthrough=True)
    below = both(stage, name="80", service_id=80)
    stage.bring_to(plan(picky, below))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.bring_to(plan(picky, moved_to(below, SECOND)))
    assert stage.send(flow).cache == FIRST
    assert stage.send(fresh()).cache == SECOND


def test_a_connection_that_fell_through_everything_stays_forwarded(stage: Stage) -> None:
    picky = everything_to(stage, "70", FIRST, acl=(deny(),), fallthrough=True)
    stage.bring_to(plan(picky))
    flow = fresh()
    assert stage.send(flow) == PASSED
    stage.bring_to(plan(replace(picky, acl=())))
    assert stage.send(flow) == PASSED


# --- both directions, and errors


def pair(stage: Stage) -> tuple[ServicePlan, ServicePlan]:
    """Two services as a spoofing cache asks for them, each seeing one direction; they would disagree."""
    paths = paths_to((FIRST, SECOND), stage.forwarding)
    out = everything_to(stage, "80", FIRST, paths=paths)
    back = everything_to(stage, "90", SECOND, match=FROM_WEB, paths=paths)
    return out, back


def test_the_two_services_of_a_pair_send_both_directions_of_a_flow_to_one_cache(stage: Stage) -> None:
    out, back = pair(stage)
    stage.bring_to(plan(out, back, ingress=(INGRESS, OUT)))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    assert stage.send(answer_to(flow)) == redirected(stage, back, FIRST)
    outcomes = stage.observe().counters.outcomes
    assert outcomes[Outcome("90", Verdict.REDIRECTED, cache=FIRST)].packets == 1
    assert stage.send(answer_to(fresh())).cache == SECOND, (
        "a flow that began on the other side goes by its own hash"
    )


def test_a_direction_whose_service_lacks_the_cache_goes_with_the_other(stage: Stage) -> None:
    out, back = pair(stage)
    back = replace(back, paths=paths_to([SECOND], stage.forwarding))
    stage.bring_to(plan(out, back, ingress=(INGRESS, OUT)))
    flow = fresh()
    there = stage.send(flow)
    assert there.cache == FIRST
    assert stage.send(answer_to(flow)) == there
    outcomes = stage.observe().counters.outcomes
    assert outcomes[Outcome("80", Verdict.REDIRECTED, cache=FIRST)].packets == 2


def test_an_icmp_error_about_a_redirected_flow_goes_to_its_cache(stage: Stage) -> None:
    made = everything_to(stage, "70", FIRST, acl=(permit(protocol=TCP),))
    stage.bring_to(plan(made))
    flow = fresh()
    there = stage.send(flow)
    assert stage.send_error(flow) == there


def test_an_icmp_error_about_any_other_flow_is_forwarded(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    flow = fresh(port=443)
    assert stage.send(flow) == PASSED
    assert stage.send_error(flow) == PASSED
