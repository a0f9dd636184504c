"""Commands that change what the daemon does."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from wccpd.ctl.application import app, ask, command, fail
from wccpd.exit_codes import ExitCode

Target = Annotated[
    str, typer.Argument(metavar="router|CACHE", help="This router, or the address of a cache.")
]
DRAIN_POLL_SECONDS = 1.0


@app.command()
def drain(
    context: typer.Context,
    target: Target,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a cache has no flows any more.")] = False,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait.")] = 3600.0,
) -> None:
    """Take it out of service: new traffic goes to other routers, or new flows to other caches."""
    if target == "router":
        _carry_out(context, "/v1/router/drain", "drained: nothing is advertised any more")
        return
    _carry_out(context, f"/v1/caches/{target}/drain", f"{target} gets no new flows")
    if wait:
        _await_flows(context, target, timeout)


@app.command()
def undrain(context: typer.Context, target: Target) -> None:
    """Put it back into service: the router advertises as soon as it can do its duty, the cache gets new flows."""
    if target == "router":
        _carry_out(context, "/v1/router/undrain", "back in service")
    else:
        _carry_out(context, f"/v1/caches/{target}/undrain", f"{target} is back in service")


def _await_flows(context: typer.Context, cache: str, timeout_seconds: float) -> None:
    """Count the flows of a draining cache down to none; exit with a failure if they outlast the timeout."""
    until, said = time.monotonic() + timeout_seconds, -1
    while True:
        answer = ask(context, "/v1/flows")
        flows = answer.get("flows") if isinstance(answer, dict) else None
        left = int(flows.get(cache, 0)) if isinstance(flows, dict) else 0
        if left != said:
            typer.echo(f"{left} flows left" if left else "no flows left")
        if left == 0:
            return
        said = left
        if time.monotonic() >= until:
            fail(f"{cache} still has {left} flows after {timeout_seconds:g} s", ExitCode.FAILURE)
        time.sleep(DRAIN_POLL_SECONDS)


def _carry_out(context: typer.Context, verb: str, done: str) -> None:
    answer = command(context, verb)
    typer.echo(done)
    if isinstance(answer, dict) and answer.get("confirmed") is False:
        typer.echo("gobgpd did not confirm it yet; it is told as soon as it answers", err=True)
