"""Web-Cache Identity Element (draft 5.7.2; 2.01, 6.4): a web-cache, and what is assigned to it.

    0: WC Address (4); 4: hash revision (2); 6: flags (2); 8: assignment data, its form chosen by the flags.

A HERE_I_AM carries the sender's own element; an I_SEE_YOU repeats the element of every usable web-cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import TYPE_CHECKING, assert_never

from wccpd.wire.enums import (
    ASSIGNMENT_DATA_TYPE_MASK,
    BUCKET_VECTOR_OCTETS,
    AssignmentDataType,
    AssignmentType,
    IdentityFlags,
)
from wccpd.wire.masks import (
    AlternateMaskValueSet,
    MaskValueSet,
    read_alternate_sets,
    read_sets,
    write_alternate_sets,
    write_sets,
)
from wccpd.wire.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from wccpd.wire.reader import IPAddress, Reader

_HEADER = Struct("!IHH")
_HASH = Struct(f"!{BUCKET_VECTOR_OCTETS}sHH")
_WEIGHT_STATUS = Struct("!HH")
_TYPE_LENGTH = Struct("!HH")
_EITHER_U = int(IdentityFlags.UNASSIGNED | IdentityFlags.UNASSIGNED_HIGH)
_NO_FLAGS = IdentityFlags(0)
MAX_IDENTITY_OCTETS = 1120
"""Length of an element that a router redistributes: that of the 64 values of a usual mask and more. 32 of them beside
a full Assignment Map fit into one datagram (`protocol.tables`)."""
_RESERVED_MASK = ~ASSIGNMENT_DATA_TYPE_MASK


@dataclass(frozen=True, slots=True)
class HashAssignment:
    """Hash Assignment Data (2.01, 6.6): bucket vector (32), weight (2), status (2)."""

    buckets: bytes = bytes(BUCKET_VECTOR_OCTETS)
    """A set bit is a bucket of this web-cache. Sources disagree on the bit order; clients ignore it."""
    weight: int = 0
    """The web-cache's own wish for a share, redistributed unchanged (2.01, 6.9)."""
    status: int = 0

    @classmethod
    def decode(cls, reader: Reader) -> HashAssignment:
        """Read 36 octets."""
        return cls(*reader.unpack(_HASH))

    def encode(self, writer: Writer) -> None:
        """Write 36 octets.

        Raises:
            ValueError: The vector is not 32 octets.
        """
        if len(self.buckets) != BUCKET_VECTOR_OCTETS:
            raise ValueError(f"a bucket vector has {BUCKET_VECTOR_OCTETS} octets, not {len(self.buckets)}")
        writer.octets(self.buckets)
        writer.pack(_WEIGHT_STATUS, self.weight, self.status)


@dataclass(frozen=True, slots=True)
class MaskAssignment:
    """Mask Assignment Data (2.01, 6.7): n (4), n mask/value sets, weight (2), status (2)."""

    sets: tuple[MaskValueSet, ...] = ()
    weight: int = 0
    status: int = 0

    @classmethod
    def decode(cls, reader: Reader) -> MaskAssignment:
        """Read the sets, weight and status."""
        return cls(read_sets(reader), *reader.unpack(_WEIGHT_STATUS))

    def encode(self, writer: Writer) -> None:
        """Write the sets, weight and status."""
        write_sets(writer, self.sets)
        writer.pack(_WEIGHT_STATUS, self.weight, self.status)


@dataclass(frozen=True, slots=True)
class AlternateMaskAssignment:
    """Alternate Mask Assignment Data (2.01, 6.10): n (4), n alternate sets, weight (2), status (2)."""

    sets: tuple[AlternateMaskValueSet, ...] = ()
    weight: int = 0
    status: int = 0

    @classmethod
    def decode(cls, reader: Reader) -> AlternateMaskAssignment:
        """Read the sets, weight and status."""
        return cls(read_alternate_sets(reader), *reader.unpack(_WEIGHT_STATUS))

    def encode(self, writer: Writer) -> None:
        """Write the sets, weight and status."""
        write_alternate_sets(writer, self.sets)
        writer.pack(_WEIGHT_STATUS, self.weight, self.status)


