"""Which page of the mark a service has, and that it keeps it while others come and go."""

from __future__ import annotations

from wccpd.plan.marks import MAX_PAGE
from wccpd.plan.pages import keep_places


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
