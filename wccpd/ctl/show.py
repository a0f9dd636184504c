"""Commands that show what the daemon knows."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wccpd.ctl.application import Output, OutputFormat, app, ask, fail
from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from wccpd.status.screen import Part
    from wccpd.status.view import Status

POLL_SECONDS = 0.5
Only = Annotated[str, typer.Argument(metavar="[NAME]", help="Only this one; all if not said.")]


@app.command()
def status(context: typer.Context, output: Output = OutputFormat.TABLE) -> None:
    """Say whether traffic is being inspected, and if not, why not."""
    if output is OutputFormat.JSON:
        _write_json(ask(context, "/v1/status"))
        return
    from wccpd.status import text

    tree = read(context)
    if is_terminal():
        text.print_to_terminal(tree)
    else:
        typer.echo(text.plain(tree))


@app.command()
def services(context: typer.Context, name: Only = "", output: Output = OutputFormat.TABLE) -> None:
    """Show the service groups: what each redirects, its caches and buckets, what was not redirected and why."""
    _show(context, "services", output, name, key="service")


@app.command()
def caches(context: typer.Context, name: Only = "", output: Output = OutputFormat.TABLE) -> None:
    """Show the caches: state, rung of the ladder and why, methods, share of buckets, traffic, last HERE_I_AM."""
    _show(context, "caches", output, name, key="address")


@app.command()
def tunnels(context: typer.Context, name: Only = "", output: Output = OutputFormat.TABLE) -> None:
    """Show the tunnels to the Transit Gateway."""
    _show(context, "tunnels", output, name, key="name")


@app.command()
def bgp(context: typer.Context, output: Output = OutputFormat.TABLE) -> None:
    """Show the BGP sessions, and what is advertised."""
    _show(context, "bgp", output)


@app.command()
def routes(context: typer.Context, name: Only = "", output: Output = OutputFormat.TABLE) -> None:
    """Show every prefix learnt from the Transit Gateway, and those that were refused."""
    _show(context, "routes", output, name, key="prefix")


@app.command()
def buckets(context: typer.Context, name: Only = "", output: Output = OutputFormat.TABLE) -> None:
    """Draw who owns each of the 256 buckets of a service."""
    from wccpd.status import buckets as drawing
    from wccpd.status import text

    tree = read(context)
    shown = [each for each in tree.services if name in {"", each.service}]
    if name and not shown:
        fail(f"there is no service {name}", ExitCode.FAILURE)
    if output is OutputFormat.JSON:
        _write_json([{"service": each.service, "owners": each.bucket_owners} for each in shown])
        return
    pictures = [
        drawing.picture(
            each, {cache.address: cache.buckets for cache in tree.caches if cache.service == each.service}
        )
        for each in shown
    ]
    if is_terminal():
        text.print_buckets_to_terminal(pictures)
    else:
        typer.echo("\n\n".join(map(drawing.plain, pictures)))


@app.command()
def check(context: typer.Context) -> None:
    """Say in one line whether all is well, with figures, for Nagios and its kin: exit 0, 1, 2 or 3."""
    from wccpd.status import client, document, monitoring

    try:
        tree = document.from_document(client.fetch(context.obj, "/v1/status"))
    except (client.UnreachableError, document.DocumentError) as error:
        typer.echo(f"WCCP UNKNOWN - {error}")
        raise typer.Exit(monitoring.Severity.UNKNOWN) from None
    verdict = monitoring.judge(tree)
    typer.echo(verdict.line)
    raise typer.Exit(verdict.severity)


@app.command()
def wait(
    context: typer.Context,
    usable: Annotated[int, typer.Option(min=1, help="Caches that every service must have.")] = 1,
    service: Annotated[str, typer.Option(help="Only this service.")] = "",
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait.")] = 60.0,
) -> None:
    """Wait until services have usable caches and all their buckets assigned; exit with 1 if they do not in time."""
    from wccpd.status import client, document

    until = time.monotonic() + timeout
    missing = "nothing was asked yet"
    while True:
        try:
            missing = _missing(
                document.from_document(client.fetch(context.obj, "/v1/status")), usable, service
            )
        except client.UnreachableError as error:
            missing = str(error)
        except document.DocumentError as error:
            fail(error, ExitCode.UNREACHABLE)
        if not missing:
            return
        if time.monotonic() >= until:
            fail(f"not within {timeout:g} s: {missing}", ExitCode.FAILURE)
        time.sleep(POLL_SECONDS)


@app.command()
def show(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="ip wccp [SERVICE] [detail|view|service]")],
) -> None:
    """Show what `show ip wccp` shows on a Cisco router, in its layout."""
    from wccpd.status import cisco

    rest = [each.lower() for each in words]
    if rest[:2] != ["ip", "wccp"] or len(rest) > 4:
        fail("what can be shown is: show ip wccp [SERVICE] [detail|view|service]", ExitCode.CONFIG)
    rest = rest[2:]
    view = cisco.View(rest.pop()) if rest and rest[-1] in set(cisco.View) - {""} else cisco.View.SUMMARY
    tree = read(context)
    if rest and rest[0] not in {each.service for each in tree.services}:
        fail(f"there is no service {rest[0]}", ExitCode.FAILURE)
    typer.echo(cisco.show_ip_wccp(tree, rest[0] if rest else "", view))


def read(context: typer.Context) -> Status:
    """The status tree; ends the command if it cannot be had."""
    from wccpd.status import document

    try:
        return document.from_document(ask(context, "/v1/status"))
    except document.DocumentError as error:
        fail(error, ExitCode.UNREACHABLE)


def _missing(tree: Status, usable: int, service: str) -> str:
    """What is not there yet, in words; empty when all is."""
    wanted = [each for each in tree.services if service in {"", each.service}]
    if not wanted:
        return f"there is no service {service}"
    for each in wanted:
        if each.caches_usable < usable:
            return f"{each.service} has {each.caches_usable} usable caches; {each.reason}".rstrip("; ")
        if each.buckets_assigned < each.buckets_total:
            return f"{each.service} has {each.buckets_assigned} of {each.buckets_total} buckets assigned"
    return ""


def _show(context: typer.Context, which: str, output: OutputFormat, name: str = "", key: str = "") -> None:
    """One part of the status, whole or what has a name."""
    from dataclasses import replace

    from wccpd.status import document, screen, text

    tree = read(context)
    part: Part = screen.Part(which)
    if part in {screen.Part.BGP, screen.Part.ROUTES} and tree.bgp is None:
        fail("bgp is not configured", ExitCode.FAILURE)
    whole = tree.bgp if part is screen.Part.ROUTES else tree
    rows = getattr(whole, which)
    if name:
        rows = tuple(row for row in rows if getattr(row, key) == name)
        if not rows:
            fail(f"there is no {name} among the {which}", ExitCode.FAILURE)
        if part is screen.Part.ROUTES and tree.bgp is not None:
            tree = replace(tree, bgp=replace(tree.bgp, routes=rows))
        else:
            narrowed: dict[str, Any] = {which: rows}
            tree = replace(tree, **narrowed)
    if output is OutputFormat.JSON:
        _write_json(document.to_document(rows))
        return
    tables = screen.part(tree, part)
    if is_terminal():
        text.print_tables_to_terminal(tables)
    else:
        typer.echo(text.plain_tables(tables))


def _write_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def is_terminal() -> bool:
    """Whether standard output is a person's, who has not asked for text without colour (no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
