"""A second WCCPv2 codec in scapy, written from the drafts and sharing nothing with `wccpd.wire`.

It covers what the router and Squid exchange in version 2.00: the four messages with hash and mask assignment.
Tests hold the two codecs against each other. scapy computes every length and count that a test leaves out.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ByteField,
    ConditionalField,
    FieldLenField,
    FieldListField,
    IntEnumField,
    IntField,
    IPField,
    PacketField,
    PacketListField,
    ShortEnumField,
    ShortField,
    StrFixedLenField,
    StrLenField,
    XIntField,
    XStrFixedLenField,
)
from scapy.packet import Packet, Raw

EMPTY = 0x7FFF
"""Type of the empty items in the dual-valid form of an I_SEE_YOU."""
MESSAGES = {10: "HERE_I_AM", 11: "I_SEE_YOU", 12: "REDIRECT_ASSIGN", 13: "REMOVAL_QUERY"}


class _Element(Packet):
    """Something inside a component: what follows belongs to the next one."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


class _Component(_Element):
    """type (2), length (2), body; the length is filled in when it is None."""

    def post_build(self, p: bytes, pay: bytes) -> bytes:
        if self.length is None:
            p = p[:2] + (len(p) - 4).to_bytes(2, "big") + p[4:]
        return p + pay


def _header(number: int) -> list:
    return [ShortField("type", number), ShortField("length", None)]


class SecurityInfo(_Component):
    name = "Security Info"
    fields_desc: ClassVar = [
        *_header(0),
        IntEnumField("option", 0, {0: "none", 1: "MD5"}),
        ConditionalField(XStrFixedLenField("digest", bytes(16), 16), lambda p: p.option == 1),
    ]


class ServiceInfo(_Component):
    name = "Service Info"
    fields_desc: ClassVar = [
        *_header(1),
        ByteEnumField("service_type", 0, {0: "standard", 1: "dynamic"}),
        ByteField("service_id", 0),
        ByteField("priority", 0),
        ByteField("protocol", 0),
        XIntField("flags", 0),
        FieldListField("ports", [0] * 8, ShortField("", 0), count_from=lambda _: 8),
    ]


class RouterIdentity(_Component):
    name = "Router Identity Info"
    fields_desc: ClassVar = [
        *_header(2),
        IPField("router_id", "0.0.0.0"),
        IntField("receive_id", 0),
        IPField("sent_to", "0.0.0.0"),
        FieldLenField("n", None, fmt="!I", count_of="caches"),
        FieldListField("caches", [], IPField("", "0.0.0.0"), count_from=lambda p: p.n),
    ]


class Mask(_Element):
    name = "Mask"
    fields_desc: ClassVar = [
        IPField("source", "0.0.0.0"),
        IPField("destination", "0.0.0.0"),
        ShortField("source_port", 0),
        ShortField("destination_port", 0),
    ]


class Value(_Element):
    name = "Value"
    fields_desc: ClassVar = [*Mask.fields_desc, IPField("cache", "0.0.0.0")]


class MaskValueSet(_Element):
    name = "Mask/Value Set"
    fields_desc: ClassVar = [
        PacketField("mask", Mask(), Mask),
        FieldLenField("n", None, fmt="!I", count_of="values"),
        PacketListField("values", [], Value, count_from=lambda p: p.n),
    ]


def _is_mask(packet: Packet) -> bool:
    return packet.form == 1


class CacheIdentity(_Element):
    """The element; flags counted from the low end: U is the last bit, the form the two before it."""

    name = "Web-Cache Identity Element"
    fields_desc: ClassVar = [
        IPField("address", "0.0.0.0"),
        ShortField("hash_revision", 0),
        BitField("reserved", 0, 13),
        BitEnumField("form", 0, 2, {0: "hash", 1: "mask"}),
        BitField("u", 0, 1),
        ConditionalField(StrFixedLenField("buckets", bytes(32), 32), lambda p: p.form == 0),
        ConditionalField(FieldLenField("n", None, fmt="!I", count_of="sets"), _is_mask),
        ConditionalField(PacketListField("sets", [], MaskValueSet, count_from=lambda p: p.n), _is_mask),
        ShortField("weight", 0),
        ShortField("status", 0),
    ]


