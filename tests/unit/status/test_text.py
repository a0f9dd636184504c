"""The screen of `wccpctl status`, held letter by letter; `UPDATE_GOLDENS=1` writes the files anew."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from wccpd.status import text
from wccpd.status.screen import ROUTES_SHOWN, _age, _count
from wccpd.status.view import Health, RouteStatus, Status

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("situation", ["healthy", "nothing_joined", "bgp_down", "refused_messages"])
def test_screen_of_a_situation_is_as_agreed(situation: str, request: pytest.FixtureRequest) -> None:
    shown = text.plain(request.getfixturevalue(situation)) + "\n"
    golden = GOLDENS / f"{situation}.txt"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        golden.write_text(shown)
    assert shown == golden.read_text()


@pytest.mark.parametrize("situation", ["healthy", "nothing_joined", "bgp_down", "refused_messages"])
def test_screen_fits_80_columns_and_has_no_control_characters(
    situation: str, request: pytest.FixtureRequest
) -> None:
    lines = text.plain(request.getfixturevalue(situation)).split("\n")
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("situation", ["healthy", "nothing_joined", "bgp_down", "refused_messages"])
def test_terminal_tables_fit_80_columns_and_say_what_the_text_says(
    situation: str, request: pytest.FixtureRequest
) -> None:
    status = request.getfixturevalue(situation)
    console = Console(
        file=io.StringIO(), width=80, highlight=False, markup=False, emoji=False, color_system=None
    )
    text.print_to_terminal(status, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.split("\n"))) <= 80

    def words(screen: str) -> set[str]:
        return {word.strip("-─:") for word in screen.split()} - {""}

    assert words(text.plain(status)) <= words(shown)


def test_the_longest_values_still_fit_80_columns(refused_messages: Status) -> None:
    bgp = refused_messages.bgp
    assert bgp is not None
    far = "169.254.253.250"
    longest = replace(
        refused_messages,
        tunnels=tuple(
            replace(
                each, name="transit-ab", state=Health.DEGRADED, remote="100.100.100.100", inside=far + "/29"
            )
            for each in refused_messages.tunnels
        ),
        bgp=replace(
            bgp,
            peers=tuple(
                replace(each, address=far, tunnel="transit-ab", uptime_seconds=172_000.0, received=5000)
                for each in bgp.peers
            ),
        ),
        caches=tuple(
            replace(each, address="100.100.100.100", packets_redirected=10**8, packets_returned=10**8)
            for each in refused_messages.caches
        ),
    )
    assert max(map(len, text.plain(longest).split("\n"))) <= 80


def test_terminal_answer_is_coloured_and_plain_text_is_not(healthy: Status) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    text.print_to_terminal(healthy, console)
    assert "\x1b[1;32mYES" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text.plain(healthy)


def test_square_brackets_from_the_network_are_not_taken_for_markup(refused_messages: Status) -> None:
    status = replace(refused_messages, reasons=("[bold]x[/bold]",))
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    text.print_to_terminal(status, console)
    assert "[bold]x[/bold]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_first_line_answers_the_question_of_3_am(healthy: Status, bgp_down: Status) -> None:
    assert text.plain(healthy).startswith("Is traffic being inspected? YES\n\n")
    assert text.plain(bgp_down).startswith("Is traffic being inspected? NO\n  - no BGP session")


def test_thousands_of_routes_leave_the_screen_short(healthy: Status) -> None:
    assert healthy.bgp is not None
    routes = tuple(RouteStatus(f"10.{n // 256}.{n % 256}.0/24", ("tgw-a",), stale=False) for n in range(5000))
    shown = text.plain(replace(healthy, bgp=replace(healthy.bgp, routes=routes)))
    assert f"and {5000 - ROUTES_SHOWN} more routes" in shown
    assert len(shown.splitlines()) < 60


def test_a_router_without_bgp_and_tunnels_says_so(healthy: Status) -> None:
    shown = text.plain(replace(healthy, bgp=None, tunnels=()))
    assert "BGP\n  not configured\n" in shown
    assert "Tunnels\n  none configured\n" in shown


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (3599, "59m"),
        (3600, "1h0m"),
        (172_799, "47h59m"),
        (172_800, "2d0h"),
    ],
)
def test_durations_are_short(seconds: float, expected: str) -> None:
    assert _age(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100k"),
        (999_999, "999k"),
        (1_234_567, "1.2M"),
        (5 * 10**15, "5P"),
    ],
)
def test_counts_are_short(number: int, expected: str) -> None:
    assert _count(number) == expected


def test_a_reload_on_trial_and_a_file_that_is_not_in_force_are_said(healthy: Status) -> None:
    router = replace(healthy.router, rollback_in_seconds=42.4, config_unlike_file="it was rolled back")
    shown = " ".join(text.plain(replace(healthy, router=router)).split())
    assert "rolled back in 42 s unless `wccpctl confirm` comes" in shown
    assert "not in force: it was rolled back (`wccpctl reload` takes it)" in shown
