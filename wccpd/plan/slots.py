"""Numbers for paths, and what they meant before.

A flow is pinned by the number of its path, and lives longer than that path may. So a number goes on meaning its
cache when the path is gone: a cache that comes back, or now uses another method, gets it again and finds its flows.
Other caches get numbers that nobody has had yet, and when there are none left, the one that has been free for longest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.redirect import Path

MAX_SLOT = 255
"""A path's number has 8 bits, and 0 means none."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Who has which number."""

    paths: Mapping[Path, int] = field(default_factory=dict)
    former: Mapping[int, IPv4Address] = field(default_factory=dict)
    """Numbers that are free, each with the cache that it means; the one freed last at the end."""
    surplus: tuple[Path, ...] = ()
    """Paths for which there is none left."""


def allocate_slots(previous: Slots, wanted: Iterable[Path]) -> Slots:
    """Give each wanted path a number, the one that it had if it had one; see the module."""
    ordered = sorted(set(wanted), key=lambda path: (int(path.cache), path.forwarding))
    paths = {path: previous.paths[path] for path in ordered if path in previous.paths}
    leaving = {slot: path.cache for path, slot in previous.paths.items() if path not in paths}
    former = {**previous.former, **dict(sorted(leaving.items()))}
    unused = iter(sorted(set(range(1, MAX_SLOT + 1)) - set(paths.values()) - former.keys()))
    newcomers = [path for path in ordered if path not in paths]
    for path in newcomers:
        own = next((slot for slot, cache in reversed(former.items()) if cache == path.cache), None)
        if own is not None:
            del former[own]
            paths[path] = own
    present = {path.cache for path in ordered}
    surplus = []
    for path in newcomers:
        if path in paths:
            continue
        slot = next(unused, None)
        if slot is None and former:
            # One of a cache that is there still leads flows to it.
            slot = next((each for each, cache in former.items() if cache not in present), next(iter(former)))
            del former[slot]
        if slot is None:
            surplus.append(path)
        else:
            paths[path] = slot
    return Slots(paths, former, tuple(surplus))
