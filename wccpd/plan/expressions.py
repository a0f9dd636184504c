"""Hashes and masks as nft expressions: what of a packet decides where it goes."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from wccpd.plan.hashes import HASH_SEED
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from wccpd.plan.redirect import HashFields, MaskFields, MaskSet

EXPRESSIONS = ("ip saddr", "ip daddr", "th sport", "th dport")
"""Of HashFields and MaskFields, in their order."""
ADDRESSES = 2
"""The first of these fields are addresses."""


def bucket_expression(fields: HashFields) -> str:
    """The nft expression of a bucket; a hash of nothing is bucket 0, whatever the packet."""
    chosen = [EXPRESSIONS[index] for index, wanted in enumerate(fields) if wanted]
    if not chosen:
        return "meta length & 0"
    return f"jhash {' . '.join(chosen)} mod {BUCKETS} seed {HASH_SEED:#x}"


def without_ports(fields: HashFields) -> HashFields:
    """What is left to hash of a packet without ports."""
    return fields._replace(source_port=False, destination_port=False)


def mask_form(each: MaskSet, *, with_ports: bool) -> tuple[int, ...]:
    """The fields that a mask looks at; of packets without ports all ports are 0, which needs no look."""
    return tuple(field for field, bits in enumerate(each.mask) if bits and (with_ports or field < ADDRESSES))


def mask_has_ports(each: MaskSet) -> bool:
    """Whether a mask has bits of ports."""
    return any(each.mask[ADDRESSES:])


def masked(mask: MaskFields, form: tuple[int, ...]) -> str:
    """The packet's fields under a mask; parentheses, since `.` binds tighter than `&`."""
    parts = [f"({EXPRESSIONS[field]} & {number_text(mask[field], field)})" for field in form]
    return " . ".join(parts) if len(parts) > 1 else parts[0].strip("()") if parts else ""


def form_name(form: tuple[int, ...]) -> str:
    """The fields that are compared, as part of a map's name."""
    return "".join(map(str, form))


def number_text(number: int, field: int) -> str:
    """A field's number as nft lists it."""
    return str(IPv4Address(number)) if field < ADDRESSES else str(number)


def matching(each: MaskSet, form: tuple[int, ...]) -> list[MaskFields]:
    """Values that a packet can equal: no bits outside the mask, and 0 in fields that are not compared."""
    return [
        value
        for value in each.owners
        if all(
            number & ~each.mask[field] == 0 if field in form else number == 0
            for field, number in enumerate(value)
        )
    ]
