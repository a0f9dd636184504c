"""The virtual network does to datagrams what it is told, and the same again with the same seed."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from wccpd.protocol.outputs import Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import EngineSettings, ServiceSettings
from wccpd.simulator.cache import SimulatedCache, Transmit
from wccpd.simulator.network import Conditions, Happened, Network
from wccpd.simulator.profiles import STRICT
from wccpd.wire.components import ServiceInfo

ROUTER = IPv4Address("10.0.0.1")
CACHE = IPv4Address("10.0.1.1")
WEB_CACHE = ServiceInfo.web_cache()


def play(conditions: Conditions, seed: int = 1, until: float = 200) -> list[Happened]:
    happened: list[Happened] = []
    network = Network(random.Random(seed), conditions, observe=happened.append)
    network.add_router(Router(EngineSettings(ROUTER, (ROUTER,), (ServiceSettings(WEB_CACHE.key),), 1)))
    for number in range(3):
        network.add_cache(SimulatedCache(STRICT, CACHE + number, WEB_CACHE, (ROUTER,)))
    network.run_until(until)
    assert network.now == until
    return happened


def hellos(happened: list[Happened]) -> int:
    return sum(isinstance(each.output, Transmit) for each in happened)


def answers(happened: list[Happened]) -> int:
    return sum(isinstance(each.output, Send) for each in happened)


def test_the_same_seed_plays_the_same_story() -> None:
    bad = Conditions(loss=0.1, duplication=0.1, reordering=0.1)
    assert play(bad, seed=7) == play(bad, seed=7)
    assert play(bad, seed=7) != play(bad, seed=8)


def test_time_never_goes_back() -> None:
    times = [each.time for each in play(Conditions(duplication=0.3, reordering=0.3))]
    assert times == sorted(times)


def test_everything_arrives_under_perfect_conditions() -> None:
    happened = play(Conditions(), until=9)
    assert (hellos(happened), answers(happened)) == (3, 3)


def test_nothing_arrives_when_everything_is_lost() -> None:
    happened = play(Conditions(loss=1.0))
    assert (hellos(happened), answers(happened)) == (60 + 3, 0)


def test_a_double_is_answered_twice() -> None:
    happened = play(Conditions(duplication=1.0), until=9)
    assert (hellos(happened), answers(happened)) == (3, 6)


def test_a_cut_works_one_way_until_it_is_mended() -> None:
    happened: list[Happened] = []
    network = Network(random.Random(1), observe=happened.append)
    network.add_router(Router(EngineSettings(ROUTER, (ROUTER,), (ServiceSettings(WEB_CACHE.key),), 1)))
    cache = SimulatedCache(STRICT, CACHE, WEB_CACHE, (ROUTER,))
    network.add_cache(cache)
    network.cut(ROUTER, CACHE)
    network.run_until(5)
    assert answers(happened) == 1
    assert cache.nexuses[0].receive_id == 0
    network.mend(ROUTER, CACHE)
    network.run_until(15)
    assert cache.nexuses[0].receive_id != 0


def test_a_cache_in_two_groups_hears_the_answers_of_both() -> None:
    https = ServiceInfo.dynamic(70, 1, 6, WEB_CACHE.flags)
    network = Network(random.Random(1))
    services = ServiceSettings(WEB_CACHE.key), ServiceSettings(https.key)
    network.add_router(Router(EngineSettings(ROUTER, (ROUTER,), services, 1)))
    members = [SimulatedCache(STRICT, CACHE, service, (ROUTER,)) for service in (WEB_CACHE, https)]
    for member in members:
        network.add_cache(member)
    network.run_until(5)
    assert all(member.nexuses[0].receive_id for member in members)


def test_what_is_gone_hears_nothing_and_says_nothing() -> None:
    happened: list[Happened] = []
    network = Network(random.Random(1), observe=happened.append)
    router = Router(EngineSettings(ROUTER, (ROUTER,), (ServiceSettings(WEB_CACHE.key),), 1))
    cache = SimulatedCache(STRICT, CACHE, WEB_CACHE, (ROUTER,))
    network.add_router(router)
    network.add_cache(cache)
    network.run_until(5)
    network.remove_router(router)
    network.run_until(15)
    assert (hellos(happened), answers(happened)) == (2, 1)
    network.remove_cache(cache)
    network.run_until(95)
    assert hellos(happened) == 2


class StuckCache(SimulatedCache):
    def next_deadline(self) -> float:
        return 5.0


def test_a_timer_that_never_moves_is_reported_instead_of_waited_for() -> None:
    network = Network(random.Random(1))
    network.add_cache(StuckCache(STRICT, CACHE, WEB_CACHE, (ROUTER,)))
    with pytest.raises(RuntimeError, match="time stands still at 5.0 s"):
        network.run_until(60)