@dataclass(frozen=True, slots=True)
class WeightStatus:
    """Assignment Weight and Status Data (2.01, 6.9): weight (2), status (2)."""

    weight: int = 0
    status: int = 0

    @classmethod
    def decode(cls, reader: Reader) -> WeightStatus:
        """Read 4 octets."""
        return cls(*reader.unpack(_WEIGHT_STATUS))

    def encode(self, writer: Writer) -> None:
        """Write 4 octets."""
        writer.pack(_WEIGHT_STATUS, self.weight, self.status)


@dataclass(frozen=True, slots=True)
class UnknownAssignmentData:
    """Extended Assignment Data of a type that the drafts do not name, kept as it came."""

    assignment_type: int
    octets: bytes = b""

    @property
    def weight(self) -> int:
        """Not known, hence 0."""
        return 0

    @property
    def status(self) -> int:
        """Not known, hence 0."""
        return 0


@dataclass(frozen=True, slots=True)
class NoAssignment:
    """No Assignment Data at all (2.01, 6.4)."""

    @property
    def weight(self) -> int:
        """It carries none, hence 0."""
        return 0

    @property
    def status(self) -> int:
        """It carries none, hence 0."""
        return 0


_NamedData = HashAssignment | MaskAssignment | AlternateMaskAssignment | WeightStatus
ExtendedData = _NamedData | UnknownAssignmentData


@dataclass(frozen=True, slots=True)
class ExtendedAssignment:
    """Extended Assignment Data Element (2.01, 6.10): type (2), length (2), data."""

    data: ExtendedData

    @property
    def weight(self) -> int:
        """Weight inside the data."""
        return self.data.weight

    @property
    def status(self) -> int:
        """Status inside the data."""
        return self.data.status

    @classmethod
    def decode(cls, reader: Reader) -> ExtendedAssignment:
        """Read type, length and data.

        Raises:
            WireError: COMPONENT_TOO_SHORT, COMPONENT_TRAILING_OCTETS and those of the data.
        """
        assignment_type, length = reader.unpack(_TYPE_LENGTH)
        inner = reader.block(length)
        data: ExtendedData
        match assignment_type:
            case AssignmentType.HASH:
                data = HashAssignment.decode(inner)
            case AssignmentType.MASK:
                data = MaskAssignment.decode(inner)
            case AssignmentType.ALTERNATE_MASK:
                data = AlternateMaskAssignment.decode(inner)
            case AssignmentType.WEIGHT_STATUS:
                data = WeightStatus.decode(inner)
            case _:
                data = UnknownAssignmentData(assignment_type, inner.octets(length))
        inner.finish()
        return cls(data)

    def encode(self, writer: Writer) -> None:
        """Write type, length and data."""
        match self.data:
            case UnknownAssignmentData(assignment_type, octets):
                start = writer.begin(assignment_type)
                writer.octets(octets)
            case data:
                start = writer.begin(_extended_type(data))
                data.encode(writer)
        writer.end(start)


AssignmentData = HashAssignment | MaskAssignment | NoAssignment | ExtendedAssignment


