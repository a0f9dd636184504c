"""Security Info and its MD5 digest (draft 5.6.1): MD5(key, message), the digest's own 16 octets taken as zero.

The key is the password padded with zero octets to 8. It is no HMAC and has no nonce: the Receive ID is the
only protection against replay. Which password belongs to which service is not known here.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from wccpd.wire.enums import DIGEST_OCTETS, PASSWORD_OCTETS, ComponentType, SecurityOption
from wccpd.wire.errors import WireError, WireReason
from wccpd.wire.framing import read_frame

if TYPE_CHECKING:
    from wccpd.wire.framing import Frame
    from wccpd.wire.reader import Reader
    from wccpd.wire.writer import Writer

_OPTION_OCTETS = 4
_MD5 = SecurityOption.MD5.to_bytes(_OPTION_OCTETS, "big")
_NO_DIGEST = bytes(DIGEST_OCTETS)


class SecurityInfo(NamedTuple):
    """Security Info (draft 5.6.1). 0: option (4); with MD5, 4: digest (16)."""

    option: SecurityOption = SecurityOption.NONE
    digest: bytes = b""
    """16 octets with MD5, else none."""

    @classmethod
    def decode(cls, reader: Reader) -> SecurityInfo:
        """Read the body.

        Raises:
            WireError: SECURITY_OPTION, SECURITY_LENGTH, COMPONENT_TOO_SHORT.
        """
        known = _SECURITY_OPTIONS.get(number := reader.uint32())
        if known is None:
            raise reader.fail(WireReason.SECURITY_OPTION, f"security option {number}")
        option, expected = known
        if reader.remaining != expected:
            raise reader.fail(
                WireReason.SECURITY_LENGTH,
                f"security option {option.name} with {reader.remaining} octets, not {expected}",
            )
        return cls(option, reader.octets(expected))

    def encode(self, writer: Writer) -> None:
        """Write the body.

        Raises:
            ValueError: The digest does not fit the option.
        """
        if len(self.digest) != _DIGEST_OCTETS[self.option]:
            raise ValueError(f"a digest of {len(self.digest)} octets with option {self.option.name}")
        writer.uint32(self.option)
        writer.octets(self.digest)


_DIGEST_OCTETS = {SecurityOption.NONE: 0, SecurityOption.MD5: DIGEST_OCTETS}
_SECURITY_OPTIONS = {option.value: (option, octets) for option, octets in _DIGEST_OCTETS.items()}


class KeyVariant(StrEnum):
    """How a sender makes the key from the password."""

    EXACT = "exact"
    """As the drafts have it: 8 octets."""
    SEVEN_OCTETS = "seven_octets"
    """Squid up to 4.12 and 5.0.3 overwrites the 8th octet with zero."""
    NINE_OCTETS = "nine_octets"
    """Squid 4.13 and 5.0.4 digests one zero octet more."""

    @property
    def explanation(self) -> str:
        """One line for the operator."""
        match self:
            case KeyVariant.EXACT:
                return "8 octets, as the drafts have it"
            case KeyVariant.SEVEN_OCTETS:
                return "only 7 octets of the password count, as in Squid up to 4.12 and 5.0.3"
            case KeyVariant.NINE_OCTETS:
                return "a 9-octet key, as in Squid 4.13 and 5.0.4"


def _key(password: bytes, variant: KeyVariant) -> bytes:
    if not 1 <= len(password) <= PASSWORD_OCTETS:
        raise ValueError(f"a password has 1 to {PASSWORD_OCTETS} octets")
    match variant:
        case KeyVariant.EXACT:
            return password.ljust(PASSWORD_OCTETS, b"\0")
        case KeyVariant.SEVEN_OCTETS:
            return password[: PASSWORD_OCTETS - 1].ljust(PASSWORD_OCTETS, b"\0")
        case KeyVariant.NINE_OCTETS:
            return password.ljust(PASSWORD_OCTETS + 1, b"\0")


@lru_cache(maxsize=256)
def exact_key(password: bytes) -> bytes:
    """The 8 octets that the drafts put before a message: the password and zeros.

    Raises:
        ValueError: The password is too long or empty.
    """
    return _key(password, KeyVariant.EXACT)


def peek_security(datagram: bytes) -> bool:
    """Whether a message carries a well-formed MD5 digest. False for whatever cannot be read."""
    try:
        return _digest_offset(read_frame(datagram), datagram) is not None
    except WireError:
        return False


def check_digest(datagram: bytes, password: bytes, variant: KeyVariant = KeyVariant.EXACT) -> bool:
    """Whether a message carries the right digest, compared in constant time. False for what cannot be read.

    Args:
        datagram: Octets past the message do not count.
        password: 1 to 8 octets.
        variant: How the sender makes the key.

    Raises:
        ValueError: The password is too long or empty.
    """
    key = _key(password, variant)
    try:
        frame = read_frame(datagram)
    except WireError:
        return False
    offset = _digest_offset(frame, datagram)
    if offset is None:
        return False
    sent = datagram[offset : offset + DIGEST_OCTETS]
    return hmac.compare_digest(sent, digest(datagram[: frame.header.end], offset, key))


def matching_key_variant(datagram: bytes, password: bytes) -> KeyVariant | None:
    """Which way of making the key explains the digest; None when the password is not the sender's.

    Raises:
        ValueError: The password is too long or empty.
    """
    return next((variant for variant in KeyVariant if check_digest(datagram, password, variant)), None)


def sign(message: bytearray, digest_offset: int, password: bytes) -> None:
    """Fill in the digest of a message that is otherwise complete.

    Raises:
        ValueError: The password is too long or empty.
    """
    value = digest(bytes(message), digest_offset, exact_key(password))
    message[digest_offset : digest_offset + DIGEST_OCTETS] = value


def digest(message: bytes, offset: int, key: bytes) -> bytes:
    """MD5 over key and message with the 16 octets at `offset` taken as zero."""
    return md5(b"".join((key, message[:offset], _NO_DIGEST, message[offset + DIGEST_OCTETS :])))


def md5(octets: bytes) -> bytes:
    """16 octets. The protocol knows no other digest."""
    # The flag lets it work where a policy bans MD5 elsewhere.
    return hashlib.md5(octets, usedforsecurity=False).digest()


def _digest_offset(frame: Frame, datagram: bytes) -> int | None:
    """Where the digest stands, None when the message carries none."""
    span = frame.first.get(ComponentType.SECURITY_INFO)
    if span is None:
        return None
    _, offset, end = span
    digest_offset = offset + _OPTION_OCTETS
    if end - digest_offset != DIGEST_OCTETS or datagram[offset:digest_offset] != _MD5:
        return None
    return digest_offset
