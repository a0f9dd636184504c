"""The control API: HTTP and JSON on a unix socket, read by `wccpctl` and by whoever may open the socket.

`GET /v1/status` is the status tree, `GET /v1/events` the last events (`?follow` for a stream of server-sent events,
which goes on where `Last-Event-ID` says), `GET /v1/version` the versions, `POST /v1/VERB` carries out a verb such as
`router/drain`; every error is `{"error": "…"}`. It is given a function to await for the newest status and one for
each verb, and knows nothing else of the daemon.

Whoever may open the socket may read. Verbs are for root and for the user that the daemon runs as, by the kernel's
word about the other end (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
from wccpd.status.document import to_document
from wccpd.status.journal import Journal
from wccpd.status.view import SCHEMA_VERSION, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

SOCKET_MODE = 0o660
MAX_BODY_BYTES = 1 << 20
KEEPALIVE_SECONDS = 15.0
"""How often a stream of events without any says that it is still there."""
_BACKLOG = 16
_CREDENTIALS = struct.Struct("=iii")  # ucred: process, user, group
_SHUTDOWN_SECONDS = 1.0

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


class ControlServer:
    """Serves the control API while its `async with` block runs."""

    def __init__(
        self,
        read_status: Callable[[], Awaitable[Status]],
        socket_path: Path,
        verbs: Mapping[str, Work] | None = None,
        reads: Mapping[str, Work] | None = None,
        journal: Journal | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            read_status: awaited for the newest status tree, once per request.
            socket_path: where to listen. A missing directory is made, a socket nobody listens on is replaced.
            verbs: path below `/v1/`, which may hold `{names}`, -> what to await; it may raise `VerbError`.
            reads: the same for GET, for everybody who may open the socket.
            journal: what happened lately; nothing if left out.
        """
        self._path = socket_path
        self._runner = web.AppRunner(
            _application(read_status, verbs or {}, reads or {}, journal or Journal()),
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        self._identity: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ControlSocketError: another daemon listens there, or the kernel refuses the socket.
        """
        listener = _listen(self._path)
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
        await self._runner.cleanup()
        if self._identity is not None and self._identity == _identity(self._path):
            self._path.unlink(missing_ok=True)


def _application(
    read_status: Callable[[], Awaitable[Status]],
    verbs: Mapping[str, Work],
    reads: Mapping[str, Work],
    journal: Journal,
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
    application.router.add_get("/v1/events", _Events(journal).answer)
    for path, work in verbs.items():
        application.router.add_post(f"/v1/{path}", _handler(work, _may_command))
    for path, work in reads.items():
        application.router.add_get(f"/v1/{path}", _handler(work, lambda _: True))
    return application


class _Events:
    """`/v1/events`: a list, or a stream of server-sent events (HTML Living Standard, 9.2)."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """All that are kept after `Last-Event-ID`, or `?after`; with `?follow` also all that come."""
        after = request.headers.get("Last-Event-ID", request.query.get("after", "0"))
        if not after.isdecimal():
            return web.json_response({"error": f"{after[:40]!a} is no number of an event"}, status=400)
        if "follow" in request.query:
            return await self._stream(request, int(after))
        events, missed = self._journal.after(int(after))
        return web.json_response(
            {"missed": missed, "events": [{"number": each.number, **each.fields} for each in events]}
        )

    async def _stream(self, request: web.Request, number: int) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        # A reader that does not take them blocks only itself: what it misses meanwhile falls out of the ring.
        with contextlib.suppress(ConnectionError):
            while True:
                events, missed = self._journal.after(number)
                if missed:
                    await response.write(
                        f"event: missed\ndata: {json.dumps({'missed': missed})}\n\n".encode()
                    )
                for each in events:
                    data = json.dumps({"number": each.number, **each.fields})
                    await response.write(f"id: {each.number}\ndata: {data}\n\n".encode())
                    number = each.number
                try:
                    async with asyncio.timeout(KEEPALIVE_SECONDS):
                        await self._journal.wait(number)
                except TimeoutError:
                    await response.write(b": alive\n\n")
        return response


def _as_text(status: Status) -> str:
    return json.dumps(to_document(status))


def _handler(
    work: Work, is_allowed: Callable[[web.Request], bool]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def carry_out(request: web.Request) -> web.Response:
        if not is_allowed(request):
            reason = "only root and the user that wccpd runs as may do this"
            return web.json_response({"error": reason}, status=403)
        try:
            asked = Asked(dict(request.match_info), dict(request.query), await request.read())
            return web.json_response(dict(await work(asked)))
        except VerbError as error:
            return web.json_response({"error": str(error)}, status=409)

    return carry_out


def _may_command(request: web.Request) -> bool:
    """Whether the other end of the connection is root or our own user."""
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    if connection is None:
        return False
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return user in {0, os.geteuid()}


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error in JSON; a fault of ours is logged and does not end the daemon."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason.lower()}"
        return web.json_response({"error": message}, status=error.status)
    except Exception:
        _log.exception("control_request_failed", path=request.path)
        return web.json_response({"error": "internal error, see wccpd's log"}, status=500)


def _listen(path: Path) -> socket.socket:
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
