"""Bad input that reaches the engine, each with what it does about it: identity, authentication, state.

What the codec refuses is in tests/unit/wire; the plainest cases are in tests/unit/protocol.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.scripted_cache import GRE_HASH_GRE, ScriptedCache
from tests.support.stage import FIRST, PASSWORD, ROUTER_ID, SECOND, SECOND_ADDRESS, WEB_CACHE, Stage
from wccpd.protocol.outputs import CacheLost, CacheSeen, Output, Refusal, Refused, Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, EngineSettings, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.wire.assignments import AlternateAssignment, AssignmentInfo, AssignmentMap
from wccpd.wire.components import CacheView, ServiceInfo
from wccpd.wire.elements import AssignmentKey, RouterAssignment, RouterIdReceiveId, ServiceKey
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, ServiceFlags, ServiceType
from wccpd.wire.errors import WireReason
from wccpd.wire.identity import HashAssignment, WebCacheIdentity
from wccpd.wire.masks import Mask, MaskValueSet, Value
from wccpd.wire.messages import HereIAm, RedirectAssign, encode_message

STRANGER = IPv4Address("192.0.2.66")
EVERYTHING = ServiceFlags(0)


def only(outputs: tuple[Output, ...], kind: type) -> list:
    return [output for output in outputs if isinstance(output, kind)]


def reason(outputs: tuple[Output, ...]) -> StrEnum:
    (refused,) = outputs
    assert isinstance(refused, Refused)
    return refused.reason


def assigned(stage: Stage) -> tuple[Stage, ScriptedCache, ScriptedCache]:
    """Two usable caches that share the buckets, by the word of the first."""
    first, second = stage.joined(FIRST, SECOND)
    stage.send(first, first.redirect_assign((FIRST, SECOND)))
    stage.live(10, first, second)
    return stage, first, second


def assignment_of(
    cache: ScriptedCache, caches: tuple[IPv4Address, ...], buckets: bytes, router: IPv4Address = ROUTER_ID
) -> bytes:
    """An assignment that is up to date, whatever it says."""
    assert cache.last is not None
    row = RouterAssignment(router, cache.last.identity.receive_id, cache.last.view.change_number)
    info = AssignmentInfo(AssignmentKey(cache.address, 9), (row,), caches, buckets)
    return encode_message(RedirectAssign(service=cache.service, assignment=info), password=cache.password)


def hello_with(cache: ScriptedCache, *rows: RouterIdReceiveId) -> bytes:
    """A HERE_I_AM whose view has just these routers."""
    message = HereIAm(
        service=cache.service,
        identity=WebCacheIdentity(cache.address, HashAssignment(weight=cache.weight)),
        view=CacheView.of(1, rows, ()),
        capabilities=cache.capabilities,
    )
    return encode_message(message, password=cache.password)


# Identity


def test_a_cache_cannot_be_the_broadcast_address() -> None:
    stage = Stage()
    cache = stage.cache(IPv4Address("255.255.255.255"))
    assert reason(stage.hello(cache)) is Refusal.BAD_CACHE_ADDRESS


def test_a_cache_cannot_take_the_address_of_another_member() -> None:
    stage, first, second = assigned(Stage())
    forged = replace(second, address=first.address)
    outputs = stage.router.receive(forged.here_i_am(), SECOND, 2048, ROUTER_ID, stage.now)
    assert reason(outputs) is Refusal.SOURCE_MISMATCH
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_cache_cannot_take_the_address_of_a_router_interface_although_it_comes_from_there() -> None:
    stage = Stage()
    cache = stage.cache(SECOND_ADDRESS)
    assert reason(stage.hello(cache)) is Refusal.BAD_CACHE_ADDRESS


def test_the_same_cache_from_a_second_address_is_refused_and_the_first_goes_on() -> None:
    stage, first, _ = assigned(Stage())
    datagram = first.here_i_am()
    assert (
        reason(stage.router.receive(datagram, STRANGER, 2048, ROUTER_ID, stage.now))
        is Refusal.SOURCE_MISMATCH
    )
    assert only(stage.send(first, datagram), Send)
    assert stage.state(FIRST) is CacheState.USABLE


def test_the_same_cache_from_a_second_port_is_answered_there() -> None:
    stage, first, _ = assigned(Stage())
    outputs = stage.router.receive(first.here_i_am(), FIRST, 40000, ROUTER_ID, stage.now)
    (answer,) = only(outputs, Send)
    assert answer.remote_port == 40000


def test_an_assignment_from_outside_the_group_list_is_refused() -> None:
    stage = Stage(group_list=(IPv4Network("10.100.1.0/24"),))
    stage, first, _ = assigned(stage)
    datagram = first.redirect_assign((FIRST,))
    outputs = stage.router.receive(datagram, STRANGER, 2048, ROUTER_ID, stage.now)
    assert reason(outputs) is Refusal.NOT_IN_GROUP_LIST


def test_strangers_that_never_echo_do_not_keep_a_real_cache_out() -> None:
    stage = Stage(passwords=())
    for number in range(32):
        stage.hello(stage.cache(STRANGER + number, password=None))
    cache = stage.cache(FIRST, password=None)
    stage.hello(cache)
    stage.live(10, cache)
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_stranger_that_never_echoes_does_not_decide_what_the_service_is() -> None:
    key = ServiceKey(ServiceType.DYNAMIC, 70)
    stage = Stage(key=key, passwords=())
    wrong, right = (ServiceInfo.dynamic(70, 10, 6, ServiceFlags.PORTS_DEFINED, (port,)) for port in (1, 443))
    stranger = stage.cache(STRANGER, password=None, service=wrong)
    cache = stage.cache(FIRST, password=None, service=right)
    for _ in range(4):
        stage.send(stranger, stranger.here_i_am(receive_id=0))
        stage.hello(cache)
        stage.wait(10)
    assert stage.state(FIRST) is CacheState.USABLE


# Authentication


@pytest.mark.parametrize(
    ("password", "key", "words"),
    [
        (b"8letters", b"8letter\0", "only 7 octets"),
        (b"8letters", b"8letters\0", "9-octet key"),
        (b"short", b"short\0\0\0\0", "9-octet key"),
    ],
)
def test_the_key_variants_of_old_squids_are_refused_by_name(password: bytes, key: bytes, words: str) -> None:
    stage = Stage(passwords=(password,))
    datagram = stage.cache(FIRST, password=password).here_i_am()
    unsigned = datagram[:16] + bytes(16) + datagram[32:]
    variant = datagram[:16] + hashlib.md5(key + unsigned).digest() + datagram[32:]
    (refused,) = stage.router.receive(variant, FIRST, 2048, ROUTER_ID, stage.now)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.AUTHENTICATION_WRONG
    assert words in refused.detail


def test_an_eighth_character_that_is_not_there_makes_no_variant() -> None:
    # With 7 characters or fewer the 7-octet key is the right one.
    stage = Stage(passwords=(b"7letter",))
    assert only(stage.hello(stage.cache(FIRST, password=b"7letter")), Send)


@pytest.mark.parametrize(
    ("passwords", "expected"),
    [((), WireReason.SECURITY_OPTION), ((PASSWORD,), Refusal.AUTHENTICATION_MISSING)],
)
def test_an_unknown_security_option_is_refused(passwords: tuple[bytes, ...], expected: StrEnum) -> None:
    stage = Stage(passwords=passwords)
    datagram = bytearray(stage.cache(FIRST, password=PASSWORD).here_i_am())
    datagram[15] = 2
    assert reason(stage.router.receive(bytes(datagram), FIRST, 2048, ROUTER_ID, stage.now)) is expected


@pytest.mark.parametrize(
    ("passwords", "expected"),
    [((), WireReason.SECURITY_LENGTH), ((PASSWORD,), Refusal.AUTHENTICATION_MISSING)],
)
@pytest.mark.parametrize("octets", [4, 16, 24])
def test_a_digest_of_the_wrong_length_is_refused(
    passwords: tuple[bytes, ...], expected: StrEnum, octets: int
) -> None:
    stage = Stage(passwords=passwords)
    plain = stage.cache(FIRST, password=None).here_i_am()
    security = b"\0\0" + octets.to_bytes(2, "big") + b"\0\0\0\1" + b"\xaa" * (octets - 4)
    rest = plain[16:]
    datagram = plain[:6] + (len(security) + len(rest)).to_bytes(2, "big") + security + rest
    assert reason(stage.router.receive(datagram, FIRST, 2048, ROUTER_ID, stage.now)) is expected


def test_any_changed_octet_breaks_the_digest() -> None:
    stage, first, _ = assigned(Stage())
    datagram = first.here_i_am()
    for offset in range(32, len(datagram)):
        broken = bytearray(datagram)
        broken[offset] ^= 0x10
        outputs = stage.router.receive(bytes(broken), FIRST, 2048, ROUTER_ID, stage.now)
        assert only(outputs, Refused), f"offset {offset}"
        assert not only(outputs, Send), f"offset {offset}"


def test_octets_after_the_message_are_not_part_of_the_digest() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    assert only(stage.send(cache, cache.here_i_am() + b"padding"), Send)


def test_the_password_of_one_service_does_not_open_another() -> None:
    https = ServiceInfo.dynamic(70, 10, 6, EVERYTHING)
    services = (ServiceSettings(WEB_CACHE, (b"one",)), ServiceSettings(https.key, (b"two",)))
    router = Router(EngineSettings(ROUTER_ID, (ROUTER_ID,), services, 1))
    wrong = ScriptedCache(FIRST, ROUTER_ID, service=https, password=b"one")
    right = ScriptedCache(FIRST, ROUTER_ID, service=https, password=b"two")
    refused = router.receive(wrong.here_i_am(), FIRST, 2048, ROUTER_ID, 0.0)
    assert reason(refused) is Refusal.AUTHENTICATION_WRONG
    assert only(router.receive(right.here_i_am(), FIRST, 2048, ROUTER_ID, 0.0), Send)


# State: HERE_I_AM


def test_a_first_here_i_am_without_our_row_is_answered() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    outputs = stage.send(cache, hello_with(cache))
    assert only(outputs, CacheSeen)
    assert only(outputs, Send)
    assert stage.state(FIRST) is CacheState.NEGOTIATING


@pytest.mark.parametrize(
    "receive_id",
    [0, 1, 1003, 1005, 0x80000000, 0xFFFFFFFF],
    ids=["zero", "old", "previous", "next", "half-way", "wrapped"],
)
def test_a_row_with_any_id_but_the_last_is_answered_and_makes_nobody_usable(receive_id: int) -> None:
    stage = Stage()
    stage.hello(*(stage.cache(SECOND + number) for number in range(1, 4)))
    cache = stage.cache(FIRST)
    stage.hello(cache)
    assert cache.last is not None
    assert cache.last.identity.receive_id == 1004
    assert only(stage.send(cache, cache.here_i_am(receive_id=receive_id)), Send)
    assert stage.state(FIRST) is CacheState.NEGOTIATING


def test_the_receive_id_of_another_cache_is_no_echo() -> None:
    stage = Stage()
    first, second = stage.cache(FIRST), stage.cache(SECOND)
    stage.hello(first, second)
    assert first.last is not None
    stage.send(second, second.here_i_am(receive_id=first.last.identity.receive_id))
    assert stage.state(SECOND) is CacheState.NEGOTIATING


def test_the_receive_id_of_another_router_is_no_echo() -> None:
    stage = Stage()
    cache = stage.cache(FIRST)
    stage.hello(cache)
    assert cache.last is not None
    foreign = RouterIdReceiveId(STRANGER, cache.last.identity.receive_id)
    stage.send(cache, hello_with(cache, foreign))
    assert stage.state(FIRST) is CacheState.NEGOTIATING


def test_a_replayed_here_i_am_keeps_no_dead_cache_alive() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    replayed = cache.here_i_am()
    lost: list[object] = []
    for _ in range(4):
        stage.send(cache, replayed)
        lost += only(stage.wait(9.9), CacheLost)
    assert [each.cache for each in lost] == [FIRST]


def test_a_replayed_here_i_am_of_a_cache_that_left_does_not_bring_it_back() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    replayed = cache.here_i_am()
    stage.hello(cache)
    stage.wait(31)
    for _ in range(5):
        stage.send(cache, replayed)
        stage.wait(5)
    assert stage.state(FIRST) is CacheState.NEGOTIATING


def test_a_cache_that_changes_the_definition_while_joined_is_refused_and_then_lost() -> None:
    key = ServiceKey(ServiceType.DYNAMIC, 70)
    stage = Stage(key=key)
    https, other = (
        ServiceInfo.dynamic(70, 10, 6, ServiceFlags.PORTS_DEFINED, (port,)) for port in (443, 8443)
    )
    (cache,) = stage.joined(FIRST, service=https)
    cache.service = other
    for _ in range(2):
        stage.wait(10)
        assert reason(stage.hello(cache)) is Refusal.DEFINITION_DIFFERS
    assert [each.cache for each in only(stage.wait(11), CacheLost)] == [FIRST]
    stage.hello(cache)
    stage.hello(cache)
    assert stage.group.definition == other, "with the last cache the old definition went"


def test_a_standard_and_a_dynamic_service_of_the_same_number_are_two_groups() -> None:
    dynamic = ServiceInfo.dynamic(0, 10, 6, EVERYTHING)
    services = (ServiceSettings(WEB_CACHE), ServiceSettings(dynamic.key))
    router = Router(EngineSettings(ROUTER_ID, (ROUTER_ID,), services, 1))
    for service in (ServiceInfo.web_cache(), dynamic):
        cache = ScriptedCache(FIRST, ROUTER_ID, service=service)
        assert only(router.receive(cache.here_i_am(), FIRST, 2048, ROUTER_ID, 0.0), CacheSeen)


def test_a_cache_that_selects_something_else_in_mid_life_is_out_and_covered() -> None:
    stage, first, second = assigned(Stage())
    first.capabilities = replace(GRE_HASH_GRE, forwarding=ForwardingMethod.L2)
    stage.live(10, first, second)
    assert stage.state(FIRST) is CacheState.INCOMPATIBLE
    assert set(stage.group.bucket_owners) == {SECOND}


@pytest.mark.parametrize("policy", [AssignmentPolicy.AUTO, AssignmentPolicy.ROUTER])
def test_the_only_cache_may_change_its_assignment_method_and_is_assigned_to_again(
    policy: AssignmentPolicy,
) -> None:
    stage = Stage(assignment=AssignmentMethod.HASH | AssignmentMethod.MASK, policy=policy)
    (cache,) = stage.joined(FIRST)
    stage.live(40, cache)
    assert stage.group.caches[0].buckets == 256
    before = stage.group.change_number
    cache.capabilities = replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK)
    stage.live(60, cache)
    assert stage.group.caches[0].buckets == stage.group.values > 0
    assert stage.group.change_number != before, "a Squid assigns only when the number changes"


def test_a_flood_of_one_cache_does_not_cost_another_its_answers() -> None:
    stage, first, second = assigned(Stage())
    outputs = tuple(output for _ in range(100) for output in stage.hello(first))
    assert {each.reason for each in only(outputs, Refused)} == {Refusal.TOO_OFTEN}
    assert len(only(outputs, Send)) < 20
    assert only(stage.hello(second), Send)


def test_a_shutdown_that_does_not_echo_our_id_is_not_believed() -> None:
    stage, first, _ = assigned(Stage())
    stage.send(first, first.here_i_am(receive_id=1, shutdown=True))
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_replayed_shutdown_throws_nobody_out() -> None:
    stage, first, second = assigned(Stage())
    goodbye = first.here_i_am(shutdown=True)
    stage.send(first, goodbye)
    stage.live(40, second)
    stage.hello(first)
    stage.live(20, first, second)
    assert stage.state(FIRST) is CacheState.USABLE
    stage.send(first, goodbye)
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_shutdown_that_names_another_cache_is_refused() -> None:
    stage = Stage(passwords=())
    first, _ = stage.joined(FIRST, SECOND, password=None)
    goodbye = bytearray(first.here_i_am(shutdown=True))
    assert goodbye.endswith(FIRST.packed)
    goodbye[-4:] = SECOND.packed
    assert reason(stage.send(first, bytes(goodbye))) is Refusal.COMMAND_ADDRESS_MISMATCH
    assert (stage.state(FIRST), stage.state(SECOND)) == (CacheState.USABLE, CacheState.USABLE)


# State: REDIRECT_ASSIGN


def test_an_assignment_before_any_answer_is_refused() -> None:
    stage = Stage()
    sender = stage.cache(FIRST)
    other = stage.cache(SECOND)
    stage.hello(other)
    datagram = replace(other, address=FIRST).redirect_assign((FIRST,))
    assert reason(stage.send(sender, datagram)) is Refusal.NOT_A_USABLE_CACHE


def test_an_assignment_of_somebody_who_is_no_member_is_refused() -> None:
    stage, first, _ = assigned(Stage())
    outputs = stage.router.receive(first.redirect_assign((FIRST,)), STRANGER, 2048, ROUTER_ID, stage.now)
    assert reason(outputs) is Refusal.NOT_A_USABLE_CACHE


def test_an_assignment_for_another_router_is_refused() -> None:
    stage, first, _ = assigned(Stage())
    datagram = assignment_of(first, (FIRST,), bytes(256), router=STRANGER)
    assert reason(stage.send(first, datagram)) is Refusal.ROUTER_NOT_LISTED
    assert set(stage.group.bucket_owners) == {FIRST, SECOND}


def test_a_replayed_assignment_is_refused_once_the_next_answer_is_sent() -> None:
    stage, first, _ = assigned(Stage())
    datagram = first.redirect_assign((FIRST,))
    stage.send(first, datagram)
    stage.hello(first)
    assert reason(stage.send(first, datagram)) is Refusal.STALE_RECEIVE_ID


def test_a_storm_of_the_same_assignment_changes_the_table_once() -> None:
    stage, first, _ = assigned(Stage())
    datagram = first.redirect_assign((SECOND,))
    outputs = tuple(output for _ in range(50) for output in stage.send(first, datagram))
    assert len(outputs) == 1
    assert set(stage.group.bucket_owners) == {SECOND}


def test_of_two_designated_caches_the_last_one_wins() -> None:
    stage, first, second = assigned(Stage())
    stage.send(second, second.redirect_assign((SECOND,)))
    assert stage.group.designated == SECOND
    stage.send(first, first.redirect_assign((FIRST,)))
    assert (stage.group.designated, set(stage.group.bucket_owners)) == (FIRST, {FIRST})


def test_an_assignment_of_the_other_method_is_refused() -> None:
    stage, first, _ = assigned(Stage())
    assert first.last is not None
    row = RouterAssignment(ROUTER_ID, first.last.identity.receive_id, first.last.view.change_number)
    zero = IPv4Address(0)
    sets = AssignmentMap((MaskValueSet(Mask(zero, zero, 0, 0), (Value(zero, zero, 0, 0, FIRST),)),))
    message = RedirectAssign(
        service=first.service,
        alternate_assignment=AlternateAssignment(AssignmentKey(FIRST, 2), (row,), sets),
    )
    datagram = encode_message(message, password=PASSWORD)
    assert reason(stage.send(first, datagram)) is Refusal.WRONG_ASSIGNMENT_METHOD
    assert stage.group.assigned_by is AssignedBy.CACHE


def test_buckets_of_unknown_caches_stay_unassigned_and_the_rest_counts() -> None:
    stage, first, _ = assigned(Stage())
    buckets = bytes(bucket % 2 for bucket in range(256))
    stage.send(first, assignment_of(first, (FIRST, STRANGER), buckets))
    assert stage.group.bucket_owners == (FIRST, None) * 128


def test_buckets_past_the_list_of_caches_stay_unassigned() -> None:
    stage, first, _ = assigned(Stage())
    stage.send(first, assignment_of(first, (FIRST,), bytes((0, 1, 31, 32, 0x7F, 0x81, 0xFF, 0)) * 32))
    assert stage.group.bucket_owners == (FIRST, *(None,) * 6, FIRST) * 32


@pytest.mark.parametrize(
    ("policy", "owners"), [(AssignmentPolicy.AUTO, {FIRST, SECOND}), (AssignmentPolicy.CACHE, {None})]
)
def test_an_assignment_that_gives_nothing_to_anybody_counts_where_the_caches_alone_decide(
    policy: AssignmentPolicy, owners: set[IPv4Address | None]
) -> None:
    stage, first, _ = assigned(Stage(policy=policy))
    stage.send(first, assignment_of(first, (FIRST, SECOND), b"\xff" * 256))
    assert set(stage.group.bucket_owners) == owners


def test_an_assignment_whose_buckets_all_use_the_alternate_hash_is_taken() -> None:
    stage, first, _ = assigned(Stage())
    stage.send(first, assignment_of(first, (FIRST, SECOND), b"\x81" * 256))
    assert set(stage.group.bucket_owners) == {SECOND}
    assert stage.group.alternate_buckets == frozenset(range(256))


def test_an_assignment_without_caches_assigns_nothing() -> None:
    stage, first, _ = assigned(Stage())
    before = stage.group.bucket_owners
    assert reason(stage.send(first, assignment_of(first, (), bytes(256)))) is Refusal.ASSIGNS_NOBODY
    assert stage.group.bucket_owners == before


# State: what only a router says


@pytest.mark.parametrize("octets", [b"", b"\0\0\0\x07" + bytes(8), b"\0\0\0\x0a\x02\0\0\x04\0\0\0\0"])
def test_what_is_no_message_of_version_2_changes_nothing(octets: bytes) -> None:
    stage, _, _ = assigned(Stage())
    before = stage.router.view()
    (refused,) = stage.router.receive(octets, FIRST, 2048, ROUTER_ID, stage.now)
    assert isinstance(refused, Refused)
    assert isinstance(refused.reason, WireReason)
    assert stage.router.view() == before
