"""The MD5 digest: who can make it, and from which key."""

from __future__ import annotations

import hashlib

import pytest

from tests.unit.wire.samples import HERE_I_AM, I_SEE_YOU, SECURITY, component, here_i_am, words
from wccpd.wire.enums import SecurityOption
from wccpd.wire.messages import decode_message, encode_message
from wccpd.wire.security import KeyVariant, check_digest, matching_key_variant, peek_security


def signed(key: bytes) -> bytes:
    """A HERE_I_AM signed with the plain definition: MD5 of key and message, digest octets zero."""
    unsigned = here_i_am(security=component(0, words(1) + bytes(16)))
    return unsigned[:16] + hashlib.md5(key + unsigned).digest() + unsigned[32:]


@pytest.mark.parametrize("password", [b"a", b"abcdefg", b"abcdefgh"])
def test_a_message_with_a_password_carries_a_digest_that_only_the_password_explains(password: bytes) -> None:
    octets = encode_message(HERE_I_AM, password=password)
    assert decode_message(octets).security.option is SecurityOption.MD5
    assert peek_security(octets)
    assert check_digest(octets, password)
    assert not check_digest(octets, b"other")


def test_the_digest_covers_the_whole_message_and_the_key_comes_first() -> None:
    assert check_digest(signed(b"secret\0\0"), b"secret")
    octets = encode_message(HERE_I_AM, password=b"secret")
    for position in range(8, len(octets)):
        changed = bytearray(octets)
        changed[position] ^= 1
        assert not check_digest(bytes(changed), b"secret"), position


def test_the_digest_of_a_dual_valid_message_covers_what_is_sent() -> None:
    octets = encode_message(I_SEE_YOU, password=b"secret", dual_valid=True)
    zeroed = octets[:16] + bytes(16) + octets[32:]
    assert octets[16:32] == hashlib.md5(b"secret\0\0" + zeroed).digest()


@pytest.mark.parametrize(
    ("key", "variant"),
    [
        (b"abcdefgh", KeyVariant.EXACT),
        (b"abcdefg\0", KeyVariant.SEVEN_OCTETS),
        (b"abcdefgh\0", KeyVariant.NINE_OCTETS),
        (b"abcdefg", None),
        (b"", None),
    ],
)
def test_the_way_a_sender_makes_its_key_is_recognised(key: bytes, variant: KeyVariant | None) -> None:
    assert matching_key_variant(signed(key), b"abcdefgh") is variant
    assert check_digest(signed(key), b"abcdefgh") is (variant is KeyVariant.EXACT)


def test_a_short_password_makes_no_difference_between_seven_and_eight_octets() -> None:
    assert matching_key_variant(signed(b"abc".ljust(8, b"\0")), b"abc") is KeyVariant.EXACT


def test_every_key_variant_is_explained() -> None:
    assert len({variant.explanation for variant in KeyVariant}) == len(KeyVariant)


@pytest.mark.parametrize("password", [b"", b"123456789"])
def test_a_password_that_is_no_password_is_our_own_fault(password: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        encode_message(HERE_I_AM, password=password)
    with pytest.raises(ValueError, match="1 to 8"):
        check_digest(signed(b"x"), password)


def test_a_message_without_security_has_no_digest() -> None:
    octets = here_i_am(security=SECURITY)
    assert not peek_security(octets)
    assert not check_digest(octets, b"abcdefgh")


def test_the_digest_is_found_wherever_the_security_info_stands() -> None:
    info = component(0, words(1) + bytes(16))
    unsigned = here_i_am(info, security=b"")
    at = len(unsigned) - 16
    octets = unsigned[:at] + hashlib.md5(b"secret\0\0" + unsigned).digest()
    assert check_digest(octets, b"secret")
