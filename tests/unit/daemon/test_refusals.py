"""Refused datagrams: all counted, few logged, memory bounded."""

from ipaddress import IPv4Address

from wccpd.daemon.refusals import MAX_WARNED, Refusals
from wccpd.protocol.outputs import Refusal, Refused

SOURCE = IPv4Address("192.0.2.1")


def refused(source: IPv4Address = SOURCE, reason: Refusal = Refusal.AUTHENTICATION_WRONG) -> Refused:
    return Refused(reason, source, None, "detail")


def test_one_warning_per_source_reason_and_minute() -> None:
    refusals = Refusals()
    assert refusals.add(refused(), 0.0)
    assert refusals.add(refused(reason=Refusal.GROUP_FULL), 59.0)
    assert not refusals.add(refused(), 59.0)
    assert refusals.add(refused(SOURCE + 1), 59.0)
    assert refusals.add(refused(), 60.0)
    assert {reason: tally.count for reason, tally in refusals.by_reason.items()} == {
        "authentication_wrong": 4,
        "group_full": 1,
    }


def test_a_flood_of_sources_is_counted_but_neither_remembered_nor_logged_without_end() -> None:
    refusals = Refusals()
    logged = sum(refusals.add(refused(SOURCE + i), 0.0) for i in range(MAX_WARNED + 500))
    assert logged == MAX_WARNED
    assert refusals.by_reason["authentication_wrong"].count == MAX_WARNED + 500
    assert refusals.add(refused(SOURCE - 1), 61.0)
