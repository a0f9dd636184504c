"""`wccpctl decode`: needs no daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from wccpd.ctl.application import Output, OutputFormat, app, fail
from wccpd.exit_codes import ExitCode


@app.command()
def decode(
    what: Annotated[
        str, typer.Argument(metavar="FILE|HEX", help="A capture (pcap, pcapng), or a message in hexadecimal.")
    ],
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Say whether digests are right for this password.")
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say in words what WCCP messages and redirected packets mean, and what a router would refuse of them."""
    from wccpd import decode as decoder

    try:
        password = password_file.read_bytes().removesuffix(b"\n") if password_file is not None else None
        found = (
            list(decoder.decode_file(Path(what), password))
            if os.path.isfile(what)
            else [decoder.decode_hex(what, password)]
        )
    except (OSError, decoder.SourceError) as error:
        fail(error, ExitCode.CONFIG)
    if output is OutputFormat.JSON:
        shown = [{"title": each.title, "fault": each.fault, "content": each.content} for each in found]
        typer.echo(json.dumps(shown, indent=2))
    elif found:
        typer.echo("\n\n".join(map(decoder.text, found)))
    else:
        fail(f"there is nothing of WCCP in {what}", ExitCode.FAILURE)
    if any(each.fault for each in found):
        raise typer.Exit(ExitCode.FAILURE)
