"""The redirect holds while the daemon lives; what becomes of packets when it does not, and when it comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.stage import NOWHERE, PASSED, RESET, Fate, Stage, everything_to, fresh
from tests.support.plans import (
    EVERYTHING,
    FIRST,
    NOBODY,
    SECOND,
    deny,
    hashed,
    network,
    permit,
    plan,
    service,
)
from wccpd.plan.redirect import UDP, Mode
from wccpd.plan.verdict import Outcome, Reason, Verdict

FATES = [(Mode.OPEN, PASSED), (Mode.CLOSED, NOWHERE), (Mode.REJECT, RESET)]


@pytest.mark.parametrize(("mode", "fate"), FATES)
def test_when_the_lease_runs_out_the_mode_decides_about_pinned_flows_too(
    stage: Stage, mode: Mode, fate: Fate
) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, mode=mode)))
    assert stage.observe().leased
    flow = fresh()
    before = stage.send(flow)
    assert before.cache == FIRST
    stage.let_the_lease_run_out()
    assert not stage.observe().leased
    assert stage.send_all([flow, fresh()]) == [fate] * 2
    assert stage.observe().counters.total("70", fate_verdict(mode), Reason.LAPSED).packets == 2
    stage.renew_lease()
    assert stage.observe().leased
    assert stage.send(flow) == before


def fate_verdict(mode: Mode) -> Verdict:
    return {Mode.OPEN: Verdict.FORWARDED, Mode.CLOSED: Verdict.DROPPED, Mode.REJECT: Verdict.REJECTED}[mode]


def test_a_plan_without_a_lease_is_in_its_modes(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, mode=Mode.CLOSED)), leased=False)
    assert not stage.observe().leased
    assert stage.send(fresh()) == NOWHERE
    stage.renew_lease()
    assert stage.send(fresh()).cache == FIRST


def test_exemptions_and_lists_hold_without_a_lease(stage: Stage) -> None:
    made = everything_to(
        stage, "70", FIRST, mode=Mode.CLOSED, match=EVERYTHING, acl=(deny(protocol=UDP), permit())
    )
    stage.bring_to(plan(made, never=(network("198.51.100.0/24"),)))
    stage.let_the_lease_run_out()
    never = fresh(network("198.51.100.0/24")[9])
    assert stage.send_all([never, fresh(protocol=UDP), fresh()]) == [PASSED, PASSED, NOWHERE]
    denied = Outcome("70", Verdict.FORWARDED, Reason.DENIED)
    assert stage.observe().counters.outcomes[denied].packets == 1


def test_nothing_falls_through_without_a_lease(stage: Stage) -> None:
    services = (
        everything_to(stage, "70", FIRST, fallthrough=True),
        everything_to(stage, "80", SECOND, mode=Mode.CLOSED),
    )
    stage.bring_to(plan(*services))
    stage.let_the_lease_run_out()
    assert stage.send(fresh()) == PASSED


def test_a_change_of_the_plan_renews_no_lease_that_has_run_out_by_itself(stage: Stage) -> None:
    made = everything_to(stage, "70", FIRST, mode=Mode.CLOSED)
    stage.bring_to(plan(made))
    stage.let_the_lease_run_out()
    stage.restart()
    stage.bring_to(plan(replace(made, fallthrough=True)), leased=False)
    assert stage.send(fresh()) == NOWHERE


def test_a_restart_within_the_lease_changes_nothing_and_is_not_felt(stage: Stage) -> None:
    wanted = plan(everything_to(stage, "70", FIRST), everything_to(stage, "80", SECOND, match=EVERYTHING))
    stage.bring_to(wanted)
    flow = fresh()
    before = stage.send(flow)
    stage.restart()
    assert stage.send(flow) == before, "while nobody is there"
    observed = stage.observe()
    assert observed.leased
    assert observed.slots == wanted.slots
    assert stage.bring_to(wanted).changes == ()
    assert stage.send(flow) == before
    assert stage.observe().counters.total("70", Verdict.REDIRECTED).packets == 3


def test_a_restart_into_another_plan_keeps_the_flows(stage: Stage) -> None:
    made = service("70", FIRST, SECOND, forwarding=stage.forwarding, assignment=hashed([FIRST] * 256))
    stage.bring_to(plan(made))
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.restart()
    stage.bring_to(plan(replace(made, assignment=hashed([SECOND] * 256))))
    assert stage.send(flow).cache == FIRST
    assert stage.send(fresh()).cache == SECOND


# --- stopping


def test_removal_takes_everything_away(stage: Stage) -> None:
    stage.bring_to(plan(everything_to(stage, "70", FIRST, mode=Mode.CLOSED)))
    stage.remove()
    observed = stage.observe()
    assert (observed.slots, observed.devices, observed.leased) == ({}, {}, False)
    assert stage.send(fresh()) == PASSED
    assert stage.remove().changes == ()


@pytest.mark.parametrize(("mode", "fate"), FATES)
def test_services_can_be_kept_closed_behind_a_daemon_that_stops(stage: Stage, mode: Mode, fate: Fate) -> None:
    services = (
        everything_to(stage, "60", SECOND, match=EVERYTHING, acl=(deny(),), fallthrough=True),
        everything_to(stage, "70", FIRST, mode=mode),
        service("80", match=EVERYTHING, assignment=hashed(NOBODY)),
    )
    wanted = plan(*services, never=(network("198.51.100.0/24"),))
    stage.bring_to(wanted)
    flow = fresh()
    assert stage.send(flow).cache == FIRST
    stage.remove(keep_closed=wanted)
    assert stage.send_all([flow, fresh()]) == [fate] * 2
    assert stage.send_all([fresh(port=443), fresh(network("198.51.100.0/24")[1])]) == [PASSED] * 2
    observed = stage.observe()
    assert (observed.slots, observed.devices, observed.leased) == ({}, {}, False)
    stage.restart()
    assert stage.send(fresh()) == fate
    stage.bring_to(wanted)
    assert stage.send(fresh()).cache == FIRST


def test_what_was_kept_closed_is_removed_too(stage: Stage) -> None:
    wanted = plan(everything_to(stage, "70", FIRST, mode=Mode.CLOSED))
    stage.bring_to(wanted)
    stage.remove(keep_closed=wanted)
    stage.restart()
    stage.remove()
    assert stage.send(fresh()) == PASSED
