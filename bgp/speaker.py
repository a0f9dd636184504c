"""The task that keeps a gobgpd as we want it, and follows what it learns.

Life: connect (again and again, with growing pauses), configure what is missing, then run until something
breaks. While it runs, two streams feed the `Rib` (sessions, and paths after policy), and every
`probe_seconds` gobgpd is asked what it is and which peers it has: one that hangs, was restarted empty or lost a
peer is found by that, if the streams did not tell sooner. After any failure everything is told anew.

gobgpd outlives us: what a former life of ours configured is adopted, and what it advertises is left alone until
somebody decides (`advertise` or `withdraw`). A gobgpd that runs under another ASN, router id or port is stopped
and started anew where its API can do that (GoBGP 3); otherwise the view says that it must be restarted.

Nothing is decided by gobgpd's error texts. The hand-over is the newest state and a call of `on_dirty`, which
must only set a flag: never a queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, assert_never

from bgp.client import Client
from bgp.configure import ensure_global, ensure_peers, ensure_policies, is_complete
from bgp.errors import SidecarError, SidecarReason
from bgp.events import PeerSpec, SessionState, SessionView, SpeakerSpec, SpeakerState, SpeakerView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bgp.convert import RunningPeer
    from bgp.events import IPAddress, IPNetwork
    from bgp.rib import Rib


LATELY_SECONDS = 300.0
"""How long a session's fall is remembered."""
_DEFAULTS: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@dataclass(frozen=True, slots=True)
class SpeakerTiming:
    """How often and how long, in seconds."""

    first_backoff_seconds: float = 0.2
    longest_backoff_seconds: float = 5.0
    probe_seconds: float = 2.0
    """Between two probes. With the deadline this bounds how long a hung gobgpd goes unnoticed: 4 s."""
    deadline_seconds: float = 2.0
    """For any one call to gobgpd."""


@dataclass(frozen=True, slots=True)
class _Session:
    state: SessionState
    since: float


