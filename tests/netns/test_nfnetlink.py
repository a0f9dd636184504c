"""Element changes by nfnetlink against the kernel; libnftables lists what came of them."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from bench.nfnetlink import ElementChange, ElementSocket, Field, Key
from tests.support.namespaces import Namespace
from wccpd.errors import KernelError

pytestmark = pytest.mark.netns

BUCKETS = ("buckets", (Field.HOST_32,), Field.HOST_32)
HEADERS = ("headers", (Field.HOST_32,), Field.NETWORK_32)
PAIRS = ("pairs", (Field.NETWORK_32, Field.NETWORK_32), Field.HOST_32)
FLOWS = (
    "flows",
    (Field.NETWORK_32, Field.NETWORK_32, Field.NETWORK_16, Field.NETWORK_16),
    Field.HOST_32,
)
CACHES = ("caches", (Field.NETWORK_32,), None)
TABLE = """
add table ip wccpd
add map ip wccpd buckets { typeof meta length : meta mark; }
add map ip wccpd headers { typeof meta mark : @th,32,32; }
add map ip wccpd pairs { type ipv4_addr . ipv4_addr : mark; }
add map ip wccpd flows { type ipv4_addr . ipv4_addr . inet_service . inet_service : mark; }
add set ip wccpd caches { type ipv4_addr; }
add map ip wccpd verdicts { type mark : verdict; }
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("elements") as made:
        made.run("nft", TABLE)
        yield made


@pytest.fixture
def elements(namespace: Namespace) -> Iterator[ElementSocket]:
    with namespace.call(lambda: ElementSocket("wccpd")) as opened:
        yield opened


def listed(namespace: Namespace, name: str, kind: str = "map") -> dict[Key, int]:
    """What libnftables lists, with addresses as numbers; a set's elements have the value 0."""
    output = json.loads(namespace.run("nft", "-j", "-n", "list", kind, "ip", "wccpd", name))
    (body,) = (item[kind] for item in output["nftables"] if kind in item)
    entries = body.get("elem", [])
    pairs = entries if kind == "map" else [[entry, 0] for entry in entries]
    return {numbers(key): int(value) for key, value in pairs}


def numbers(key: object) -> Key:
    match key:
        case {"concat": parts}:
            return tuple(numbers(part)[0] for part in parts)
        case str():
            return (int(IPv4Address(key)),)
        case int():
            return (key,)
    raise AssertionError(key)


def host(number: int) -> int:
    return int(IPv4Address("10.0.0.0")) + number


def test_a_whole_table_of_buckets_is_replaced_at_once(namespace: Namespace, elements: ElementSocket) -> None:
    first = {(bucket,): bucket << 16 | 0x101 for bucket in range(256)}
    second = {(bucket,): bucket << 16 | 0x102 for bucket in range(256)}
    elements.change([ElementChange(*BUCKETS, add=first)])
    assert listed(namespace, "buckets") == first
    elements.change([ElementChange(*BUCKETS, flush=True, add=second)])
    assert listed(namespace, "buckets") == second
    elements.change([ElementChange(*BUCKETS, remove=list(second), add=first)])
    assert listed(namespace, "buckets") == first


def test_what_is_not_named_stays(namespace: Namespace, elements: ElementSocket) -> None:
    elements.change([ElementChange(*BUCKETS, add={(1,): 10, (2,): 20, (3,): 30})])
    elements.change([ElementChange(*BUCKETS, remove=[(2,), (3,)], add={(2,): 21, (0xFFFFFFFF,): 0xFFFFFFFF})])
    assert listed(namespace, "buckets") == {(1,): 10, (2,): 21, (0xFFFFFFFF,): 0xFFFFFFFF}


def test_addresses_ports_and_octets_of_packets_come_in_the_order_of_the_network(
    namespace: Namespace, elements: ElementSocket
) -> None:
    pairs = {(host(1), host(0x020304)): 7, (host(2), host(1)): 8}
    flows = {(host(1), host(2), 80, 65535): 9, (host(1), host(2), 0x1234, 0): 10}
    caches = {(host(5),): 0, (host(6),): 0}
    elements.change(
        [
            ElementChange(*PAIRS, add=pairs),
            ElementChange(*FLOWS, add=flows),
            ElementChange(*CACHES, add=caches),
            ElementChange(*HEADERS, add={(0x10100,): 0x00000001, (0x10200,): 0xC0460203}),
        ]
    )
    assert listed(namespace, "pairs") == pairs
    assert listed(namespace, "flows") == flows
    assert listed(namespace, "caches", "set") == caches
    assert listed(namespace, "headers") == {(0x10100,): 0x00000001, (0x10200,): 0xC0460203}


@pytest.mark.parametrize(("name", "text"), [
    (BUCKETS, "buckets { 1 : 2, 300 : 0xffffffff }"),
    (HEADERS, "headers { 0x10200 : 0xC0460203 }"),
    (PAIRS, "pairs { 10.0.0.1 . 10.0.0.2 : 7 }"),
    (FLOWS, "flows { 10.0.0.1 . 10.0.0.2 . 80 . 4660 : 7 }"),
])  # fmt: skip
def test_what_libnftables_added_is_removed_by_its_key(
    namespace: Namespace, elements: ElementSocket, name: tuple[str, tuple[Field, ...], Field], text: str
) -> None:
    namespace.run("nft", f"add element ip wccpd {text}")
    present = listed(namespace, name[0])
    elements.change([ElementChange(*name, add=present)])
    assert listed(namespace, name[0]) == present, "the same value again is no change"
    elements.change([ElementChange(*name, remove=list(present))])
    assert listed(namespace, name[0]) == {}


