"""What a group has assigned: a hash table of 256 buckets, or mask/value sets. Frozen values.

Both are a sequence of owners with a shape around it, so that weighing, covering and counting moves
(`assignment`) need to know nothing of the shape. An owner of None means: forwarded normally (draft 4.11).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

from wccpd.protocol.assignment import EMPTY, Owners, bucket_counts
from wccpd.protocol.view import OwnedSet, OwnedValue
from wccpd.wire.elements import bucket_index, bucket_uses_alternate_hash
from wccpd.wire.enums import UNASSIGNED_BUCKET, ServiceFlags
from wccpd.wire.masks import Mask, MaskValueSet, value_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.identity import WebCacheIdentity
    from wccpd.wire.reader import IPAddress

MAX_ROUTER_VALUES = 128
"""Values that the router writes itself: of a wider mask only the lowest 7 bits are used. 64 is what Squid, old
WAAS and FortiOS have; each value costs 16 octets of every I_SEE_YOU."""
USUAL_MASK = 0x1741
"""The mask that Squid, old WAAS, Websense and FortiOS default to: 6 bits, 64 values."""
MAX_MASK_VALUES = 1408
"""Values of a REDIRECT_ASSIGN that are taken; a Catalyst has room for a few hundred. With MAX_MASK_SETS around them and
with the longest elements of 32 caches (`wire.identity`), I_SEE_YOU stays below the 65,507 octets of a UDP datagram."""
MAX_MASK_SETS = 256
"""Distinct masks that WCCP allows."""


@dataclass(frozen=True)
class HashTable:
    """256 buckets (draft 4.11.1)."""

    owners: Owners = EMPTY
    alternate: frozenset[int] = frozenset()
    """Buckets with the A flag: their packets are decided by the alternate hash."""

    @cached_property
    def counts(self) -> dict[IPv4Address, int]:
        """Buckets of each owner; caches without any are absent."""
        return bucket_counts(self.owners)

    def with_owners(self, owners: Owners) -> Self:
        """The same shape with other owners."""
        return replace(self, owners=owners)

    @classmethod
    def of_redirect_assign(
        cls, caches: Sequence[IPAddress], buckets: bytes, usable: frozenset[IPv4Address]
    ) -> HashTable:
        """Read the buckets of a REDIRECT_ASSIGN (draft 5.6.7).

        Buckets of caches that are not usable here, and indices past the cache list, become unassigned: the
        rest of a table that is right for everybody else still counts.
        """
        owners: list[IPv4Address | None] = []
        for octet in buckets:
            index = bucket_index(octet)
            known = octet != UNASSIGNED_BUCKET and index < len(caches)
            owners.append(_usable(caches[index], usable) if known else None)
        flagged = (bucket for bucket, octet in enumerate(buckets) if bucket_uses_alternate_hash(octet))
        return cls(tuple(owners), frozenset(flagged))


@dataclass(frozen=True)
class MaskTable:
    """Mask/value sets (draft 4.11.2): sets in their order, of each the mask and how many values it has."""

    sets: tuple[MaskValueSet, ...] = ()
    """With the owners as they were assigned; who owns a value now is said by `owners`."""
    owners: Owners = ()
    """One entry per value, over all sets in order."""

    @cached_property
    def counts(self) -> dict[IPv4Address, int]:
        """Values of each owner; caches without any are absent."""
        return bucket_counts(self.owners)

    def with_owners(self, owners: Owners) -> Self:
        """The same masks and values with other owners."""
        return replace(self, owners=owners)

    @cached_property
    def owned_sets(self) -> tuple[OwnedSet, ...]:
        """All sets with every value and its present owner."""
        owners = iter(self.owners)
        return tuple(
            OwnedSet(each.mask, tuple(OwnedValue(*value[:4], next(owners)) for value in each.values))
            for each in self.sets
        )

    def assigned_sets(self) -> tuple[MaskValueSet, ...]:
        """The sets with their present owners; values of nobody are left out."""
        owners = iter(self.owners)
        return tuple(
            MaskValueSet(
                each.mask,
                tuple(
                    value._replace(cache=owner)
                    for value in each.values
                    if (owner := next(owners)) is not None
                ),
            )
            for each in self.sets
        )

    @classmethod
    def of_redirect_assign(cls, sets: tuple[MaskValueSet, ...], usable: frozenset[IPv4Address]) -> MaskTable:
        """Read the sets of a REDIRECT_ASSIGN; values of caches that are not usable here become unassigned."""
        return cls(sets, tuple(_usable(value.cache, usable) for each in sets for value in each.values))

    @classmethod
    def of_mask(cls, mask: Mask) -> MaskTable:
        """A table with every value of a mask, owned by nobody."""
        mask = narrowed(mask)
        nobody = IPv4Address(0)
        values = tuple(value_at(mask, number, nobody) for number in range(1 << mask.bit_count))
        return cls((MaskValueSet(mask, values),), (None,) * len(values))


Table = HashTable | MaskTable


def is_assigned(table: Table) -> bool:
    """Whether anybody owns anything."""
    return bool(table.counts)


def same_shape(first: Table, second: Table) -> bool:
    """Whether an entry means the same packets in both tables."""
    if isinstance(first, HashTable) and isinstance(second, HashTable):
        return True
    if isinstance(first, MaskTable) and isinstance(second, MaskTable):
        return [_keys(each) for each in first.sets] == [_keys(each) for each in second.sets]
    return False


def wanted_mask(identity: WebCacheIdentity, definition: ServiceInfo) -> Mask:
    """The mask for a router-side assignment: the one that the cache shows in its identity, else the usual one.

    The usual one lies on the source address if the service hashes by it, else on the destination address,
    as in Squid.
    """
    sets = getattr(identity.assignment, "sets", ())
    if sets and sets[0].mask.bit_count:
        return Mask(*sets[0].mask)
    none, usual = IPv4Address(0), IPv4Address(USUAL_MASK)
    if ServiceFlags.SOURCE_IP_HASH in definition.flags:
        return Mask(usual, none, 0, 0)
    return Mask(none, usual, 0, 0)


def narrowed(mask: Mask) -> Mask:
    """The mask, or its lowest bits if it has more values than the router writes."""
    bits_left = MAX_ROUTER_VALUES.bit_length() - 1
    fields = []
    for field in (mask.destination_port, mask.source_port, mask.destination_address, mask.source_address):
        kept = 0
        rest = int(field)
        while rest and bits_left:
            lowest = rest & -rest
            kept |= lowest
            rest ^= lowest
            bits_left -= 1
        fields.append(kept)
    destination_port, source_port, destination, source = fields
    return Mask(IPv4Address(source), IPv4Address(destination), source_port, destination_port)


def _usable(cache: IPAddress, usable: frozenset[IPv4Address]) -> IPv4Address | None:
    return cache if isinstance(cache, IPv4Address) and cache in usable else None


def _keys(each: MaskValueSet) -> tuple[Mask, tuple[tuple[object, ...], ...]]:
    return each.mask, tuple(tuple(value[:4]) for value in each.values)
