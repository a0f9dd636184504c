"""The ledger of what was not inspected: when, why, how long, how much."""

from __future__ import annotations

from dataclasses import replace

from wccpd.status.inspection import InspectionInterrupted, InspectionLedger, InspectionResumed
from wccpd.status.view import Health, ServiceStatus, Status


def down(service: ServiceStatus, reason: str, packets: int = 0) -> ServiceStatus:
    return replace(service, state=Health.DOWN, reason=reason, packets_uninspected=packets)


def test_start_and_end_of_an_interval_are_events_with_reason_seconds_and_packets(healthy: Status) -> None:
    (service,) = healthy.services
    ledger = InspectionLedger()
    assert ledger.update([service], 100.0) == ()
    assert ledger.update([down(service, "no cache is usable", 5)], 110.0) == (
        InspectionInterrupted("web-cache", "open", "no cache is usable"),
    )
    assert ledger.update([down(service, "no buckets are assigned yet", 7)], 115.0) == ()
    assert ledger.seconds(118.0) == {"web-cache": 8.0}
    assert ledger.update([replace(service, packets_uninspected=12)], 120.0) == (
        InspectionResumed("web-cache", "open", "no buckets are assigned yet", 10.0, 7),
    )
    assert ledger.seconds(500.0) == {"web-cache": 10.0}


def test_intervals_of_a_service_add_up(healthy: Status) -> None:
    (service,) = healthy.services
    ledger = InspectionLedger()
    for start in (0.0, 100.0):
        ledger.update([down(service, "x")], start)
        ledger.update([service], start + 10.0)
    assert ledger.seconds(1000.0) == {"web-cache": 20.0}


def test_a_counter_that_began_anew_makes_no_negative_amount(healthy: Status) -> None:
    (service,) = healthy.services
    ledger = InspectionLedger()
    ledger.update([down(service, "x", 1000)], 0.0)
    (event,) = ledger.update([service], 1.0)
    assert isinstance(event, InspectionResumed)
    assert event.uninspected_packets == 0


def test_a_service_that_is_not_configured_any_more_is_forgotten(healthy: Status) -> None:
    (service,) = healthy.services
    ledger = InspectionLedger()
    ledger.update([down(service, "x")], 0.0)
    ledger.forget({"web-cache"})
    assert ledger.seconds(10.0) == {}
    assert ledger.update([service], 20.0) == ()
