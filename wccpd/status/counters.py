"""Every counter of the status tree in one list, and how fast they count. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wccpd.status.screen import Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wccpd.status.view import BgpStatus, ServiceStatus, Status


@dataclass(frozen=True, slots=True)
class Counter:
    """One of them."""

    part: str
    """service, redirect-list, cache, tunnel, peer or refused."""
    name: str
    """Which one: the service, `SERVICE/CACHE`, the tunnel, the peer or the reason."""
    counter: str
    """What is counted, with its unit first: packets, bytes, errors, messages, falls."""
    value: float
    """Since the part was made, or per second."""


def counters(status: Status) -> tuple[Counter, ...]:
    """All of them, in the order of the status."""
    return tuple(_all(status))


def rates(before: tuple[Counter, ...], after: tuple[Counter, ...], seconds: float) -> tuple[Counter, ...]:
    """What came per second between two readings. One that counts anew counts from 0, and one that is new too."""
    known = {(each.part, each.name, each.counter): each.value for each in before}

    def since(each: Counter) -> float:
        old = known.get((each.part, each.name, each.counter), 0)
        return each.value - old if each.value >= old else each.value

    return tuple(replace(each, value=round(since(each) / seconds, 1)) for each in after)


def table(found: tuple[Counter, ...], *, per_second: bool = False) -> Table:
    """The same for people; what is 0 is there too, since a 0 is an answer."""
    rows = tuple(
        Row((each.part, each.name, each.counter, f"{each.value:.{int(per_second)}f}")) for each in found
    )
    return Table("Counters", ("PART", "NAME", "COUNTER", ">PER SECOND" if per_second else ">VALUE"), rows)


def _all(status: Status) -> Iterator[Counter]:
    for service in status.services:
        yield from _of_service(service)
    for cache in status.caches:
        for counter in ("packets_redirected", "bytes_redirected", "packets_returned", "bytes_returned"):
            yield Counter("cache", f"{cache.service}/{cache.address}", counter, getattr(cache, counter))
    for tunnel in status.tunnels:
        for counter, value in (
            ("packets_received", tunnel.received_packets),
            ("bytes_received", tunnel.received_bytes),
            ("packets_sent", tunnel.sent_packets),
            ("bytes_sent", tunnel.sent_bytes),
            ("packets_with_errors", tunnel.errors),
            ("packets_dropped", tunnel.dropped),
        ):
            yield Counter("tunnel", tunnel.name, counter, value)
    yield from _of_bgp(status.bgp)
    for refused in status.refused:
        yield Counter("refused", refused.reason, "messages", refused.count)


def _of_service(service: ServiceStatus) -> Iterator[Counter]:
    for counter in ("packets_redirected", "bytes_redirected", "packets_uninspected", "bytes_uninspected"):
        yield Counter("service", service.service, counter, getattr(service, counter))
    for outcome in service.not_redirected:
        yield Counter(
            "service", service.service, f"packets_{outcome.verdict}_{outcome.reason}", outcome.packets
        )
        yield Counter("service", service.service, f"bytes_{outcome.verdict}_{outcome.reason}", outcome.bytes)
    for line in service.redirect_list:
        yield Counter("redirect-list", f"{service.service}: {line.line}", "packets", line.packets)
        yield Counter("redirect-list", f"{service.service}: {line.line}", "bytes", line.bytes)


def _of_bgp(bgp: BgpStatus | None) -> Iterator[Counter]:
    if bgp is None:
        return
    for peer in bgp.peers:
        yield Counter("peer", peer.address, "falls", peer.flops)
    yield Counter("peer", "all", "paths_refused", bgp.refused_total)
