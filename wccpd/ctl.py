"""The `wccpctl` command: asks a running daemon over its control socket and shows the answer.

Knows nothing of the daemon but the control API. Standard output holds the answer alone, fit for a pipe.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wccpd.exit_codes import ExitCode

DEFAULT_SOCKET = Path("/run/wccpd/control.sock")
COMMAND_SECONDS = 15.0
"""How long a verb may take; the daemon gives gobgpd 3 s to confirm."""

app = typer.Typer(
    name="wccpctl",
    help="Ask a running wccpd.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class OutputFormat(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"


@app.callback()
def options(
    context: typer.Context,
    socket: Annotated[
        Path, typer.Option("--socket", envvar="WCCPD_CONTROL_SOCKET", metavar="PATH", help="Control socket.")
    ] = DEFAULT_SOCKET,
) -> None:
    """Take the options that all commands share."""
    context.obj = socket


@app.command()
def status(
    context: typer.Context,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to write it.")
    ] = OutputFormat.TABLE,
) -> None:
    """Say whether traffic is being inspected, and if not, why not."""
    from wccpd.status import client, document, text  # noqa: PLC0415 - not needed for --help

    try:
        answer = client.fetch(context.obj, "/v1/status")
        if output is OutputFormat.JSON:
            import json  # noqa: PLC0415 - not needed for --help

            typer.echo(json.dumps(answer, indent=2))
            return
        tree = document.from_document(answer)
    except (client.UnreachableError, document.DocumentError) as error:
        typer.echo(f"wccpctl: {error}", err=True)
        raise typer.Exit(ExitCode.UNREACHABLE) from None
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text.print_to_terminal(tree)
    else:
        typer.echo(text.plain(tree))


class DrainTarget(StrEnum):
    """What can be taken out of service."""

    ROUTER = "router"


@app.command()
def drain(
    context: typer.Context, target: Annotated[DrainTarget, typer.Argument(help="What to drain.")]
) -> None:
    """Take it out of service: the router withdraws what it advertises, new traffic goes to other routers."""
    _command(context.obj, f"/v1/{target}/drain", "drained: nothing is advertised any more")


@app.command()
def undrain(
    context: typer.Context, target: Annotated[DrainTarget, typer.Argument(help="What to put back.")]
) -> None:
    """Put it back into service: the router advertises again as soon as it can do its duty."""
    _command(context.obj, f"/v1/{target}/undrain", "back in service")


def _command(socket_path: Path, verb: str, done: str) -> None:
    from wccpd.status import client  # noqa: PLC0415 - not needed for --help

    try:
        answer = client.command(socket_path, verb, timeout_seconds=COMMAND_SECONDS)
    except client.RefusedError as error:
        typer.echo(f"wccpctl: {error}", err=True)
        raise typer.Exit(ExitCode.FAILURE) from None
    except client.UnreachableError as error:
        typer.echo(f"wccpctl: {error}", err=True)
        raise typer.Exit(ExitCode.UNREACHABLE) from None
    typer.echo(done)
    if isinstance(answer, dict) and answer.get("confirmed") is False:
        typer.echo("gobgpd did not confirm it yet; it is told as soon as it answers", err=True)


def main() -> None:
    """Entry point of the `wccpctl` command."""
    app()
