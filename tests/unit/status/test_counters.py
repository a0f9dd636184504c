"""The list of all counters."""

from __future__ import annotations

from dataclasses import replace

from wccpd.status.counters import Counter, counters, rates, table
from wccpd.status.view import OutcomeStatus, RefusalStatus, Status


def test_every_part_is_there_with_its_name(healthy: Status) -> None:
    service = replace(healthy.services[0], not_redirected=(OutcomeStatus("forwarded", "denied", 7, 700),))
    refused = RefusalStatus("too_often", 3, "192.0.2.1", "", 1.0)
    found = counters(replace(healthy, services=(service,), refused=(refused,)))
    assert {each.part for each in found} == {"service", "cache", "tunnel", "peer", "refused"}
    for expected in (
        Counter("service", "web-cache", "packets_forwarded_denied", 7),
        Counter("cache", "web-cache/10.100.1.21", "packets_returned", 42),
        Counter("tunnel", "tgw-a", "packets_received", 12_345_678),
        Counter("peer", "169.254.6.2", "falls", 0),
        Counter("refused", "too_often", "messages", 3),
    ):
        assert expected in found
    keys = [(each.part, each.name, each.counter) for each in found]
    assert len(keys) == len(set(keys))


def test_a_rate_is_what_came_per_second_and_a_counter_that_began_anew_began_at_0() -> None:
    def one(value: float) -> tuple[Counter, ...]:
        return (Counter("tunnel", "tgw-a", "packets_sent", value),)

    assert rates(one(100), one(150), 2.0)[0].value == 25.0
    assert rates(one(100), one(30), 2.0)[0].value == 15.0
    assert rates((), one(30), 2.0)[0].value == 15.0
    assert table(one(25.0), per_second=True).rows[0].cells == ("tunnel", "tgw-a", "packets_sent", "25.0")
    assert table(one(25.0)).rows[0].cells[3] == "25"
