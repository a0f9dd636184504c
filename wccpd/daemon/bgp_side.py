"""The BGP side of the shell: the speaker's task, and the learnt routes on their way into the kernel.

The rib's newest route set is written by one worker thread; a flag says when, a period repairs what others
changed. Without `bgp:` in the configuration all of this does nothing.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from bgp.events import SessionState, SpeakerState
from bgp.rib import Rib
from bgp.speaker import Speaker
from wccpd import assemble
from wccpd.dataplane.routes import KernelRoutes
from wccpd.errors import KernelError
from wccpd.status.view import BgpStatus, Health, PeerStatus, RouteStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from bgp.events import RouteSet, SessionView, SpeakerView
    from bgp.rib import RefusedPath
    from config import Config

    Result = TypeVar("Result")

log = structlog.get_logger("wccpd.bgp")

BATCH_SECONDS = 0.05
"""Live changes come one prefix per message; so long we wait for more before writing."""
REPAIR_SECONDS = 5.0


class BgpSide:
    """Owns speaker, rib and the writer of learnt routes."""

    def __init__(self, config: Config) -> None:
        self._prefix = config.kernel.device_prefix
        self._peer_asn = config.bgp.peer_asn if config.bgp is not None else 0
        self._protocol = config.kernel.route_protocol
        self._dirty = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="routes")
        self._table: KernelRoutes | None = None
        self.route_fault: KernelError | None = None
        """Why the learnt routes are not in the kernel as they should be; None when they are."""
        self._said = ""
        self._leaving = False
        spec = assemble.speaker_spec(config)
        self._rib = Rib(assemble.rib_policy(config), spec.next_hops() if spec is not None else {})
        self._speaker = (
            Speaker(spec, config.bgp.gobgp_socket, self._rib, self._on_dirty)
            if spec is not None and config.bgp is not None
            else None
        )
        self._reported: tuple[SpeakerState | None, dict[str, SessionState]] = (None, {})

    @property
    def is_configured(self) -> bool:
        """Whether there is BGP at all."""
        return self._speaker is not None

    async def run(self) -> None:
        """Adopt what is in the kernel, speak, write routes; until cancelled."""
        if self._speaker is None:
            return
        found = await self._in_worker(lambda table: table.observe())
        if found is not None:
            self._rib.adopt(found.route_set(), time.monotonic())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speaker.run(), name="bgp speaker")
            tasks.create_task(self._write_routes(), name="bgp routes")
            if not self._leaving:
                tasks.create_task(self._speaker.advertise(True), name="bgp advertise")

    def devices_changed(self) -> None:
        """A tunnel device was made or repaired: routes through it died with the old one."""
        self._dirty.set()

    async def withdraw(self) -> None:
        """Take our prefixes back from the Transit Gateway, so that it stops sending."""
        self._leaving = True
        if self._speaker is not None:
            withdrawn = await self._speaker.withdraw()
            log.info("default_withdrawn", confirmed=withdrawn)

    async def close(self) -> None:
        """Let go of gobgpd; it keeps its sessions until the tunnels go."""
        if self._speaker is not None:
            await self._speaker.close()

    async def remove_routes(self) -> None:
        """Remove every learnt route and next-hop object of ours."""
        await self._in_worker(lambda table: table.remove_all())
        if self._table is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._table.close)
        self._worker.shutdown()

    async def _write_routes(self) -> None:
        while True:
            verify = False
            try:
                async with asyncio.timeout(REPAIR_SECONDS):
                    await self._dirty.wait()
                await asyncio.sleep(BATCH_SECONDS)
            except TimeoutError:
                verify = True
            self._dirty.clear()
            self._report()
            await self._sync(self._rib.route_set(), verify=verify)

    async def _sync(self, wanted: RouteSet, *, verify: bool) -> None:
        result = await self._in_worker(lambda table: table.sync(wanted, verify=verify))
        if result is not None and result.errors:
            self._failed(result.errors[0])

    async def _in_worker(self, work: Callable[[KernelRoutes], Result]) -> Result | None:
        """Run kernel work; a refusal is kept for status, said once, and tried again at the next round."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._worker, self._with_table, work)
        except KernelError as fault:
            self._failed(fault)
            return None
        if self.route_fault is not None:
            log.info("kernel_recovered")
        self.route_fault, self._said = None, ""
        return result

    def _failed(self, fault: KernelError) -> None:
        if str(fault) != self._said:
            log.error("kernel_refused", reason=str(fault))
        self.route_fault, self._said = fault, str(fault)

    def _with_table(self, work: Callable[[KernelRoutes], Result]) -> Result:
        if self._table is None:
            self._table = KernelRoutes(protocol=self._protocol)
        return work(self._table)

    def _on_dirty(self) -> None:
        """Called for every path that gobgpd tells, thousands at a time: a flag and nothing else."""
        self._dirty.set()

    def _report(self) -> None:
        """One line in the log for each change of the sidecar and of a session."""
        assert self._speaker is not None
        view = self._speaker.view()
        state, sessions = self._reported
        now = {str(session.neighbour): session.state for session in view.sessions}
        if view.state is not state:
            said = log.warning if view.state in _TROUBLE else log.info
            said("gobgpd", state=view.state.value, reason=view.reason)
        for address, session in now.items():
            up = session is SessionState.ESTABLISHED
            if up != (sessions.get(address) is SessionState.ESTABLISHED):
                log.info("bgp_session", neighbour=address, state="established" if up else "down")
        self._reported = view.state, now

    def status(self, now: float) -> BgpStatus | None:
        """The sidecar, its sessions and what they taught us."""
        if self._speaker is None:
            return None
        view, rib = self._speaker.view(), self._rib.view()
        state, reason = self._health(view)
        return BgpStatus(
            state=state,
            reason=reason,
            since_seconds=round(view.since_seconds, 1),
            asn=view.asn,
            peer_asn=self._peer_asn,
            advertising=bool(view.advertised) and any(map(_is_up, view.sessions)),
            advertised_prefixes=tuple(str(prefix) for prefix in view.advertisements),
            peers=tuple(self._peer(session) for session in view.sessions),
            routes=tuple(
                RouteStatus(
                    prefix=str(route.prefix),
                    tunnels=tuple(
                        sorted(hop.interface.removeprefix(self._prefix) for hop in route.next_hops)
                    ),
                    stale=not route.neighbours,
                )
                for route in rib.routes
            ),
            refused=tuple(_refusal(path) for path in rib.refused),
        )

    def _health(self, view: SpeakerView) -> tuple[Health, str]:
        if self.route_fault is not None:
            return Health.DEGRADED, f"learnt routes are not in the kernel: {self.route_fault}"
        if view.state is not SpeakerState.RUNNING:
            return Health.DOWN, f"gobgpd: {view.state.value}: {view.reason}"
        down = [str(session.neighbour) for session in view.sessions if not _is_up(session)]
        if len(down) == len(view.sessions):
            return Health.DOWN, "no session is established"
        if down:
            return Health.DEGRADED, f"no session with {', '.join(down)}"
        return Health.UP, ""

    def _peer(self, session: SessionView) -> PeerStatus:
        return PeerStatus(
            address=str(session.neighbour),
            tunnel=session.interface.removeprefix(self._prefix),
            state=session.state.name.lower(),
            uptime_seconds=round(session.since_seconds, 1) if _is_up(session) else 0.0,
            received=session.received,
            accepted=session.accepted,
            advertised=session.advertised,
        )


_TROUBLE = frozenset({SpeakerState.UNREACHABLE, SpeakerState.REFUSED})


def _is_up(session: SessionView) -> bool:
    return session.state is SessionState.ESTABLISHED


def _refusal(path: RefusedPath) -> str:
    return f"{path.prefix} from {path.neighbour}: {path.reason.value.replace('_', ' ')}"
