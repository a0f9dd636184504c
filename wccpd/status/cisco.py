"""`show ip wccp` in the layout that fingers and scripts know from IOS. Fields that mean nothing here are left out."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wccpd.status.view import CacheStatus, OutcomeStatus, ServiceStatus, Status

_LABEL = 38
_INDENT = 8


class View(StrEnum):
    """What may stand behind the service."""

    SUMMARY = ""
    DETAIL = "detail"
    VIEW = "view"
    SERVICE = "service"


def show_ip_wccp(status: Status, service: str = "", view: View = View.SUMMARY) -> str:
    """The text.

    Args:
        status: What there is.
        service: `web-cache` or a number; empty for all.
        view: What of them.
    """
    lines = []
    if view is View.SUMMARY:
        lines += [
            "Global WCCP information:",
            *_heading("Router information:"),
            *_field("Router Identifier:", status.router.id, 1),
        ]
    for each in status.services:
        if service not in {"", each.service}:
            continue
        caches = [cache for cache in status.caches if cache.service == each.service]
        match view:
            case View.SUMMARY:
                lines += ["", *_summary(each, status)]
            case View.DETAIL:
                lines += [
                    *_heading(f"WCCP Client information for service {each.service}:", 0),
                    *_detail(each, caches),
                ]
            case View.VIEW:
                lines += _view(each, caches)
            case View.SERVICE:
                lines += _definition(each)
    return "\n".join(lines)


def _summary(service: ServiceStatus, status: Status) -> Iterator[str]:
    dropped = sum(each.packets for each in service.not_redirected if each.verdict in {"dropped", "rejected"})
    yield from _heading(f"Service Identifier: {service.service}")
    fields: tuple[tuple[str, object], ...] = (
        ("Number of Service Group Clients:", service.caches_usable),
        ("Number of Service Group Routers:", len(service.routers)),
        ("Total Packets Redirected:", service.packets_redirected),
        ("Service mode:", service.mode.capitalize()),
        ("Total Packets Dropped Closed:", dropped),
        ("Redirect access-list:", "yes" if service.redirect_list else "-none-"),
        ("Total Packets Denied Redirect:", _packets(service.not_redirected, "denied")),
        ("Total Packets Unassigned:", service.packets_unassigned),
        ("Total Messages Denied to Group:", _refused(status, "not_in_group_list")),
        ("Total Authentication failures:", _refused(status, "authentication_")),
        ("Total Bypassed Packets Received:", _returned(status, service.service)),
    )
    for label, value in fields:
        yield from _field(label, value, 2)


def _detail(service: ServiceStatus, caches: list[CacheStatus]) -> Iterator[str]:
    for cache in caches:
        share = 100 * cache.buckets / service.buckets_total if service.buckets_total else 0.0
        is_hash = service.assignment_method == "hash"
        fields: list[tuple[str, object]] = [
            ("WCCP Client ID:", cache.address),
            ("State:", "Usable" if cache.state == "usable" else "NOT Usable"),
            ("Redirection:", cache.forwarding.upper()),
            ("Packet Return:", cache.packet_return.upper()),
            ("Assignment:", service.assignment_method.upper()),
            ("Hash Allotment:" if is_hash else "Mask/Value Allotment:", f"{cache.buckets} ({share:.2f}%)"),
            ("Packets Redirected:", cache.packets_redirected),
            ("Connect Time:", _clock(cache.usable_seconds)),
            ("Bypassed Packets:", cache.packets_returned),
        ]
        if is_hash:
            fields.insert(5, ("Assigned Hash Info:", _bitmap(service, cache.address)))
        for label, value in fields:
            yield from _field(label, value, 1)
        if cache.reason:
            yield from _field("Reason:", cache.reason, 1)
        yield ""
    if not caches:
        yield from _field("-none-", "", 1)


def _view(service: ServiceStatus, caches: list[CacheStatus]) -> Iterator[str]:
    usable = [cache.address for cache in caches if cache.state == "usable"]
    others = [cache.address for cache in caches if cache.state != "usable"]
    for title, members in (
        ("WCCP Routers Informed of:", service.routers),
        ("WCCP Clients Visible:", usable),
        ("WCCP Clients NOT Visible:", others),
    ):
        yield from _heading(title)
        for each in members or ("-none-",):
            yield " " * 2 * _INDENT + each
        yield ""


def _definition(service: ServiceStatus) -> Iterator[str]:
    yield from _heading(f"Service {service.service}:", 0)
    yield from _field("Definition:", service.definition or "-none-", 1)
    yield from _field("Priority:", service.priority, 1)
    yield from _field("Mode:", service.mode.capitalize(), 1)
    for line in service.redirect_list:
        yield from _field(f"{line.packets} packets:", line.line, 1)


def _bitmap(service: ServiceStatus, cache: str) -> str:
    """256 bits in hexadecimal, bucket 0 first."""
    bits = "".join("1" if owner == cache else "0" for owner in service.bucket_owners)
    return f"{int(bits, 2):064X}" if bits else ""


def _packets(outcomes: tuple[OutcomeStatus, ...], reason: str) -> int:
    return sum(each.packets for each in outcomes if each.reason == reason)


def _refused(status: Status, reason: str) -> int:
    """Of the whole router: messages are refused before anybody knows whose they are."""
    return sum(each.count for each in status.refused if each.reason.startswith(reason))


def _returned(status: Status, service: str) -> int:
    return sum(each.packets_returned for each in status.caches if each.service == service)


def _heading(text: str, depth: int = 1) -> Iterator[str]:
    yield " " * depth * _INDENT + text


def _field(label: str, value: object, depth: int) -> Iterator[str]:
    yield (" " * depth * _INDENT + f"{label:<{_LABEL}}{value}").rstrip()


def _clock(seconds: float) -> str:
    """`1d03h` or `03:09:44`, as IOS writes how long something has been so."""
    whole = int(seconds)
    if whole >= 86400:
        return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"
