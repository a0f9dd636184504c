"""The BGP side of the shell: the speaker's task, the learnt routes on their way into the kernel, the advertising.

The rib's newest route set is written by one worker thread; a flag says when, a period repairs what others
changed, and a notice of the kernel (`host_changed`) makes that period needless for devices and routes of the host. A
gate decides whether our prefixes are advertised. Without `bgp:` in the configuration all of this does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from bgp.advertising import Decision, Facts, Gate
from bgp.events import SessionState, SpeakerState
from bgp.rib import RefusalReason, Rib
from bgp.speaker import Speaker
from wccpd import assemble
from wccpd.dataplane.guard import has_own_route
from wccpd.dataplane.multipath import forwarding_warnings, hash_policy_warnings, set_hash_policy
from wccpd.dataplane.routes import GaveWayError, KernelRoutes
from wccpd.errors import KernelError
from wccpd.status.view import BgpStatus, Health, PeerStatus, RouteStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address
    from pathlib import Path
    from typing import TypeVar

    from bgp.events import IPNetwork, RouteSet, SessionView, SpeakerView
    from bgp.rib import RefusedPath, RibView
    from config import Config
    from wccpd.dataplane.routes import SyncResult
    from wccpd.dataplane.rtnetlink import TableRoute

    Result = TypeVar("Result")

log = structlog.get_logger("wccpd.bgp")

BATCH_SECONDS = 0.05
"""Live changes come one prefix per message; so long we wait for more before writing. A lost session waits for none."""
REPAIR_SECONDS = 5.0
"""How often the routes in the kernel are compared with what they should be."""
FALLS_TOLD = 3
"""So many falls of a session within `bgp.speaker.LATELY_SECONDS` make the state degraded."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rest of the daemon knows that matters here."""

    cannot_forward: tuple[str, ...] = ()
    """Why packets cannot get through this router, in words."""
    usable_caches: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Service group -> usable caches."""
    caches: frozenset[IPv4Address] = frozenset()
    """Every cache that speaks to us: no learnt route may swallow it."""


class NoBgpError(Exception):
    """A verb needs BGP, and the configuration has none."""


class BgpSide:
    """Owns speaker, rib, gate and the writer of learnt routes.

    Args:
        config: The whole configuration.
    """

    def __init__(self, config: Config) -> None:
        self._prefix = config.kernel.device_prefix
        self._protocol = config.kernel.route_protocol
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="routes")
        self._table: KernelRoutes | None = None
        self.route_fault: KernelError | None = None
        """Why the learnt routes are not in the kernel as they should be; None when they are."""
        self._verified_at = 0.0
        self._written: SyncResult | None = None
        self._hosts: tuple[TableRoute, ...] | None = None
        self._leaving = False
        spec = self._spec = assemble.speaker_spec(config)
        self._rib_policy = assemble.rib_policy(config)
        self._rib = Rib(self._rib_policy, spec.next_hops() if spec is not None else {})
        self._speaker = (
            Speaker(spec, config.bgp.gobgp_socket, self._rib, self._on_dirty)
            if spec is not None and config.bgp is not None
            else None
        )
        self._surroundings: Surroundings | None = None
        self._take(config)
        self._drain_mark = config.state_directory / "drained"
        self._gate = Gate(
            assemble.advertise_policy(config), time.monotonic(), drained=self._drain_mark.exists()
        )
        self._decision = Decision(None, "")
        self._facts_changed = asyncio.Event()
        self._reported: tuple[SpeakerState | None, dict[str, SessionState]] = (None, {})

    def _take(self, config: Config) -> None:
        """What of the configuration is neither gobgpd's, nor the rib's, nor the gate's."""
        self._peer_asn = config.bgp.peer_asn if config.bgp is not None else 0
        self._hash_policy = config.bgp.multipath_hash_policy if config.bgp is not None else None
        self._several_tunnels = len(config.tunnels) > 1
        self._versions = frozenset({4, *(6 for tunnel in config.tunnels if tunnel.inside_ipv6)})
        self._protected_always = assemble.protected_networks(config)
        self._protect()

    def _protect(self) -> None:
        caches = self._surroundings.caches if self._surroundings is not None else ()
        self._protected = self._protected_always.union(IPv4Network(cache) for cache in caches)
        self._dirty.set()

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
            self._hosts = found.hosts
            self._rib.adopt(found.route_set(), time.monotonic())
        self.set_hash_policy()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speaker.run(), name="bgp speaker")
            tasks.create_task(self._write_routes(), name="bgp routes")
            tasks.create_task(self._advertise(self._speaker), name="bgp advertise")

    def look_around(self, surroundings: Surroundings) -> None:
        """Take the newest picture of the rest of the daemon."""
        if surroundings == self._surroundings:
            return
        before, self._surroundings = self._surroundings, surroundings
        if before is None or surroundings.caches != before.caches:
            self._protect()
        self._facts_changed.set()

    def devices_changed(self) -> None:
        """A tunnel device was made or repaired: routes through it died with the old one."""
        self._dirty.set()

    def host_changed(self) -> None:
        """The host's devices, addresses, routes or rules changed: its own routes are to be asked for again."""
        if self._table is not None:
            self._table.host_changed()
        self._dirty.set()

    async def reconfigure(self, config: Config) -> str:
        """Bring gobgpd, the learnt routes and the advertising to another configuration.

        Sessions of neighbours that stay as they are stay up. A gobgpd that does not answer is told when it does.

        Returns:
            What gobgpd did not take, in words; empty when it took all, or was not there to be asked.
        """
        self._take(config)
        self._gate.reconfigure(assemble.advertise_policy(config))
        self._facts_changed.set()
        spec, rib_policy = assemble.speaker_spec(config), assemble.rib_policy(config)
        if self._speaker is None or spec is None or (spec, rib_policy) == (self._spec, self._rib_policy):
            return ""
        self._spec, self._rib_policy = spec, rib_policy
        before = self._speaker.view()
        self._rib.reconfigure(rib_policy, spec.next_hops())
        self._speaker.reconfigure(spec)
        if before.state is not SpeakerState.RUNNING:
            return ""
        fault = await self._speaker.settled()
        return fault if fault != before.reason else ""

    async def withdraw(self) -> None:
        """Take our prefixes back from the Transit Gateway, so that it stops sending."""
        self._leaving = True
        if self._speaker is not None:
            withdrawn = await self._speaker.withdraw()
            log.info("default_withdrawn", confirmed=withdrawn)

    async def drain(self, drained: bool) -> bool:
        """Take this router out of service, or back into it. The order outlives a restart of the daemon.

        Returns:
            Whether gobgpd confirmed; if not, it is told as soon as it answers.

        Raises:
            NoBgpError: There is no BGP, so nothing to withdraw.
            OSError: The order cannot be kept in the state directory; nothing was done.
        """
        if self._speaker is None:
            raise NoBgpError("there is no bgp section in the configuration, so there is nothing to withdraw")
        _keep_mark(self._drain_mark, drained)
        log.info("drained" if drained else "undrained")
        now = time.monotonic()
        self._gate.drain(drained, now)
        self._decision = self._gate.judge(self._facts(), now)
        self._facts_changed.set()
        if self._decision.advertise is None:
            return True
        confirmed = await self._speaker.advertise(self._decision.advertise)
        self._say_advertised(self._decision.advertise, confirmed)
        return confirmed

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

    # --- routes ---

    async def _write_routes(self) -> None:
        while True:
            await self._due()
            urgent = self._urgent.is_set()
            self._dirty.clear()
            self._urgent.clear()
            overdue = time.monotonic() - self._verified_at > REPAIR_SECONDS
            # Reporting comes second: until the kernel knows, packets go into a lost tunnel.
            try:
                await self._sync(self._rib.route_set(), verify=overdue and not urgent)
            except GaveWayError:
                self._verified_at = -math.inf
            self._report()

    async def _due(self) -> None:
        """Return when there is something to write, or it is time to look for what others changed."""
        until_repair = self._verified_at + REPAIR_SECONDS - time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_repair)):
                await self._dirty.wait()
            async with asyncio.timeout(BATCH_SECONDS):
                await self._urgent.wait()

    async def _sync(self, wanted: RouteSet, *, verify: bool) -> None:
        protected = self._protected
        if verify:
            self._verified_at = time.monotonic()
        result = await self._in_worker(lambda table: table.sync(wanted, protected, verify=verify))
        if result is None:
            return
        before = self._written.withheld if self._written is not None else {}
        for prefix in result.withheld.keys() - before.keys():
            log.warning("route_withheld", prefix=str(prefix), reason=result.withheld[prefix])
        self._written = result
        if result.hosts != self._hosts:
            self._hosts = result.hosts
            self._facts_changed.set()

    async def _in_worker(self, work: Callable[[KernelRoutes], Result]) -> Result | None:
        """Run kernel work; a refusal is kept for status, said once, and tried again at the next round."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._worker, self._with_table, work)
        except KernelError as fault:
            self._failed(fault)
            return None
        errors = getattr(result, "errors", ())
        if errors:
            self._failed(errors[0])
        elif self.route_fault is not None:
            log.info("kernel_recovered")
            self.route_fault = None
        return result

    def _failed(self, fault: KernelError) -> None:
        if str(fault) != str(self.route_fault):
            log.error("kernel_refused", reason=str(fault))
        self.route_fault = fault

    def _with_table(self, work: Callable[[KernelRoutes], Result]) -> Result:
        if self._table is None:
            self._table = KernelRoutes(protocol=self._protocol)
        return work(self._table)

    def _on_dirty(self) -> None:
        """Called for every path that gobgpd tells, thousands at a time: flags and nothing else."""
        self._dirty.set()
        if self._rib.urgent():
            self._urgent.set()
            if self._table is not None:
                self._table.hurry()

    def set_hash_policy(self) -> None:
        """Set what the configuration says for the whole host, if it says anything."""
        if self._hash_policy is None:
            return
        try:
            set_hash_policy(self._hash_policy, self._versions)
        except KernelError as fault:
            log.error("kernel_refused", reason=str(fault))

    # --- advertising ---

    async def _advertise(self, speaker: Speaker) -> None:
        """Follow the gate until we leave."""
        told: bool | None = None
        while not self._leaving:
            self._facts_changed.clear()
            now = time.monotonic()
            decision = self._gate.judge(self._facts(), now)
            if decision.advertise is not self._decision.advertise or decision.reason != self._decision.reason:
                log.info("advertising_decided", advertise=decision.advertise, reason=decision.reason)
            self._decision = decision
            if decision.advertise is not None and decision.advertise is not told:
                told = decision.advertise
                self._say_advertised(told, await speaker.advertise(told))
            patience = max(0.0, self._gate.next_deadline() - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(patience, REPAIR_SECONDS)):
                    await self._facts_changed.wait()

    def _say_advertised(self, advertised: bool, confirmed: bool) -> None:
        log.info(
            "default_advertised" if advertised else "default_withdrawn",
            confirmed=confirmed,
            reason=self._decision.reason,
        )

    def _facts(self) -> Facts:
        around = self._surroundings
        if around is None:
            return Facts(("the kernel has not been looked at yet",))
        prefixes = self._speaker.view().advertisements if self._speaker is not None else ()
        nowhere = (
            tuple(
                f"the host has no route of its own towards {prefix}"
                for prefix in prefixes
                if not has_own_route(prefix, self._hosts)
            )
            if self._hosts is not None
            else ()
        )
        return Facts((*around.cannot_forward, *nowhere), around.usable_caches)

    # --- read-outs ---

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

    async def status(self) -> BgpStatus | None:
        """The sidecar, its sessions and what they taught us. Thousands of routes are put into words in a thread."""
        if self._speaker is None:
            return None
        view, rib = self._speaker.view(), self._rib.view()
        withheld = self._written.withheld if self._written is not None else {}
        state, reason = self._health(view, rib)
        routes = await asyncio.to_thread(_route_statuses, rib, frozenset(withheld), self._prefix)
        return BgpStatus(
            state=state,
            reason=reason,
            since_seconds=round(view.since_seconds, 1),
            asn=view.asn,
            peer_asn=self._peer_asn,
            advertising=bool(view.advertised) and any(map(_is_up, view.sessions)),
            advertised_prefixes=tuple(str(prefix) for prefix in view.advertisements),
            peers=tuple(self._peer(session) for session in view.sessions),
            routes=routes,
            refused=(
                *(f"{prefix}: {why}" for prefix, why in withheld.items()),
                *(line for session in view.sessions for line in _filtered(session, view.asn)),
                *(_refusal(path) for path in rib.refused),
            ),
            refused_total=sum(rib.refused_total.values()),
            advertise_reason=self._decision.reason,
            drained=self._gate.drained,
            pins=tuple(str(network) for network in self._written.pins) if self._written is not None else (),
            warnings=self._warnings(),
            sidecar=view.api,
        )

    def _warnings(self) -> tuple[str, ...]:
        spread = hash_policy_warnings(self._versions) if self._several_tunnels else ()
        return (*spread, *forwarding_warnings(self._versions))

    def _health(self, view: SpeakerView, rib: RibView) -> tuple[Health, str]:
        if self.route_fault is not None:
            return Health.DEGRADED, f"learnt routes are not in the kernel: {self.route_fault}"
        if view.state is not SpeakerState.RUNNING:
            return Health.DOWN, f"gobgpd: {view.state.value}: {view.reason}"
        down = [str(session.neighbour) for session in view.sessions if not _is_up(session)]
        if len(down) == len(view.sessions):
            return Health.DOWN, "no session is established"
        reasons = (f"no session with {', '.join(down)}",) if down else ()
        flooding = {str(path.neighbour) for path in rib.refused if path.reason is RefusalReason.TOO_MANY}
        said = (
            *((view.reason,) if view.reason else ()),
            *reasons,
            *(
                f"the session with {session.neighbour} fell {session.falls_lately} times in the last minutes"
                for session in view.sessions
                if session.falls_lately >= FALLS_TOLD
            ),
            *(f"{each} announces more prefixes than bgp.max_prefixes" for each in sorted(flooding)),
        )
        return (Health.DEGRADED if said else Health.UP), "; ".join(said)

    def _peer(self, session: SessionView) -> PeerStatus:
        return PeerStatus(
            address=str(session.neighbour),
            tunnel=session.interface.removeprefix(self._prefix),
            state=session.state.name.lower(),
            uptime_seconds=round(session.since_seconds, 1) if _is_up(session) else 0.0,
            received=session.received,
            accepted=session.accepted,
            advertised=session.advertised,
            flops=session.flops,
        )


_TROUBLE = frozenset({SpeakerState.UNREACHABLE, SpeakerState.REFUSED})


def _keep_mark(mark: Path, present: bool) -> None:
    if present:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    else:
        mark.unlink(missing_ok=True)


def _is_up(session: SessionView) -> bool:
    return session.state is SessionState.ESTABLISHED


def _filtered(session: SessionView, asn: int) -> tuple[str, ...]:
    """What gobgpd itself keeps from us; it tells numbers, not prefixes, but for the default route."""
    looped = session.received - session.accepted
    lines = []
    if looped > 0:
        lines.append(f"{looped} prefixes from {session.neighbour}: our own ASN {asn} in their path")
    if session.sends_default:
        lines.append(f"the default route from {session.neighbour}: default route")
    if session.not_accepted > 0:
        lines.append(f"{session.not_accepted} prefixes from {session.neighbour}: not accepted")
    return tuple(lines)


def _route_statuses(
    rib: RibView, withheld: frozenset[IPNetwork], device_prefix: str
) -> tuple[RouteStatus, ...]:
    return tuple(
        RouteStatus(
            prefix=str(route.prefix),
            tunnels=tuple(sorted(hop.interface.removeprefix(device_prefix) for hop in route.next_hops)),
            stale=route.stale,
        )
        for route in rib.routes
        if route.prefix not in withheld
    )


def _refusal(path: RefusedPath) -> str:
    return f"{path.prefix} from {path.neighbour}: {path.reason.value.replace('_', ' ')}"