class CacheIdentityInfo(_Component):
    name = "Web-Cache Identity Info"
    fields_desc: ClassVar = [*_header(3), PacketField("element", CacheIdentity(), CacheIdentity)]


class RouterView(_Component):
    name = "Router View Info"
    fields_desc: ClassVar = [
        *_header(4),
        IntField("change_number", 0),
        IPField("key_address", "0.0.0.0"),
        IntField("key_change_number", 0),
        FieldLenField("r", None, fmt="!I", count_of="routers"),
        FieldListField("routers", [], IPField("", "0.0.0.0"), count_from=lambda p: p.r),
        FieldLenField("c", None, fmt="!I", count_of="caches"),
        PacketListField("caches", [], CacheIdentity, count_from=lambda p: p.c),
    ]


class RouterIdReceiveId(_Element):
    name = "Router Identity Element"
    fields_desc: ClassVar = [IPField("router_id", "0.0.0.0"), IntField("receive_id", 0)]


class CacheView(_Component):
    name = "Web-Cache View Info"
    fields_desc: ClassVar = [
        *_header(5),
        IntField("change_number", 0),
        FieldLenField("r", None, fmt="!I", count_of="routers"),
        PacketListField("routers", [], RouterIdReceiveId, count_from=lambda p: p.r),
        FieldLenField("c", None, fmt="!I", count_of="caches"),
        FieldListField("caches", [], IPField("", "0.0.0.0"), count_from=lambda p: p.c),
    ]


class RouterAssignment(_Element):
    name = "Router Assignment Element"
    fields_desc: ClassVar = [
        IPField("router_id", "0.0.0.0"),
        IntField("receive_id", 0),
        IntField("change_number", 0),
    ]


_KEY_AND_ROUTERS = [
    IPField("key_address", "0.0.0.0"),
    IntField("key_change_number", 0),
    FieldLenField("r", None, fmt="!I", count_of="routers"),
    PacketListField("routers", [], RouterAssignment, count_from=lambda p: p.r),
]


class AssignmentInfo(_Component):
    name = "Assignment Info"
    fields_desc: ClassVar = [
        *_header(6),
        *_KEY_AND_ROUTERS,
        FieldLenField("c", None, fmt="!I", count_of="caches"),
        FieldListField("caches", [], IPField("", "0.0.0.0"), count_from=lambda p: p.c),
        StrFixedLenField("buckets", b"\xff" * 256, 256),
    ]


class RouterQuery(_Component):
    name = "Router Query Info"
    fields_desc: ClassVar = [
        *_header(7),
        IPField("router_id", "0.0.0.0"),
        IntField("receive_id", 0),
        IPField("sent_to", "0.0.0.0"),
        IPField("cache", "0.0.0.0"),
    ]


class Capability(_Component):
    name = "Capability"
    fields_desc: ClassVar = [
        ShortEnumField("type", 1, {1: "forwarding", 2: "assignment", 3: "packet return"}),
        ShortField("length", None),
        ConditionalField(XIntField("value", 0), lambda p: p.type != EMPTY),
        ConditionalField(
            StrLenField("filling", b"", length_from=lambda p: p.length), lambda p: p.type == EMPTY
        ),
    ]


class Capabilities(_Component):
    name = "Capabilities Info"
    fields_desc: ClassVar = [
        *_header(8),
        PacketListField("elements", [], Capability, length_from=lambda p: p.length),
    ]


