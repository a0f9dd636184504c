"""Answers `wccpctl doctor`: the host is looked at in a thread, beside it what the daemon knows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wccpd import assemble
from wccpd.dataplane.choose import PlaneKind
from wccpd.dataplane.conntrack import Conntrack
from wccpd.doctor.checks import examine
from wccpd.doctor.facts import Facts, FlowsFact, RepairFact, RouterFacts
from wccpd.doctor.findings import document
from wccpd.doctor.gather import gather
from wccpd.doctor.window import TrafficWindow
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from ipaddress import IPv4Address

    from config import Config
    from wccpd.daemon.memory import Memory
    from wccpd.dataplane.choose import PlaneChoice
    from wccpd.dataplane.reconciler import Reconciler
    from wccpd.doctor.facts import HostFacts, Wanted
    from wccpd.plan.marks import MarkLayout
    from wccpd.plan.redirect import Path
    from wccpd.protocol.view import RouterView
    from wccpd.status.control import Answer
    from wccpd.status.view import Status


@dataclass(slots=True)
class Doctor:
    """Looks at host and daemon."""

    read_config: Callable[[], Config]
    """The configuration in force."""
    choice: PlaneChoice
    reconciler: Reconciler
    memory: Memory
    window: TrafficWindow = field(default_factory=TrafficWindow)

    def note(self, now: float) -> None:
        """Remember what was counted so far; called in each round."""
        self.window.note(now, self.reconciler.last.observation.counters)

    async def answer(self, read_status: Callable[[], Awaitable[Status]], view: RouterView) -> Answer:
        """Examine everything."""
        status = await read_status()
        config = self.read_config()
        now = time.monotonic()
        observation = self.reconciler.last.observation
        caches = tuple({cache.address for group in view.groups for cache in group.caches})
        slots = observation.slots if self.choice.name == PlaneKind.NETLINK else {}
        # With `auto` only the plane that was opened tells.
        wanted = replace(assemble.wanted_of_host(config), is_netlink=self.choice.name == PlaneKind.NETLINK)
        host, flows = await asyncio.to_thread(
            _look, wanted, caches, assemble.kernel_settings(config).marks, slots
        )
        repairs = self.reconciler.repairs
        router = RouterFacts(
            status=status,
            traffic=self.window.since(now, observation.counters),
            flows=flows,
            repairs=RepairFact(repairs.count, now - repairs.at, repairs.changes) if repairs.count else None,
            save_fault=self.memory.fault,
        )
        return document(examine(Facts(wanted, host, router)))


def _look(
    wanted: Wanted, caches: tuple[IPv4Address, ...], marks: MarkLayout, slots: Mapping[Path, int]
) -> tuple[HostFacts, dict[IPv4Address, FlowsFact]]:
    return gather(wanted, caches), _flows(marks, slots)


def _flows(marks: MarkLayout, slots: Mapping[Path, int]) -> dict[IPv4Address, FlowsFact]:
    """Connections held to each cache; empty where the kernel does not say."""
    if not slots:
        return {}
    mask = marks.slot_mask
    try:
        conntrack = Conntrack()
        try:
            all_, unanswered = (
                count(mask, any_of=mask) for count in (conntrack.count, conntrack.count_unanswered)
            )
        finally:
            conntrack.close()
    except KernelError:
        return {}
    found: dict[IPv4Address, FlowsFact] = {}
    for path, slot in slots.items():
        mark = marks.mark(slot=slot)
        before = found.get(path.cache, FlowsFact(0, 0))
        found[path.cache] = FlowsFact(
            before.flows + all_.get(mark, 0), before.unanswered + unanswered.get(mark, 0)
        )
    return found
