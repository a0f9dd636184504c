"""The control API as any client sees it: its description, the event stream, who may do what."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from wccpd.status import control
from wccpd.status.client import fetch
from wccpd.status.control import Access, Asked, ControlServer, ControlSocketError, VerbError
from wccpd.status.events import EventLog
from wccpd.status.view import CacheStatus, Status

# ruff: noqa: ASYNC240 - a test may look at a file while its loop stands still


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def events() -> EventLog:
    return EventLog("run", capacity=100)


def happen(events: EventLog, *names: str) -> None:
    for name in names:
        events.add(name, "info", "2026-01-01T00:00:00Z", {"service": "web-cache"})


async def drained(asked: Asked) -> dict[str, object]:
    """Take a cache out of service.

    What stands further down is for readers of the code.
    """
    if asked.names["cache"] != "192.0.2.1":
        raise VerbError(f"no cache {asked.names['cache']!a} has spoken to this router")
    return {"cache": "192.0.2.1"}


async def flows(_: Asked) -> dict[str, object]:
    """Flows that are pinned to each cache."""
    return {"flows": {}}


@contextlib.asynccontextmanager
async def serving(status: Status, path: Path, **options: object) -> AsyncIterator[ControlServer]:
    async def newest() -> Status:
        return status

    verbs, reads = {"caches/{cache}/drain": drained}, {"flows": flows}
    async with ControlServer(newest, path, verbs, reads, **options) as server:  # type: ignore[arg-type]
        yield server


class Reader:
    """A reader of the event stream."""

    def __init__(self, path: Path, last: str | None = None) -> None:
        self._path, self._last = path, last

    async def __aenter__(self) -> Reader:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path))
        header = "" if self._last is None else f"Last-Event-ID: {self._last}\r\n"
        self.writer.write(f"GET /v1/events HTTP/1.0\r\nHost: localhost\r\n{header}\r\n".encode())
        self.head = (await self._until(b"\r\n\r\n")).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def _until(self, end: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(end)

    async def block(self) -> dict[str, str]:
        """The next event or comment."""
        lines = (await self._until(b"\n\n")).decode().rstrip("\n").split("\n")
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}

    async def events(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            block = await self.block()
            if "event" in block:
                found.append(block["event"])
        return found


async def test_events_stream_to_a_reader_as_they_happen(
    healthy: Status, path: Path, events: EventLog
) -> None:
    happen(events, "before")
    async with serving(healthy, path, events=events), Reader(path) as reader:
        assert "200" in reader.head
        assert "Content-Type: text/event-stream" in reader.head
        assert "" in await reader.block()
        happen(events, "cache_usable")
        block = await reader.block()
        assert (block["id"], block["event"]) == ("run-2", "cache_usable")
        assert json.loads(block["data"]) == {
            "id": "run-2",
            "time": "2026-01-01T00:00:00Z",
            "level": "info",
            "event": "cache_usable",
            "fields": {"service": "web-cache"},
        }


async def test_events_from_another_thread_come_at_once(healthy: Status, path: Path, events: EventLog) -> None:
    async with serving(healthy, path, events=events), Reader(path) as reader:
        await reader.block()
        thread = threading.Thread(target=happen, args=(events, "state_not_saved"))
        thread.start()
        assert await reader.events(1) == ["state_not_saved"]
        thread.join()


@pytest.mark.parametrize(
    ("last", "names"), [("run-2", ["c", "d"]), ("earlier-7", ["a", "b", "c", "d"]), ("nonsense", ["a", "b"])]
)
async def test_a_reader_that_comes_back_goes_on_where_it_was(
    last: str, names: list[str], healthy: Status, path: Path, events: EventLog
) -> None:
    happen(events, "a", "b", "c", "d")
    async with serving(healthy, path, events=events), Reader(path, last) as reader:
        assert await reader.events(len(names)) == names


async def test_a_reader_whose_place_is_forgotten_is_told_how_many_it_missed_and_goes_on(
    healthy: Status, path: Path, events: EventLog
) -> None:
    happen(events, *(f"event{number}" for number in range(1, 151)))
    async with serving(healthy, path, events=events), Reader(path, "run-20") as reader:
        await reader.block()
        block = await reader.block()
        assert (block["event"], json.loads(block["data"])) == ("missed", {"missed": 30})
        assert await reader.events(1) == ["event51"]


async def test_a_reader_that_falls_behind_is_dropped_with_a_word(
    healthy: Status, path: Path, events: EventLog
) -> None:
    async with serving(healthy, path, events=events), Reader(path) as reader:
        await reader.block()
        happen(
            events, *(f"event{number}" for number in range(1, 151))
        )  # in one go: the stream cannot keep up
        block = await reader.block()
        assert (block["event"], json.loads(block["data"])) == (
            "reader_dropped",
            {"error": "50 events were forgotten before this reader took them"},
        )
        assert await reader.reader.read() == b""


async def test_a_reader_that_takes_nothing_is_let_go_and_others_go_on(
    healthy: Status, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "STUCK_SECONDS", 0.2)
    events = EventLog("run", capacity=4096)
    async with serving(healthy, path, events=events), Reader(path) as good:
        stuck = socket.socket(socket.AF_UNIX)
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(str(path))
        stuck.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            while events.followers < 2:  # noqa: ASYNC110 - polled, as in every test
                await asyncio.sleep(0.01)
            while events.followers == 2:
                events.add("big", "info", "now", {"reason": "x" * 60_000})
                await asyncio.sleep(0.01)
        assert await good.events(1) == ["big"]
        stuck.close()


async def test_silence_is_broken_by_comments(
    healthy: Status, path: Path, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "KEEPALIVE_SECONDS", 0.05)
    async with serving(healthy, path, events=events), Reader(path) as reader:
        await reader.block()
        assert (await reader.block()) == {"": "still here"}


async def test_there_is_an_end_to_readers(
    healthy: Status, path: Path, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_EVENT_READERS", 1)
    async with serving(healthy, path, events=events), Reader(path), Reader(path) as second:
        assert "503" in second.head


async def test_stopping_ends_the_streams_at_once(healthy: Status, path: Path, events: EventLog) -> None:
    reader = Reader(path)
    async with asyncio.timeout(control._SHUTDOWN_SECONDS * 0.8):
        async with serving(healthy, path, events=events):
            await reader.__aenter__()
            await reader.block()
        assert await reader.reader.read() == b""
    reader.writer.close()


async def test_what_is_kept_can_be_asked_for_at_once(healthy: Status, path: Path, events: EventLog) -> None:
    happen(events, "a", "b")
    async with serving(healthy, path, events=events):
        answer = await asyncio.to_thread(fetch, path, "/v1/events/recent")
    assert [each["event"] for each in answer["events"]] == ["a", "b"]  # type: ignore[index]


# --- the description ---


async def test_the_description_has_every_path_and_every_field_with_its_words(
    healthy: Status, path: Path, events: EventLog
) -> None:
    async with serving(healthy, path, events=events):
        told = await asyncio.to_thread(fetch, path, "/v1/openapi.json")
    assert isinstance(told, dict)
    assert told["openapi"] == "3.1.0"
    assert set(told["paths"]) == {
        "/v1/status",
        "/v1/version",
        "/v1/openapi.json",
        "/v1/events",
        "/v1/events/recent",
        "/v1/flows",
        "/v1/caches/{cache}/drain",
    }
    post = told["paths"]["/v1/caches/{cache}/drain"]["post"]
    assert post["summary"] == "Take a cache out of service."
    assert [each["name"] for each in post["parameters"]] == ["cache"]
    schema = told["components"]["schemas"]["CacheStatus"]
    assert set(schema["properties"]) == {each.name for each in fields(CacheStatus)}
    assert schema["properties"]["draining"]["description"] == "It gets no new flows."
    assert schema["properties"]["weight"] == {"type": "integer"}


@contextlib.contextmanager
def served_over_tcp(status: Status, path: Path) -> Iterator[str]:
    """A real server at its unix socket, and a way there for tools that know TCP only; all in a thread."""
    ready, ports = threading.Event(), []
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while octets := await reader.read(65536):
                writer.write(octets)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside = await asyncio.open_unix_connection(str(path))
        await asyncio.gather(pipe(reader, inside[1]), pipe(inside[0], writer))

    async def serve() -> None:
        events = EventLog("run")
        happen(events, "started", "cache_usable")
        async with serving(status, path, events=events):
            server = await asyncio.start_server(relay, "127.0.0.1", 0)
            ports.append(server.sockets[0].getsockname()[1])
            ready.set()
            await done.wait()
            server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()


def test_the_server_keeps_to_its_description(healthy: Status, path: Path, tmp_path: Path) -> None:
    """Schemathesis makes requests of the description, and holds the answers against it."""
    with served_over_tcp(healthy, path) as address:
        ran = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                f"{address}/v1/openapi.json",
                # The stream never ends, and so is no answer to be read whole; its tests are above.
                "--exclude-path=/v1/events",
                "--phases=examples,coverage,fuzzing",
                "--max-examples=25",
                "--seed=1",
                "--request-timeout=5",
                "--generation-database=none",
                "--no-color",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=tmp_path,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "No issues found" in ran.stdout, ran.stdout


# --- who may do what ---


def without_rights(path: Path, user: int, group: int, groups: list[int]) -> list[str]:
    """What a stranger of these groups is answered to a question and to a command."""
    script = (
        "import os, sys, http.client, socket\n"
        f"os.setgroups({groups}); os.setgid({group}); os.setuid({user})\n"
        "c = http.client.HTTPConnection('localhost')\n"
        "c.sock = socket.socket(socket.AF_UNIX)\n"
        "try: c.sock.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit('denied')\n"
        "for method, where in (('GET', '/v1/version'), ('POST', '/v1/caches/192.0.2.1/drain')):\n"
        "    c.request(method, where); r = c.getresponse(); r.read(); print(r.status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.split() or [done.stderr.strip()]


def group_id(name: str) -> int:
    return grp.getgrnam(name).gr_gid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
async def test_one_group_may_read_and_another_may_command(healthy: Status, path: Path) -> None:
    path.parent.mkdir()
    for folder in (path.parent, *path.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    readers, admins, nogroup = group_id("adm"), group_id("staff"), group_id("nogroup")
    async with serving(healthy, path, access=Access("adm", "staff")):
        assert path.stat().st_gid == readers
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        answers = [
            await asyncio.to_thread(without_rights, path, 65534, nogroup, groups)
            for groups in ([], [readers], [readers, admins])
        ]
    assert answers == [["denied"], ["200", "403"], ["200", "200"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
async def test_a_group_for_commands_alone_may_also_read(healthy: Status, path: Path) -> None:
    path.parent.mkdir()
    for folder in (path.parent, *path.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    async with serving(healthy, path, access=Access(command_group="staff")):
        answer = await asyncio.to_thread(without_rights, path, 65534, group_id("staff"), [])
    assert answer == ["200", "200"]


async def test_a_group_that_does_not_exist_is_said_before_anything_is_opened(
    healthy: Status, path: Path
) -> None:
    with pytest.raises(ControlSocketError, match="there is no group nobody-has-this"):
        async with serving(healthy, path, access=Access(read_group="nobody-has-this")):
            pass
    assert not path.exists()
