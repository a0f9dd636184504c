"""Which of 256 buckets a packet is in: the draft's hash, and the one that nftables has.

Caches fill buckets by number and never compute a hash, so either will do as long as every router of a group uses
the same (protocol.md 4.2). Both take the chosen fields in the order source address, destination address, source
port, destination port. Without any field the key is 0 and so is the bucket, whichever the function.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from wccpd.plan.redirect import NO_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wccpd.plan.redirect import HashFields

HASH_SEED = 0x57434350
"""Seed of jhash; fixed, so that every wccpd router of a group puts a flow into the same bucket."""

_FULL = 0xFFFFFFFF
_JHASH_INITIAL = 0xDEADBEEF
_REGISTER_OCTETS = 4
_WORDS = struct.Struct("<3I" if sys.byteorder == "little" else ">3I")


class FlowFields(NamedTuple):
    """What a bucket or a mask value is made of, as integers in host order. Ports are 0 where a packet has none."""

    source_address: int
    destination_address: int
    source_port: int
    destination_port: int


def xor_bucket(fields: HashFields, flow: FlowFields) -> int:
    """The draft's hash (2.00, 5.6.2): fold the XOR of the fields to 16 bits and then to 8.

    The wording of 2.01 (5.1.2), the XOR of every octet, is the same function.
    """
    key = 0
    for value, _ in _chosen(fields, flow):
        key ^= value
    key ^= key >> 16
    key ^= key >> 8
    return key & 0xFF


def jhash_bucket(fields: HashFields, flow: FlowFields) -> int:
    """What `jhash FIELD . FIELD mod 256 seed 0x57434350` yields in nftables (nft_hash.c).

    A single field is hashed as long as it is. In a concatenation each field fills registers of 4 octets, so a port
    is followed by two octets of 0.
    """
    if fields == NO_FIELDS:
        return 0
    octets = [value.to_bytes(width, "big") for value, width in _chosen(fields, flow)]
    if len(octets) > 1:
        octets = [each.ljust(_REGISTER_OCTETS, b"\0") for each in octets]
    # reciprocal_scale (linux/kernel.h), not a remainder: the top octet of the hash.
    return jhash(b"".join(octets), HASH_SEED) * 256 >> 32


HashFunction: TypeAlias = "Callable[[HashFields, FlowFields], int]"
HASH_FUNCTIONS: dict[str, HashFunction] = {"jhash": jhash_bucket, "xor": xor_bucket}
"""By the name that a data plane gives its function."""


def jhash(key: bytes, seed: int) -> int:
    """Bob Jenkins' lookup3 as Linux has it (include/linux/jhash.h), 32 bits.

    The kernel reads words in the order of its machine, so routers of a group must agree in that too.
    """
    a = b = c = (_JHASH_INITIAL + len(key) + seed) & _FULL
    while len(key) > _WORDS.size:
        a, b, c = _mix(*_add((a, b, c), key[: _WORDS.size]))
        key = key[_WORDS.size :]
    if not key:
        return c
    return _final(*_add((a, b, c), key))


def _add(state: tuple[int, int, int], octets: bytes) -> tuple[int, int, int]:
    """Add up to 12 octets; what is missing counts as 0."""
    a, b, c = _WORDS.unpack(octets.ljust(_WORDS.size, b"\0"))
    return (state[0] + a) & _FULL, (state[1] + b) & _FULL, (state[2] + c) & _FULL


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """`__jhash_mix`."""
    for shift in (4, 6, 8, 16, 19, 4):
        a = (a - c) & _FULL ^ _rotated(c, shift)
        c = (c + b) & _FULL
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    """`__jhash_final`."""
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, shift)) & _FULL
        a, b, c = b, c, a
    return b


def _rotated(word: int, shift: int) -> int:
    return (word << shift | word >> (32 - shift)) & _FULL


def _chosen(fields: HashFields, flow: FlowFields) -> Iterator[tuple[int, int]]:
    """The chosen fields, each with its width in octets."""
    for wanted, value, width in zip(fields, flow, (4, 4, 2, 2), strict=True):
        if wanted:
            yield value, width
