"""Puts the daemon together: what starts after what, what stops before what.

Start: sockets first (nothing is touched if they cannot be had), then what an earlier run left in the kernel
is read and the engine's memory resumed, then tunnels and redirect, then BGP. Stop on SIGTERM or SIGINT: the
default route is withdrawn first, so that the Transit Gateway moves on; then the redirect falls open and all
that is ours is removed. A crash removes nothing: the kernel goes on redirecting, the next start adopts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from typing import TYPE_CHECKING

import structlog

from wccpd import __version__, assemble
from wccpd.daemon import log as logging
from wccpd.daemon.bgp_side import BgpSide, Surroundings
from wccpd.daemon.change import Changer
from wccpd.daemon.doctoring import Doctor
from wccpd.daemon.drains import Drains
from wccpd.daemon.explaining import Explainer
from wccpd.daemon.former_names import FormerNames
from wccpd.daemon.memory import Memory
from wccpd.daemon.notify import Notifier
from wccpd.daemon.prober import Prober
from wccpd.daemon.reload import Reloader
from wccpd.daemon.unconfirmed import Content, Unconfirmed
from wccpd.daemon.verbs import Verbs
from wccpd.daemon.watching import watch
from wccpd.daemon.wccp import WccpSpeaker, report
from wccpd.dataplane.choose import PlaneChoice, PlaneKind
from wccpd.dataplane.host import adjacent_networks
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.dataplane.port import Applied
from wccpd.dataplane.reconciler import Reconciler
from wccpd.dataplane.watch import HostWatch
from wccpd.errors import KernelError
from wccpd.exit_codes import ExitCode
from wccpd.plan.build import redirect_plan
from wccpd.plan.match import service_name
from wccpd.plan.probe import ProbeTarget, probe_mark
from wccpd.plan.slots import Slots
from wccpd.protocol.router import Router
from wccpd.protocol.view import CacheState
from wccpd.status.build import Sources, build_services, build_status, build_tunnels
from wccpd.status.client import UnreachableError, fetch
from wccpd.status.control import Access, ControlServer, ControlSocketError
from wccpd.status.events import EventLog
from wccpd.status.inspection import InspectionLedger
from wccpd.status.tunnels import TunnelLedger
from wccpd.status.view import BgpStatus, Health, RefusalStatus, RouterStatus, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from config import Config
    from wccpd.dataplane.reconciler import Round
    from wccpd.plan.policy import Policy
    from wccpd.plan.probe import ProbeEvent, ProbePolicy
    from wccpd.protocol.view import RouterView

log = structlog.get_logger("wccpd")

KERNEL_PATIENCE_SECONDS = 15.0
"""So long the kernel may leave a round unanswered before status calls that a fault."""
WATCHDOG_KERNEL_SECONDS = 60.0
"""So long before systemd is left to restart us; the redirect stays in the kernel meanwhile."""
CHANGES_TOLD = 8
"""So many of the objects that were put back are named in the log."""
WITHDRAW_GRACE_SECONDS = 1.0
"""Between withdrawing the default and falling open: the Transit Gateway acts within milliseconds."""
SWITCH_SECONDS = 0.001
"""How long a worker thread that decodes or plans may keep the event loop waiting, each time; Python's own is 5 ms."""


def run(config: Config, config_file: Path, text: str, warnings: tuple[str, ...] = ()) -> int:
    """Run the router until SIGTERM or SIGINT; return the exit code.

    Args:
        config: The configuration.
        config_file: Its file, an absolute path, for reloads.
        text: What the file held.
        warnings: What is allowed in it and yet seldom meant.
    """
    events = EventLog(f"{time.time_ns() // 1_000_000:x}")
    logging.configure(config.log, events)
    for warning in warnings:
        log.warning("configuration_doubtful", reason=warning)
    try:
        daemon = _Daemon(Content(config, text), config_file, events)
    except KernelError as error:
        log.error("cannot_start", reason=str(error))
        return ExitCode.FAILURE
    # What is loaded by now stays: a full garbage collection, which stalls the event loop, need not look at it again.
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    return asyncio.run(daemon.main())


def cleanup(config: Config) -> int:
    """Remove everything of ours from the kernel, e.g. after a crash that nobody restarts; return the exit code."""
    logging.configure(config.log)
    if _is_running(config):
        log.error(
            "not_removed", reason=f"wccpd is running: it answers at {config.control.socket}; stop it first"
        )
        return ExitCode.FAILURE
    return asyncio.run(_cleanup(config))


