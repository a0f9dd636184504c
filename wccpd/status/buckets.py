"""Who owns which bucket, as a picture of 256 cells. Pure text; colour is `text`'s affair."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from string import ascii_letters
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wccpd.status.view import ServiceStatus

ROW = 32
"""Buckets in a line: eight lines, numbered by their first."""
GUTTER = 6
"""Columns before the first cell."""
NOBODY = "."
_LETTERS = ascii_letters


@dataclass(frozen=True, slots=True)
class Share:
    """One cache's part of a service."""

    letter: str
    cache: str
    buckets: int
    words: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One service's buckets."""

    title: str
    lines: tuple[str, ...]
    """A number and 32 letters each; none where masks assign, which have no buckets."""
    shares: tuple[Share, ...]
    """By the address of the cache, nobody's last."""


def picture(service: ServiceStatus, values_of: dict[str, int]) -> Picture:
    """Draw one service.

    Args:
        service: The service.
        values_of: Buckets, or values of masks, of each of its caches.
    """
    owned = Counter(service.bucket_owners) if service.assignment_method == "hash" else Counter(values_of)
    nobodys = service.buckets_total - sum(count for cache, count in owned.items() if cache)
    caches = sorted((cache for cache in owned if cache), key=_by_address)
    letters = {cache: _LETTERS[index % len(_LETTERS)] for index, cache in enumerate(caches)}
    what = "buckets" if service.assignment_method == "hash" else "values"
    shares = [
        _share(letters[cache], cache, owned[cache], service.buckets_total, what)
        for cache in caches
        if owned[cache]
    ]
    if nobodys:
        shares.append(_share(NOBODY, "nobody", nobodys, service.buckets_total, what))
    return Picture(
        f"{service.service}: {service.buckets_assigned} of {service.buckets_total} {what} assigned"
        + (f" by {_assigner(service)}" if service.assigned_by != "nobody" else ""),
        tuple(_lines(service, letters)) if service.assignment_method == "hash" else (),
        tuple(shares),
    )


def plain(drawn: Picture) -> str:
    """The picture without colour."""
    return "\n".join((drawn.title, *drawn.lines, *(share.words for share in drawn.shares)))


def _lines(service: ServiceStatus, letters: dict[str, str]) -> list[str]:
    cells = [letters.get(owner, NOBODY) for owner in service.bucket_owners]
    return [
        f"{start:>{GUTTER - 2}}  {''.join(cells[start : start + ROW])}" for start in range(0, len(cells), ROW)
    ]


def _share(letter: str, cache: str, count: int, total: int, what: str) -> Share:
    percent = 100 * count / total
    return Share(
        letter, cache, count, f"{'':{GUTTER - 2}}  {letter} {cache}: {count} {what}, {percent:.1f} %"
    )


def _assigner(service: ServiceStatus) -> str:
    return f"cache {service.designated_cache}" if service.assigned_by == "cache" else "this router"


def _by_address(cache: str) -> tuple[int, ...]:
    return tuple(map(int, cache.split(".")))
