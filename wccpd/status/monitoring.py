"""One line and one number for monitoring systems, as Nagios' plugins have it (its Plugin API, "Return Codes")."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from wccpd.status.view import Health

if TYPE_CHECKING:
    from wccpd.status.view import Status


class Severity(IntEnum):
    """The exit codes of such a plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Verdict(NamedTuple):
    """What a monitoring system shows."""

    severity: Severity
    line: str


def judge(status: Status) -> Verdict:
    """Critical if traffic that should be is not inspected, a warning if something else is not as it should be."""
    severity = Severity.OK
    if status.reasons:
        severity = Severity.WARNING
    if not status.inspecting:
        severity = Severity.CRITICAL
    usable = sum(each.caches_usable for each in status.services)
    said = (
        "; ".join(status.reasons)
        or f"all {len(status.services)} services are inspected, {usable} caches usable"
    )
    # What stands behind the bar is read as figures, what is behind a line's end as another answer.
    words = " ".join(said.replace("|", "/").split())
    return Verdict(severity, f"WCCP {severity.name} - {words} | {_figures(status)}")


def _figures(status: Status) -> str:
    figures = {f"{each.service}_usable": str(each.caches_usable) for each in status.services} | {
        f"{each.service}_unassigned": str(each.buckets_total - each.buckets_assigned)
        for each in status.services
    }
    figures["redirected_packets"] = f"{sum(each.packets_redirected for each in status.services)}c"
    figures["uninspected_packets"] = f"{sum(each.packets_uninspected for each in status.services)}c"
    if status.bgp is not None:
        up = sum(each.state == "established" for each in status.bgp.peers)
        figures["bgp_sessions_down"] = str(len(status.bgp.peers) - up)
    figures["tunnels_down"] = str(sum(each.state is Health.DOWN for each in status.tunnels))
    return " ".join(f"'{name}'={value}" for name, value in figures.items())
