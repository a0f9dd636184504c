"""The hashes of plan.hashes. That jhash is the kernel's is shown in tests/netns/test_hash_kernel.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wccpd.plan.hashes import HASH_FUNCTIONS, FlowFields, HashFunction, jhash_bucket, xor_bucket
from wccpd.plan.redirect import NO_FIELDS, HashFields

FLOW = FlowFields(0x0A010203, 0xCB007107, 40000, 80)
choices = st.builds(HashFields, st.booleans(), st.booleans(), st.booleans(), st.booleans())
addresses = st.integers(0, 2**32 - 1)
ports = st.integers(0, 2**16 - 1)
flows = st.builds(FlowFields, addresses, addresses, ports, ports)


def octet_by_octet(fields: HashFields, flow: FlowFields) -> int:
    """The wording of 2.01, 5.1.2."""
    result = 0
    for wanted, value in zip(fields, flow, strict=True):
        for octet in value.to_bytes(4, "big") if wanted else b"":
            result ^= octet
    return result


@given(choices, flows)
def test_the_two_wordings_of_the_drafts_hash_are_one_function(fields: HashFields, flow: FlowFields) -> None:
    assert xor_bucket(fields, flow) == octet_by_octet(fields, flow)


def test_the_drafts_hash_of_a_destination_is_the_xor_of_its_octets() -> None:
    assert xor_bucket(HashFields(destination_address=True), FLOW) == 0xCB ^ 0x00 ^ 0x71 ^ 0x07


def test_the_drafts_hash_is_the_same_in_both_directions() -> None:
    both = HashFields(True, True, True, True)
    back = FlowFields(FLOW.destination_address, FLOW.source_address, FLOW.destination_port, FLOW.source_port)
    assert xor_bucket(both, FLOW) == xor_bucket(both, back)


@pytest.mark.parametrize(
    ("fields", "bucket"),
    [
        (HashFields(destination_address=True), 51),
        (HashFields(source_port=True), 83),
        (HashFields(True, True, True, True), 146),
    ],
)
def test_jhash_stays_the_one_that_the_kernel_confirmed(fields: HashFields, bucket: int) -> None:
    assert jhash_bucket(fields, FLOW) == bucket


@pytest.mark.parametrize("function", HASH_FUNCTIONS.values(), ids=HASH_FUNCTIONS)
def test_without_any_field_the_bucket_is_0(function: HashFunction) -> None:
    assert function(NO_FIELDS, FLOW) == 0


@pytest.mark.parametrize("function", HASH_FUNCTIONS.values(), ids=HASH_FUNCTIONS)
@given(choices, flows)
def test_a_bucket_is_one_of_256_and_made_of_the_chosen_fields_alone(
    function: HashFunction, fields: HashFields, flow: FlowFields
) -> None:
    bucket = function(fields, flow)
    assert 0 <= bucket < 256
    masked = FlowFields(*(value if wanted else 0 for wanted, value in zip(fields, flow, strict=True)))
    assert function(fields, masked) == bucket
