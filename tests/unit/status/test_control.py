"""The control socket between a daemon and its readers, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wccpd import __version__, ctl
from wccpd.exit_codes import ExitCode
from wccpd.status import client, text
from wccpd.status.control import Asked, ControlServer, ControlSocketError, VerbError
from wccpd.status.document import from_document
from wccpd.status.view import Status

# ruff: noqa: ASYNC240 - a test may look at a file while its loop stands still


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """The block runs as somebody who may not do everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


async def soon(status: Status) -> Status:
    return status


async def ask(path: Path, resource: str, timeout_seconds: float = 5.0) -> object:
    return await asyncio.to_thread(client.fetch, path, resource, timeout_seconds=timeout_seconds)


async def test_a_reader_gets_the_newest_status(path: Path, healthy: Status, bgp_down: Status) -> None:
    newest = [healthy]
    async with ControlServer(lambda: soon(newest[-1]), path):
        assert from_document(await ask(path, "/v1/status")) == healthy
        newest.append(bgp_down)
        assert from_document(await ask(path, "/v1/status")) == bgp_down


async def test_versions_can_be_asked(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path):
        assert await ask(path, "/v1/version") == {"software_version": __version__, "status_version": 1}


async def test_an_unknown_resource_is_a_json_error(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path):
        with pytest.raises(client.UnreachableError, match="wccpd answered 404: GET /v1/nothing: not found"):
            await ask(path, "/v1/nothing")


async def test_a_fault_of_ours_is_a_json_error_and_the_next_request_is_answered(
    path: Path, healthy: Status
) -> None:
    answers = [healthy]

    async def failing_second() -> Status:
        return answers.pop()

    async with ControlServer(failing_second, path):
        await ask(path, "/v1/status")
        with pytest.raises(client.UnreachableError, match="wccpd answered 500: internal error"):
            await ask(path, "/v1/status")
        assert await ask(path, "/v1/version")


async def test_the_socket_is_for_owner_and_group_and_goes_away_at_the_end(
    path: Path, healthy: Status
) -> None:
    async with ControlServer(lambda: soon(healthy), path):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
    assert not path.exists()


async def test_a_socket_left_by_a_killed_daemon_is_replaced(path: Path, healthy: Status) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
        left_behind.listen()
    async with ControlServer(lambda: soon(healthy), path):
        assert await ask(path, "/v1/version")


async def test_the_socket_of_a_running_daemon_is_left_alone(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path):
        with pytest.raises(ControlSocketError, match="another wccpd is running"):
            async with ControlServer(lambda: soon(healthy), path):
                pass
        assert await ask(path, "/v1/version")


async def test_a_file_in_the_way_is_not_removed(path: Path, healthy: Status) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlSocketError, match="is in the way"):
        async with ControlServer(lambda: soon(healthy), path):
            pass
    assert path.read_text() == "precious"


async def test_a_directory_that_cannot_be_made_is_an_error_in_words(tmp_path: Path, healthy: Status) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlSocketError, match=r"cannot prepare .*: file exists"):
        async with ControlServer(lambda: soon(healthy), tmp_path / "file" / "control.sock"):
            pass


async def test_a_socket_that_another_daemon_replaced_is_not_removed(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path):
        path.unlink()
        path.touch()
    assert path.exists()


def test_no_socket_means_not_running(path: Path) -> None:
    with pytest.raises(client.UnreachableError, match=f"no socket at {path}"):
        client.fetch(path, "/v1/status")


