"""The ring of events, and the stream of them over a real control socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.daemon import wait_for
from wccpd import ctl
from wccpd.exit_codes import ExitCode
from wccpd.status import client
from wccpd.status.control import ControlServer
from wccpd.status.journal import Journal
from wccpd.status.view import Status


def filled(journal: Journal, *names: str) -> Journal:
    for name in names:
        journal.append({"event": name, "level": "info", "timestamp": "2026-01-02T03:04:05.678Z"})
    return journal


def names(journal: Journal, after: int) -> list[str]:
    return [each.fields["event"] for each in journal.after(after)[0]]


def test_events_after_a_number_come_in_order() -> None:
    journal = filled(Journal(), "a", "b", "c")
    assert names(journal, 0) == ["a", "b", "c"]
    assert names(journal, 2) == ["c"]
    assert journal.after(3) == ((), 0)


def test_what_is_not_kept_any_more_is_counted() -> None:
    journal = filled(Journal(kept=2), "a", "b", "c", "d")
    events, missed = journal.after(1)
    assert [each.number for each in events] == [3, 4]
    assert missed == 1


def test_a_number_of_an_earlier_life_begins_anew() -> None:
    assert names(filled(Journal(), "a"), 500) == ["a"]


async def test_whoever_waits_is_woken_from_any_thread() -> None:
    journal = filled(Journal(), "a")
    await asyncio.wait_for(journal.wait(0), 5)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(journal.wait(1), name=f"reader {number}")
        await asyncio.sleep(0)
        thread = threading.Thread(target=filled, args=(journal, "b"))
        thread.start()
    thread.join()


async def test_whoever_stops_waiting_is_forgotten() -> None:
    journal = Journal()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await journal.wait(0)
    assert not journal._waiting


def served(path: Path, status: Status, journal: Journal) -> ControlServer:
    async def newest() -> Status:
        return status

    return ControlServer(newest, path, journal=journal)


def followed(
    path: Path, after: int, enough: Callable[[list[dict[str, object]]], bool]
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for event in client.follow(path, after):
        found.append(event)
        if enough(found):
            return found
    raise AssertionError("the stream ended")


async def test_a_stream_goes_on_where_its_reader_was_and_brings_what_comes(
    tmp_path: Path, healthy: Status
) -> None:
    path, journal = tmp_path / "control.sock", filled(Journal(), "a", "b")
    async with served(path, healthy, journal), asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(
            asyncio.to_thread(followed, path, 1, lambda found: found[-1]["event"] == "d"), name="reader"
        )
        await asyncio.sleep(0.2)
        filled(journal, "c", "d")
    found = reading.result()
    assert [(each["number"], each["event"]) for each in found] == [(2, "b"), (3, "c"), (4, "d")]


async def test_a_reader_is_told_what_it_missed(tmp_path: Path, healthy: Status) -> None:
    path, journal = tmp_path / "control.sock", filled(Journal(kept=2), *"abcdef")
    async with served(path, healthy, journal):
        found = await asyncio.to_thread(followed, path, 1, lambda found: len(found) == 3)
    assert found[0] == {"missed": 3}
    assert [each["event"] for each in found[1:]] == ["e", "f"]


async def test_a_stream_ends_with_the_daemon(tmp_path: Path, healthy: Status) -> None:
    path = tmp_path / "control.sock"

    async def live_shortly() -> None:
        async with served(path, healthy, filled(Journal(), "a")):
            await asyncio.sleep(0.5)

    async def read() -> None:
        await asyncio.to_thread(wait_for, path.exists, "it listens")
        await asyncio.to_thread(followed, path, 0, lambda _: False)

    with pytest.raises(client.UnreachableError):
        await asyncio.wait_for(asyncio.gather(live_shortly(), read()), 10)


async def test_wccpctl_shows_events_as_lines_and_as_json(tmp_path: Path, healthy: Status) -> None:
    path, journal = tmp_path / "control.sock", Journal()
    journal.append(
        {
            "event": "datagram_refused",
            "level": "warning",
            "timestamp": "2026-01-02T03:04:05.678Z",
            "reason": "wrong\x1b[31mpassword",
            "service": None,
        }
    )
    async with served(path, healthy, journal):
        shown = await asyncio.to_thread(CliRunner().invoke, ctl.app, ["--socket", str(path), "events"])
        listed = await asyncio.to_thread(
            CliRunner().invoke, ctl.app, ["--socket", str(path), "events", "-o", "json"]
        )
        refused = await asyncio.to_thread(client.fetch, path, "/v1/version")
        with pytest.raises(client.UnreachableError, match="is no number of an event"):
            await asyncio.to_thread(client.fetch, path, "/v1/events?after=x")
    assert refused
    assert shown.output == (
        "    1  2026-01-02T03:04:05  warning  datagram_refused  reason=wrong?[31mpassword\n"
    )
    assert json.loads(listed.output)["reason"] == "wrong\x1b[31mpassword"


async def test_following_ends_with_3_when_there_is_no_daemon(tmp_path: Path) -> None:
    result = await asyncio.to_thread(
        CliRunner().invoke, ctl.app, ["--socket", str(tmp_path / "none"), "events", "-f"]
    )
    assert result.exit_code == ExitCode.UNREACHABLE
