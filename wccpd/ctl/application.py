"""The command line that all commands belong to, and what they share: the socket, how to ask, how to end."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from typing import NoReturn

DEFAULT_SOCKET = Path("/run/wccpd/control.sock")
COMMAND_SECONDS = 60.0
"""How long a verb may take; at a reload the daemon gives gobgpd 10 s to take it, and as long to take it back."""

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


Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to write it.")]


@app.callback()
def options(
    context: typer.Context,
    socket: Annotated[
        Path, typer.Option("--socket", envvar="WCCPD_CONTROL_SOCKET", metavar="PATH", help="Control socket.")
    ] = DEFAULT_SOCKET,
) -> None:
    """Take the options that all commands share."""
    context.obj = socket


def ask(context: typer.Context, resource: str) -> object:
    """One resource of the control API as plain JSON values; ends the command if the daemon does not answer."""
    from wccpd.status import client

    try:
        return client.fetch(context.obj, resource)
    except client.RefusedError as error:
        fail(error, ExitCode.FAILURE)
    except client.UnreachableError as error:
        fail(error, ExitCode.UNREACHABLE)


def command(context: typer.Context, verb: str, body: bytes = b"") -> object:
    """Have the daemon carry out a verb; ends the command, with the reason, if it does not."""
    from wccpd.status import client

    try:
        return client.command(context.obj, verb, body, timeout_seconds=COMMAND_SECONDS)
    except client.RefusedError as error:
        fail(error, ExitCode.FAILURE)
    except client.UnreachableError as error:
        fail(error, ExitCode.UNREACHABLE)


def fail(reason: object, code: ExitCode) -> NoReturn:
    """End the command, saying why on standard error."""
    typer.echo(f"wccpctl: {reason}", err=True)
    raise typer.Exit(code) from None