class AlternateAssignment(_Component):
    """Type 1 alone, mask/value sets."""

    name = "Alternate Assignment"
    fields_desc: ClassVar = [
        *_header(13),
        ShortField("assignment_type", 1),
        ShortField("assignment_length", None),
        *_KEY_AND_ROUTERS,
        FieldLenField("m", None, fmt="!I", count_of="sets"),
        PacketListField("sets", [], MaskValueSet, count_from=lambda p: p.m),
    ]

    def post_build(self, p: bytes, pay: bytes) -> bytes:
        if self.assignment_length is None:
            p = p[:6] + (len(p) - 8).to_bytes(2, "big") + p[8:]
        return super().post_build(p, pay)


class AssignmentMap(_Component):
    name = "Assignment Map"
    fields_desc: ClassVar = [
        *_header(14),
        FieldLenField("m", None, fmt="!I", count_of="sets"),
        PacketListField("sets", [], MaskValueSet, count_from=lambda p: p.m),
    ]


class Command(_Component):
    name = "Command"
    fields_desc: ClassVar = [
        ShortEnumField("type", 1, {1: "SHUTDOWN", 2: "SHUTDOWN_RESPONSE"}),
        ShortField("length", None),
        IPField("cache", "0.0.0.0"),
    ]


class CommandExtension(_Component):
    name = "Command Extension"
    fields_desc: ClassVar = [
        *_header(15),
        PacketListField("commands", [], Command, length_from=lambda p: p.length),
    ]


class Unknown(_Component):
    name = "Unknown component"
    fields_desc: ClassVar = [
        ShortField("type", EMPTY),
        ShortField("length", None),
        StrLenField("octets", b"", length_from=lambda p: p.length),
    ]


COMPONENTS = {
    0: SecurityInfo,
    1: ServiceInfo,
    2: RouterIdentity,
    3: CacheIdentityInfo,
    4: RouterView,
    5: CacheView,
    6: AssignmentInfo,
    7: RouterQuery,
    8: Capabilities,
    13: AlternateAssignment,
    14: AssignmentMap,
    15: CommandExtension,
}


def _next_component(
    _packet: Packet, _before: list, _current: Packet | None, rest: bytes
) -> type[Packet] | None:
    if len(rest) < 4:
        return None
    return COMPONENTS.get(int.from_bytes(rest[:2], "big"), Unknown)


class Message(Packet):
    name = "WCCPv2"
    fields_desc: ClassVar = [
        IntEnumField("type", 10, MESSAGES),
        ByteField("major", 2),
        ByteField("minor", 0),
        ShortField("length", None),
        PacketListField(
            "components", [], next_cls_cb=_next_component, length_from=lambda packet: packet.length
        ),
    ]

    def post_build(self, p: bytes, pay: bytes) -> bytes:
        if self.length is None:
            p = p[:6] + (len(p) - 8).to_bytes(2, "big") + p[8:]
        return p + pay

    def component(self, kind: type[Packet]) -> Packet:
        """The one component of a kind."""
        (found,) = (each for each in self.components if isinstance(each, kind))
        return found


def sign(message: Message, password: bytes) -> bytes:
    """Octets of a message whose first component is a Security Info with a digest."""
    octets = bytes(message)
    zeroed = octets[:16] + bytes(16) + octets[32:]
    return octets[:16] + hashlib.md5(password.ljust(8, b"\0") + zeroed).digest() + octets[32:]


def without_lengths(packet: Packet) -> Packet:
    """The same packet with every length, count and cache of octets forgotten, so that building computes them."""
    packet = packet.copy()
    _forget(packet)
    return packet


def _forget(packet: Packet) -> None:
    packet.raw_packet_cache = None
    packet.raw_packet_cache_fields = None
    for field in packet.fields_desc:
        value = packet.getfieldval(field.name)
        if field.name in {"length", "assignment_length", "n", "r", "c", "m"}:
            packet.setfieldval(field.name, None)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Packet):
                _forget(each)


def has_leftovers(packet: Packet) -> bool:
    """Whether some octets of a dissected packet were no part of any field."""
    return packet.haslayer(Raw) != 0
