"""Forged and repeated HERE_I_AMs: none keeps a real cache out, throws one out, or makes the router a reflector."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.support.scripted_cache import ScriptedCache
from tests.support.stage import FIRST, ROUTER_ID, SECOND_ADDRESS, Stage, only
from wccpd.protocol.outputs import Send
from wccpd.protocol.view import CacheState

STRANGER = IPv4Address("192.0.2.1")
GROUP = IPv4Address("239.192.0.5")


def forge(
    stage: Stage, cache: ScriptedCache, times: int, port: int | None = None, local: IPv4Address = ROUTER_ID
) -> int:
    """Send HERE_I_AMs in the name of a cache, from a new port each unless told; how many were answered."""
    return sum(
        len(
            only(
                stage.router.receive(
                    cache.here_i_am(receive_id=0), FIRST, port or 3000 + number, local, stage.now
                ),
                Send,
            )
        )
        for number in range(times)
    )


def joins(stage: Stage, cache: ScriptedCache, *, port: int | None = None, local: IPv4Address) -> bool:
    """Whether a cache becomes usable although somebody speaks in its name all the time."""
    forge(stage, cache, 100, port, local)
    for _ in range(3):
        stage.hello(cache)
        for _ in range(10):
            stage.wait(1)
            forge(stage, cache, 100, port, local)
    return stage.state(FIRST) is CacheState.USABLE


@pytest.mark.parametrize("local", [ROUTER_ID, SECOND_ADDRESS])
@pytest.mark.parametrize("port", [None, 3000], ids=["many ports", "one port"])
def test_forgeries_from_other_ports_do_not_keep_a_cache_from_joining(
    port: int | None, local: IPv4Address
) -> None:
    stage = Stage(passwords=())
    assert joins(stage, stage.cache(FIRST, password=None), port=port, local=local)


def test_forgeries_from_the_caches_own_port_to_another_address_of_ours_do_not_either() -> None:
    stage = Stage(passwords=())
    cache = stage.cache(FIRST, password=None)
    for _ in range(3):
        stage.router.receive(cache.here_i_am(receive_id=0), FIRST, 2048, SECOND_ADDRESS, stage.now)
        stage.hello(cache)
        stage.router.receive(cache.here_i_am(receive_id=0), FIRST, 2048, SECOND_ADDRESS, stage.now)
        stage.wait(10)
    assert stage.state(FIRST) is CacheState.USABLE


def test_forgeries_from_other_ports_do_not_drive_the_ladder() -> None:
    stage = Stage(passwords=())
    cache = stage.cache(FIRST, password=None, reads_dual_valid=False)
    stage.hello(cache)
    forge(stage, cache, 20)
    stage.wait(1)
    stage.hello(cache)
    assert stage.state(FIRST) is CacheState.USABLE


def test_a_cache_of_the_group_address_joins_although_somebody_speaks_in_its_name_to_our_own() -> None:
    stage = Stage(passwords=(), group_address=GROUP)
    cache = stage.cache(FIRST, password=None)
    for _ in range(4):
        stage.router.receive(cache.here_i_am(receive_id=0), FIRST, 2048, ROUTER_ID, stage.now)
        stage.send(cache, cache.here_i_am(), local=GROUP)
        stage.router.receive(cache.here_i_am(receive_id=0), FIRST, 2048, ROUTER_ID, stage.now)
        until = stage.now + 10
        while stage.now < until:
            stage.now += 0.5
            for send in only(stage.router.tick(stage.now), Send):
                if send.remote == GROUP:
                    cache.hear(send)
    assert stage.state(FIRST) is CacheState.USABLE


def test_forgeries_in_the_names_of_500_hosts_do_not_keep_a_cache_from_joining() -> None:
    stage = Stage(passwords=())
    cache = stage.cache(FIRST, password=None)
    stage.hello(cache)
    for number in range(500):
        host = stage.cache(STRANGER + number, password=None)
        stage.router.receive(host.here_i_am(), host.address, 2048, ROUTER_ID, stage.now)
    stage.wait(10)
    stage.hello(cache)
    assert stage.state(FIRST) is CacheState.USABLE


def test_whoever_is_named_in_forgeries_gets_a_bounded_number_of_answers() -> None:
    stage = Stage(passwords=())
    cache = stage.cache(FIRST, password=None)
    answered = 0
    for _ in range(100):
        answered += forge(stage, cache, 50) + forge(stage, cache, 50, 2048)
        stage.wait(0.1)
    assert answered <= 2 * (8 + 4 * 10 + 1)


def test_an_id_that_went_elsewhere_is_good_for_one_echo_and_no_replay_of_it_keeps_the_cache_alive() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    cache.last = None
    (send,) = only(stage.router.receive(cache.here_i_am(), FIRST, 5555, ROUTER_ID, stage.now), Send)
    cache.hear(send)
    echo = cache.here_i_am()
    stage.router.receive(echo, FIRST, 5555, ROUTER_ID, stage.now)
    for _ in range(7):
        stage.wait(5)
        stage.router.receive(echo, FIRST, 5555, ROUTER_ID, stage.now)
    assert stage.group.caches == () or stage.state(FIRST) is CacheState.NEGOTIATING


def test_a_clock_that_steps_back_costs_no_answer_and_no_cache() -> None:
    stage = Stage()
    (cache,) = stage.joined(FIRST)
    for step in (-50, -50, 3):
        stage.now += step
        assert only(stage.hello(cache), Send)
        stage.router.tick(stage.now)
    assert stage.state(FIRST) is CacheState.USABLE