def test_a_socket_without_listener_means_not_running(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(client.UnreachableError, match="nobody listens"):
        client.fetch(path, "/v1/status")


def test_a_silent_daemon_is_given_up_after_the_timeout(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(client.UnreachableError, match=r"did not answer at .* within 0.05 s"):
            client.fetch(path, "/v1/status", timeout_seconds=0.05)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello"])
def test_something_else_behind_the_socket_is_named_as_such(path: Path, answer: bytes) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()

        def serve() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(client.UnreachableError, match="is not wccpd"):
            client.fetch(path, "/v1/status")
        thread.join(timeout=5)


def test_a_missing_permission_is_said_with_its_remedy(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        with without_root(), pytest.raises(client.UnreachableError, match="no permission to ask wccpd at"):
            client.fetch(path, "/v1/status")


async def test_wccpctl_status_shows_the_screen_and_ends_with_0_although_nothing_is_inspected(
    path: Path, bgp_down: Status
) -> None:
    async with ControlServer(lambda: soon(bgp_down), path):
        result = await wccpctl("--socket", str(path), "status")
    assert (result.exit_code, result.stderr) == (ExitCode.OK, "")
    assert result.stdout == text.plain(bgp_down) + "\n"


async def test_wccpctl_status_as_json_is_the_whole_tree(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path):
        result = await wccpctl("--socket", str(path), "status", "-o", "json")
    assert result.exit_code == ExitCode.OK
    assert from_document(json.loads(result.stdout)) == healthy


async def test_wccpctl_refuses_the_status_of_another_version_with_3(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(replace(healthy, version=2)), path):
        result = await wccpctl("--socket", str(path), "status")
    assert (result.exit_code, result.stdout) == (ExitCode.UNREACHABLE, "")
    assert result.stderr == "wccpctl: the daemon's status has version 2, this command reads 1\n"


async def wccpctl(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, ctl.app, list(arguments))


async def carried_out(_: object) -> dict[str, object]:
    return {"drained": True, "confirmed": True}


async def impossible(_: object) -> dict[str, object]:
    raise VerbError("there is no bgp section")


async def test_a_verb_is_carried_out_and_answered(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path, {"router/drain": carried_out}):
        answer = await asyncio.to_thread(client.command, path, "/v1/router/drain")
        assert answer == {"drained": True, "confirmed": True}
        with pytest.raises(client.UnreachableError, match="404"):
            await asyncio.to_thread(client.command, path, "/v1/router/explode")
        with pytest.raises(client.UnreachableError, match="405"):
            await ask(path, "/v1/router/drain")


async def test_whoever_carries_out_is_told_the_names_in_the_path_and_what_is_asked(
    path: Path, healthy: Status
) -> None:
    heard: list[Asked] = []

    async def listen(asked: Asked) -> dict[str, object]:
        heard.append(asked)
        return {}

    async with ControlServer(lambda: soon(healthy), path, {"caches/{cache}/drain": listen}):
        await asyncio.to_thread(client.command, path, "/v1/caches/192.0.2.7/drain?wait=yes")
    assert heard == [Asked({"cache": "192.0.2.7"}, {"wait": "yes"}, b"")]


async def test_a_verb_that_cannot_be_carried_out_says_why(path: Path, healthy: Status) -> None:
    async with ControlServer(lambda: soon(healthy), path, {"router/drain": impossible}):
        with pytest.raises(client.RefusedError, match="there is no bgp section"):
            await asyncio.to_thread(client.command, path, "/v1/router/drain")
        result = await asyncio.to_thread(
            CliRunner().invoke, ctl.app, ["--socket", str(path), "drain", "router"]
        )
        assert result.exit_code == ExitCode.FAILURE
        assert "there is no bgp section" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
async def test_whoever_may_read_may_not_therefore_command(path: Path, healthy: Status) -> None:
    path.parent.mkdir()
    for folder in (path.parent, *path.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    ask_as_nobody = (
        "import os, sys, http.client, socket\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "c = http.client.HTTPConnection('localhost')\n"
        "c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])\n"
        "for method, where in (('GET', '/v1/version'), ('POST', '/v1/router/drain')):\n"
        "    c.request(method, where); r = c.getresponse(); r.read(); print(r.status)\n"
    )
    async with ControlServer(lambda: soon(healthy), path, {"router/drain": carried_out}):
        path.chmod(0o666)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", ask_as_nobody, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["200", "403"], done.stderr
