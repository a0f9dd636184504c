"""Messages for the tests of the wire: raw octets put together by hand, and messages as values."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from wccpd.wire.assignments import AssignmentInfo
from wccpd.wire.components import (
    CacheView,
    Capabilities,
    RouterIdentity,
    RouterQuery,
    RouterView,
    ServiceInfo,
)
from wccpd.wire.elements import AssignmentKey, RouterAssignment, RouterIdReceiveId
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags
from wccpd.wire.identity import HashAssignment, MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import Mask, MaskValueSet, Value
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery

CACHE = IPv4Address("10.1.0.11")
OTHER_CACHE = IPv4Address("10.1.0.12")
ROUTER = IPv4Address("10.0.0.1")
ROUTER_INTERFACE = IPv4Address("10.1.0.1")
CACHE_6 = IPv6Address("2001:db8::11")
ROUTER_6 = IPv6Address("2001:db8::1")
KEY = AssignmentKey(CACHE, 7)
SERVICE = ServiceInfo.dynamic(
    80, 240, 6, ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED, (80, 8080)
)
OFFER = Capabilities(
    ForwardingMethod.GRE | ForwardingMethod.L2, AssignmentMethod.HASH, PacketReturnMethod.GRE
)
MASK = Mask(IPv4Address(0x100), IPv4Address(0x3), 0, 0x1)
SET = MaskValueSet(MASK, (Value(IPv4Address(0x100), IPv4Address(1), 0, 1, CACHE),))
HASH_IDENTITY = WebCacheIdentity(CACHE, HashAssignment(weight=10000, status=3))
MASK_IDENTITY = WebCacheIdentity(CACHE, MaskAssignment((MaskValueSet(MASK),), 10000, 3))

HERE_I_AM = HereIAm(
    service=SERVICE,
    identity=HASH_IDENTITY,
    view=CacheView.of(1, (RouterIdReceiveId(ROUTER, 5),), (CACHE,)),
    capabilities=Capabilities(ForwardingMethod.GRE, AssignmentMethod.HASH, PacketReturnMethod.GRE),
)
I_SEE_YOU = ISeeYou(
    service=SERVICE,
    identity=RouterIdentity(ROUTER, 6, ROUTER_INTERFACE, (CACHE,)),
    view=RouterView(9, KEY, (ROUTER,), (HASH_IDENTITY,)),
    capabilities=OFFER,
)
REDIRECT_ASSIGN = RedirectAssign(
    service=SERVICE,
    assignment=AssignmentInfo(
        KEY, (RouterAssignment(ROUTER, 6, 9),), (CACHE, OTHER_CACHE), bytes((0, 1, 0x80, 0xFF)) * 64
    ),
)
REMOVAL_QUERY = RemovalQuery(service=SERVICE, query=RouterQuery(ROUTER, 7, ROUTER_INTERFACE, CACHE))


def component(number: int, body: bytes = b"") -> bytes:
    return struct.pack("!HH", number, len(body)) + body


def datagram(message_type: int, *components: bytes, minor: int = 0) -> bytes:
    body = b"".join(components)
    return struct.pack("!IBBH", message_type, 2, minor, len(body)) + body


def words(*numbers: int) -> bytes:
    return b"".join(struct.pack("!I", number) for number in numbers)


SECURITY = component(0, words(0))
SERVICE_INFO = component(1, bytes(24))
IDENTITY = component(3, words(int(CACHE), 0) + bytes(36))
VIEW = component(5, words(1, 0, 0))


def here_i_am(*extra: bytes, minor: int = 0, **replaced: bytes) -> bytes:
    """A HERE_I_AM; `security`, `service`, `identity` and `view` replace a component, b"" leaves it out."""
    parts = {"security": SECURITY, "service": SERVICE_INFO, "identity": IDENTITY, "view": VIEW} | replaced
    return datagram(10, *parts.values(), *extra, minor=minor)


def redirect_assign(assignment: bytes, *, minor: int = 0) -> bytes:
    return datagram(12, SECURITY, SERVICE_INFO, assignment, minor=minor)
