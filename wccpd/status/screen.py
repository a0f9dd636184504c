"""What the status tree says to people: first whether traffic is inspected and why not, then the parts.

Decides what is shown and in which words; `text` lays it out. Text that came from the network is shown without
its control characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wccpd.status.view import (
        BgpStatus,
        CacheStatus,
        RefusalStatus,
        RouterStatus,
        ServiceStatus,
        Status,
        TunnelStatus,
    )

ROUTES_SHOWN = 8
LIST_LINES_SHOWN = 10
REFUSED_PREFIXES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table, with remarks that stand under it."""

    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One part of the screen."""

    title: str
    columns: tuple[str, ...]
    """Headings; one that begins with `>` is aligned to the right."""
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    """Stand above the rows."""
    footers: tuple[str, ...] = ()
    """Stand below the rows."""


@dataclass(frozen=True, slots=True)
class Screen:
    """What there is to say, in the order in which it is asked."""

    inspecting: bool
    reasons: tuple[str, ...]
    tables: tuple[Table, ...]


class Part(StrEnum):
    """What can be shown by itself."""

    SERVICES = "services"
    CACHES = "caches"
    TUNNELS = "tunnels"
    BGP = "bgp"
    ROUTES = "routes"


def part(status: Status, which: Part) -> tuple[Table, ...]:
    """One part of the status, with every row."""
    match which:
        case Part.SERVICES:
            return (_service_table(status.services),)
        case Part.CACHES:
            return (_cache_table(status.caches),)
        case Part.TUNNELS:
            return (_tunnel_table(status.tunnels),)
        case Part.BGP | Part.ROUTES:
            most = len(status.bgp.routes) if status.bgp is not None else 0
            sessions, *routes = _bgp_tables(status.bgp, routes_shown=most)
            return (sessions,) if which is Part.BGP or not routes else tuple(routes)


def screen(status: Status) -> Screen:
    """What the status says, without its layout."""
    tables = (
        _router_table(status.router),
        _tunnel_table(status.tunnels),
        *_bgp_tables(status.bgp),
        _service_table(status.services),
        _cache_table(status.caches),
        _refusal_table(status.refused),
    )
    return Screen(status.inspecting, tuple(map(_printable, status.reasons)), tables)


def _router_table(router: RouterStatus) -> Table:
    plane = f"data plane {router.dataplane} with {router.hash_function}: {router.dataplane_state}"
    remarks: tuple[str, ...] = (
        f"wccpd {router.software_version}, running for {_age(router.uptime_seconds)}, {router.config_file}",
        f"{plane}, {router.dataplane_reason}" if router.dataplane_reason else plane,
    )
    if router.rollback_in_seconds is not None:
        left = f"{router.rollback_in_seconds:.0f} s"
        remarks += (f"a reload is on trial: rolled back in {left} unless `wccpctl confirm` comes",)
    if router.config_unlike_file:
        remarks += (f"not in force: {router.config_unlike_file} (`wccpctl reload` takes it)",)
    return _table(f"Router {router.id}", (), [], remarks=remarks)


def _tunnel_table(tunnels: Iterable[TunnelStatus]) -> Table:
    rows = [
        Row(
            (
                each.name,
                each.state,
                each.remote,
                each.inside,
                str(each.mtu_bytes),
                _count(each.received_packets),
                _count(each.sent_packets),
            ),
            _why(each.reason),
        )
        for each in tunnels
    ]
    columns = ("NAME", "STATE", "REMOTE", "INSIDE", ">MTU", ">PKTS IN", ">PKTS OUT")
    return _table("Tunnels", columns, rows, empty="none configured")


def _bgp_tables(bgp: BgpStatus | None, routes_shown: int = ROUTES_SHOWN) -> Iterator[Table]:
    if bgp is None:
        yield Table("BGP", (), (), ("not configured",))
        return
    title = f"BGP: {bgp.state} for {_age(bgp.since_seconds)}, AS {bgp.asn} to AS {bgp.peer_asn}"
    advertised = ", ".join(bgp.advertised_prefixes) or "nothing"
    sending = f"advertising {advertised}" if bgp.advertising else "advertising nothing: traffic stays away"
    sending += f" ({bgp.advertise_reason})" if bgp.advertise_reason else ""
    rows = [
        Row(
            (
                peer.address,
                peer.tunnel,
                peer.state,
                _age(peer.uptime_seconds) if peer.state == "established" else "-",
                str(peer.received),
                str(peer.accepted),
                str(peer.advertised),
            )
        )
        for peer in bgp.peers
    ]
    columns = ("NEIGHBOR", "TUNNEL", "STATE", ">FOR", ">RECEIVED", ">ACCEPTED", ">SENT")
    yield _table(
        title,
        columns,
        rows,
        remarks=(*_why(bgp.reason), sending, *(f"warning: {each}" for each in bgp.warnings)),
        empty="no sessions",
    )
    routes = [
        Row((route.prefix, ", ".join(route.tunnels) or "-", "stale" if route.stale else "fresh"))
        for route in bgp.routes[:routes_shown]
    ]
    footers = [
        *_and_more(len(bgp.routes) - routes_shown, "routes"),
        *(f"refused: {each}" for each in bgp.refused[:REFUSED_PREFIXES_SHOWN]),
        *_and_more(len(bgp.refused) - REFUSED_PREFIXES_SHOWN, "refused prefixes"),
        *((f"kept on the host's own way: {', '.join(bgp.pins)}",) if bgp.pins else ()),
    ]
    title = f"Routes learnt: {len(bgp.routes)}"
    yield _table(title, ("PREFIX", "TUNNELS", "STATE"), routes, footers=footers, empty="none")


def _service_table(services: Iterable[ServiceStatus]) -> Table:
    rows = [
        Row(
            (
                each.service,
                each.state,
                f"{each.caches_usable} of {each.caches_seen}",
                f"{each.buckets_assigned} of {each.buckets_total}",
                _count(each.packets_redirected),
                _count(each.packets_uninspected),
            ),
            (*_why(each.reason), _service_note(each), *_not_redirected(each), *_list_lines(each)),
        )
        for each in services
    ]
    columns = ("SERVICE", "STATE", "CACHES USABLE", "BUCKETS", ">REDIRECTED", ">UNINSPECTED")
    return _table("Services (packets)", columns, rows, empty="none configured")


def _service_note(service: ServiceStatus) -> str:
    defined = (
        f"{service.definition}; priority {service.priority}"
        if service.definition
        else "not defined by a cache"
    )
    match service.assigned_by:
        case "cache":
            filled = f"buckets by cache {service.designated_cache} (change {service.change_number})"
        case "router":
            filled = f"buckets by this router (change {service.change_number})"
        case _:
            filled = "buckets by nobody"
    return f"{defined}; {service.mode}; {filled}"


def _not_redirected(service: ServiceStatus) -> tuple[str, ...]:
    parts = (f"{_count(each.packets)} {each.verdict} ({each.reason})" for each in service.not_redirected)
    words = ", ".join(parts)
    return (f"not redirected: {words}",) if words else ()


def _list_lines(service: ServiceStatus) -> tuple[str, ...]:
    shown = (
        f"{_count(each.packets)} packets: {each.line}" for each in service.redirect_list[:LIST_LINES_SHOWN]
    )
    return *shown, *_and_more(len(service.redirect_list) - LIST_LINES_SHOWN, "lines of the redirect list")


def _cache_table(caches: Iterable[CacheStatus]) -> Table:
    rows = [
        Row(
            (
                each.address,
                each.service,
                each.state,
                str(each.buckets),
                _count(each.packets_redirected),
                _count(each.packets_returned),
                _age(each.last_here_i_am_seconds),
            ),
            (
                *_why(each.reason),
                f"{each.rung}; {each.forwarding} there, {each.packet_return} back; weight {each.weight}"
                + (f"; usable for {_age(each.usable_seconds)}" if each.state == "usable" else "")
                + (f"; zone {each.zone}" if each.zone else "")
                + ("; draining: no new flows" if each.draining else ""),
                *((f"probe: {each.probe}",) if each.probe else ()),
            ),
        )
        for each in caches
    ]
    columns = ("CACHE", "SERVICE", "STATE", ">BUCKETS", ">REDIRECTED", ">RETURNED", ">HEARD")
    empty = "no cache has spoken to this router"
    return _table("Caches (packets)", columns, rows, empty=empty)


def _refusal_table(refused: Iterable[RefusalStatus]) -> Table:
    rows = [
        Row(
            (each.reason, str(each.count), each.last_source, _age(each.last_seconds)),
            (each.last_detail,) if each.last_detail else (),
        )
        for each in refused
    ]
    return _table("Refused messages", ("REASON", ">COUNT", "LAST FROM", ">AGO"), rows, empty="none")


def _table(
    title: str,
    columns: tuple[str, ...],
    rows: list[Row],
    *,
    remarks: Iterable[str] = (),
    footers: Iterable[str] = (),
    empty: str = "",
) -> Table:
    """A table whose text is fit to be shown; without rows, the words for that."""
    clean = tuple(Row(tuple(map(_printable, row.cells)), tuple(map(_printable, row.notes))) for row in rows)
    said = tuple(map(_printable, remarks))
    if not clean and empty:
        said = (*said, empty)
    return Table(_printable(title), columns, clean, said, tuple(map(_printable, footers)))


def _why(reason: str) -> tuple[str, ...]:
    return (f"why: {reason}",) if reason else ()


def _and_more(count: int, what: str) -> tuple[str, ...]:
    return (f"and {count} more {what}: wccpctl status -o json shows all",) if count > 0 else ()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _age(seconds: float) -> str:
    """A duration in at most two units: 12s, 45m, 3h12m, 5d4h."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return f"{minutes}m"
    if days < 2:
        return f"{hours}h{minutes % 60}m"
    return f"{days}d{hours % 24}h"


def _count(number: int) -> str:
    """A number in at most six characters: 99999, 123k, 12.3M, 4.5G."""
    if number < 100_000:
        return str(number)
    for limit, unit in ((10**6, "k"), (10**9, "M"), (10**12, "G"), (10**15, "T")):
        if number < limit:
            value = number * 1000 / limit
            return f"{value:.1f}{unit}" if value < 100 else f"{int(value)}{unit}"
    return f"{number / 10**15:.3g}P"
