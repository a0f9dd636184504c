"""The control API: HTTP and JSON on a unix socket, read by `wccpctl` and by whoever may open the socket.

`GET /v1/status` is the status tree, `GET /v1/events` the stream of events, `GET /v1/version` the versions,
`GET /v1/openapi.json` the description of all (`wccpd.status.openapi`), `POST /v1/VERB` carries out a verb such as
`router/drain`; every error is `{"error": "…"}`. It is given a function to await for the newest status, one for
each verb and the record of events, and knows nothing else of the daemon.

Whoever may open the socket may read: its owner and its group (`control.read_group`). Verbs are for root, for the
user that the daemon runs as and for the members of `control.command_group`, by the kernel's word about the other
end (SO_PEERCRED, SO_PEERGROUPS, unix(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import json
import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeAlias

import structlog
from aiohttp import web

from wccpd import __version__
from wccpd.status import openapi
from wccpd.status.document import to_document
from wccpd.status.view import SCHEMA_VERSION, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from wccpd.status.events import Event, EventLog

SOCKET_MODE = 0o660
MAX_BODY_BYTES = 1 << 20
_BACKLOG = 16
_CREDENTIALS = struct.Struct("=iii")  # ucred: process, user, group
_SO_PEERGROUPS = 59  # asm-generic/socket.h; since Linux 4.13
_MAX_PEER_GROUPS = 256  # what Python has room for
_SHUTDOWN_SECONDS = 1.0
MAX_EVENT_READERS = 64
KEEPALIVE_SECONDS = 15.0
STUCK_SECONDS = 30.0
"""A reader of events that takes nothing for so long is let go."""

_log = structlog.get_logger(__name__)


Answer: TypeAlias = "Mapping[str, object]"
"""What a verb answers, as plain JSON values."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants of a path."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Values of the path's `{names}`."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What stands behind the question mark; the last one of several with one name."""
    body: bytes = b""
    """At most `MAX_BODY_BYTES`."""


Work: TypeAlias = "Callable[[Asked], Awaitable[Answer]]"
"""What is behind a path."""


class VerbError(Exception):
    """A verb cannot be carried out as things are; the text says why, for people."""


class ControlSocketError(Exception):
    """The control socket cannot be opened; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the socket, besides root and the daemon's own user."""

    read_group: str = ""
    """Owns the socket, so its members may read; empty: the daemon's own group does."""
    command_group: str = ""
    """Its members may command, if they may open the socket; empty: nobody else may."""


class ControlServer:
    """Serves the control API while its `async with` block runs."""

    def __init__(
        self,
        read_status: Callable[[], Awaitable[Status]],
        socket_path: Path,
        verbs: Mapping[str, Work] | None = None,
        reads: Mapping[str, Work] | None = None,
        *,
        events: EventLog | None = None,
        access: Access = Access(),
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            read_status: awaited for the newest status tree, once per request.
            socket_path: where to listen. A missing directory is made, a socket nobody listens on is replaced.
            verbs: path below `/v1/`, which may hold `{names}`, -> what to await; it may raise `VerbError`.
            reads: the same for GET, for everybody who may open the socket.
            events: what the event stream tells; without it there is none.
            access: which groups may read and command.
        """
        self._path = socket_path
        self._access = access
        self._events = events
        gate = _Gate()
        self._gate = gate
        self._stopping = asyncio.Event()
        application = _application(read_status, verbs or {}, reads or {}, gate)
        stream = _Stream(events, self._stopping) if events is not None else None
        if stream is not None:
            application.router.add_get("/v1/events", stream.follow)
            application.router.add_get("/v1/events/recent", stream.recent)
        _describe(application, verbs or {}, reads or {}, has_events=stream is not None)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        self._identity: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ControlSocketError: another daemon listens there, or the kernel refuses the socket.
        """
        self._gate.command_group = _group_id(self._access.command_group)
        read_group = self._access.read_group or self._access.command_group
        listener = _listen(self._path, _group_id(read_group))
        self._identity = _identity(self._path)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=_BACKLOG).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop and remove the socket, unless another daemon has replaced it meanwhile."""
        self._stopping.set()
        if self._events is not None:
            self._events.wake()
        await self._runner.cleanup()
        if self._identity is not None and self._identity == _identity(self._path):
            self._path.unlink(missing_ok=True)


def _application(
    read_status: Callable[[], Awaitable[Status]],
    verbs: Mapping[str, Work],
    reads: Mapping[str, Work],
    gate: _Gate,
) -> web.Application:
    async def status(_: web.Request) -> web.Response:
        # In a thread: thousands of routes take a while, and the event loop has other things to do.
        text = await asyncio.to_thread(_as_text, await read_status())
        return web.Response(text=text, content_type="application/json")

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"software_version": __version__, "status_version": SCHEMA_VERSION})

    application = web.Application(middlewares=[_errors_as_json], client_max_size=MAX_BODY_BYTES)
    application.router.add_get("/v1/status", status)
    application.router.add_get("/v1/version", version)
    for path, work in verbs.items():
        application.router.add_post(f"/v1/{path}", _handler(work, gate.may_command))
    for path, work in reads.items():
        application.router.add_get(f"/v1/{path}", _handler(work, lambda _: True))
    return application


def _as_text(status: Status) -> str:
    return json.dumps(to_document(status))


def _handler(
    work: Work, is_allowed: Callable[[web.Request], bool]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def carry_out(request: web.Request) -> web.Response:
        if not is_allowed(request):
            reason = "only root, the user that wccpd runs as and members of control.command_group may do this"
            return web.json_response({"error": reason}, status=403)
        try:
            asked = Asked(dict(request.match_info), dict(request.query), await request.read())
            return web.json_response(dict(await work(asked)))
        except VerbError as error:
            return web.json_response({"error": str(error)}, status=409)

    return carry_out


def _describe(
    application: web.Application, verbs: Mapping[str, Work], reads: Mapping[str, Work], *, has_events: bool
) -> None:
    """Offer the description of the API; made at the first request, in a thread, since it reads our own sources."""
    text: list[str] = []

    async def description(_: web.Request) -> web.Response:
        if not text:
            text.append(
                json.dumps(await asyncio.to_thread(openapi.describe, verbs, reads, events=has_events))
            )
        return web.Response(text=text[0], content_type="application/json")

    application.router.add_get("/v1/openapi.json", description)


class _Gate:
    """Who may command."""

    def __init__(self) -> None:
        self.command_group: int | None = None

    def may_command(self, request: web.Request) -> bool:
        """Whether the other end of the connection is root, our own user or a member of the group for that."""
        connection = request.transport.get_extra_info("socket") if request.transport is not None else None
        if connection is None:
            return False
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, group = _CREDENTIALS.unpack(credentials)
        if user in {0, os.geteuid()}:
            return True
        return self.command_group is not None and self.command_group in {group, *_peer_groups(connection)}


def _peer_groups(connection: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the other end, as they were when it connected; none if there are too many."""
    try:
        octets = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_PEER_GROUPS * 4)
    except OSError:
        return ()
    return struct.unpack(f"={len(octets) // 4}I", octets)


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ControlSocketError(
            f"there is no group {name}: make it or change control in the configuration"
        ) from None


