"""Commands that show what the daemon knows."""

from __future__ import annotations

import os
import sys

import typer

from wccpd.ctl.application import Output, OutputFormat, app, ask, fail
from wccpd.exit_codes import ExitCode


@app.command()
def status(context: typer.Context, output: Output = OutputFormat.TABLE) -> None:
    """Say whether traffic is being inspected, and if not, why not."""
    answer = ask(context, "/v1/status")
    if output is OutputFormat.JSON:
        import json

        typer.echo(json.dumps(answer, indent=2))
        return
    from wccpd.status import document, text

    try:
        tree = document.from_document(answer)
    except document.DocumentError as error:
        fail(error, ExitCode.UNREACHABLE)
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text.print_to_terminal(tree)
    else:
        typer.echo(text.plain(tree))
