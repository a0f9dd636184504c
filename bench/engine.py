"""The engine: what a HERE_I_AM with its answer costs, what holds up the event loop, and what a cache weighs."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from bench.case import Case, allocated_bytes
from wccpd.daemon.memory import Memory
from wccpd.protocol.outputs import Send
from wccpd.protocol.record import group_state, take
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, EngineSettings, ServiceSettings
from wccpd.wire.components import CacheView, Capabilities, ServiceInfo
from wccpd.wire.elements import RouterIdReceiveId
from wccpd.wire.enums import (
    AssignmentMethod,
    ComponentType,
    ForwardingMethod,
    PacketReturnMethod,
    ServiceFlags,
)
from wccpd.wire.framing import read_frame
from wccpd.wire.identity import HashAssignment, WebCacheIdentity
from wccpd.wire.messages import HereIAm, encode_message

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = b"sesame"
ROUTER_ID = IPv4Address("10.0.0.1")
FIRST_CACHE = IPv4Address("10.1.0.1")
METHODS = Capabilities(ForwardingMethod.GRE, AssignmentMethod.HASH, PacketReturnMethod.GRE)


class Farm:
    """So many groups of so many caches around one engine."""

    def __init__(self, groups: int, caches: int) -> None:
        flags = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
        self._services = [ServiceInfo.dynamic(number, 1, 6, flags, (80,)) for number in range(groups)]
        self.router = Router(
            EngineSettings(
                ROUTER_ID,
                (ROUTER_ID,),
                tuple(
                    ServiceSettings(key=service.key, passwords=(PASSWORD,), policy=AssignmentPolicy.ROUTER)
                    for service in self._services
                ),
            )
        )
        self._echo = {(service.key, FIRST_CACHE + i): 0 for service in self._services for i in range(caches)}
        self._now = 0.0

    def round(self) -> float:
        """One HERE_I_AM of every cache; the engine's CPU time for all of them in seconds."""
        self._now += 1.0
        sent = [
            (service.key, cache, self._here_i_am(service, cache))
            for service in self._services
            for (key, cache) in self._echo
            if key == service.key
        ]
        started = time.thread_time()
        answers = [
            (key, cache, self.router.receive(datagram, cache, 2048, ROUTER_ID, self._now))
            for key, cache, datagram in sent
        ]
        self.router.next_deadline()
        spent = time.thread_time() - started
        for key, cache, outputs in answers:
            (answer,) = (output for output in outputs if isinstance(output, Send))
            self._echo[key, cache] = _receive_id(answer.datagram)
        return spent

    def settle(self) -> None:
        """Let every cache become usable and learn of the others."""
        for _ in range(3):
            self.round()

    def _here_i_am(self, service: ServiceInfo, cache: IPv4Address) -> bytes:
        row = RouterIdReceiveId(ROUTER_ID, self._echo[service.key, cache])
        message = HereIAm(
            service=service,
            identity=WebCacheIdentity(cache, HashAssignment(weight=10000)),
            view=CacheView.of(1, (row,), ()),
            capabilities=METHODS,
        )
        return encode_message(message, password=PASSWORD)


def _receive_id(answer: bytes) -> int:
    _, offset, _ = read_frame(answer).first[ComponentType.ROUTER_ID_INFO]
    return int.from_bytes(answer[offset + 4 : offset + 8], "big")


def cases() -> Iterator[Case]:
    """Cost per message and share of a core at the sizes that the goals name."""
    for name, groups, caches, interval, goal in (
        ("1000_caches_at_10s", 32, 31, 10.0, 0.5),
        ("32x64_at_0.5s", 64, 32, 0.5, 10.0),
    ):
        farm = Farm(groups, caches)
        farm.settle()
        seconds = min(farm.round() for _ in range(7))
        messages = groups * caches
        share = 100 * seconds / interval
        yield Case(f"engine_{name}_messages_per_second", "1/s", messages / seconds)
        yield Case(f"engine_{name}_share", "% of a core", share, f"at most {goal} %", share <= goal)
    yield from _event_loop(Farm(64, 32))
    few, many = allocated_bytes(lambda: _settled(1, 1)), allocated_bytes(lambda: _settled(1, 32))
    each = (many - few) / 31 / 1024
    yield Case("engine_memory_per_cache", "KiB", each, "at most 20 KiB", each <= 20)


def _event_loop(farm: Farm) -> Iterator[Case]:
    """What is done on the event loop beside answering, of 64 groups of 32 caches that have all just spoken."""
    farm.settle()
    groups = farm.router.groups.values()
    for name, work in (("view", farm.router.view), ("record", lambda: take(farm.router))):
        least = float("inf")
        for _ in range(7):
            farm.round()
            started = time.thread_time()
            work()
            least = min(least, 1e3 * (time.thread_time() - started))
        yield Case(f"engine_{name}_32x64", "ms", least, "at most 20 ms", least <= 20)
    started = time.thread_time()
    for group in take(farm.router):
        json.dumps(group_state(group))
    yield Case("engine_write_out_32x64", "ms in a thread", 1e3 * (time.thread_time() - started))
    assert all(group.usable for group in groups)
    stall = min(asyncio.run(_stall_of_a_save(farm)) for _ in range(5))
    yield Case("engine_save_stall_32x64", "ms", stall, "at most 20 ms", stall <= 20)


async def _stall_of_a_save(farm: Farm) -> float:
    """The longest that a task which wants to run each millisecond has to wait while everything is saved, in ms."""
    farm.round()
    longest, saved = 0.0, False

    async def tick() -> None:
        nonlocal longest
        before = time.monotonic()
        while not saved:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            longest, before = max(longest, now - before - 0.001), now

    with tempfile.TemporaryDirectory() as directory:
        memory = Memory(Path(directory))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tick(), name="tick")
            await asyncio.sleep(0.01)
            await memory.save(farm.router)
            saved = True
        memory.close()
    return 1e3 * longest


def _settled(groups: int, caches: int) -> Router:
    farm = Farm(groups, caches)
    farm.settle()
    return farm.router
