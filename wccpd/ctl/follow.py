"""Commands that show what happens: events as they come, the screen again and again, counters and their rates."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wccpd.ctl.application import Output, OutputFormat, app, ask, fail
from wccpd.ctl.show import is_terminal, read
from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from wccpd.status.counters import Counter

EVENTS_ON_SCREEN = 6


@app.command()
def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those that come.")] = False,
    after: Annotated[str, typer.Option(metavar="ID", help="Only those after this one.")] = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what happened lately: caches, assignments, refusals and why, sessions, faults. JSON is one line each."""

    def write(event: dict[str, Any]) -> None:
        typer.echo(json.dumps(event) if output is OutputFormat.JSON else event_line(event))

    if follow:
        _follow(context, after, write)
        return
    for event in _recent(context, after):
        write(event)


def _follow(context: typer.Context, after: str, write: Any) -> None:  # noqa: ANN401 - what takes an event
    from wccpd.status import client

    try:
        for name, data in client.follow(context.obj, after):
            if name == "missed":
                typer.echo(f"{data['missed']} events are not kept any more", err=True)
            elif name == "reader_dropped":
                fail(data["error"], ExitCode.FAILURE)
            else:
                write(data)
    except client.UnreachableError as error:
        fail(error, ExitCode.UNREACHABLE)
    except KeyboardInterrupt:
        return


def _recent(context: typer.Context, after: str = "") -> list[dict[str, Any]]:
    """The events that are kept; those after an id, if it is among them."""
    answer = ask(context, "/v1/events/recent")
    if not isinstance(answer, dict) or not isinstance(answer.get("events"), list):
        fail("the daemon's answer cannot be read: it has no events", ExitCode.UNREACHABLE)
    found: list[dict[str, Any]] = answer["events"]
    ids = [each["id"] for each in found]
    return found[ids.index(after) + 1 :] if after in ids else found


def event_line(event: dict[str, Any]) -> str:
    """Time, level, name, and what it is about."""
    moment = str(event["time"]).partition(".")[0].rstrip("Z").replace("T", " ")
    about = (f"{name}={_word(value)}" for name, value in event["fields"].items() if value not in {"", None})
    return "  ".join((moment, f"{event['level']:<7}", str(event["event"]), *about))


def _word(value: object) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return json.dumps(clean, ensure_ascii=False) if " " in clean else clean


@app.command()
def watch(
    context: typer.Context,
    interval: Annotated[float, typer.Option("--interval", "-n", min=0.1, metavar="SECONDS")] = 2.0,
    count: Annotated[int, typer.Option(min=0, help="End after so many screens; 0: when interrupted.")] = 0,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the status and the newest events again and again. JSON is one status in each line."""
    from wccpd.status import document, text

    shown = 0
    try:
        while True:
            tree = read(context)
            if output is OutputFormat.JSON:
                typer.echo(json.dumps(document.to_document(tree)))
            else:
                newest = list(map(event_line, _recent(context)[-EVENTS_ON_SCREEN:]))
                if is_terminal():
                    text.clear_terminal()
                    text.print_to_terminal(tree)
                else:
                    typer.echo(text.plain(tree))
                typer.echo("\n".join(("", "Newest events", *(f"  {line}" for line in newest))))
            shown += 1
            if shown == count:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        return


@app.command()
def counters(
    context: typer.Context,
    rate: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Count for so long and show what came per second.")
    ] = 0.0,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show every counter: of services, redirect lists, caches, tunnels, BGP sessions and refused messages."""
    from wccpd.status import counters as counting
    from wccpd.status import text

    found = counting.counters(read(context))
    if rate:
        began = time.monotonic()
        time.sleep(rate)
        found = counting.rates(found, counting.counters(read(context)), time.monotonic() - began)
    if output is OutputFormat.JSON:
        typer.echo(json.dumps([_counter_document(each) for each in found], indent=2))
        return
    table = counting.table(found, per_second=bool(rate))
    if is_terminal():
        text.print_tables_to_terminal((table,))
    else:
        typer.echo(text.plain_tables((table,)))


def _counter_document(counter: Counter) -> dict[str, object]:
    from wccpd.status import document

    found = document.to_document(counter)
    assert isinstance(found, dict)
    return found
