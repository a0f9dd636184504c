"""The redirection hash table of a group and the ways in which it changes.

A table is 256 owners, None where nobody owns the bucket (draft 4.11.1: such packets are forwarded normally).
Router-side assignment moves as few buckets as possible: when one of N equal caches goes or comes, only the
buckets that must move do, so that the flows of the others stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from wccpd.wire.elements import bucket_index
from wccpd.wire.enums import BUCKETS, UNASSIGNED_BUCKET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wccpd.wire.reader import IPAddress

Owners = tuple[IPv4Address | None, ...]
"""256 entries; entry b is the cache that bucket b goes to."""

EMPTY: Owners = (None,) * BUCKETS


@dataclass(frozen=True, slots=True)
class Share:
    """How many buckets a cache should have."""

    cache: IPv4Address
    buckets: int


def shares(weights: Mapping[IPv4Address, int], current: Mapping[IPv4Address, int]) -> tuple[Share, ...]:
    """Split 256 buckets by weight, largest remainder first.

    Remainders that tie go to the cache that has more buckets now, then to the lower address, so that equal
    caches do not trade buckets for nothing. Weights of zero get nothing, unless every weight is zero.
    """
    total = sum(weights.values())
    effective = dict(weights) if total else dict.fromkeys(weights, 1)
    total = total or len(effective)
    whole = {cache: BUCKETS * weight // total for cache, weight in effective.items()}
    rest = BUCKETS - sum(whole.values())
    by_remainder = sorted(
        effective,
        key=lambda cache: (-(BUCKETS * effective[cache] % total), -current.get(cache, 0), int(cache)),
    )
    for cache in by_remainder[:rest]:
        whole[cache] += 1
    return tuple(Share(cache, whole[cache]) for cache in sorted(whole, key=int))


def assign(owners: Owners, weights: Mapping[IPv4Address, int]) -> Owners:
    """Give every bucket to one of the caches in `weights`, moving as few as possible.

    Args:
        owners: The table in force; owners that are not in `weights` lose their buckets.
        weights: Each usable cache with its weight, 0 to 65535.

    Returns:
        The new table; the empty table when there is no cache.
    """
    if not weights:
        return EMPTY
    held = bucket_counts(owners)
    wanted = {share.cache: share.buckets for share in shares(weights, held)}
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
    wanted = {share.cache: share.buckets for share in shares(weights, held)}
    for bucket in orphans:
        neediest = max(weights, key=lambda cache: (wanted[cache] - held.get(cache, 0), -int(cache)))
        table[bucket] = neediest
        held[neediest] = held.get(neediest, 0) + 1
    return tuple(table)


def from_redirect_assign(
    caches: Sequence[IPAddress], buckets: bytes, usable: frozenset[IPv4Address]
) -> Owners:
    """Read the Assignment Info of a REDIRECT_ASSIGN (draft 5.6.7).

    Buckets of caches that are not usable here, and indices past the cache list, become unassigned: the rest
    of a table that is right for everybody else still counts.
    """
    table: list[IPv4Address | None] = []
    for octet in buckets:
        index = bucket_index(octet)
        owner = caches[index] if octet != UNASSIGNED_BUCKET and index < len(caches) else None
        table.append(owner if isinstance(owner, IPv4Address) and owner in usable else None)
    return tuple(table)


def bucket_counts(owners: Owners) -> dict[IPv4Address, int]:
    """Buckets per owner; caches without any are absent."""
    counts: dict[IPv4Address, int] = {}
    for owner in owners:
        if owner is not None:
            counts[owner] = counts.get(owner, 0) + 1
    return counts


def bucket_vector(owners: Owners, cache: IPv4Address) -> bytes:
    """The 32-octet vector of a cache's buckets for its identity element.

    Sources disagree on the bit order (Wireshark reads low bit first, a vendor's dump only makes sense high
    bit first); clients ignore the vector. We write bucket 0 as the highest bit.
    """
    bits = 0
    for owner in owners:
        bits = bits << 1 | (owner == cache)
    return bits.to_bytes(BUCKETS // 8, "big")


def moved(before: Owners, after: Owners) -> int:
    """Number of buckets whose owner differs."""
    return sum(old != new for old, new in zip(before, after, strict=True))