def test_more_elements_than_a_message_holds_are_one_transaction_still(
    namespace: Namespace, elements: ElementSocket
) -> None:
    many = {(host(number), host(number * 7), number & 0xFFFF, 80): number for number in range(9_000)}
    elements.change([ElementChange(*FLOWS, add=many)])
    assert listed(namespace, "flows") == many
    refused = [*many, (1, 2, 3, 4)]
    with pytest.raises(KernelError, match=r"element 1 \. 2 \. 3 \. 4"):
        elements.change([ElementChange(*FLOWS, remove=refused)])
    assert listed(namespace, "flows") == many
    elements.change([ElementChange(*FLOWS, remove=list(many))])
    assert listed(namespace, "flows") == {}


def test_the_widest_key_that_nft_can_name_fits(namespace: Namespace, elements: ElementSocket) -> None:
    fields = 5
    namespace.run("nft", f"add map ip wccpd wide {{ type {' . '.join(['ipv4_addr'] * fields)} : mark; }}")
    many = {tuple(host(number + place) for place in range(fields)): number for number in range(3_000)}
    elements.change([ElementChange("wide", (Field.NETWORK_32,) * fields, Field.HOST_32, add=many)])
    assert listed(namespace, "wide") == many


@pytest.mark.parametrize(
    ("bad", "number", "words"),
    [
        (ElementChange(*BUCKETS, remove=[(1,), (7,)]), errno.ENOENT, "delete from nft map wccpd buckets: .*element 7"),
        (ElementChange(*BUCKETS, add={(3,): 1, (1,): 11}), errno.EEXIST, "add to nft map wccpd buckets: .*element 1"),
        (ElementChange(*CACHES, remove=[(9,)]), errno.ENOENT, "delete from nft set wccpd caches"),
        (ElementChange("none", (Field.HOST_32,), None, add={(1,): 0}), errno.ENOENT, "add to nft set wccpd none"),
        (ElementChange("none", (Field.HOST_32,), None, flush=True), errno.ENOENT, "flush nft set wccpd none"),
        (ElementChange("pairs", (Field.HOST_32,), Field.HOST_32, add={(1,): 0}), errno.EINVAL, "nft map wccpd pairs"),
        (ElementChange("verdicts", (Field.HOST_32,), Field.HOST_32, add={(1,): 0}), errno.EINVAL, "wccpd verdicts"),
    ],
)  # fmt: skip
def test_one_refused_element_keeps_everything_as_it_was_and_is_named(
    namespace: Namespace, elements: ElementSocket, bad: ElementChange, number: int, words: str
) -> None:
    good = ElementChange(*BUCKETS, add={(1,): 10, (2,): 20})
    elements.change([good])
    for changes in (
        [ElementChange(*CACHES, add={(host(1),): 0}), bad],
        [bad, ElementChange(*CACHES, add={(1,): 0})],
    ):
        with pytest.raises(KernelError, match=words) as caught:
            elements.change(changes)
        assert caught.value.errno == number
        assert listed(namespace, "buckets") == good.add
        assert listed(namespace, "caches", "set") == {}
    elements.change([ElementChange(*BUCKETS, remove=[(1,)])])
    assert listed(namespace, "buckets") == {(2,): 20}, "the socket is good for the next transaction"


def test_a_table_that_is_not_there_is_named(namespace: Namespace) -> None:
    with (
        namespace.call(lambda: ElementSocket("absent")) as opened,
        pytest.raises(KernelError, match="absent") as caught,
    ):
        opened.change([ElementChange(*BUCKETS, add={(1,): 1})])
    assert caught.value.errno == errno.ENOENT


def test_no_change_is_no_transaction(namespace: Namespace) -> None:
    with namespace.call(lambda: ElementSocket("absent")) as opened:
        opened.change([])
        opened.change([ElementChange(*BUCKETS)])


@pytest.mark.parametrize(
    "change",
    [
        ElementChange(*BUCKETS, add={(1 << 32,): 1}),
        ElementChange(*BUCKETS, add={(1,): -1}),
        ElementChange(*FLOWS, add={(1, 2, 1 << 16, 4): 1}),
    ],
)
def test_a_number_too_large_for_its_field_never_reaches_the_kernel(
    elements: ElementSocket, change: ElementChange
) -> None:
    with pytest.raises(OverflowError):
        elements.change([change])


def test_any_change_ends_where_the_same_change_by_libnftables_ends(
    namespace: Namespace, elements: ElementSocket
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    namespace.run("nft", "add map ip wccpd twin { typeof meta length : meta mark; }")
    present: dict[Key, int] = {}
    for _ in range(40):
        remove = chance.sample(sorted(present), chance.randint(0, len(present)))
        kept = present.keys() - set(remove)
        fresh = {(chance.choice([chance.randrange(64), chance.randrange(1 << 32)]),): chance.randrange(1 << 32)
                 for _ in range(chance.randint(0, 64))}  # fmt: skip
        add = {key: value for key, value in fresh.items() if key not in kept}
        elements.change([ElementChange(*BUCKETS, remove=remove, add=add)])
        lines = []
        if remove:
            lines.append(f"delete element ip wccpd twin {{ {', '.join(str(key) for (key,) in remove)} }}")
        if add:
            lines.append(
                f"add element ip wccpd twin {{ {', '.join(f'{key} : {value}' for (key,), value in add.items())} }}"
            )
        if lines:
            namespace.run("nft", "\n".join(lines))
        present = {key: present[key] for key in kept} | add
        assert listed(namespace, "buckets") == listed(namespace, "twin") == present