class _Stream:
    """The event stream (HTML Standard, 9.2 Server-sent events)."""

    def __init__(self, events: EventLog, stopping: asyncio.Event) -> None:
        self._events = events
        self._stopping = stopping

    async def recent(self, _: web.Request) -> web.Response:
        """What is kept."""
        text = await asyncio.to_thread(
            lambda: json.dumps({"events": list(map(to_document, self._events.recent()))})
        )
        return web.Response(text=text, content_type="application/json")

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Tell events until the reader goes, falls too far behind or we stop."""
        if self._events.followers >= MAX_EVENT_READERS:
            return web.json_response({"error": f"{MAX_EVENT_READERS} readers follow already"}, status=503)
        last = request.headers.get("Last-Event-ID")
        seen = self._events.newest if last is None else self._events.number_of(last)
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"},
        )
        await answer.prepare(request)
        try:
            with self._events.following() as news:
                await self._tell(answer, news, seen)
        except TimeoutError:
            _log.warning("event_reader_dropped", reason=f"it took nothing for {STUCK_SECONDS:g} s")
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass
        return answer

    async def _tell(self, answer: web.StreamResponse, news: asyncio.Event, seen: int) -> None:
        await _write(answer, f": wccpd {__version__}, run {self._events.run}\n\n")
        missed = self._events.after(seen).missed
        if missed and seen:
            await _write(answer, f"event: missed\ndata: {json.dumps({'missed': missed})}\n\n")
        seen += missed
        while not self._stopping.is_set():
            news.clear()
            batch = self._events.after(seen)
            if batch.missed:
                words = f"{batch.missed} events were forgotten before this reader took them"
                await _write(answer, f"event: reader_dropped\ndata: {json.dumps({'error': words})}\n\n")
                _log.warning("event_reader_dropped", reason=words)
                return
            seen += len(batch.events)
            if batch.events:
                await _write(answer, "".join(map(_as_sse, batch.events)))
                continue
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    await news.wait()
            except TimeoutError:
                await _write(answer, ": still here\n\n")


async def _write(answer: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(STUCK_SECONDS):
        await answer.write(text.encode())


def _as_sse(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.event}\ndata: {json.dumps(to_document(event))}\n\n"


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error in JSON; a fault of ours is logged and does not end the daemon."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason.lower()}"
        kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return web.json_response({"error": message}, status=error.status, headers=kept)
    except Exception:
        _log.exception("control_request_failed", path=request.path)
        return web.json_response({"error": "internal error, see wccpd's log"}, status=500)


def _listen(path: Path, group: int | None) -> socket.socket:
    """A bound socket that its owner and group may use; permissions are set before anybody can connect."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
    except OSError as error:
        raise ControlSocketError(
            f"cannot prepare {path}: {(error.strerror or str(error)).lower()}"
        ) from error
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(SOCKET_MODE)
    except OSError as error:
        listener.close()
        raise ControlSocketError(
            f"cannot listen at {path}: {(error.strerror or str(error)).lower()}"
        ) from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed daemon left behind.

    Raises:
        ControlSocketError: somebody listens on it, or it is another kind of file.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlSocketError(f"{path} is in the way: it is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(str(path))
    if answer in {0, errno.EAGAIN}:
        raise ControlSocketError(f"another wccpd is running: it listens at {path}")
    path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        entry = os.lstat(path)
        return entry.st_dev, entry.st_ino
    return None