@dataclass(frozen=True, slots=True)
class WebCacheIdentity:
    """One web-cache; layout on top of this module."""

    address: IPAddress
    assignment: AssignmentData
    flags: IdentityFlags = _NO_FLAGS
    """Without the type bits, which follow from `assignment`."""
    hash_revision: int = 0

    @property
    def weight(self) -> int:
        """The web-cache's wish for a share, 0 to 65535; 0 when it says none."""
        return self.assignment.weight

    @property
    def status(self) -> int:
        """The web-cache's status field, redistributed unchanged; 0 when it says none."""
        return self.assignment.status

    @property
    def octets(self) -> int:
        """Length of the element as it is written."""
        writer = Writer(lambda _: 0)
        self.encode(writer)
        return len(writer.buffer)

    @property
    def is_unassigned(self) -> bool:
        """U: the assignment data is historical. Traffic Server sets another bit than the rest; both count."""
        return bool(int(self.flags) & _EITHER_U)

    def as_unassigned(self) -> WebCacheIdentity:
        """What an I_SEE_YOU shows of a usable web-cache that has nothing assigned: its own data, with U.

        Squid in mask mode takes the element for 32 octets when it has U and for 16 otherwise.
        """
        others = int(self.flags) & ~_EITHER_U
        return replace(self, flags=IdentityFlags(others | IdentityFlags.UNASSIGNED.value))

    def as_assigned_hash(self, buckets: bytes) -> WebCacheIdentity:
        """What an I_SEE_YOU shows of a web-cache that has buckets.

        Args:
            buckets: The bucket vector, 32 octets.
        """
        return self._assigned(HashAssignment(buckets, self.weight, self.status))

    def as_assigned_mask(self) -> WebCacheIdentity:
        """What an I_SEE_YOU shows of a web-cache that has mask values: the sets are in the Assignment Map."""
        return self._assigned(MaskAssignment((), self.weight, self.status))

    def _assigned(self, data: HashAssignment | MaskAssignment) -> WebCacheIdentity:
        assignment = ExtendedAssignment(data) if isinstance(self.assignment, ExtendedAssignment) else data
        return replace(self, assignment=assignment, flags=IdentityFlags(int(self.flags) & ~_EITHER_U))

    @classmethod
    def decode(cls, reader: Reader) -> WebCacheIdentity:
        """Read one element.

        Raises:
            WireError: COMPONENT_TOO_SHORT, COUNT_PAST_COMPONENT, ADDRESS_INDEX and those of alternate sets.
        """
        address, hash_revision, flags = reader.unpack(_HEADER)
        assignment = _DATA[flags & ASSIGNMENT_DATA_TYPE_MASK](reader)
        kept = _USUAL_FLAGS.get(flags & _RESERVED_MASK)
        if kept is None:
            kept = IdentityFlags(flags & _RESERVED_MASK)
        return cls(reader.as_address(address), assignment, kept, hash_revision)

    def encode(self, writer: Writer) -> None:
        """Write one element."""
        flags = int(self.flags) & _RESERVED_MASK | _data_type(self.assignment).value
        writer.pack(_HEADER, writer.field(self.address), self.hash_revision, flags)
        if not isinstance(self.assignment, NoAssignment):
            self.assignment.encode(writer)


_USUAL_FLAGS = {int(flags): flags for flags in (_NO_FLAGS, IdentityFlags.UNASSIGNED)}
"""Made once; the others are made anew each time."""
_DATA: dict[int, Callable[[Reader], AssignmentData]] = {
    AssignmentDataType.HASH.value: HashAssignment.decode,
    AssignmentDataType.MASK.value: MaskAssignment.decode,
    AssignmentDataType.NONE.value: lambda _: NoAssignment(),
    AssignmentDataType.EXTENDED.value: ExtendedAssignment.decode,
}
"""Every value of the type bits."""


def _data_type(assignment: AssignmentData) -> AssignmentDataType:
    match assignment:
        case HashAssignment():
            return AssignmentDataType.HASH
        case MaskAssignment():
            return AssignmentDataType.MASK
        case NoAssignment():
            return AssignmentDataType.NONE
        case ExtendedAssignment():
            return AssignmentDataType.EXTENDED
        case _:
            assert_never(assignment)


def _extended_type(data: _NamedData) -> AssignmentType:
    match data:
        case HashAssignment():
            return AssignmentType.HASH
        case MaskAssignment():
            return AssignmentType.MASK
        case AlternateMaskAssignment():
            return AssignmentType.ALTERNATE_MASK
        case WeightStatus():
            return AssignmentType.WEIGHT_STATUS
        case _:
            assert_never(data)