def guard(config: Config) -> int:
    """Have services that are not open refuse what they take before the daemon is there; return the exit code."""
    logging.configure(config.log)
    if _is_running(config):
        return ExitCode.OK
    policy, settings = assemble.policy(config), assemble.kernel_settings(config)
    nobody = Router(assemble.engine_settings(config, first_number=1))
    faults = list(FormerNames(config.state_directory, settings).note())
    try:
        with contextlib.closing(LinuxDataPlane(settings)) as plane:
            applied = plane.guard(redirect_plan(nobody.view(), policy, Slots()))
    except KernelError as error:
        applied = Applied(faults=(error,))
    for fault in (*faults, *applied.faults):
        log.error("kernel_refused", reason=str(fault))
    return ExitCode.FAILURE if applied.faults else ExitCode.OK


def _is_running(config: Config) -> bool:
    """Whether a daemon answers at this configuration's control socket."""
    try:
        fetch(config.control.socket, "/v1/version")
    except UnreachableError:
        return False
    return True


async def _cleanup(config: Config) -> int:
    policy, settings = assemble.policy(config), assemble.kernel_settings(config)
    nobody = Router(assemble.engine_settings(config, first_number=1))
    choice = PlaneChoice(PlaneKind(config.redirect.dataplane.value), settings, policy)
    reconciler = Reconciler(policy, choice, nobody.view, lambda _: None)
    bgp = BgpSide(config)
    await reconciler.remove_all()
    await bgp.remove_routes()
    await reconciler.close()
    former = FormerNames(config.state_directory, settings)
    left = (*_left_behind(reconciler, bgp), *map(str, await asyncio.to_thread(former.release)))
    for fault in left:
        log.error("not_removed", reason=fault)
    return ExitCode.FAILURE if left else ExitCode.OK


def _left_behind(reconciler: Reconciler, bgp: BgpSide) -> tuple[str, ...]:
    """What could not be removed, and why."""
    faults = (*reconciler.last.faults, *(fault for fault in (bgp.route_fault,) if fault is not None))
    return tuple(map(str, faults))


def _probes(policy: Policy) -> dict[str, ProbePolicy]:
    """The probes by service."""
    return {service_name(each.key): each.probe for each in policy.services if each.probe is not None}