class Speaker:
    """Keeps one gobgpd configured; see the module's docstring.

    Args:
        spec: What gobgpd should be.
        socket_path: gobgpd's unix socket, an absolute path.
        rib: Fed from gobgpd's streams; its owner is this task.
        on_dirty: Called, in the event loop, when `rib` or `view()` may have changed. Must not block.
        timing: Pauses and deadlines.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        spec: SpeakerSpec,
        socket_path: Path,
        rib: Rib,
        on_dirty: Callable[[], None],
        *,
        timing: SpeakerTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._socket_path = socket_path
        self._rib = rib
        self._on_dirty = on_dirty
        self._timing = timing or SpeakerTiming()
        self._clock = clock
        self._state = SpeakerState.CONNECTING
        self._state_since = clock()
        self._reason = ""
        self._api = ""
        self._wanted: bool | None = None
        self._told: bool | None = None
        self._told_spec: SpeakerSpec | None = None
        self._closing = False
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._sessions: dict[IPAddress, _Session] = {}
        self._peers: dict[IPAddress, RunningPeer] = {}
        self._falls: dict[IPAddress, deque[float]] = {}
        self._send_default: frozenset[IPAddress] = frozenset()
        self._configured = 0
        self._failures = 0

    async def run(self) -> None:
        """Keep gobgpd configured until `close` is called or the task is cancelled. Raises no `SidecarError`."""
        backoff = self._timing.first_backoff_seconds
        while not self._closing:
            self._wake.clear()
            started = self._clock()
            try:
                await self._connection()
            except SidecarError as error:
                self._failed(error)
            if self._clock() - started > self._timing.longest_backoff_seconds:
                backoff = self._timing.first_backoff_seconds
            await self._pause(backoff)
            backoff = min(backoff * 2, self._timing.longest_backoff_seconds)
        self._enter(SpeakerState.CLOSED, "closed by us")

    async def advertise(self, wanted: bool, timeout_seconds: float = 3.0) -> bool:
        """Decide whether our prefixes are advertised; the decision holds until the next one.

        Returns:
            Whether gobgpd confirmed within the timeout. If not, it is told as soon as it answers again; one
            that is gone advertises nothing anyway.
        """
        self._wanted = wanted
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._told is not wanted and self._wanted is wanted:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return self._told is wanted

    async def withdraw(self, timeout_seconds: float = 3.0) -> bool:
        """Stop advertising and wait for gobgpd's word: `advertise(False)`."""
        return await self.advertise(False, timeout_seconds)

    def reconfigure(self, spec: SpeakerSpec) -> None:
        """Bring gobgpd to another specification.

        All paths are then judged anew, also where only the `Rib` has other limits: reconfigure that one first.
        """
        self._spec = spec
        self._wake.set()

    async def settled(self, timeout_seconds: float = 10.0) -> str:
        """Wait until gobgpd is as specified.

        Returns:
            Why it is not, in words; empty when it is.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._told_spec is not self._spec:
                    if self._state in {SpeakerState.UNREACHABLE, SpeakerState.REFUSED}:
                        return self._reason
                    await self._moved.wait()
        except TimeoutError:
            return f"gobgpd did not take it within {timeout_seconds:g} s"
        return self._reason

    async def close(self) -> None:
        """End `run`. gobgpd keeps its sessions and what it advertises: call `withdraw` before, on a final stop."""
        self._closing = True
        self._wake.set()

    def view(self) -> SpeakerView:
        """The sidecar as it is now."""
        now = self._clock()
        return SpeakerView(
            state=self._state,
            reason=self._reason,
            since_seconds=now - self._state_since,
            api=self._api,
            asn=self._spec.asn,
            router_id=self._spec.router_id,
            wanted=self._wanted,
            advertised=self._told,
            advertisements=tuple(each.prefix for each in self._spec.advertisements),
            sessions=tuple(self._session_view(peer, now) for peer in self._spec.peers),
            configured=self._configured,
            failures=self._failures,
        )

    def _session_view(self, peer: PeerSpec, now: float) -> SessionView:
        session = self._sessions.get(peer.address, _Session(SessionState.UNKNOWN, self._state_since))
        running = self._peers.get(peer.address)
        return SessionView(
            neighbour=peer.address,
            interface=peer.interface,
            asn=peer.asn,
            state=session.state,
            since_seconds=now - session.since,
            description=peer.description,
            received=running.received if running else 0,
            accepted=running.accepted if running else 0,
            advertised=running.advertised if running else 0,
            flops=running.flops if running else 0,
            negotiated_hold_time_seconds=running.negotiated_hold_time_seconds if running else 0,
            falls_lately=sum(now - at < LATELY_SECONDS for at in self._falls.get(peer.address, ())),
            sends_default=peer.address in self._send_default,
            not_accepted=max(0, self._rejected(running) - (peer.address in self._send_default))
            if running
            else 0,
        )

    def _rejected(self, running: RunningPeer) -> int:
        """How many of a neighbour's paths gobgpd's import policy rejects: what it kept less what reached us."""
        refused = self._rib.refused_from(running.address)
        if refused is None or running.state is not SessionState.ESTABLISHED:
            return 0
        return max(0, running.accepted - self._rib.announced_by(running.address) - refused)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond `close` nor past the table's own deadline."""
        until = self._clock() + seconds
        while not self._closing and (left := until - self._clock()) > 0:
            self._wake.clear()
            if await self._woken(min(left, max(self._rib.next_deadline() - self._clock(), 0.0))):
                continue
            self._tick_rib()

    async def _woken(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _tick_rib(self) -> None:
        self._rib.tick(self._clock())
        if self._rib.changed():
            self._on_dirty()

    def _enter(self, state: SpeakerState, reason: str) -> None:
        if state is not self._state:
            self._state, self._state_since = state, self._clock()
        self._reason = reason
        self._announce()

    def _announce(self) -> None:
        """Wake those who wait for a change, and tell the owner."""
        self._moved.set()
        self._moved = asyncio.Event()
        self._on_dirty()

    def _failed(self, error: SidecarError) -> None:
        self._failures += 1
        self._told = None
        self._told_spec = None
        self._sessions.clear()
        self._peers.clear()
        gone = error.reason in {SidecarReason.UNREACHABLE, SidecarReason.TIMED_OUT}
        self._enter(
            SpeakerState.UNREACHABLE if gone else SpeakerState.REFUSED, _in_words(error, self._socket_path)
        )

    async def _connection(self) -> None:
        """One connection's life: from connecting to the first failure, or to `close`."""
        client = await Client.connect(self._socket_path, self._timing.deadline_seconds)
        try:
            self._api = client.api.value
            self._enter(SpeakerState.CONFIGURING, "bringing gobgpd to our configuration")
            await self._configure(client)
            self._rib.stream_opened(self._clock())
            try:
                await self._follow(client)
            finally:
                self._rib.stream_lost(self._clock())
        finally:
            await client.close()

    async def _follow(self, client: Client) -> None:
        """Read both streams and tend gobgpd until one of them breaks."""
        try:
            async with asyncio.TaskGroup() as group:
                readers = (
                    group.create_task(self._follow_sessions(client), name="bgp-sessions"),
                    group.create_task(self._follow_paths(client), name="bgp-paths"),
                )
                await self._tend(client)
                for reader in readers:
                    reader.cancel()
        except ExceptionGroup as failures:
            ours = failures.subgroup(SidecarError)
            if ours is None or len(ours.exceptions) != len(failures.exceptions):
                raise
            raise ours.exceptions[0] from None

    async def _follow_sessions(self, client: Client) -> None:
        async for event in client.watch_sessions():
            now = self._clock()
            self._rib.handle(event, now)
            known = self._sessions.get(event.neighbour)
            if known is None or known.state is not event.state:
                if known is not None and known.state is SessionState.ESTABLISHED:
                    self._falls.setdefault(event.neighbour, deque(maxlen=100)).append(now)
                self._sessions[event.neighbour] = _Session(event.state, now)
            self._on_dirty()

    async def _follow_paths(self, client: Client) -> None:
        async for events in client.watch_paths():
            now = self._clock()
            for event in events:
                self._rib.handle(event, now)
            if events:
                self._on_dirty()

    async def _tend(self, client: Client) -> None:
        """Bring what was decided to gobgpd at once, probe it now and then, sweep the table on time."""
        probe_at = self._clock()
        while not self._closing:
            self._wake.clear()
            if self._told_spec is not self._spec:
                await self._configure(client)
            if self._wanted is not None and self._told is not self._wanted:
                await self._tell(client, self._wanted)
                continue
            if self._clock() >= probe_at:
                await self._probe(client)
                probe_at = self._clock() + self._timing.probe_seconds
            await self._woken(max(0.0, min(probe_at, self._rib.next_deadline()) - self._clock()))
            self._tick_rib()

    async def _configure(self, client: Client) -> None:
        spec, before = self._spec, self._told_spec
        started = await ensure_global(client, spec)
        self._configured += started
        new_policies = await ensure_policies(client, spec)
        refused = await ensure_peers(client, spec)
        if not started and (new_policies or (before is not None and spec is not before)):
            await client.soft_reset()
        kept = {each.prefix for each in spec.advertisements}
        for gone in before.advertisements if before is not None else ():
            if gone.prefix not in kept:
                await client.withdraw(gone, spec.asn)
        if started or spec is not before:
            self._told = None
        self._told_spec = spec
        self._enter(SpeakerState.RUNNING, "; ".join(refused))

    async def _tell(self, client: Client, wanted: bool) -> None:
        for advertisement in self._spec.advertisements:
            tell = client.advertise if wanted else client.withdraw
            await tell(advertisement, self._spec.asn)
        self._told = wanted
        self._announce()

    async def _probe(self, client: Client) -> None:
        """Ask what gobgpd is and which peers it has; configure it anew if that is not what we left."""
        running = await client.running_global()
        peers = await client.peers() if running.asn else ()
        now, epoch = self._clock(), time.time()
        self._peers = {each.address: each for each in peers}
        for address, peer in self._peers.items():
            if peer.state is SessionState.ESTABLISHED and peer.up_since_epoch_seconds:
                self._sessions[address] = _Session(
                    peer.state, now - max(0.0, epoch - peer.up_since_epoch_seconds)
                )
        await self._look_for_defaults(client)
        self._on_dirty()
        if self._told_spec is self._spec and not is_complete(self._spec, running, peers):
            await self._configure(client)

    async def _look_for_defaults(self, client: Client) -> None:
        """Find out who announces a default, where something is rejected: status can then name it."""
        self._send_default = frozenset(
            [
                address
                for address, running in self._peers.items()
                if self._rejected(running)
                for version in running.families
                if await client.announces(address, _DEFAULTS[version])
            ]
        )


def _in_words(error: SidecarError, socket_path: Path) -> str:
    said = f": {error.detail}" if error.detail else ""
    match error.reason:
        case SidecarReason.UNREACHABLE:
            return f"gobgpd is not there on {socket_path} ({error.verb}{said})"
        case SidecarReason.TIMED_OUT:
            return f"gobgpd does not answer {error.verb} on {socket_path}"
        case SidecarReason.REFUSED:
            return f"gobgpd refuses {error.verb}{said}"
        case SidecarReason.INCOMPATIBLE:
            return f"gobgpd cannot be used as it is ({error.verb}{said})"
        case _ as unreachable:
            assert_never(unreachable)
