"""I_SEE_YOUs that differ in three fields alone, written once and filled in.

With 32 caches in a group the Router View is the same for all and by far the longest part; encoding it anew for
each answer would cost more than everything else together. A template is exact: `fill` gives the octets
that `encode_message` would.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from wccpd.wire.enums import ComponentType
from wccpd.wire.framing import read_frame
from wccpd.wire.messages import encode_message
from wccpd.wire.security import sign

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.wire.messages import ISeeYou

_RECEIVE_ID_SENT_TO = Struct("!I4s")
_RECEIVE_ID_OFFSET = 4
"""In the body of Router Identity Info, behind the Router ID (draft 5.6.3)."""
_CACHE_OFFSET = 16
"""Behind Receive ID, Sent-To and the count of one."""
_DIGEST_OFFSET = 4
"""In the body of Security Info, behind the option (draft 5.6.1)."""


class AnswerTemplate:
    """One I_SEE_YOU to one web-cache, in one form, with one password."""

    def __init__(self, message: ISeeYou, *, password: bytes | None, dual_valid: bool) -> None:
        """Encode the message.

        Raises:
            ValueError: It names more or fewer than one web-cache, or has an Address Table.
        """
        if len(message.identity.caches) != 1 or message.identity.router_id.version != 4:
            raise ValueError("a template is for one web-cache and IPv4")
        self._octets = encode_message(message, password=password, dual_valid=dual_valid)
        self._password = password
        spans = read_frame(self._octets).first
        _, self._identity, _ = spans[ComponentType.ROUTER_ID_INFO]
        _, security, _ = spans[ComponentType.SECURITY_INFO]
        self._digest = security + _DIGEST_OFFSET

    def fill(self, receive_id: int, sent_to: IPv4Address, cache: IPv4Address) -> bytes:
        """The datagram for another web-cache, Receive ID and Sent-To address."""
        octets = bytearray(self._octets)
        _RECEIVE_ID_SENT_TO.pack_into(octets, self._identity + _RECEIVE_ID_OFFSET, receive_id, sent_to.packed)
        octets[self._identity + _CACHE_OFFSET : self._identity + _CACHE_OFFSET + 4] = cache.packed
        if self._password is not None:
            sign(octets, self._digest, self._password)
        return bytes(octets)
