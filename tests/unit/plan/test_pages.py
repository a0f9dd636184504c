"""Which page of the mark a service has, and that it keeps it while others come and go."""

from __future__ import annotations

from dataclasses import replace

from tests.support.plans import FIRST, service
from wccpd.plan.marks import MAX_PAGE
from wccpd.plan.pages import RETIRED, allocate_pages, keep_places
from wccpd.plan.redirect import HashAssignment, ServicePlan


def test_who_stays_keeps_the_page_whatever_the_order_of_the_file() -> None:
    assert keep_places(("web-cache", "70"), ("53", "70", "web-cache")) == ("web-cache", "70", "53")


def test_the_page_of_a_service_that_went_stays_free_as_long_as_there_are_others() -> None:
    places = keep_places(("web-cache", "70"), ("70",))
    assert places == ("", "70")
    assert keep_places(places, ("70", "90")) == ("", "70", "90")


def test_free_pages_are_given_out_again_when_all_have_been_used() -> None:
    before = tuple(str(number) for number in range(MAX_PAGE))
    places = keep_places(before, (*before[2:], "new", "newer"))
    assert places == ("new", "newer", *before[2:])


def flagged(name: str, *buckets: int) -> ServicePlan:
    made = service(name, FIRST)
    assert isinstance(made.assignment, HashAssignment)
    return replace(made, assignment=replace(made.assignment, alternate_buckets=frozenset(buckets)))


def test_a_bucket_keeps_its_page_when_it_loses_the_flag_and_gets_it_again() -> None:
    names = ("web-cache", "70")
    first = allocate_pages((flagged("70", 5),), names)
    page = first.of_alternate("70", 5)
    second = allocate_pages((flagged("70", 9),), names, first.alternates)
    assert page in second.all_of("70"), "flows that it pinned are still the service's"
    assert second.of_alternate("70", 9) not in {page, *second.services.values()}
    third = allocate_pages((flagged("70", 5),), names, second.alternates)
    assert third.of_alternate("70", 5) == page


def test_pages_that_mean_nothing_any_more_are_given_out_again_when_all_are_used() -> None:
    names = ("web-cache", "70")
    before = allocate_pages((flagged("70", *range(253)),), names)
    assert len(before.alternates) == MAX_PAGE - len(names)
    after = allocate_pages((flagged("70", 253, 254, 255),), names, before.alternates)
    assert {("70", bucket) for bucket in (253, 254, 255)} <= after.alternates.keys()
    assert len(after.alternates) == RETIRED + 3
    assert len(set(after.alternates.values())) == RETIRED + 3


def test_the_pages_of_a_service_that_goes_are_free() -> None:
    before = allocate_pages((flagged("web-cache"), flagged("70", 5)), ("web-cache", "70"))
    assert allocate_pages((flagged("web-cache"),), ("web-cache",), before.alternates).alternates == {}
