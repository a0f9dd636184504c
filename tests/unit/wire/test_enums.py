"""Flags of a peer: unknown bits are kept, and keeping them costs nothing in the long run."""

from __future__ import annotations

import pytest

from wccpd.wire.elements import bucket_index, bucket_octet, bucket_uses_alternate_hash
from wccpd.wire.enums import (
    AssignmentMethod,
    ForwardingMethod,
    IdentityFlags,
    OpenFlag,
    PacketReturnMethod,
    ServiceFlags,
)

every_kind = pytest.mark.parametrize(
    "kind", [ServiceFlags, IdentityFlags, ForwardingMethod, AssignmentMethod, PacketReturnMethod]
)


@every_kind
@pytest.mark.parametrize("value", [0, 1, 3, 0x10000, 0xFFFFFFFF])
def test_flags_keep_every_bit(kind: type[OpenFlag], value: int) -> None:
    flags = kind(value)
    assert flags == value
    assert isinstance(flags, kind)
    assert f"{flags:#x}" == f"{value:#x}"
    assert str(value) in str(flags) or kind.__name__ in repr(flags)


@every_kind
def test_flags_with_unknown_bits_work_like_any_other(kind: type[OpenFlag]) -> None:
    known = next(iter(kind))
    flags = kind(0x10000 | known.value)
    assert known in flags
    assert flags & known == known
    assert flags ^ known == 0x10000
    assert (kind(0x10000) | known) == flags
    assert hash(flags) == hash(kind(0x10000 | known.value))


@every_kind
def test_flags_that_strangers_invent_are_not_remembered(kind: type[OpenFlag]) -> None:
    remembered = len(kind._value2member_map_)
    for value in range(0x100000, 0x100000 + 500):
        flags = kind(value)
        assert flags == value
        assert [flags | 1, flags ^ 1, flags & ~flags, ~~flags & 1] == [value | 1, value ^ 1, 0, value & 1]
    assert len(kind._value2member_map_) == remembered


def test_a_bucket_octet_has_the_index_in_its_low_bits_and_the_a_flag_on_top() -> None:
    assert [bucket_octet(5), bucket_octet(5, alternate_hash=True)] == [0x05, 0x85]
    assert [bucket_index(octet) for octet in (0x05, 0x85, 0x1F)] == [5, 5, 31]
    assert [bucket_uses_alternate_hash(octet) for octet in (0x05, 0x85, 0xFF)] == [False, True, False]
