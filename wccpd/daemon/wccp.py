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
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from wccpd.plan.probe import ProbeEvent
    from wccpd.protocol.outputs import Event, Output
    from wccpd.protocol.router import Router
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
        settings = router.settings
        self._sockets = {local: WccpSocket(local) for local in settings.addresses} | {
            service.group_address: WccpSocket(service.group_address, joined_from=settings.router_id)
            for service in settings.services
            if service.group_address is not None
        }
        self._rearm = asyncio.Event()

    async def open(self) -> None:
        """Bind all addresses.

        Raises:
            OSError: One of them is not local, or port 2048 is taken there.
        """
        for sock in self._sockets.values():
            await sock.open()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for sock in self._sockets.values():
                tasks.create_task(sock.serve(self._receive), name=f"wccp {sock.local}")
            tasks.create_task(self._keep_time(), name="wccp timer")

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()

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
