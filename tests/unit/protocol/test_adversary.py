"""What an adversary or an odd farm does to a group that works: it goes on, or can be had again."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.support.scripted_cache import ScriptedCache
from tests.support.stage import FIRST, ROUTER_ID, SECOND, Stage, only
from wccpd.protocol.outputs import Send
from wccpd.protocol.view import CacheState
from wccpd.wire.components import ServiceInfo
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import ServiceFlags, ServiceType
from wccpd.wire.masks import Mask
from wccpd.wire.messages import decode_message
from wccpd.wire.security import check_digest

KEY = ServiceKey(ServiceType.DYNAMIC, 70)
FLAGS = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
HTTPS = ServiceInfo.dynamic(70, 10, 6, FLAGS, (443,))
OTHER = ServiceInfo.dynamic(70, 10, 6, FLAGS, (8443,))
OLD, NEW = b"old", b"new"
MASK = Mask(IPv4Address(0x1741), IPv4Address(0), 0, 0)


# Two passwords at once


@pytest.mark.parametrize("passwords", [(NEW, OLD), (OLD, NEW)])
def test_while_a_password_is_rotated_each_cache_is_answered_with_the_one_that_it_has(
    passwords: tuple[bytes, ...],
) -> None:
    stage = Stage(passwords=passwords)
    (early,) = stage.joined(FIRST, password=OLD)
    (late,) = stage.joined(SECOND, password=NEW)
    outputs = stage.live(60, early, late)
    assert only(outputs, Send)
    for send in only(outputs, Send):
        assert check_digest(send.datagram, stage.caches[send.remote].password or b"")
    assert stage.state(FIRST) is stage.state(SECOND) is CacheState.USABLE


def test_a_cache_is_queried_with_the_password_that_it_has() -> None:
    stage = Stage(passwords=(NEW, OLD))
    (cache,) = stage.joined(FIRST, password=OLD)
    (query,) = only(stage.wait(26), Send)
    assert check_digest(query.datagram, OLD)
    assert cache.queried is not None


def test_caches_of_two_passwords_that_meet_at_the_group_address_are_answered_apart() -> None:
    group = IPv4Address("239.192.0.5")
    stage = Stage(passwords=(NEW, OLD), group_address=group)
    caches = [stage.cache(FIRST, password=OLD), stage.cache(SECOND, password=NEW)]
    for cache in caches:
        stage.send(cache, cache.here_i_am(), group)
    stage.now += 20
    sent = {}
    for send in only(stage.router.tick(stage.now), Send):
        (address,) = decode_message(send.datagram).identity.caches
        sent[address] = send.datagram
    assert check_digest(sent[FIRST], OLD)
    assert check_digest(sent[SECOND], NEW)


# One datagram in another's name


@pytest.mark.parametrize("port", [2048, 3000])
def test_one_forgery_does_not_change_the_version_or_the_definition_in_which_a_cache_is_answered(
    port: int,
) -> None:
    stage = Stage(key=KEY, passwords=())
    (cache,) = stage.joined(FIRST, password=None, service=HTTPS)
    forged = ScriptedCache(FIRST, ROUTER_ID, service=replace(HTTPS, priority=99), minor_version=1)
    stage.router.receive(forged.here_i_am(receive_id=0), FIRST, port, ROUTER_ID, stage.now)
    answers = only(stage.live(60, cache), Send)
    assert len(answers) == 6
    for send in answers:
        message = decode_message(send.datagram)
        assert (message.minor_version, message.service.priority) == (0, 10)


def test_forgeries_whose_answers_the_cache_cannot_read_do_not_throw_it_out() -> None:
    stage = Stage(passwords=())
    (cache,) = stage.joined(FIRST, password=None)
    forged = ScriptedCache(FIRST, ROUTER_ID, minor_version=1)
    for _ in range(6):
        stage.wait(9)
        # A Squid refuses the answer, as it is of 2.01; so it still echoes the one before.
        stage.router.receive(forged.here_i_am(receive_id=0), FIRST, 2048, ROUTER_ID, stage.now)
        stage.wait(1)
        stage.hello(cache)
    assert stage.state(FIRST) is CacheState.USABLE
