"""A simulated cache by itself: the drafts' timers, and what each profile does otherwise."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.unit.wire.vectors import VECTORS
from wccpd.simulator.assigners import deal
from wccpd.simulator.cache import CacheOutput, Ignored, SimulatedCache, Stopped, Transmit
from wccpd.simulator.profiles import (
    GRE_HASH_GRE,
    OPENNOP,
    PROFILES,
    SQUID_5_1,
    SQUID_5_7,
    STRICT,
    TRAFFIC_SERVER_9_2,
    Profile,
)
from wccpd.wire.components import (
    Capabilities,
    CommandExtension,
    RouterIdentity,
    RouterQuery,
    RouterView,
    ServiceInfo,
)
from wccpd.wire.elements import AssignmentKey, Command
from wccpd.wire.enums import AssignmentMethod, CommandType, ForwardingMethod, ServiceFlags
from wccpd.wire.identity import HashAssignment, WebCacheIdentity
from wccpd.wire.messages import (
    HereIAm,
    ISeeYou,
    Message,
    RedirectAssign,
    RemovalQuery,
    decode_message,
    encode_message,
)

ROUTER, OTHER = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
ME, LOWER, HIGHER = IPv4Address("10.0.1.5"), IPv4Address("10.0.1.4"), IPv4Address("10.0.1.6")
WEB_CACHE = ServiceInfo.web_cache()
NO_KEY = AssignmentKey.none()


def recorded(name: str) -> bytes:
    return next(vector.datagram for vector in VECTORS if vector.name == name)


def cache(profile: Profile = STRICT, *routers: IPv4Address, **details: object) -> SimulatedCache:
    return SimulatedCache(profile, ME, WEB_CACHE, routers or (ROUTER,), **details)


def i_see_you(
    *caches: IPv4Address,
    number: int = 8,
    receive_id: int = 100,
    key: AssignmentKey = NO_KEY,
    router: IPv4Address = ROUTER,
    **details: object,
) -> bytes:
    elements = tuple(WebCacheIdentity(each, HashAssignment(weight=1)) for each in caches)
    defaults: dict[str, object] = {
        "service": WEB_CACHE,
        "identity": RouterIdentity(router, receive_id, router, (ME,)),
        "view": RouterView(number, key, (router,), elements),
        "capabilities": GRE_HASH_GRE,
    }
    return encode_message(ISeeYou(**{**defaults, **details}))


def said(outputs: tuple[CacheOutput, ...]) -> list[Message]:
    return [decode_message(output.datagram) for output in outputs if isinstance(output, Transmit)]


def run(subject: SimulatedCache, until: float) -> list[tuple[float, Message]]:
    """What it says up to then, each with its time."""
    spoken = []
    while (deadline := subject.next_deadline()) is not None and deadline <= until:
        spoken += [(deadline, message) for message in said(subject.tick(deadline))]
    return spoken


def assignments(spoken: list[tuple[float, Message]]) -> list[float]:
    return [time for time, message in spoken if isinstance(message, RedirectAssign)]


# As recorded


def test_a_simulated_squid_says_hello_octet_for_octet_like_the_real_one() -> None:
    squid = SimulatedCache(
        SQUID_5_1,
        IPv4Address("127.0.0.161"),
        WEB_CACHE,
        (IPv4Address("127.0.0.62"),),
        b"abcdefgh",
    )
    (hello,) = squid.tick(0.0)
    assert isinstance(hello, Transmit)
    assert hello.datagram == recorded("squid-hash-here-i-am")


def test_a_simulated_squid_in_mask_mode_says_hello_like_the_real_one() -> None:
    service = decode_message(recorded("squid-mask-here-i-am")).service
    profile = replace(SQUID_5_1, selects=replace(GRE_HASH_GRE, assignment=AssignmentMethod.MASK))
    squid = SimulatedCache(
        profile,
        IPv4Address("127.0.0.171"),
        service,
        (IPv4Address("127.0.0.72"),),
        b"abcdefgh",
        weight=0,
    )
    (hello,) = squid.tick(0.0)
    assert isinstance(hello, Transmit)
    assert hello.datagram == recorded("squid-mask-here-i-am")


# The drafts' way


def test_it_says_here_i_am_every_ten_seconds_to_every_router() -> None:
    subject = cache(STRICT, ROUTER, OTHER)
    times = [time for time, _ in run(subject, 35)]
    assert times == [0, 0, 10, 10, 20, 20, 30, 30]


def test_it_echoes_the_last_receive_id_and_selects_of_the_offer() -> None:
    subject = cache()
    (first,) = said(subject.tick(0.0))
    assert isinstance(first, HereIAm)
    assert (first.view.routers, first.capabilities) == ((), None)
    subject.receive(i_see_you(receive_id=77), ROUTER, 1.0)
    (second,) = said(subject.tick(10.0))
    assert isinstance(second, HereIAm)
    assert second.view.routers == ((ROUTER, 77),)
    assert second.capabilities == GRE_HASH_GRE


def test_it_takes_the_other_method_where_its_own_is_not_offered() -> None:
    subject = cache()
    subject.receive(i_see_you(capabilities=Capabilities(forwarding=ForwardingMethod.L2)), ROUTER, 1.0)
    (hello,) = said(subject.tick(0.0))
    assert isinstance(hello, HereIAm)
    assert hello.capabilities is not None
    assert hello.capabilities.forwarding is ForwardingMethod.L2


def test_the_designated_cache_assigns_fifteen_seconds_after_the_last_change() -> None:
    subject = cache()
    subject.receive(i_see_you(ME, number=8), ROUTER, 0.0)
    subject.receive(i_see_you(ME, HIGHER, number=9, receive_id=101), ROUTER, 8.0)
    spoken = run(subject, 40)
    assert assignments(spoken) == [23]
    (assignment,) = (message for _, message in spoken if isinstance(message, RedirectAssign))
    assert assignment.assignment is not None
    assert assignment.assignment.routers == ((ROUTER, 101, 9),)
    assert assignment.assignment.caches == (ME, HIGHER)
    assert assignment.assignment.buckets == bytes((0, 1)) * 128


def test_a_cache_that_is_not_the_lowest_does_not_assign() -> None:
    subject = cache()
    subject.receive(i_see_you(ME, LOWER), ROUTER, 0.0)
    assert assignments(run(subject, 60)) == []


def test_it_assigns_when_the_lowest_one_left() -> None:
    subject = cache()
    subject.receive(i_see_you(ME, LOWER, number=8), ROUTER, 0.0)
    subject.receive(i_see_you(ME, number=9), ROUTER, 20.0)
    assert assignments(run(subject, 60)) == [35]


def test_an_assignment_is_repeated_until_its_key_is_echoed() -> None:
    subject = cache()
    subject.receive(i_see_you(ME), ROUTER, 0.0)
    assert assignments(run(subject, 19)) == [15]
    assert said(subject.receive(i_see_you(ME), ROUTER, 20.0)) == [], "too early"
    (again,) = said(subject.receive(i_see_you(ME, receive_id=103), ROUTER, 30.0))
    assert isinstance(again, RedirectAssign)
    assert again.assignment is not None
    assert again.assignment.key == (ME, 1)
    echo = i_see_you(ME, key=AssignmentKey(ME, 1))
    assert said(subject.receive(echo, ROUTER, 50.0)) == []


def test_only_caches_that_every_router_lists_get_buckets() -> None:
    subject = cache(STRICT, ROUTER, OTHER)
    subject.receive(i_see_you(LOWER, ME, HIGHER), ROUTER, 0.0)
    subject.receive(i_see_you(ME, HIGHER, router=OTHER), OTHER, 0.0)
    spoken = run(subject, 16)
    assert assignments(spoken) == [15, 15]
    (first, _) = (message for _, message in spoken if isinstance(message, RedirectAssign))
    assert first.assignment is not None
    assert first.assignment.caches == (ME, HIGHER)
    assert {row.router_id for row in first.assignment.routers} == {ROUTER, OTHER}


def test_a_router_silent_for_thirty_seconds_leaves_the_view() -> None:
    subject = cache(STRICT, ROUTER, OTHER)
    subject.receive(i_see_you(ME), ROUTER, 0.0)
    subject.receive(i_see_you(LOWER, router=OTHER), OTHER, 25.0)
    hello = run(subject, 30)[-1][1]
    assert isinstance(hello, HereIAm)
    assert [row.router_id for row in hello.view.routers] == [OTHER]


def test_a_removal_query_is_answered_by_three_identical_hellos_a_second_apart() -> None:
    subject = cache(starts_at=9.0)
    subject.receive(i_see_you(HIGHER), ROUTER, 0.0)
    query = RemovalQuery(service=WEB_CACHE, query=RouterQuery(ROUTER, 105, ROUTER, ME))
    first = subject.receive(encode_message(query), ROUTER, 1.0)
    rest = [(time, output) for time in (2.0, 3.0, 4.0) for output in subject.tick(time)]
    assert [time for time, _ in rest] == [2.0, 3.0]
    assert {output.datagram for _, output in rest} == {output.datagram for output in first}
    (message,) = said(first)
    assert isinstance(message, HereIAm)
    assert message.view.routers == ((ROUTER, 105),)


def test_it_leaves_with_a_shutdown_and_stops_once_that_is_acknowledged() -> None:
    subject = cache()
    subject.receive(i_see_you(ME), ROUTER, 0.0)
    (goodbye,) = said(subject.leave(5.0))
    assert isinstance(goodbye, HereIAm)
    assert goodbye.shutdown == ME
    commands = CommandExtension((Command(CommandType.SHUTDOWN_RESPONSE, ME),))
    outputs = subject.receive(i_see_you(commands=commands), ROUTER, 5.1)
    assert outputs == (Stopped("left, acknowledged"),)
    assert subject.next_deadline() is None
    assert subject.tick(10.0) == subject.receive(i_see_you(), ROUTER, 10.0) == ()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda each: each.name)
def test_nothing_that_a_router_may_send_makes_a_cache_raise(profile: Profile) -> None:
    whole = encode_message(decode_message(i_see_you(ME, HIGHER)), dual_valid=True)
    for datagram in (i_see_you(ME, HIGHER), whole):
        for cut in range(len(datagram)):
            cache(profile).receive(datagram[:cut], ROUTER, 0.0)
        for offset in range(len(datagram)):
            broken = datagram[:offset] + bytes((datagram[offset] ^ 0xFF,)) + datagram[offset + 1 :]
            cache(profile).receive(broken, ROUTER, 0.0)


# Otherwise


def test_a_squid_never_repeats_its_assignment_and_does_not_look_at_the_key() -> None:
    squid = cache(SQUID_5_1)
    squid.receive(i_see_you(ME), ROUTER, 0.0)
    assert assignments(run(squid, 20)) == [15]
    for time in (25.0, 35.0, 45.0):
        assert said(squid.receive(i_see_you(ME), ROUTER, time)) == []
        assert assignments(run(squid, time + 9)) == []
    squid.receive(i_see_you(ME, number=9), ROUTER, 60.0)
    assert assignments(run(squid, 80)) == [75]


def test_a_squid_compares_addresses_by_the_last_octet_first() -> None:
    by_number_lower, reversed_lower = IPv4Address("9.9.9.9"), IPv4Address("200.0.0.5")
    squid, strict = cache(SQUID_5_1), cache(STRICT)
    for subject in (squid, strict):
        subject.receive(i_see_you(by_number_lower, ME), ROUTER, 0.0)
    (assignment,) = (message for _, message in run(squid, 20) if isinstance(message, RedirectAssign))
    assert assignment.assignment is not None
    assert assignment.assignment.caches == (ME, by_number_lower)
    assert assignments(run(strict, 20)) == []
    squid.receive(i_see_you(ME, reversed_lower, number=9), ROUTER, 20.0)
    assert assignments(run(squid, 60)) == []


def test_a_squid_ignores_a_removal_query() -> None:
    squid = cache(SQUID_5_1)
    squid.receive(i_see_you(ME), ROUTER, 0.0)
    query = RemovalQuery(service=WEB_CACHE, query=RouterQuery(ROUTER, 105, ROUTER, ME))
    assert squid.receive(encode_message(query), ROUTER, 1.0) == (Ignored("message type 13", ROUTER),)


def test_a_squid_selects_at_once_and_stops_when_its_bit_is_not_offered() -> None:
    squid = cache(SQUID_5_1)
    (hello,) = said(squid.tick(0.0))
    assert isinstance(hello, HereIAm)
    assert hello.capabilities == GRE_HASH_GRE
    refusal = i_see_you(capabilities=replace(GRE_HASH_GRE, forwarding=ForwardingMethod.L2))
    (stopped,) = squid.receive(refusal, ROUTER, 1.0)
    assert isinstance(stopped, Stopped)
    assert squid.next_deadline() is None


def test_a_squid_lists_its_configured_routers_before_it_heard_them() -> None:
    squid = cache(SQUID_5_1, ROUTER, OTHER)
    (hello, _) = said(squid.tick(0.0))
    assert isinstance(hello, HereIAm)
    assert hello.view.routers == ((ROUTER, 0), (OTHER, 0))


def test_a_squid_takes_nothing_from_an_address_that_it_does_not_know() -> None:
    (ignored,) = cache(SQUID_5_1).receive(i_see_you(), OTHER, 0.0)
    assert isinstance(ignored, Ignored)


def test_a_squid_5_7_echoes_the_dual_valid_form_and_never_assigns() -> None:
    squid = cache(SQUID_5_7)
    message = decode_message(i_see_you(ME, receive_id=55))
    squid.receive(encode_message(message), ROUTER, 0.0)
    assert squid.nexuses[0].receive_id == 0
    squid.receive(encode_message(message, dual_valid=True), ROUTER, 1.0)
    assert squid.nexuses[0].receive_id == 55
    assert assignments(run(squid, 100)) == []


def test_a_traffic_server_sends_to_the_router_id_and_gives_everything_to_the_first() -> None:
    server = cache(TRAFFIC_SERVER_9_2, OTHER)
    server.receive(i_see_you(HIGHER, ME), OTHER, 0.0)
    (transmit,) = server.tick(0.0)
    assert isinstance(transmit, Transmit)
    assert transmit.destination == ROUTER
    (assignment,) = (message for _, message in run(server, 16) if isinstance(message, RedirectAssign))
    assert assignment.assignment is not None
    assert (assignment.assignment.caches, assignment.assignment.buckets) == ((HIGHER, ME), bytes(256))


@pytest.mark.parametrize(
    "datagram",
    [
        i_see_you(commands=CommandExtension((Command(CommandType.SHUTDOWN_RESPONSE, ME),))),
        encode_message(decode_message(i_see_you()), dual_valid=True),
        i_see_you(identity=RouterIdentity(ROUTER, 1, ROUTER, (HIGHER,))),
        i_see_you(service=ServiceInfo.dynamic(0, 1, 6, ServiceFlags(0))),
    ],
    ids=["command", "dual-valid", "not addressed", "another service"],
)
def test_a_traffic_server_refuses_whatever_is_not_as_it_is_drawn(datagram: bytes) -> None:
    server = cache(TRAFFIC_SERVER_9_2)
    (ignored,) = server.receive(datagram, ROUTER, 0.0)
    assert isinstance(ignored, Ignored)
    assert server.nexuses[0].receive_id == 0


def test_an_opennop_bets_on_the_next_receive_id_from_a_port_of_its_own() -> None:
    nop = cache(OPENNOP)
    nop.receive(i_see_you(ME, receive_id=41, number=8), ROUTER, 0.0)
    hello, bet = nop.tick(0.0)
    assert isinstance(hello, Transmit)
    assert isinstance(bet, Transmit)
    assert hello.source_port == bet.source_port != 2048
    message = decode_message(bet.datagram)
    assert isinstance(message, RedirectAssign)
    assert message.assignment is not None
    assert message.assignment.routers == ((ROUTER, 42, 8),)


# Shares


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((300, 100), [192, 64]),
        ((0, 0), [128, 128]),
        ((1, 1, 1), [86, 85, 85]),
        ((5, 0), [256, 0]),
        ((7,), [256]),
    ],
)
def test_buckets_are_dealt_by_weight(weights: tuple[int, ...], expected: list[int]) -> None:
    buckets = deal(weights)
    assert len(buckets) == 256
    assert [buckets.count(index) for index in range(len(weights))] == expected
