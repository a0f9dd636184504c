"""Read-outs of the status tree beside its screen, held letter by letter; `UPDATE_GOLDENS=1` writes the files anew."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from wccpd.status.buckets import picture, plain
from wccpd.status.cisco import View, show_ip_wccp
from wccpd.status.monitoring import Severity, judge
from wccpd.status.screen import Part, part
from wccpd.status.text import plain_tables
from wccpd.status.view import RouteStatus, Status

GOLDENS = Path(__file__).parent / "goldens"


def as_agreed(name: str, shown: str) -> None:
    golden = GOLDENS / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        golden.write_text(shown + "\n")
    assert shown + "\n" == golden.read_text()


@pytest.mark.parametrize("view", list(View))
def test_show_ip_wccp_is_laid_out_as_on_ios(healthy: Status, view: View) -> None:
    as_agreed(f"show_ip_wccp_{view or 'summary'}", show_ip_wccp(healthy, view=view))


def test_show_ip_wccp_shows_one_service_alone(healthy: Status) -> None:
    both = replace(healthy, services=(*healthy.services, replace(healthy.services[0], service="70")))
    assert "Service Identifier: web-cache" in show_ip_wccp(both)
    assert "Service Identifier: web-cache" not in show_ip_wccp(both, "70")
    assert "Service Identifier: 70" in show_ip_wccp(both, "70")


def test_an_unusable_cache_is_not_visible_and_its_reason_is_there(healthy: Status) -> None:
    first, second = healthy.caches
    caches = (first, replace(second, state="incompatible", reason="it asks for L2"))
    shown = show_ip_wccp(replace(healthy, caches=caches), view=View.VIEW)
    assert shown.index("NOT Visible") < shown.index(second.address)
    detail = show_ip_wccp(replace(healthy, caches=caches), view=View.DETAIL)
    assert "NOT Usable" in detail
    assert "it asks for L2" in detail


def test_buckets_are_drawn_with_a_letter_for_each_owner(healthy: Status) -> None:
    owners = ("10.100.1.21",) * 100 + ("",) * 6 + ("10.100.1.22",) * 150
    service = replace(healthy.services[0], bucket_owners=owners, buckets_assigned=250)
    as_agreed("buckets", plain(picture(service, {})))


def test_letters_follow_addresses_not_their_spelling(healthy: Status) -> None:
    owners = ("10.0.0.9", "10.0.0.10") * 128
    drawn = picture(replace(healthy.services[0], bucket_owners=owners), {})
    assert [(share.letter, share.cache) for share in drawn.shares] == [("a", "10.0.0.9"), ("b", "10.0.0.10")]


def test_masks_have_shares_and_no_picture(healthy: Status) -> None:
    service = replace(healthy.services[0], assignment_method="mask", buckets_total=64, buckets_assigned=48)
    drawn = picture(service, {"10.100.1.21": 32, "10.100.1.22": 16})
    assert drawn.lines == ()
    assert [(share.cache, share.buckets) for share in drawn.shares] == [
        ("10.100.1.21", 32),
        ("10.100.1.22", 16),
        ("nobody", 16),
    ]


def test_a_monitoring_system_is_told_that_all_is_well(healthy: Status) -> None:
    severity, line = judge(healthy)
    assert severity is Severity.OK
    assert line == (
        "WCCP OK - all 1 services are inspected, 2 caches usable | 'web-cache_usable'=2 'web-cache_unassigned'=0 "
        "'redirected_packets'=2469134c 'uninspected_packets'=0c 'bgp_sessions_down'=0 'tunnels_down'=0"
    )


def test_traffic_that_is_not_inspected_is_critical_and_anything_else_a_warning(
    healthy: Status, nothing_joined: Status
) -> None:
    assert judge(nothing_joined).severity is Severity.CRITICAL
    odd = judge(replace(healthy, reasons=("bgp: no session with 169.254.6.3",)))
    assert odd.severity is Severity.WARNING
    assert "no session with 169.254.6.3" in odd.line


def test_a_line_for_monitoring_is_one_line_with_one_bar(healthy: Status) -> None:
    line = judge(replace(healthy, inspecting=False, reasons=("a\nb | c",))).line
    assert line.startswith("WCCP CRITICAL - a b / c | ")
    assert line.count("|") == 1


def test_routes_by_themselves_are_all_shown(healthy: Status) -> None:
    assert healthy.bgp is not None
    routes = tuple(RouteStatus(f"10.{number}.0.0/16", ("tgw-a",), stale=False) for number in range(100))
    shown = plain_tables(part(replace(healthy, bgp=replace(healthy.bgp, routes=routes)), Part.ROUTES))
    assert all(route.prefix in shown for route in routes)
    assert "NEIGHBOR" not in shown
