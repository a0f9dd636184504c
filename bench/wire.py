"""The codec: a HERE_I_AM of about 450 octets against a bare walk over the same octets.

Two streams. In a farm the caches of one group speak in turn: what a cache says of itself and whom it knows comes
again, Receive IDs and digests are new in each datagram. Among strangers nothing ever comes again but the service.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from bench.case import Case, microseconds
from wccpd.wire.components import CacheView, Capabilities, ServiceInfo
from wccpd.wire.elements import RouterIdReceiveId
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod
from wccpd.wire.identity import HashAssignment, WebCacheIdentity
from wccpd.wire.messages import HereIAm, decode_message, encode_message
from wccpd.wire.security import check_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = b"sesame"
REPEAT = 2000
FARM = 32
"""Caches that speak in turn."""
_TYPE_LENGTH = struct.Struct("!HH")


def here_i_am(routers: int, caches: int, number: int, *, stranger: bool) -> bytes:
    """A signed HERE_I_AM of a cache that knows so many routers and caches.

    Args:
        routers: How many it lists.
        caches: How many it lists.
        number: Tells datagrams apart.
        stranger: Every address in it is in no other datagram.
    """
    base = IPv4Address("10.0.0.1") + (1000 * number if stranger else 0)
    me = base if stranger else base + number % FARM
    message = HereIAm(
        service=ServiceInfo.web_cache(),
        identity=WebCacheIdentity(me, HashAssignment(weight=10000)),
        view=CacheView.of(
            1,
            tuple(RouterIdReceiveId(base + 100 + i, number + i) for i in range(routers)),
            tuple(base + i for i in range(caches)),
        ),
        capabilities=Capabilities(ForwardingMethod.GRE, AssignmentMethod.HASH, PacketReturnMethod.GRE),
    )
    return encode_message(message, password=PASSWORD)


def walk(datagram: bytes) -> int:
    """The least that any decoder does: unpack each component's header, and each 32-bit word in it."""
    offset, words = 8, 0
    while offset < len(datagram):
        _, length = _TYPE_LENGTH.unpack_from(datagram, offset)
        words += len(struct.unpack_from(f"!{length // 4}I", datagram, offset + 4))
        offset += 4 + length
    return words


def cases() -> Iterator[Case]:
    """Decode, decode with digest, encode."""
    for name, routers, caches, stranger in (
        ("squid", 1, 0, False),
        ("450", 21, 32, False),
        ("450_strangers", 21, 32, True),
    ):
        datagrams = [here_i_am(routers, caches, number, stranger=stranger) for number in range(1, REPEAT + 1)]
        bare = microseconds(Each(datagrams, walk), REPEAT)
        decode = microseconds(Each(datagrams, decode_message), REPEAT)
        signed = microseconds(Each(datagrams, lambda each: check_digest(each, PASSWORD)), REPEAT)
        octets = len(datagrams[0])
        goal = "under 15 us" if name == "450" else ""
        yield Case(f"wire_walk_{name}", "us", bare)
        yield Case(
            f"wire_decode_{name}_{octets}_octets",
            "us",
            decode,
            goal,
            decode < 15 if goal else None,
            f"wire_walk_{name}",
            decode / bare,
        )
        yield Case(
            f"wire_digest_{name}_{octets}_octets",
            "us",
            signed,
            ratio_to=f"wire_walk_{name}",
            ratio=signed / bare,
        )


class Each:
    """Calls a function with the next of many arguments, round and round."""

    def __init__(self, arguments: list[bytes], function: object) -> None:
        self._arguments, self._function = arguments, function
        self._next = 0

    def __call__(self) -> None:
        """One call."""
        self._function(self._arguments[self._next])  # type: ignore[operator]
        self._next = (self._next + 1) % len(self._arguments)
