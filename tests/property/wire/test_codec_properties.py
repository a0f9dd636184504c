"""What must hold for every message and for every octet string."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.property.wire.strategies import messages
from tests.support.survival import survive
from tests.unit.wire.vectors import VECTORS, Vector
from wccpd.wire.errors import WireError
from wccpd.wire.framing import read_frame
from wccpd.wire.messages import Message, decode_message, encode_message, peek_service
from wccpd.wire.security import check_digest

passwords = st.binary(min_size=1, max_size=8)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine is no fault of the codec."""
recorded = st.sampled_from([vector.datagram for vector in VECTORS])


@unhurried
@given(messages)
def test_every_message_survives_encoding_and_decoding(message: Message) -> None:
    octets = encode_message(message)
    again = decode_message(octets)
    assert again == message
    assert encode_message(again) == octets


@unhurried
@given(messages, passwords, st.booleans())
def test_every_signed_message_verifies(message: Message, password: bytes, dual_valid: bool) -> None:
    octets = encode_message(message, password=password, dual_valid=dual_valid)
    assert check_digest(octets, password)
    assert check_digest(octets + b"tail", password)
    assert peek_service(octets) == message.service


@unhurried
@given(messages)
def test_the_dual_valid_form_of_every_message_is_found_by_steps_of_four_and_of_eight(
    message: Message,
) -> None:
    octets = encode_message(message, dual_valid=True)
    by_four = [number for number, _, _ in read_frame(octets).spans]
    by_eight, offset = [], 8
    while offset < len(octets):
        number, length = struct.unpack_from("!HH", octets, offset)
        by_eight.append(number)
        offset += length + 8
    assert by_four[::2] == by_eight
    assert set(by_four[1::2]) == {0x7FFF}


@unhurried
@given(st.binary(max_size=600))
@example(b"")
def test_any_octets_decode_or_are_refused_with_a_reason(octets: bytes) -> None:
    survive(octets)


@unhurried
@given(st.sampled_from([10, 11, 12, 13]), st.integers(0, 2), st.binary(max_size=600))
def test_any_octets_behind_a_valid_header_decode_or_are_refused(number: int, minor: int, body: bytes) -> None:
    survive(struct.pack("!IBBH", number, 2, minor, len(body)) + body)


@unhurried
@given(recorded | messages.map(encode_message), st.data())
def test_a_valid_beginning_with_a_random_tail_decodes_or_is_refused(
    octets: bytes, data: st.DataObject
) -> None:
    kept = data.draw(st.integers(0, len(octets)), label="octets kept")
    survive(octets[:kept] + data.draw(st.binary(max_size=64), label="tail"))


@unhurried
@given(recorded | messages.map(encode_message), st.data())
def test_a_message_with_a_few_octets_changed_decodes_or_is_refused(
    octets: bytes, data: st.DataObject
) -> None:
    changed = bytearray(octets)
    positions = st.integers(0, len(octets) - 1)
    for position, octet in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=6)):
        changed[position] = octet
    survive(bytes(changed))


@unhurried
@given(
    recorded | messages.map(encode_message),
    st.sampled_from([0, 1, 4, 32, 255, 65535, 2**31, 2**32 - 1]),
    st.data(),
)
def test_a_message_with_a_lying_length_or_count_decodes_or_is_refused(
    octets: bytes, lie: int, data: st.DataObject
) -> None:
    size = 4 if lie > 0xFFFF else data.draw(st.sampled_from([2, 4]), label="octets of the field")
    position = data.draw(st.integers(0, (len(octets) - size) // 2), label="position") * 2
    survive(octets[:position] + lie.to_bytes(size, "big") + octets[position + size :])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_recorded_datagram_cut_anywhere_is_refused(vector: Vector) -> None:
    octets = vector.datagram
    for length in range(len(octets)):
        with pytest.raises(WireError):
            decode_message(octets[:length])
        header = octets[:6] + max(length - 8, 0).to_bytes(2, "big")
        survive((header + octets[8:length])[:length])
