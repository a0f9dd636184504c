"""The WCCP side of the shell: sockets and one timer around the engine.

Every datagram goes through the engine in the order in which it arrived, and what the engine says is sent
before the next is read. When the engine's picture may have changed, whoever drew conclusions from it is told.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog

from wccpd.daemon.refusals import Refusals
from wccpd.daemon.udp import WccpSocket
from wccpd.plan.match import service_name
from wccpd.protocol.outputs import Refused, Send
from wccpd.wire.elements import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.probe import ProbeEvent
    from wccpd.protocol.outputs import Event, Output
    from wccpd.protocol.router import Router
    from wccpd.protocol.settings import EngineSettings
    from wccpd.status.inspection import InspectionEvent

log = structlog.get_logger("wccpd.wccp")

LONGEST_SLEEP_SECONDS = 0.25
"""Most HERE_I_AMs only move a deadline further away and are not worth waking the timer for; the few that bring
one nearer are found within so long."""


class WccpSpeaker:
    """Owns the engine and the sockets; `on_change` is called when the engine's picture may have changed."""

    def __init__(self, router: Router, on_change: Callable[[], None]) -> None:
        self.router = router
        self.refusals = Refusals()
        self._on_change = on_change
        self._sockets: dict[IPv4Address, WccpSocket] = {}
        self._serving: dict[IPv4Address, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._rearm = asyncio.Event()

    async def open(self) -> None:
        """Bind all addresses.

        Raises:
            OSError: One of them is not local, or port 2048 is taken there.
        """
        self._sockets = await self.prepare(self.router.settings)

    async def prepare(self, settings: EngineSettings) -> dict[IPv4Address, WccpSocket]:
        """Bind what other settings listen at and these do not; `reconfigure` or `discard` takes them.

        Raises:
            OSError: As `open`; nothing is left bound.
        """
        fresh: dict[IPv4Address, WccpSocket] = {}
        for local, joined_from in _listening(settings).items():
            if local in self._sockets:
                continue
            sock = WccpSocket(local, joined_from)
            try:
                await sock.open()
            except OSError:
                self.discard(fresh)
                raise
            fresh[local] = sock
        return fresh

    def discard(self, fresh: Mapping[IPv4Address, WccpSocket]) -> None:
        """Close what `prepare` bound and nobody took."""
        for sock in fresh.values():
            sock.close()

    def reconfigure(self, settings: EngineSettings, fresh: Mapping[IPv4Address, WccpSocket]) -> None:
        """Give the engine other settings, and listen where they say.

        Args:
            settings: The new ones.
            fresh: From `prepare`, for the same settings.
        """
        now = time.monotonic()
        self._sockets |= fresh
        self._carry_out(self.router.reconfigure(settings, now), now)
        for local in self._sockets.keys() - _listening(settings).keys():
            task = self._serving.pop(local, None)
            if task is not None:
                task.cancel()
            self._sockets.pop(local).close()
        for sock in fresh.values():
            self._serve(sock)
        self._rearm.set()
        self._on_change()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            for sock in self._sockets.values():
                self._serve(sock)
            self._tasks.create_task(self._keep_time(), name="wccp timer")

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()

    def _serve(self, sock: WccpSocket) -> None:
        assert self._tasks is not None
        work = sock.serve(self._receive)
        self._serving[sock.local] = self._tasks.create_task(work, name=f"wccp {sock.local}")

    def _receive(self, datagram: bytes, source: IPv4Address, port: int, local: IPv4Address) -> None:
        now = time.monotonic()
        self._carry_out(self.router.receive(datagram, source, port, local, now), now)

    async def _keep_time(self) -> None:
        while True:
            deadline = self.router.next_deadline()
            left = LONGEST_SLEEP_SECONDS if deadline is None else deadline - time.monotonic()
            wait = min(max(0.0, left), LONGEST_SLEEP_SECONDS)
            self._rearm.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._rearm.wait()
            except TimeoutError:
                now = time.monotonic()
                self._carry_out(self.router.tick(now), now)

    def _carry_out(self, outputs: tuple[Output, ...], now: float) -> None:
        changed = False
        for output in outputs:
            match output:
                case Send(datagram, local, remote, port):
                    sock = self._sockets.get(local)
                    if sock is not None:
                        sock.send(datagram, remote, port)
                case Refused():
                    self._refuse(output, now)
                case _:
                    changed = True
                    report(output)
        if changed:
            self._rearm.set()
            self._on_change()

    def _refuse(self, refused: Refused, now: float) -> None:
        if self.refusals.add(refused, now):
            log.warning(
                "datagram_refused",
                reason=refused.reason.value,
                source=str(refused.source),
                service=service_name(refused.service) if refused.service is not None else None,
                detail=refused.detail,
                count=self.refusals.by_reason[refused.reason.value].count,
            )


def _listening(settings: EngineSettings) -> dict[IPv4Address, IPv4Address | None]:
    """Where port 2048 is listened at; for a group address, from which of ours it is joined."""
    groups = (service.group_address for service in settings.services)
    return dict.fromkeys(settings.addresses) | {
        group: settings.router_id for group in groups if group is not None
    }


def report(event: Event | InspectionEvent | ProbeEvent) -> None:
    """One line in the log for a change of state. The event's name is its type in snake case."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__)
    fields = {
        key: value if type(value) in {int, float} else str(value)
        for key, value in asdict(event).items()
        if key != "service"
    }
    service = service_name(event.service) if isinstance(event.service, ServiceKey) else event.service
    log.info(name.lstrip("_"), service=service, **fields)
