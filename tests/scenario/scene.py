"""Routers and simulated caches on a virtual clock, and what happened as a story."""

from __future__ import annotations

import json
import random
from ipaddress import IPv4Address

from tests.scenario.invariants import Watch
from wccpd.protocol.outputs import (
    AssignmentChanged,
    CacheIncompatible,
    CacheLost,
    CacheSeen,
    CacheUsable,
    Output,
    Refused,
    RungChanged,
    Send,
)
from wccpd.protocol.record import dump
from wccpd.protocol.resume import restore
from wccpd.protocol.router import Router
from wccpd.protocol.settings import EngineSettings, ServiceSettings
from wccpd.protocol.view import CacheState, GroupView
from wccpd.simulator.cache import CacheOutput, SimulatedCache, Stopped, Transmit
from wccpd.simulator.network import PERFECT, Conditions, Happened, Network
from wccpd.simulator.profiles import STRICT, Profile
from wccpd.wire.components import ServiceInfo
from wccpd.wire.messages import decode_message

ROUTER = IPv4Address("10.0.0.1")
OTHER_ROUTER = IPv4Address("10.0.0.2")
A, B, C = (IPv4Address(f"10.0.1.{number}") for number in (1, 2, 3))
WEB_CACHE = ServiceInfo.web_cache()
PASSWORD = b"sesame"


class Scene:
    """A network with one service group, every router of which is watched."""

    def __init__(
        self,
        *routers: IPv4Address,
        service: ServiceInfo = WEB_CACHE,
        seed: int = 1,
        conditions: Conditions = PERFECT,
        **settings: object,
    ) -> None:
        self.service = service
        self.settings = ServiceSettings(**{"key": service.key, "passwords": (PASSWORD,), **settings})
        self.happened: list[Happened] = []
        self.network = Network(random.Random(seed), conditions, observe=self._observe)
        self.routers: dict[IPv4Address, Router] = {}
        self.watches: dict[IPv4Address, Watch] = {}
        self.caches: dict[IPv4Address, SimulatedCache] = {}
        for number, address in enumerate(routers or (ROUTER,)):
            self.start_router(address, first_number=1000 * (number + 1))

    # Making things happen

    def start_router(
        self,
        address: IPv4Address,
        *,
        first_number: int = 5000,
        memory: str = "",
        addresses: tuple[IPv4Address, ...] = (),
    ) -> None:
        """A new router, or the old one after a restart with what it wrote down."""
        settings = EngineSettings(address, addresses or (address,), (self.settings,), first_number)
        router = Router(settings)
        if memory:
            restore(router, json.loads(memory), self.network.now)
        self.routers[address] = router
        self.watches[address] = Watch(router)
        self.network.add_router(router)

    def crash_router(self, address: IPv4Address) -> str:
        """The router is gone; what it would find again in its state file."""
        self.network.remove_router(self.routers[address])
        return json.dumps(dump(self.routers[address]))

    def start(self, address: IPv4Address, profile: Profile = STRICT, **details: object) -> SimulatedCache:
        """A cache that knows every router and says its first HERE_I_AM now."""
        password = self.settings.passwords[0] if self.settings.passwords else None
        made: dict[str, object] = {
            "routers": tuple(self.routers),
            "password": password,
            "starts_at": self.network.now,
            "service": self.service,
        }
        cache = SimulatedCache(profile, address, **{**made, **details})
        self.caches[address] = cache
        self.network.add_cache(cache)
        return cache

    def until(self, seconds: float) -> list[str]:
        """Let time pass up to then, checking after each step; what happened meanwhile, line by line."""
        before = len(self.happened)
        self.network.run_until(seconds, self._check)
        return [line for each in self.happened[before:] if (line := self._tell(each))]

    # Seeing what became of it

    def group(self, router: IPv4Address = ROUTER) -> GroupView:
        return self.routers[router].view().groups[0]

    def shares(self, router: IPv4Address = ROUTER) -> dict[str, int]:
        """Buckets by the last octet of each usable cache."""
        return {
            str(cache.address).rpartition(".")[2]: cache.buckets
            for cache in self.group(router).caches
            if cache.state is CacheState.USABLE
        }

    def sent(self, kind: type, place: IPv4Address) -> list[float]:
        """When somebody sent a message of a kind."""
        return [
            round(each.time, 2)
            for each in self.happened
            if each.place == place
            and isinstance(each.output, Send | Transmit)
            and isinstance(decode_message(each.output.datagram), kind)
        ]

    def destinations(self, place: IPv4Address) -> list[IPv4Address]:
        """Where a cache sent its datagrams."""
        return [
            each.output.destination
            for each in self.happened
            if each.place == place and isinstance(each.output, Transmit)
        ]

    def _observe(self, happened: Happened) -> None:
        self.happened.append(happened)
        if isinstance(happened.output, Send):
            self.watches[happened.place].said([happened.output])

    def _check(self, network: Network) -> None:
        if network.touched is not None:
            self.watches[network.touched.settings.router_id].shows()

    def _tell(self, happened: Happened) -> str:
        told = tell(happened.output)
        if not told:
            return ""
        place = f" on {happened.place}" if len(self.routers) > 1 and happened.place in self.routers else ""
        return f"{happened.time:.0f} s{place}: {told}"


def tell(output: Output | CacheOutput) -> str:
    """An event in a few words; empty for datagrams."""
    told = ""
    match output:
        case CacheSeen(cache=cache):
            told = f"{cache} seen"
        case CacheUsable(cache=cache):
            told = f"{cache} usable"
        case CacheIncompatible(cache=cache, reason=reason):
            told = f"{cache} incompatible, {reason}"
        case CacheLost(cache=cache, reason=reason):
            told = f"{cache} lost, {reason}"
        case RungChanged(cache=cache, rung=rung):
            told = f"{cache} gets the {rung} form"
        case AssignmentChanged(assigned_by=by, assigned_buckets=buckets, moved_buckets=moved):
            told = f"{buckets} buckets assigned by {by}, {moved} moved"
        case Refused(source=source, reason=reason):
            told = f"{source} refused, {reason}"
        case Stopped(reason=reason):
            told = f"a cache stopped, {reason}"
        case _:
            pass
    return told
