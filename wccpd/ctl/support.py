"""`wccpctl tech-support`: for whoever is to help."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wccpd.ctl.application import app, fail
from wccpd.exit_codes import ExitCode


@app.command()
def tech_support(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="Archive to write; named after host and time if not said."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Configuration, if the daemon cannot say where it is.")
    ] = None,
) -> None:
    """Gather status, events, configuration, kernel state, log and versions in one archive, without passwords."""
    import socket

    from wccpd import support

    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = file or Path(f"wccpd-{socket.gethostname().partition('.')[0]}-{moment}.tar.gz")
    bundle = support.gather(context.obj, config)
    try:
        support.write(bundle, path)
    except OSError as error:
        fail(f"cannot write {path}: {(error.strerror or str(error)).lower()}", ExitCode.FAILURE)
    for name in bundle.missing:
        reason = bundle.parts[name].decode(errors="replace").strip().splitlines()[0]
        typer.echo(f"wccpctl: {name} is {reason}", err=True)
    typer.echo(path)
