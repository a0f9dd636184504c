"""A group that meets at a multicast address: nobody is answered at once, all are answered together."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network

from tests.support.scripted_cache import ScriptedCache
from tests.support.stage import FIRST, ROUTER_ID, SECOND, Stage, only
from wccpd.protocol.outputs import Output, Send
from wccpd.protocol.view import CacheState
from wccpd.wire.enums import ForwardingMethod
from wccpd.wire.messages import ISeeYou, decode_message

GROUP = IPv4Address("239.192.0.5")


class MulticastStage(Stage):
    """A stage on which what is sent to the group address reaches every cache."""

    def __init__(self, **settings: object) -> None:
        super().__init__(group_address=GROUP, **settings)
        self.heard: list[tuple[float, Send]] = []

    def hello(self, *caches: ScriptedCache) -> tuple[Output, ...]:
        return tuple(out for cache in caches for out in self.send(cache, cache.here_i_am(), local=GROUP))

    def deliver(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        for output in only(outputs, Send):
            if output.remote == GROUP:
                self.heard.append((self.now, output))
            for cache in self.caches.values() if output.remote == GROUP else [self.caches[output.remote]]:
                message = decode_message(output.datagram)
                if not isinstance(message, ISeeYou) or cache.address in message.identity.caches:
                    cache.hear(output)
        return outputs


def test_nobody_is_answered_at_once_and_one_answer_names_all() -> None:
    stage = MulticastStage()
    first, second = stage.cache(FIRST), stage.cache(SECOND)
    assert not only(stage.hello(first, second), Send)
    (send,) = only(stage.wait(10), Send)
    assert (send.local, send.remote, send.remote_port) == (ROUTER_ID, GROUP, 2048)
    message = decode_message(send.datagram)
    assert isinstance(message, ISeeYou)
    assert message.identity.caches == (FIRST, SECOND)
    assert message.identity.sent_to == GROUP
    assert first.last == second.last == message


def test_caches_become_usable_and_stay_so() -> None:
    stage = MulticastStage()
    first, second = stage.cache(FIRST), stage.cache(SECOND)
    stage.hello(first, second)
    stage.live(80, first, second)
    assert [cache.state for cache in stage.group.caches] == [CacheState.USABLE] * 2
    assert stage.group.assigned_by.value == "router"


def test_answers_come_every_nine_seconds_with_a_tenth_of_jitter() -> None:
    stage = MulticastStage()
    cache = stage.cache(FIRST)
    stage.hello(cache)
    stage.live(200, cache)
    times = [when for when, _ in stage.heard]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(8.1 - 1e-6 <= gap <= 9.9 + 1e-6 for gap in gaps)
    assert len(set(gaps)) > len(gaps) / 2


def test_the_schedule_ends_when_nobody_meets_there_any_more() -> None:
    stage = MulticastStage()
    stage.hello(stage.cache(FIRST))
    stage.wait(60)
    assert stage.group.caches == ()
    count = len(stage.heard)
    stage.wait(60)
    assert len(stage.heard) == count
    assert stage.router.next_deadline() is None


def test_a_broken_squid_among_them_gets_a_form_of_its_own() -> None:
    stage = MulticastStage()
    good, broken = stage.cache(FIRST), stage.cache(SECOND, reads_standard=False)
    stage.hello(good, broken)
    stage.live(80, good, broken)
    assert [cache.state for cache in stage.group.caches] == [CacheState.USABLE] * 2


def test_caches_on_and_off_our_segments_are_answered_apart_where_l2_is_offered() -> None:
    both = ForwardingMethod.GRE | ForwardingMethod.L2
    stage = MulticastStage(adjacent=(IPv4Network(f"{FIRST}/32"),), forwarding=both)
    near, far = stage.cache(FIRST), stage.cache(SECOND)
    stage.hello(near, far)
    assert len(only(stage.wait(10), Send)) == 2
    offers = [cache.last.capabilities for cache in (near, far) if cache.last is not None]
    assert [each.forwarding for each in offers if each is not None] == [both, ForwardingMethod.GRE]


def test_no_answer_names_more_than_32_however_many_strangers_meet_there() -> None:
    stage = MulticastStage()
    caches = [stage.cache(FIRST + number) for number in range(70)]
    stage.hello(*caches)
    sends = only(stage.wait(10), Send)
    named = [
        message.identity.caches
        for send in sends
        if isinstance(message := decode_message(send.datagram), ISeeYou)
    ]
    assert [len(each) for each in named] == [32, 32, 6]
    assert {address for each in named for address in each} == {cache.address for cache in caches}


def test_a_cache_that_speaks_to_our_own_address_is_answered_at_once_beside_the_others() -> None:
    stage = MulticastStage()
    stage.hello(stage.cache(FIRST))
    unicast = stage.cache(SECOND)
    (send,) = only(stage.send(unicast, unicast.here_i_am(), local=ROUTER_ID), Send)
    assert send.remote == SECOND
