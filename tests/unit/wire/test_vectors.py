"""Recorded datagrams, read and written."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.wire.vectors import VECTORS, Vector, look_up
from wccpd.wire.messages import decode_message, encode_message
from wccpd.wire.security import KeyVariant, SecurityInfo, check_digest, matching_key_variant

each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


def test_there_are_vectors_of_every_kind_that_was_recorded() -> None:
    assert len(VECTORS) >= 4


@each_vector
def test_a_recorded_datagram_decodes_to_what_its_sender_meant(vector: Vector) -> None:
    message = decode_message(vector.datagram)
    assert {path: look_up(message, path) for path in vector.expect} == vector.expect
    assert message.tolerated == ()


@each_vector
def test_a_recorded_datagram_survives_decoding_and_encoding_octet_by_octet(vector: Vector) -> None:
    assert encode_message(decode_message(vector.datagram)) == vector.datagram


@each_vector
def test_the_digest_of_a_recorded_datagram_verifies_with_its_password_alone(vector: Vector) -> None:
    assert check_digest(vector.datagram, vector.password)
    assert matching_key_variant(vector.datagram, vector.password) is KeyVariant.EXACT
    assert not check_digest(vector.datagram, b"abcdefgH")


@each_vector
def test_our_digest_is_the_one_that_was_recorded(vector: Vector) -> None:
    unsigned = dataclasses.replace(decode_message(vector.datagram), security=SecurityInfo())
    assert encode_message(unsigned, password=vector.password) == vector.datagram
