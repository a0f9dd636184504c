"""`wccpctl`'s read-outs against a real control socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wccpd import ctl
from wccpd.exit_codes import ExitCode
from wccpd.status.control import ControlServer
from wccpd.status.view import Status


class Asker:
    """Runs commands against a server that shows one status, or several in turn."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def __call__(self, *words: str, shows: list[Status]) -> Result:
        async def newest() -> Status:
            return shows.pop(0) if len(shows) > 1 else shows[0]

        async with ControlServer(newest, self.path):
            return await asyncio.to_thread(CliRunner().invoke, ctl.app, ["--socket", str(self.path), *words])


@pytest.fixture
def ask(tmp_path: Path) -> Asker:
    return Asker(tmp_path / "control.sock")


@pytest.mark.parametrize(
    ("command", "title"),
    [
        ("services", "Services (packets)"),
        ("caches", "Caches (packets)"),
        ("tunnels", "Tunnels"),
        ("bgp", "BGP: up"),
        ("routes", "Routes learnt: 2"),
    ],
)
async def test_a_part_is_shown_by_itself_and_as_json(
    ask: Asker, healthy: Status, command: str, title: str
) -> None:
    shown = await ask(command, shows=[healthy])
    assert shown.exit_code == 0
    assert shown.output.startswith(title)
    document = json.loads((await ask(command, "-o", "json", shows=[healthy])).output)
    assert document
    assert isinstance(document, dict if command == "bgp" else list)


async def test_a_part_can_be_narrowed_to_what_has_a_name(ask: Asker, healthy: Status) -> None:
    shown = await ask("caches", "10.100.1.22", shows=[healthy])
    assert "10.100.1.22" in shown.output
    assert "10.100.1.21" not in shown.output
    routes = json.loads((await ask("routes", "10.2.0.0/16", "-o", "json", shows=[healthy])).output)
    assert [each["prefix"] for each in routes] == ["10.2.0.0/16"]
    missing = await ask("caches", "10.9.9.9", shows=[healthy])
    assert (missing.exit_code, missing.stderr) == (
        ExitCode.FAILURE,
        "wccpctl: there is no 10.9.9.9 among the caches\n",
    )


async def test_without_bgp_its_read_outs_say_so(ask: Asker, healthy: Status) -> None:
    for command in ("bgp", "routes"):
        result = await ask(command, shows=[replace(healthy, bgp=None)])
        assert (result.exit_code, result.stderr) == (
            ExitCode.FAILURE,
            "wccpctl: bgp is not configured\n",
        )


async def test_buckets_are_drawn_and_listed(ask: Asker, healthy: Status) -> None:
    drawn = await ask("buckets", "web-cache", shows=[healthy])
    assert drawn.output.count("ab" * 16) == 8
    (listed,) = json.loads((await ask("buckets", "-o", "json", shows=[healthy])).output)
    assert (listed["service"], len(listed["owners"])) == ("web-cache", 256)
    assert (await ask("buckets", "70", shows=[healthy])).exit_code == ExitCode.FAILURE


async def test_check_ends_as_monitoring_systems_expect(
    ask: Asker, healthy: Status, nothing_joined: Status, tmp_path: Path
) -> None:
    assert (await ask("check", shows=[healthy])).exit_code == 0
    assert (await ask("check", shows=[nothing_joined])).exit_code == 2
    gone = CliRunner().invoke(ctl.app, ["--socket", str(tmp_path / "none"), "check"])
    assert gone.exit_code == 3
    assert gone.output.startswith("WCCP UNKNOWN - wccpd is not running")


async def test_wait_ends_when_the_caches_are_there(
    ask: Asker, healthy: Status, nothing_joined: Status
) -> None:
    assert (await ask("wait", "--usable", "2", shows=[nothing_joined, healthy])).exit_code == 0
    late = await ask("wait", "--usable", "3", "--timeout", "0", shows=[healthy])
    assert (late.exit_code, late.stderr) == (
        ExitCode.FAILURE,
        "wccpctl: not within 0 s: web-cache has 2 usable caches\n",
    )
    half = replace(healthy, services=(replace(healthy.services[0], buckets_assigned=128),))
    late = await ask("wait", "--timeout", "0", shows=[half])
    assert "128 of 256 buckets assigned" in late.stderr


async def test_show_ip_wccp_takes_ciscos_words(ask: Asker, healthy: Status) -> None:
    assert "Service Identifier: web-cache" in (await ask("show", "ip", "wccp", shows=[healthy])).output
    assert (
        "Hash Allotment" in (await ask("show", "ip", "wccp", "web-cache", "detail", shows=[healthy])).output
    )
    assert (await ask("show", "ip", "wccp", "71", shows=[healthy])).exit_code == ExitCode.FAILURE
    assert (await ask("show", "ip", "route", shows=[healthy])).exit_code == ExitCode.CONFIG
