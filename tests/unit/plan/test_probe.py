"""Who is out because of the probe, and when."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.support.views import WEB_CACHE, group, view
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.marks import MarkLayout
from wccpd.plan.policy import Policy, ServicePolicy
from wccpd.plan.probe import (
    CacheProbeFailed,
    CacheProbePassed,
    ProbeKind,
    ProbeLedger,
    ProbePolicy,
    ProbeTarget,
    probe_mark,
)
from wccpd.plan.redirect import HashAssignment
from wccpd.plan.slots import Slots, allocate_slots

CANARY = IPv4Address("203.0.113.1")
FIRST, SECOND, THIRD = (IPv4Address(f"10.100.1.{last}") for last in (21, 22, 23))
POLICY = ProbePolicy(ProbeKind.TCP, CANARY, 80, 0.5, 1.0, fail_after=2, recover_after=3)
REFUSED = "connection refused"


def target(cache: IPv4Address) -> ProbeTarget:
    return ProbeTarget("web-cache", cache)


@pytest.fixture
def ledger() -> ProbeLedger:
    made = ProbeLedger({"web-cache": POLICY})
    assert made.keep([target(FIRST), target(SECOND)], 0.0) == {target(FIRST), target(SECOND)}
    return made


def test_services_without_a_probe_are_not_probed() -> None:
    assert ProbeLedger({}).keep([target(FIRST)], 0.0) == frozenset()


def test_nobody_is_out_as_long_as_no_cache_has_ever_passed(ledger: ProbeLedger) -> None:
    for now in range(10):
        assert ledger.note(target(FIRST), REFUSED, now) == ()
        assert ledger.note(target(SECOND), REFUSED, now) == ()
    assert ledger.out() == {}
    assert ledger.words(target(FIRST), 10.0) == (
        "failing, and no cache of the service ever passed it, so it has no consequences: connection refused"
    )


def test_a_cache_that_has_not_been_tried_at_the_start_is_in_when_another_passes(ledger: ProbeLedger) -> None:
    assert ledger.note(target(FIRST), "", 1.0) == (), "nothing changes: it was in"
    assert ledger.out() == {}
    assert ledger.words(target(SECOND), 1.0) == "not tried yet"


def test_a_cache_is_out_after_so_many_failures_in_a_row_and_in_after_so_many_successes(
    ledger: ProbeLedger,
) -> None:
    ledger.note(target(SECOND), "", 1.0)
    ledger.note(target(FIRST), "", 1.0)
    assert ledger.note(target(FIRST), REFUSED, 2.0) == ()
    assert ledger.note(target(FIRST), "", 3.0) == ()
    assert ledger.note(target(FIRST), REFUSED, 4.0) == (), "not in a row"
    assert ledger.out() == {}
    assert ledger.note(target(FIRST), REFUSED, 5.0) == (CacheProbeFailed("web-cache", FIRST, REFUSED),)
    assert ledger.out() == {"web-cache": {FIRST}}
    assert ledger.words(target(FIRST), 7.0) == "failing for 2 s, gets no flows: connection refused"
    assert ledger.note(target(FIRST), "", 8.0) == ()
    assert ledger.note(target(FIRST), "", 9.0) == ()
    assert ledger.out() == {"web-cache": {FIRST}}
    assert ledger.note(target(FIRST), "", 10.0) == (CacheProbePassed("web-cache", FIRST),)
    assert ledger.out() == {}
    assert ledger.words(target(FIRST), 12.0) == "passing for 2 s"


def test_what_failed_from_the_start_is_out_once_another_proves_the_probe(ledger: ProbeLedger) -> None:
    for now in (1.0, 2.0):
        ledger.note(target(FIRST), REFUSED, now)
    assert ledger.out() == {}
    assert ledger.note(target(SECOND), "", 3.0) == (CacheProbeFailed("web-cache", FIRST, REFUSED),)
    assert ledger.out() == {"web-cache": {FIRST}}


def test_a_cache_that_comes_later_is_out_until_its_first_success(ledger: ProbeLedger) -> None:
    ledger.note(target(FIRST), "", 1.0)
    ledger.keep([target(FIRST), target(THIRD)], 2.0)
    assert ledger.out() == {"web-cache": {THIRD}}
    assert ledger.note(target(THIRD), "", 2.1) == (CacheProbePassed("web-cache", THIRD),)
    assert ledger.out() == {}


def test_a_service_whose_probe_is_taken_away_has_nobody_out_and_late_results_mean_nothing(
    ledger: ProbeLedger,
) -> None:
    ledger.note(target(FIRST), "", 1.0)
    for now in (2.0, 3.0):
        ledger.note(target(SECOND), REFUSED, now)
    assert ledger.out() == {"web-cache": {SECOND}}
    ledger.reconfigure({})
    assert ledger.out() == {}
    assert ledger.note(target(SECOND), "", 4.0) == ()
    assert ledger.keep([target(FIRST)], 5.0) == frozenset()


def test_another_probe_of_the_service_goes_on_from_what_is_known(ledger: ProbeLedger) -> None:
    ledger.note(target(FIRST), "", 1.0)
    ledger.reconfigure({"web-cache": replace(POLICY, fail_after=1)})
    assert ledger.note(target(FIRST), REFUSED, 2.0) == (CacheProbeFailed("web-cache", FIRST, REFUSED),)


def test_a_result_for_a_cache_that_has_left_is_of_no_interest(ledger: ProbeLedger) -> None:
    ledger.note(target(FIRST), "", 1.0)
    ledger.keep([target(FIRST)], 2.0)
    assert ledger.note(target(SECOND), REFUSED, 3.0) == ()
    assert ledger.words(target(SECOND), 3.0) == ""


def test_a_cache_that_fails_is_covered_has_no_path_for_flows_and_still_a_way_for_probes() -> None:
    seen = view(group(WEB_CACHE, FIRST, SECOND))
    policy = Policy(
        router_id=IPv4Address("10.100.1.10"), services=(ServicePolicy(WEB_CACHE.key, probe=POLICY),)
    )
    slots = allocate_slots(Slots(), wanted_paths(seen))
    plan = redirect_plan(seen, policy, slots, failing={"web-cache": {FIRST}})
    (service,) = plan.services
    assert isinstance(service.assignment, HashAssignment)
    assert set(service.assignment.owners) == {SECOND}
    assert set(service.paths) == {SECOND}
    marks = MarkLayout(8)
    assert [probe_mark(plan, ("web-cache",), marks, target(cache)) for cache in (FIRST, SECOND, THIRD)] == [
        0x010100,
        0x010200,
        None,
    ]
