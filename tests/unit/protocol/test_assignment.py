"""The bucket table: who gets what, and how little moves."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wccpd.protocol.assignment import (
    EMPTY,
    assign,
    bucket_counts,
    bucket_vector,
    cover,
    moved,
    shares,
)
from wccpd.protocol.tables import HashTable


def caches(count: int) -> list[IPv4Address]:
    return [IPv4Address("10.0.0.1") + i for i in range(count)]


def equal(count: int) -> dict[IPv4Address, int]:
    return dict.fromkeys(caches(count), 10000)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 31, 32])
def test_equal_caches_get_equal_shares_up_to_one_bucket(count: int) -> None:
    counts = bucket_counts(assign(EMPTY, equal(count)))
    assert sum(counts.values()) == 256
    assert len(counts) == count
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 31])
def test_a_cache_that_comes_takes_only_its_own_share(count: int) -> None:
    before = assign(EMPTY, equal(count))
    after = assign(before, equal(count + 1))
    newcomer = caches(count + 1)[-1]
    assert moved(before, after) == bucket_counts(after)[newcomer]


@pytest.mark.parametrize("count", [2, 3, 4, 8, 32])
def test_a_cache_that_goes_moves_only_its_own_buckets(count: int) -> None:
    before = assign(EMPTY, equal(count))
    lost = caches(count)[0]
    survivors = {cache: 10000 for cache in caches(count) if cache != lost}
    for after in (assign(before, survivors), cover(before, [lost], survivors)):
        assert moved(before, after) == bucket_counts(before)[lost]
        assert sum(bucket_counts(after).values()) == 256


def test_the_neighbours_in_the_hash_alternate_between_two_caches() -> None:
    first, second = caches(2)
    assert assign(EMPTY, equal(2))[:4] == (first, second, first, second)


def test_weights_of_three_to_one_split_192_to_64() -> None:
    first, second = caches(2)
    counts = bucket_counts(assign(EMPTY, {first: 300, second: 100}))
    assert counts == {first: 192, second: 64}


def test_weight_zero_gets_nothing_unless_all_are_zero() -> None:
    first, second = caches(2)
    assert bucket_counts(assign(EMPTY, {first: 5, second: 0})) == {first: 256}
    assert bucket_counts(assign(EMPTY, {first: 0, second: 0})) == {first: 128, second: 128}


def test_without_caches_nobody_owns_anything() -> None:
    full = assign(EMPTY, equal(2))
    assert assign(full, {}) == EMPTY
    assert cover(full, caches(2), {}) == EMPTY


@given(
    weights=st.lists(st.integers(0, 65535), min_size=1, max_size=32),
    again=st.lists(st.integers(0, 65535), min_size=1, max_size=32),
)
def test_every_bucket_is_owned_and_shares_are_exact_whatever_the_weights(
    weights: list[int], again: list[int]
) -> None:
    first = dict(zip(caches(32), weights, strict=False))
    second = dict(zip(caches(32), again, strict=False))
    table = assign(assign(EMPTY, first), second)
    held = bucket_counts(assign(EMPTY, first))
    expected = {share.cache: share.buckets for share in shares(second, held) if share.buckets}
    assert bucket_counts(table) == expected
    assert sum(expected.values()) == 256


def test_assigning_twice_moves_nothing() -> None:
    table = assign(EMPTY, equal(7))
    assert assign(table, equal(7)) == table


def test_buckets_of_unusable_caches_and_indices_past_the_list_become_unassigned() -> None:
    first, second = caches(2)
    octets = bytes([0, 1, 2, 0xFF, 0x80]) + bytes([0xFF]) * 251
    table = HashTable.of_redirect_assign([first, second], octets, frozenset({first}))
    owners = table.owners
    assert table.alternate == {4}
    assert owners[:5] == (first, None, None, None, first)
    assert set(owners[5:]) == {None}


def test_the_bucket_vector_has_bucket_0_as_its_highest_bit() -> None:
    first, second = caches(2)
    owners = (first,) + (second,) * 255
    assert bucket_vector(owners, first) == b"\x80" + bytes(31)
    assert bucket_vector(owners, second) == b"\x7f" + b"\xff" * 31
