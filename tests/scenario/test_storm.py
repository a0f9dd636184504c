"""Many caches, routers and groups in a network that loses, doubles and reorders, for a bounded time.

WCCPD_STORM_SECONDS sets the wall time (10 by default), WCCPD_STORM_SEED the seed; `make storm` runs long and full
(WCCPD_STORM_FULL), with WCCPD_STORM_GROUPS for fewer groups than 64.
A failure prints the seed; the same seed does the same thing up to the same step.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from tests.scenario.invariants import Watch
from wccpd.protocol.outputs import Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import EngineSettings, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.simulator.cache import SimulatedCache
from wccpd.simulator.network import Conditions, Happened, Network
from wccpd.simulator.profiles import SQUID_5_1, SQUID_5_7, SQUID_7_6, STRICT, TRAFFIC_SERVER_9_2
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ServiceFlags

SECONDS = float(os.environ.get("WCCPD_STORM_SECONDS", "10"))
SEED = int(os.environ.get("WCCPD_STORM_SEED", "20010423"))
ROUTERS = tuple(IPv4Address("10.0.0.1") + number for number in range(32))
CACHES = tuple(IPv4Address("10.0.1.1") + number for number in range(32))
GROUPS = int(os.environ.get("WCCPD_STORM_GROUPS", "64"))
FULL = "WCCPD_STORM_FULL" in os.environ
"""Every cache and every router in every group, which takes minutes: `make storm`."""
FULL_AT_LEAST = 60
"""Seconds of virtual time: two rounds to join, 27 s to be assigned to."""
GROUP_ADDRESS = IPv4Address("239.192.1.0")
BAD = Conditions(loss=0.05, duplication=0.05, reordering=0.1)
MIXTURE = (STRICT, STRICT, SQUID_5_1, SQUID_5_7, SQUID_7_6, TRAFFIC_SERVER_9_2)


def dynamic(number: int) -> ServiceInfo:
    flags = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
    return ServiceInfo.dynamic(100 + number, 100, 6, flags, (8000 + number,))


@dataclass
class Storm:
    """A world that changes by chance; after each step the router concerned is checked."""

    chance: random.Random
    services: dict[ServiceInfo, tuple[tuple[IPv4Address, ...], tuple[IPv4Address, ...]]]
    """Routers and caches of each group."""
    deadline: float
    at_least: float = 0.0
    """Virtual time that it lasts even if the wall time is over before."""
    steps: int = 0
    network: Network = field(init=False)
    routers: dict[IPv4Address, Router] = field(default_factory=dict)
    watches: dict[IPv4Address, Watch] = field(default_factory=dict)
    caches: list[SimulatedCache] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = Network(self.chance, BAD, observe=self.observe)
        for address in sorted({router for routers, _ in self.services.values() for router in routers}):
            self.start_router(address)
        for service, (_, caches) in self.services.items():
            for address in caches:
                self.start_cache(service, address)

    def start_router(self, address: IPv4Address) -> None:
        groups = tuple(
            ServiceSettings(service.key, (b"storm",))
            for service, (routers, _) in self.services.items()
            if address in routers
        )
        settings = EngineSettings(address, (address,), groups, self.chance.randrange(1, 2**32 - 1))
        self.routers[address] = Router(settings)
        self.watches[address] = Watch(self.routers[address])
        self.network.add_router(self.routers[address])

    def start_cache(self, service: ServiceInfo, address: IPv4Address, away_seconds: float = 0) -> None:
        starts_at = self.network.now + away_seconds + 10 * self.chance.random()
        profile = self.chance.choice(MIXTURE)
        routers, _ = self.services[service]
        cache = SimulatedCache(profile, address, service, routers, b"storm", starts_at=starts_at)
        self.caches.append(cache)
        self.network.add_cache(cache)

    def observe(self, happened: Happened) -> None:
        if isinstance(happened.output, Send):
            self.watches[happened.place].said([happened.output])

    def check(self, network: Network) -> None:
        self.steps += 1
        if network.touched is not None:
            self.watches[network.touched.settings.router_id].shows()

    def run(self, seconds: float) -> bool:
        """Up to a virtual time, in small pieces; False when the wall time is over."""
        until = self.network.now + seconds
        while self.network.now < until:
            if time.monotonic() > self.deadline and self.network.now >= self.at_least:
                return False
            self.network.run_until(min(until, self.network.now + 0.5), self.check)
        return True

    def disturb(self) -> None:
        """One thing happens."""
        match self.chance.randrange(4):
            case 0:
                self.start_router(self.chance.choice(list(self.routers)))
            case 1:
                cache = self.caches.pop(self.chance.randrange(len(self.caches)))
                self.network.leave(cache)
                self.start_cache(cache.service, cache.address, away_seconds=45)
            case 2:
                cache = self.caches.pop(self.chance.randrange(len(self.caches)))
                self.network.remove_cache(cache)
                self.start_cache(cache.service, cache.address)
            case _:
                ways = self.chance.choice(CACHES), self.chance.choice(ROUTERS)
                if self.chance.random() < 0.5:
                    self.network.cut(*ways)
                else:
                    self.network.mend(*ways)


def test_thirty_two_caches_and_thirty_two_routers_in_one_group_come_through_a_storm() -> None:
    web_cache = {ServiceInfo.web_cache(): (ROUTERS, CACHES)}
    storm = Storm(random.Random(SEED), web_cache, time.monotonic() + SECONDS / 2, at_least=22)
    try:
        storm.run(1e9)
    except Exception as error:
        error.add_note(f"seed {SEED}, {storm.steps} steps, {storm.network.now} s")
        raise
    states = [cache.state for router in storm.routers.values() for cache in router.view().groups[0].caches]
    assert states.count(CacheState.USABLE) > 300, f"seed {SEED}"


def test_many_groups_come_through_joins_departures_restarts_and_cuts() -> None:
    chance = random.Random(SEED)
    services = {
        dynamic(number): (
            tuple(sorted(chance.sample(ROUTERS, chance.randrange(1, 5)))),
            tuple(sorted(chance.sample(CACHES, chance.randrange(1, 6)))),
        )
        for number in range(GROUPS)
    }
    storm = Storm(chance, services, time.monotonic() + SECONDS / 2, at_least=60)
    try:
        while storm.run(chance.uniform(1, 20)):
            storm.disturb()
    except Exception as error:
        error.add_note(f"seed {SEED}, {storm.steps} steps, {storm.network.now} s")
        raise


@pytest.mark.parametrize("seed", [SEED, SEED + 1, SEED + 2])
def test_every_table_is_full_again_once_the_storm_is_over(seed: int) -> None:
    chance = random.Random(seed)
    services = {dynamic(number): (ROUTERS[:3], CACHES[: 2 + number]) for number in range(3)}
    storm = Storm(chance, services, time.monotonic(), at_least=400)
    try:
        while storm.network.now < 200:
            storm.run(chance.uniform(1, 20))
            storm.disturb()
        storm.network.conditions = Conditions()
        for cache in CACHES:
            for router in ROUTERS:
                storm.network.mend(cache, router)
        storm.run(200)
    except Exception as error:
        error.add_note(f"seed {seed}, {storm.steps} steps, {storm.network.now} s")
        raise
    for router in storm.routers.values():
        for group in router.view().groups:
            assert None not in group.bucket_owners, f"seed {seed}: {group.key}"
            assert all(cache.state is CacheState.USABLE for cache in group.caches), f"seed {seed}: {group}"


@pytest.mark.skipif(not FULL, reason="make storm runs it: it takes minutes")
def test_32_caches_and_32_routers_in_64_groups_half_of_them_at_group_addresses() -> None:
    chance = random.Random(SEED)
    services = {dynamic(number): GROUP_ADDRESS + number if number % 2 else None for number in range(GROUPS)}
    watches: dict[IPv4Address, Watch] = {}

    def observe(happened: Happened) -> None:
        if isinstance(happened.output, Send):
            watches[happened.place].said([happened.output])

    network = Network(chance, BAD, observe=observe)
    settings = tuple(
        ServiceSettings(service.key, (b"storm",), group_address=address)
        for service, address in services.items()
    )
    routers = [
        Router(EngineSettings(address, (address,), settings, chance.randrange(1, 2**31)))
        for address in ROUTERS
    ]
    for router in routers:
        watches[router.settings.router_id] = Watch(router)
        network.add_router(router)
    caches = []
    for service, address in services.items():
        for cache in CACHES:
            made = SimulatedCache(
                STRICT,
                cache,
                service,
                () if address else ROUTERS,
                b"storm",
                group_address=address,
                starts_at=10 * chance.random(),
            )
            caches.append(made)
            network.add_cache(made)
    deadline = time.monotonic() + SECONDS
    try:
        while network.now < FULL_AT_LEAST or time.monotonic() < deadline:
            network.run_until(network.now + 1)
            watches[chance.choice(ROUTERS)].shows(every_step=False)
            if network.now > FULL_AT_LEAST:
                gone = caches.pop(chance.randrange(len(caches)))
                network.leave(gone) if chance.random() < 0.5 else network.remove_cache(gone)
        for watch in watches.values():
            watch.shows(every_step=False)
    except Exception as error:
        error.add_note(f"seed {SEED}, {network.now} s")
        raise
    views = [group for router in routers for group in router.view().groups]
    usable = sum(cache.state is CacheState.USABLE for group in views for cache in group.caches)
    assert usable > len(ROUTERS) * len(CACHES) * GROUPS * 0.9, f"seed {SEED}, {network.now} s"
    assigned = sum(group.assigned_by is not AssignedBy.NOBODY for group in views)
    assert assigned > len(views) * 0.9, f"seed {SEED}, {network.now} s"
