"""I_SEE_YOUs that differ in three fields alone, written once and filled in.

With 32 caches in a group the Router View is the same for all and by far the longest part; encoding it anew for
each answer would cost more than everything else together. A template is exact: `fill` gives the octets
that `encode_message` would.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from wccpd.wire.enums import DIGEST_OCTETS, ComponentType
from wccpd.wire.framing import read_frame
from wccpd.wire.messages import encode_message
from wccpd.wire.security import exact_key, md5

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.wire.messages import ISeeYou

_RECEIVE_ID_SENT_TO = Struct("!II")
_CACHE = Struct("!I")
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
        octets = encode_message(message, password=password, dual_valid=dual_valid)
        spans = read_frame(octets).first
        _, identity, _ = spans[ComponentType.ROUTER_ID_INFO]
        _, security, _ = spans[ComponentType.SECURITY_INFO]
        split = security + _DIGEST_OFFSET
        self._head = octets[:split]
        """Up to the digest; without one, just as far."""
        self._rest = octets[split + DIGEST_OCTETS :] if password is not None else octets[split:]
        self._identity = identity - (len(octets) - len(self._rest))
        """Where in the rest the body of Router Identity Info begins."""
        self._covered = None if password is None else exact_key(password) + self._head + bytes(DIGEST_OCTETS)
        """What the digest covers before the rest."""

    def fill(self, receive_id: int, sent_to: IPv4Address, cache: IPv4Address) -> bytes:
        """The datagram for another web-cache, Receive ID and Sent-To address."""
        rest = bytearray(self._rest)
        _RECEIVE_ID_SENT_TO.pack_into(rest, self._identity + _RECEIVE_ID_OFFSET, receive_id, int(sent_to))
        _CACHE.pack_into(rest, self._identity + _CACHE_OFFSET, int(cache))
        if self._covered is None:
            return self._head + rest
        return b"".join((self._head, md5(self._covered + rest), rest))
