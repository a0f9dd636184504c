"""Ask a wccpd of the lab for its status over the control socket: HTTP and JSON, no code of the daemon's own."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from lab.errors import LabError

TIMEOUT_SECONDS = 30


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


def read_status(control_socket: Path) -> dict[str, Any]:
    """The status tree of the wccpd that listens on `control_socket`.

    Raises:
        LabError: nobody listens there, or the answer is an error.
    """
    connection = _UnixConnection(control_socket)
    try:
        connection.request("GET", "/v1/status")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LabError(f"{control_socket}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise LabError(f"{control_socket}: HTTP {response.status}: {body.decode(errors='replace')}")
    status: dict[str, Any] = json.loads(body)
    return status
