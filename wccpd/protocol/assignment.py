"""Who owns what, and how that changes: weighing, covering, counting moves.

Owners are a sequence of caches, None where nobody owns the entry (draft 4.11.1: its packets are forwarded
normally). The entries are 256 hash buckets, or the values of masks; `tables` knows which. Router-side
assignment moves as few entries as possible: when one of N equal caches goes or comes, only those that must
move do, so that the flows of the others stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Owners = tuple[IPv4Address | None, ...]
"""One entry per bucket or value: the cache that it goes to."""

EMPTY: Owners = (None,) * BUCKETS
"""A hash table of nobody's buckets."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many buckets a cache should have."""

    cache: IPv4Address
    buckets: int


def shares(
    weights: Mapping[IPv4Address, int], current: Mapping[IPv4Address, int], entries: int = BUCKETS
) -> tuple[Share, ...]:
    """Split the entries by weight, largest remainder first.

    Remainders that tie go to the cache that has more buckets now, then to the lower address, so that equal
    caches do not trade buckets for nothing. Weights of zero get nothing, unless every weight is zero.
    """
    total = sum(weights.values())
    effective = dict(weights) if total else dict.fromkeys(weights, 1)
    total = total or len(effective)
    whole = {cache: entries * weight // total for cache, weight in effective.items()}
    rest = entries - sum(whole.values())
    by_remainder = sorted(
        effective,
        key=lambda cache: (-(entries * effective[cache] % total), -current.get(cache, 0), int(cache)),
    )
    for cache in by_remainder[:rest]:
        whole[cache] += 1
    return tuple(Share(cache, whole[cache]) for cache in sorted(whole, key=int))


def assign(owners: Owners, weights: Mapping[IPv4Address, int]) -> Owners:
    """Give every entry to one of the caches in `weights`, moving as few as possible.

    Args:
        owners: The table in force; owners that are not in `weights` lose their buckets.
        weights: Each usable cache with its weight, 0 to 65535.

    Returns:
        The new owners; nobody when there is no cache.
    """
    if not weights:
        return (None,) * len(owners)
    held = bucket_counts(owners)
    wanted = {share.cache: share.buckets for share in shares(weights, held, len(owners))}
    table: list[IPv4Address | None] = []
    left = dict(wanted)
    for owner in owners:
        if owner is not None and left.get(owner, 0) > 0:
            left[owner] -= 1
            table.append(owner)
        else:
            table.append(None)
    # Deal the free buckets round robin, so that neighbours in the hash spread over the caches.
    order = [cache for cache, missing in left.items() if missing > 0]
    turn = 0
    for bucket, owner in enumerate(table):
        if owner is not None:
            continue
        cache = order[turn % len(order)]
        table[bucket] = cache
        left[cache] -= 1
        if left[cache] == 0:
            order.remove(cache)
        else:
            turn += 1
    return tuple(table)


def cover(owners: Owners, lost: Iterable[IPv4Address], weights: Mapping[IPv4Address, int]) -> Owners:
    """Give the buckets of lost caches to the survivors by weight; no other bucket moves."""
    gone = frozenset(lost)
    orphans = [bucket for bucket, owner in enumerate(owners) if owner in gone and owner is not None]
    table = list(owners)
    if not weights:
        for bucket in orphans:
            table[bucket] = None
        return tuple(table)
    held = bucket_counts(owners)
    wanted = {share.cache: share.buckets for share in shares(weights, held, len(owners))}
    for bucket in orphans:
        neediest = max(weights, key=lambda cache: (wanted[cache] - held.get(cache, 0), -int(cache)))
        table[bucket] = neediest
        held[neediest] = held.get(neediest, 0) + 1
    return tuple(table)


def leave(owners: Owners, lost: Iterable[IPv4Address]) -> Owners:
    """Make the buckets of lost caches nobody's."""
    gone = frozenset(lost)
    return tuple(None if owner in gone else owner for owner in owners)


def bucket_counts(owners: Owners) -> dict[IPv4Address, int]:
    """Buckets per owner; caches without any are absent."""
    counts: dict[IPv4Address, int] = {}
    for owner in owners:
        if owner is not None:
            counts[owner] = counts.get(owner, 0) + 1
    return counts


def bucket_vector(owners: Owners, cache: IPv4Address, *, low_bit_first: bool = False) -> bytes:
    """The 32-octet vector of a cache's buckets for its identity element.

    Sources disagree on the bit order (Wireshark reads low bit first, a vendor's dump only makes sense high
    bit first); clients ignore the vector. By default bucket 0 is the highest bit of the first octet.
    """
    bits = 0
    for owner in reversed(owners) if low_bit_first else owners:
        bits = bits << 1 | (owner == cache)
    return bits.to_bytes(BUCKETS // 8, "little" if low_bit_first else "big")


def moved(before: Owners, after: Owners) -> int:
    """Number of buckets whose owner differs."""
    return sum(old != new for old, new in zip(before, after, strict=True))
