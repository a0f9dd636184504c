"""Assignment components (draft 5.6.7, 5.6.10, 5.6.11; 2.01, 5.3.3, 5.3.4 and 5.4): who gets which flows.

Each reads and writes its body, without type and length; offsets in the drawings count from the start of the
body. Whether an assignment is acceptable is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from wccpd.wire.elements import (
    AssignmentKey,
    RouterAssignment,
    read_caches,
    read_router_assignments,
    write_addresses,
)
from wccpd.wire.enums import BUCKETS, MAX_CACHES, UNASSIGNED_BUCKET, AssignmentType
from wccpd.wire.errors import WireReason
from wccpd.wire.masks import (
    AlternateMaskValueSet,
    MaskValueSet,
    read_alternate_sets,
    read_sets,
    write_alternate_sets,
    write_sets,
)

if TYPE_CHECKING:
    from wccpd.wire.reader import IPAddress, Reader
    from wccpd.wire.writer import Writer

_TYPE_LENGTH = Struct("!HH")


@dataclass(frozen=True, slots=True)
class HashBuckets:
    """Who has which bucket (draft 5.6.7): C (4), C addresses, 256 bucket octets."""

    caches: tuple[IPAddress, ...]
    """Their order gives the index in `buckets`."""
    buckets: bytes
    """256 octets; see `elements.bucket_index` and `elements.bucket_uses_alternate_hash`."""

    @classmethod
    def decode(cls, reader: Reader) -> HashBuckets:
        """Read caches and buckets. A bucket that names no listed web-cache is tolerated."""
        caches = read_caches(reader)
        buckets = reader.octets(BUCKETS)
        strangers = buckets.translate(None, _VALID_BUCKETS[len(caches)])
        if strangers:
            detail = f"{len(strangers)} buckets such as {strangers[0]:#04x}, only {len(caches)} web-caches"
            reader.tolerate(WireReason.BUCKET_INDEX, detail)
        return cls(caches, buckets)

    def encode(self, writer: Writer) -> None:
        """Write caches and buckets.

        Raises:
            ValueError: There are not 256 buckets.
        """
        if len(self.buckets) != BUCKETS:
            raise ValueError(f"{len(self.buckets)} buckets, not {BUCKETS}")
        write_addresses(writer, self.caches)
        writer.octets(self.buckets)


_VALID_BUCKETS = tuple(
    bytes((*range(count), *range(0x80, 0x80 + count), UNASSIGNED_BUCKET)) for count in range(MAX_CACHES + 1)
)
"""By number of web-caches: the bucket octets that make sense."""


@dataclass(frozen=True, slots=True)
class AssignmentInfo:
    """Assignment Info (draft 5.6.7).

    0: key (8); 8: R (4); 12: R router elements (12 each); then `HashBuckets`.
    """

    key: AssignmentKey
    routers: tuple[RouterAssignment, ...]
    caches: tuple[IPAddress, ...]
    """Their order gives the index in `buckets`."""
    buckets: bytes
    """256 octets; see `elements.bucket_index` and `elements.bucket_uses_alternate_hash`."""

    @classmethod
    def decode(cls, reader: Reader) -> AssignmentInfo:
        """Read the body."""
        key = AssignmentKey.decode(reader)
        routers = read_router_assignments(reader)
        table = HashBuckets.decode(reader)
        return cls(key, routers, table.caches, table.buckets)

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        self.key.encode(writer)
        _write_routers(writer, self.routers)
        HashBuckets(self.caches, self.buckets).encode(writer)


@dataclass(frozen=True, slots=True)
class AssignmentMap:
    """Assignment Map (draft 5.6.11): m (4), m mask/value sets."""

    sets: tuple[MaskValueSet, ...]

    @classmethod
    def decode(cls, reader: Reader) -> AssignmentMap:
        """Read the body."""
        return cls(read_sets(reader))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        write_sets(writer, self.sets)


@dataclass(frozen=True, slots=True)
class AlternateSets:
    """The alternate mask/value set list of 2.01: m (4), m alternate sets."""

    sets: tuple[AlternateMaskValueSet, ...]

    @classmethod
    def decode(cls, reader: Reader) -> AlternateSets:
        """Read the list."""
        return cls(read_alternate_sets(reader))

    def encode(self, writer: Writer) -> None:
        """Write the list."""
        write_alternate_sets(writer, self.sets)


AssignmentBody = HashBuckets | AssignmentMap | AlternateSets


@dataclass(frozen=True, slots=True)
class AlternateAssignment:
    """Alternate Assignment (draft 5.6.10).

    0: assignment type (2); 2: octets that follow (2); 4: key (8); 12: R (4); 16: R router elements;
    then the body.
    """

    key: AssignmentKey
    routers: tuple[RouterAssignment, ...]
    body: AssignmentBody

    @classmethod
    def decode(cls, reader: Reader) -> AlternateAssignment:
        """Read the body.

        Raises:
            WireError: ASSIGNMENT_TYPE, ASSIGNMENT_LENGTH and those of the parts.
        """
        assignment_type = _read_assignment_type(reader)
        key = AssignmentKey.decode(reader)
        routers = read_router_assignments(reader)
        return cls(key, routers, _BODIES[assignment_type].decode(reader))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        start = writer.begin(_assignment_type(self.body))
        self.key.encode(writer)
        _write_routers(writer, self.routers)
        self.body.encode(writer)
        writer.end(start)

    @property
    def hash_assignment(self) -> AssignmentInfo | None:
        """The same as an Assignment Info when it assigns buckets, else None."""
        if isinstance(self.body, HashBuckets):
            return AssignmentInfo(self.key, self.routers, self.body.caches, self.body.buckets)
        return None


@dataclass(frozen=True, slots=True)
class AlternateAssignmentMap:
    """Alternate Assignment Map (2.01, 5.3.4).

    0: assignment type (2); 2: octets that follow (2); 4: the body.
    """

    body: AssignmentBody

    @classmethod
    def decode(cls, reader: Reader) -> AlternateAssignmentMap:
        """Read the body.

        Raises:
            WireError: ASSIGNMENT_TYPE, ASSIGNMENT_LENGTH and those of the parts.
        """
        return cls(_BODIES[_read_assignment_type(reader)].decode(reader))

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        start = writer.begin(_assignment_type(self.body))
        self.body.encode(writer)
        writer.end(start)


_BODIES: dict[int, type[AssignmentBody]] = {
    AssignmentType.HASH: HashBuckets,
    AssignmentType.MASK: AssignmentMap,
    AssignmentType.ALTERNATE_MASK: AlternateSets,
}


def _assignment_type(body: AssignmentBody) -> int:
    return next(number for number, kind in _BODIES.items() if isinstance(body, kind))


def _read_assignment_type(reader: Reader) -> int:
    assignment_type: int
    assignment_type, length = reader.unpack(_TYPE_LENGTH)
    if length != reader.remaining:
        raise reader.fail(
            WireReason.ASSIGNMENT_LENGTH, f"an inner length of {length} with {reader.remaining} octets left"
        )
    if assignment_type not in _BODIES:
        raise reader.fail(WireReason.ASSIGNMENT_TYPE, f"assignment type {assignment_type}")
    return assignment_type


def _write_routers(writer: Writer, routers: tuple[RouterAssignment, ...]) -> None:
    writer.uint32(len(routers))
    for router in routers:
        router.encode(writer)