class _Daemon:
    """One run of the daemon."""

    def __init__(self, in_file: Content, config_file: Path, events: EventLog) -> None:
        kept = Unconfirmed(in_file.config.state_directory)
        content = kept.at_start(in_file)
        config = self._config = content.config
        self._events = events
        self._config_file = config_file
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._notifier = Notifier()
        self._faults: tuple[str, ...] = ()
        self._inspection = InspectionLedger()
        self._tunnels = TunnelLedger()
        self._drains = Drains(config.state_directory)
        self._view: RouterView | None = None
        self._policy = assemble.policy(config)
        self._memory = Memory(config.state_directory)
        self._bgp = BgpSide(config)
        first_number = int(time.time()) & 0x7FFFFFFF or 1
        router = Router(assemble.engine_settings(config, first_number, adjacent_networks()))
        kind = PlaneKind(config.redirect.dataplane.value)
        self._choice = PlaneChoice(kind, assemble.kernel_settings(config), self._policy)
        self._reconciler = Reconciler(
            self._policy,
            self._choice,
            self._read_view,
            self._on_round,
            lease_seconds=config.redirect.lease_seconds,
            settings=self._choice.settings,
        )
        self._reconciler.drained = self._drains.caches
        self._prober = Prober(
            _probes(self._policy),
            config.router.id,
            self._probe_mark,
            self._on_probe,
        )
        self._former = FormerNames(config.state_directory, self._choice.settings)
        self._explainer = Explainer(self._read_config, self._choice, self._reconciler)
        self._doctor = Doctor(self._read_config, self._choice, self._reconciler, self._memory)
        self._wccp = WccpSpeaker(router, self._on_change)
        changer = Changer(self._wccp, self._bgp, self._reconciler, config, self._on_taken)
        self._reloader = Reloader(config_file, content, changer, kept, self._notifier)
        if content is not in_file:
            self._reloader.unlike_file = f"what {config_file} holds was taken on trial and never confirmed"
            logging.configure(config.log, self._events)
            log.warning("file_not_taken", reason=self._reloader.unlike_file, hint="wccpctl reload takes it")

    async def main(self) -> int:
        """Everything from start to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.request)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._wccp.close)
            try:
                await self._wccp.open()
                verbs = Verbs(
                    self._wccp,
                    self._bgp,
                    self._reconciler,
                    self._drains,
                    self._reloader,
                    self._explainer,
                    self._doctor,
                    self.status,
                    self._read_config,
                )
                await stack.enter_async_context(
                    ControlServer(
                        self.status,
                        self._config.control.socket,
                        verbs.commands(),
                        verbs.reads(),
                        events=self._events,
                        access=Access(
                            self._config.control.read_group or "", self._config.control.command_group or ""
                        ),
                    )
                )
            except (OSError, ControlSocketError) as error:
                # Nothing has been touched yet.
                log.error("cannot_listen", reason=str(error))
                return ExitCode.FAILURE
            return await self._serve()

    async def _serve(self) -> ExitCode:
        await self._without_fault(self._former.claim)
        await self._reconciler.look()
        resumed = self._memory.resume(self._wccp.router, self._reconciler.last.observation, time.monotonic())
        log.info("started", version=__version__, config=str(self._config_file), resumed=resumed)
        await self._reconciler.renew_lease()
        async with asyncio.TaskGroup() as tasks:
            # From here on the lease of an earlier run is ours to renew, however long the first round takes.
            lease = tasks.create_task(self._reconciler.keep_lease(), name="lease")
            await self._reconciler.once()
            if self._reconciler.last.observation.leased or not self._policy.ingress:
                await self._without_fault(self._former.release)
            running = [
                lease,
                tasks.create_task(watch(self._open_host_watch, self._on_host_change), name="host watch"),
                tasks.create_task(
                    watch(self._reconciler.watch, self._reconciler.disturbed), name="plane watch"
                ),
                tasks.create_task(self._wccp.run(), name="wccp"),
                tasks.create_task(self._reconciler.run(), name="reconciler"),
                tasks.create_task(self._bgp.run(), name="bgp"),
                tasks.create_task(self._prober.run(), name="prober"),
                tasks.create_task(self._memory.run(self._wccp.router), name="memory"),
                tasks.create_task(self._reloader.run(), name="reload"),
                tasks.create_task(self._watchdog(), name="watchdog"),
            ]
            self._notifier.send("READY=1", "STATUS=running")
            await self._stop.wait()
            self._notifier.send("STOPPING=1")
            log.info("stopping")
            self._reloader.stop()
            await self._bgp.withdraw()
            if self._bgp.is_configured:
                await asyncio.sleep(WITHDRAW_GRACE_SECONDS)
            for task in running:
                task.cancel()
        return await self._leave()

    async def _without_fault(self, remove: Callable[[], tuple[KernelError, ...]]) -> None:
        """Remove what former names left, in a thread; tell what could not be."""
        for fault in await asyncio.to_thread(remove):
            log.error("not_removed", reason=str(fault))

    async def _leave(self) -> ExitCode:
        """Fall open: classification first, then paths, then the tunnels, then what was learnt over them.

        Services in mode closed or reject stay so in the kernel, without us.
        """
        await self._bgp.close()
        await self._reconciler.leave()
        await self._bgp.remove_routes()
        await self._reconciler.close()
        await self._memory.save(self._wccp.router)
        self._memory.close()
        left = _left_behind(self._reconciler, self._bgp)
        for fault in left:
            log.error("not_removed", reason=fault)
        log.info("stopped")
        return ExitCode.FAILURE if left else ExitCode.OK

    async def _watchdog(self) -> None:
        """Tell systemd that the event loop turns and the kernel answers."""
        patience = self._notifier.watchdog_seconds
        while patience is not None:
            if time.monotonic() - self._reconciler.last.at < WATCHDOG_KERNEL_SECONDS:
                self._notifier.send("WATCHDOG=1")
            await asyncio.sleep(patience / 3)

    def _on_taken(self, config: Config) -> None:
        """The parts have another configuration: what we look at goes by it too."""
        before, policy = self._policy, assemble.policy(config)
        gone = {each.key for each in before.services} - {each.key for each in policy.services}
        self._inspection.forget(set(map(service_name, gone)))
        self._config, self._policy = config, policy
        self._prober.reconfigure(_probes(policy), config.router.id)
        logging.configure(config.log, self._events)

    def _on_change(self) -> None:
        self._reconciler.wish()
        self._memory.dirty()

    def _on_round(self, done: Round) -> None:
        before, self._faults = self._faults, tuple(map(str, done.faults))
        for fault in self._faults:
            if fault not in before:
                log.error("kernel_refused", reason=fault, exc_info=done.bug)
        if before and not self._faults:
            log.info("kernel_recovered")
        if done.repaired:
            log.warning("kernel_repaired", changes=done.repaired[:CHANGES_TOLD], count=len(done.repaired))
        if done.applied.devices_changed:
            self._bgp.devices_changed()
        self._note_changes(time.monotonic())
        self._doctor.note(time.monotonic())
        self._tell_bgp()

    def _note_changes(self, now: float) -> None:
        """Log where a service begins or ends to be inspected, and where a tunnel changes its state."""
        if self._view is None:
            return
        sources = self._sources(now, self._view)
        for event in self._inspection.update(build_services(sources), now):
            report(event)
        for change in self._tunnels.update(build_tunnels(sources)):
            said = log.info if change.state is Health.UP else log.warning
            said(change.event, tunnel=change.tunnel, reason=change.reason)

    def _probe_mark(self, target: ProbeTarget) -> int | None:
        """How a probe gets to a cache, by what was last brought to the kernel."""
        plan = self._reconciler.plan
        if plan is None:
            return None
        settings = self._reconciler.settings
        return probe_mark(plan, settings.services, settings.marks, target)

    def _on_probe(self, event: ProbeEvent) -> None:
        report(event)
        self._reconciler.failing = self._prober.ledger.out()
        self._reconciler.wish()

    async def _open_host_watch(self) -> HostWatch:
        return HostWatch(self._config.kernel.route_protocol)

    def _on_host_change(self) -> None:
        """A device, an address, a route or a rule of the host changed: one of ours may have to be repaired."""
        self._bgp.host_changed()
        self._reconciler.disturbed()

    def _read_config(self) -> Config:
        """The configuration in force."""
        return self._config

    def _read_view(self) -> RouterView:
        """The engine's newest picture. Kept, since making it takes a while when there are many caches."""
        self._view = self._wccp.router.view()
        self._prober.keep(
            ProbeTarget(service_name(group.key), cache.address)
            for group in self._view.groups
            for cache in group.caches
            if cache.state is CacheState.USABLE
        )
        self._reconciler.failing = self._prober.ledger.out()
        return self._view

    def _tell_bgp(self) -> None:
        """What of the engine and the kernel decides whether we advertise, and what learnt routes must not swallow."""
        if self._view is None:
            return
        groups, failing = self._view.groups, self._reconciler.failing
        self._bgp.look_around(
            Surroundings(
                cannot_forward=self._why_not_forwarding(time.monotonic()),
                usable_caches={
                    (name := service_name(group.key)): sum(
                        cache.state is CacheState.USABLE
                        and cache.address not in self._drains.caches
                        and cache.address not in failing.get(name, ())
                        for cache in group.caches
                    )
                    for group in groups
                },
                caches=frozenset(cache.address for group in groups for cache in group.caches),
            )
        )

    def _kernel_faults(self, now: float) -> tuple[str, ...]:
        """Everything that keeps the kernel from redirecting as it should, in words."""
        hindrances = self._reconciler.last.observation.hindrances
        return (*self._why_not_forwarding(now), *hindrances, *self._faults)

    def _why_not_forwarding(self, now: float) -> tuple[str, ...]:
        """What keeps the kernel from forwarding, in words; a cache that it refuses does not."""
        last = self._reconciler.last
        age = now - last.at
        silent = (f"it has not answered for {age:.0f} s",) if age > KERNEL_PATIENCE_SECONDS else ()
        still = (
            ()
            if last.observation.forwards
            else ("net.ipv4.ip_forward is 0: it drops what is not for the host",)
        )
        return (*silent, *still)

    async def status(self) -> Status:
        """The status tree as of now, counters included."""
        await self._reconciler.refresh()
        bgp = await self._bgp.status()
        now = time.monotonic()
        return build_status(self._sources(now, self._wccp.router.view(), bgp), now)

    def _sources(self, now: float, view: RouterView, bgp: BgpStatus | None = None) -> Sources:
        faults = self._kernel_faults(now)
        return Sources(
            router=self._router_status(now, "; ".join(faults)),
            policy=self._policy,
            device_prefix=self._config.kernel.device_prefix,
            view=view,
            observation=self._reconciler.last.observation,
            kernel_faults=faults,
            bgp=bgp,
            refused=tuple(self._refusals(now)),
            drained=self._reconciler.drained,
            probes=self._prober.ledger,
            uninspected_seconds=self._inspection.seconds(now),
        )

    def _router_status(self, now: float, fault: str) -> RouterStatus:
        return RouterStatus(
            id=str(self._config.router.id),
            software_version=__version__,
            uptime_seconds=round(now - self._started, 1),
            dataplane=self._choice.name,
            dataplane_state=Health.DEGRADED if fault else Health.UP,
            dataplane_reason=fault or (f"not ebpf: {self._choice.reason}" if self._choice.reason else ""),
            hash_function=self._choice.hash_function,
            config_file=str(self._config_file),
            config_unlike_file=self._reloader.unlike_file,
            rollback_in_seconds=self._reloader.seconds_left(now),
        )

    def _refusals(self, now: float) -> Iterator[RefusalStatus]:
        for reason, tally in sorted(self._wccp.refusals.by_reason.items()):
            yield RefusalStatus(
                reason=reason,
                count=tally.count,
                last_source=str(tally.last.source),
                last_detail=tally.last.detail,
                last_seconds=round(now - tally.at, 1),
            )
