"""`wccpctl events`, `watch`, `counters` and `completion` against a real control socket."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wccpd import ctl
from wccpd.exit_codes import ExitCode
from wccpd.status import client, text
from wccpd.status.control import ControlServer
from wccpd.status.document import from_document
from wccpd.status.events import EventLog
from wccpd.status.view import Status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def events() -> EventLog:
    events = EventLog("run")
    for name in ("a", "b", "c"):
        events.add(name, "info", "2026-01-02T03:04:05.678Z", {"service": "web-cache", "reason": ""})
    return events


def served(path: Path, status: Status, events: EventLog) -> ControlServer:
    async def newest() -> Status:
        return status

    return ControlServer(newest, path, events=events)


async def wccpctl(path: Path, *words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, ctl.app, ["--socket", str(path), *words])


async def test_events_are_lines_without_control_characters(
    path: Path, healthy: Status, events: EventLog
) -> None:
    events.add(
        "datagram_refused",
        "warning",
        "2026-01-02T03:04:06.1Z",
        {"reason": "wrong\x1b[31mpassword", "detail": "two words", "service": None},
    )
    async with served(path, healthy, events):
        shown = await wccpctl(path, "events", "--after", "run-2")
        listed = await wccpctl(path, "events", "-o", "json")
    assert shown.output == (
        "2026-01-02 03:04:05  info     c  service=web-cache\n"
        '2026-01-02 03:04:06  warning  datagram_refused  reason=wrong?[31mpassword  detail="two words"\n'
    )
    assert [json.loads(line)["id"] for line in listed.output.splitlines()] == [
        "run-1",
        "run-2",
        "run-3",
        "run-4",
    ]


async def test_following_shows_what_is_kept_and_what_comes_and_ends_with_3_when_the_daemon_ends(
    path: Path, healthy: Status, events: EventLog
) -> None:
    async with asyncio.timeout(20):
        async with served(path, healthy, events):
            following = asyncio.get_running_loop().create_task(
                wccpctl(path, "events", "-f", "-o", "json"), name="reader"
            )
            while not events.followers:  # noqa: ASYNC110 - polled, as in every test
                await asyncio.sleep(0.01)
            events.add("d", "info", "now", {})
            await asyncio.sleep(0.2)
        result = await following
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()] == ["a", "b", "c", "d"]
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr == "wccpctl: wccpd has ended\n"


async def test_following_says_how_many_events_are_forgotten(path: Path, healthy: Status) -> None:
    events = EventLog("run", capacity=2)
    for name in "abcdef":
        events.add(name, "info", "now", {})

    def first_two() -> list[tuple[str, dict[str, object]]]:
        stream = client.follow(path, "run-1")
        return [next(stream), next(stream)]

    async with served(path, healthy, events):
        missed, event = await asyncio.to_thread(first_two)
    assert missed == ("missed", {"missed": 3})
    assert (event[0], event[1]["id"]) == ("e", "run-5")


async def test_without_a_daemon_following_ends_with_3(path: Path) -> None:
    assert (await wccpctl(path, "events", "-f")).exit_code == ExitCode.UNREACHABLE


async def test_watching_shows_screen_and_newest_events(path: Path, healthy: Status, events: EventLog) -> None:
    async with served(path, healthy, events):
        shown = await wccpctl(path, "watch", "-n", "0.1", "--count", "2")
        listed = await wccpctl(path, "watch", "-n", "0.1", "--count", "2", "-o", "json")
    assert shown.output.count(text.plain(healthy)) == 2
    assert shown.output.endswith("  2026-01-02 03:04:05  info     c  service=web-cache\n")
    assert [from_document(json.loads(line)) for line in listed.output.splitlines()] == [healthy, healthy]


async def test_counters_are_a_table_or_a_list_with_documented_keys(
    path: Path, healthy: Status, events: EventLog
) -> None:
    async with served(path, healthy, events):
        shown = await wccpctl(path, "counters")
        listed = await wccpctl(path, "counters", "-o", "json")
        rated = await wccpctl(path, "counters", "--rate", "0.05", "-o", "json")
    assert ["tunnel", "tgw-a", "packets_received", "12345678"] in [
        line.split() for line in shown.output.splitlines()
    ]
    assert {
        "part": "cache",
        "name": "web-cache/10.100.1.21",
        "counter": "packets_returned",
        "value": 42,
    } in json.loads(listed.output)
    assert {each["value"] for each in json.loads(rated.output)} == {0.0}


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o default"), ("zsh", "#compdef wccpctl")])
def test_a_completion_script_is_printed_for_each_shell(shell: str, word: str) -> None:
    shown = CliRunner().invoke(ctl.app, ["completion", shell])
    assert shown.exit_code == 0
    assert word in shown.output
    assert "_WCCPCTL_COMPLETE" in shown.output


def test_bash_completes_commands_by_that_script(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(CliRunner().invoke(ctl.app, ["completion", "bash"]).output)
    ask = f'. {script}; COMP_WORDS=(wccpctl buc); COMP_CWORD=1; _wccpctl_completion wccpctl; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", ask],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.stdout == "buckets\n", done.stderr
