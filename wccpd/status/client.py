"""A client of the control API: HTTP over a unix socket with the standard library, errors in words.

For commands that ask once and end. Knows nothing of what the answers mean.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT_SECONDS = 5.0
FOLLOW_SECONDS = 60.0
"""How long a stream of events may say nothing; the daemon says something every 15 s."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class UnreachableError(Exception):
    """The daemon could not be asked, or did not answer as a wccpd does. The text says why, for people."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path
        self._timeout_seconds = timeout_seconds

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_seconds)
        self.sock.connect(str(self._path))


class RefusedError(Exception):
    """The daemon will not do it. The text says why, for people."""


def fetch(socket_path: Path, resource: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> object:
    """Get one resource of the control API as plain JSON values.

    Args:
        socket_path: the daemon's control socket.
        resource: the path, e.g. `/v1/status`.
        timeout_seconds: for each step of the exchange.

    Raises:
        UnreachableError: no daemon, no permission, no answer in time, an error answer.
    """
    return _exchange("GET", socket_path, resource, timeout_seconds)


def follow(socket_path: Path, after: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """The daemon's events, as they come, for as long as it lives.

    Args:
        socket_path: the daemon's control socket.
        after: the id of the last event that is known already, empty for all that are kept, None for none of them.

    Yields:
        each event's name and data; the name `missed` in place of events that are not kept any more.

    Raises:
        UnreachableError: as `fetch`; also when the daemon ends.
    """
    connection = _UnixConnection(socket_path, FOLLOW_SECONDS)
    try:
        headers = {} if after is None else {"Last-Event-ID": after}
        connection.request("GET", "/v1/events", headers=headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            answer = json.loads(response.read(MAX_ANSWER_BYTES))
            raise UnreachableError(
                f"wccpd answered {response.status}: {answer.get('error', response.reason)}"
            )
        name = ""
        for line in response:
            if line.startswith(b"event: "):
                name = line.removeprefix(b"event: ").strip().decode()
            elif line.startswith(b"data: "):
                yield name, json.loads(line.removeprefix(b"data: "))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(_in_words(error, socket_path, FOLLOW_SECONDS)) from error
    finally:
        connection.close()
    raise UnreachableError("wccpd has ended")


def command(
    socket_path: Path, verb: str, body: bytes = b"", *, timeout_seconds: float = TIMEOUT_SECONDS
) -> object:
    """Have the daemon carry out a verb; its answer as plain JSON values.

    Args:
        socket_path: the daemon's control socket.
        verb: the path, e.g. `/v1/router/drain`.
        body: what it needs besides, e.g. the text of a file.
        timeout_seconds: for each step of the exchange.

    Raises:
        RefusedError: not allowed, or not possible as things are.
        UnreachableError: as `fetch`.
    """
    return _exchange("POST", socket_path, verb, timeout_seconds, body)


def _exchange(
    method: str, socket_path: Path, resource: str, timeout_seconds: float, body: bytes = b""
) -> object:
    connection = _UnixConnection(socket_path, timeout_seconds)
    try:
        connection.request(method, resource, body or None)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(_in_words(error, socket_path, timeout_seconds)) from error
    finally:
        connection.close()
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise UnreachableError(
            f"what answers at {socket_path} is not wccpd: its answer is no JSON"
        ) from error
    if response.status in {http.client.FORBIDDEN, http.client.CONFLICT}:
        raise RefusedError(str(answer.get("error", "")) if isinstance(answer, dict) else response.reason)
    if response.status != http.client.OK:
        reason = answer.get("error", response.reason) if isinstance(answer, dict) else response.reason
        raise UnreachableError(f"wccpd answered {response.status}: {reason}")
    return answer


def _in_words(
    error: OSError | http.client.HTTPException | ValueError, path: Path, timeout_seconds: float
) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return f"wccpd is not running (no socket at {path})"
        case ConnectionRefusedError():
            return f"wccpd is not running (nobody listens at {path}, it was left behind)"
        case PermissionError():
            return f"no permission to ask wccpd at {path}: run as root or as a member of the socket's group"
        case TimeoutError():
            return f"wccpd did not answer at {path} within {timeout_seconds:g} s: it is stuck or overloaded"
        case OSError():
            return f"cannot ask wccpd at {path}: {(error.strerror or str(error)).lower()}"
    return f"what answers at {path} is not wccpd: {type(error).__name__}"
