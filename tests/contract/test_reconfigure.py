"""A plane says beforehand what it would do, and takes other services without letting go of a pinned flow."""

from __future__ import annotations

from dataclasses import replace

from tests.contract.conftest import SETTINGS
from tests.contract.stage import Stage, everything_to, fresh
from tests.support.plans import FIRST, SECOND, evenly, hashed, plan, service
from wccpd.plan.pages import keep_places
from wccpd.plan.redirect import UDP, Mode


def test_a_preview_is_empty_where_a_wish_is_fulfilled_and_changes_nothing_where_it_is_not(
    stage: Stage,
) -> None:
    present = plan(everything_to(stage, "70", FIRST))
    stage.bring_to(present)
    assert stage.preview(present) == ()
    wanted = plan(everything_to(stage, "70", FIRST, mode=Mode.CLOSED), everything_to(stage, "80", FIRST))
    assert stage.preview(wanted)
    assert stage.preview(plan())
    assert stage.preview(present) == ()
    assert stage.bring_to(present).changes == ()
    assert stage.bring_to(wanted).changes
    assert stage.preview(wanted) == ()


def test_pinned_flows_stay_where_they_are_when_services_come_and_go_around_theirs(stage: Stage) -> None:
    both = service("70", FIRST, SECOND, forwarding=stage.forwarding)
    stage.bring_to(plan(replace(both, assignment=hashed(evenly(FIRST)))))
    flow = fresh()
    pinned = stage.send(flow)
    assert pinned.cache == FIRST
    moved = replace(both, assignment=hashed(evenly(SECOND)))
    other = service("50", match=replace(both.match, protocol=UDP))
    names = SETTINGS.services
    for configured, wanted in (
        (("50", *names), plan(other, moved)),
        (("50", "70"), plan(other, moved)),
        (("70",), plan(moved)),
    ):
        names = keep_places(names, configured)
        stage.reconfigure(names)
        stage.bring_to(wanted)
        assert stage.send(flow) == pinned
        assert stage.send(fresh()).cache == SECOND
