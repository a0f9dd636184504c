"""Counts that do not fall when what counts them goes."""

from __future__ import annotations

from ipaddress import IPv4Address

from wccpd.dataplane.tally import Tally
from wccpd.plan.verdict import Count, Counters, Exemption, Outcome, Verdict

FIRST, SECOND = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def to(cache: IPv4Address) -> Outcome:
    return Outcome("70", Verdict.REDIRECTED, cache=cache)


def redirected(**packets: int) -> Counters:
    caches = {"first": FIRST, "second": SECOND}
    return Counters({to(caches[name]): Count(count, 10 * count) for name, count in packets.items()})


def test_while_all_counters_are_there_their_counts_are_shown_as_they_are() -> None:
    tally = Tally()
    for packets in (3, 5, 5):
        assert tally.of(redirected(first=packets)) == redirected(first=packets)


def test_a_counter_that_goes_leaves_its_count_and_one_that_begins_anew_adds_to_it() -> None:
    tally = Tally()
    tally.of(redirected(first=3, second=4))
    assert tally.of(redirected(second=6)).outcomes == redirected(first=3, second=6).outcomes
    assert tally.of(redirected(first=1, second=6)).total("70", Verdict.REDIRECTED) == Count(10, 100)
    assert tally.of(redirected(first=2)).outcomes[to(FIRST)] == Count(5, 50)
    assert tally.of(Counters()).total("70", Verdict.REDIRECTED) == Count(11, 110)


def test_a_counter_that_was_made_anew_between_two_looks_is_noticed_by_its_fall() -> None:
    tally = Tally()
    tally.of(redirected(first=100))
    assert tally.of(redirected(first=7)).outcomes[to(FIRST)] == Count(107, 1070)


def test_what_is_exempt_returned_and_dropped_is_kept_too() -> None:
    tally, count = Tally(), Count(2, 80)
    kept = Counters(exempt={Exemption.NEVER: count}, returned={FIRST: count}, dropped={"no-room": count})
    tally.of(kept)
    assert tally.of(Counters()) == kept
