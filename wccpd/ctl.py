"""The `wccpctl` command: asks a running daemon over its control socket and shows the answer.

Knows nothing of the daemon but the control API. Standard output holds the answer alone, fit for a pipe.
`simulate` needs no daemon of ours: it speaks WCCP to any router.
"""

from __future__ import annotations

import os
import sys
import time
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


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 - a command line's options
    routers: Annotated[list[str], typer.Argument(metavar="ROUTER...", help="Addresses of the routers.")],
    cache: Annotated[
        list[str],
        typer.Option(metavar="PROFILE@ADDRESS", help="A cache at a local address; repeat for more."),
    ],
    service: Annotated[
        list[str], typer.Option(metavar="SERVICE", help="web-cache or e.g. 70/tcp/443,8443; repeat for more.")
    ] = ["web-cache"],  # noqa: B006 - typer copies it
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="1 to 8 octets, as the routers have it.")
    ] = None,
    weight: Annotated[int, typer.Option(min=0, max=0xFFFF, help="Of every cache.")] = 10000,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="How long to play; until interrupted if not said.")
    ] = None,
    until_joined: Annotated[
        bool, typer.Option("--until-joined", help="End once every router has taken every cache.")
    ] = False,
    stay: Annotated[bool, typer.Option("--stay", help="At the end fall silent instead of leaving.")] = False,
) -> None:
    """Play web-caches of any kind against routers, and tell what happens. They lose the traffic they are given!

    Profiles: strict (as the drafts have it), strict-2.01 (fast timers), table-2.01 (address tables), squid-4.12,
    squid-4.13, squid-5.1, squid-5.7, squid-7.6, ats-9.2, opennop.
    Ends with 0 if every cache was taken by every router, else with 1.
    """
    from ipaddress import IPv4Address  # noqa: PLC0415 - not needed for --help

    from wccpd import simulate as play  # noqa: PLC0415 - not needed for --help
    from wccpd.simulator.cache import SimulatedCache  # noqa: PLC0415 - not needed for --help

    try:
        password = password_file.read_bytes().removesuffix(b"\n") if password_file is not None else None
        if password is not None and not 1 <= len(password) <= 8:
            raise play.SpecError(f"{password_file}: a password has 1 to 8 octets, this one {len(password)}")
        addresses = tuple(IPv4Address(router) for router in routers)
        now = time.monotonic()
        simulation = play.Simulation(
            tuple(
                SimulatedCache(profile, address, info, addresses, password, weight, starts_at=now)
                for info in map(play.parse_service, service)
                for profile, address in map(play.parse_cache, cache)
            ),
            say=typer.echo,
        )
        simulation.open()
    except (OSError, ValueError) as error:
        typer.echo(f"wccpctl: {error}", err=True)
        raise typer.Exit(ExitCode.CONFIG) from None
    joined = False
    try:
        joined = simulation.run(seconds, until_joined=until_joined)
    except KeyboardInterrupt:
        joined = simulation.is_joined
    if not stay:
        simulation.leave()
    simulation.close()
    raise typer.Exit(ExitCode.OK if joined else ExitCode.FAILURE)


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
        _command(context.obj, "/v1/router/drain", "drained: nothing is advertised any more")
        return
    _command(context.obj, f"/v1/caches/{target}/drain", f"{target} gets no new flows")
    if wait:
        _await_flows(context.obj, target, timeout)


@app.command()
def undrain(context: typer.Context, target: Target) -> None:
    """Put it back into service: the router advertises as soon as it can do its duty, the cache gets new flows."""
    if target == "router":
        _command(context.obj, "/v1/router/undrain", "back in service")
    else:
        _command(context.obj, f"/v1/caches/{target}/undrain", f"{target} is back in service")


def _await_flows(socket_path: Path, cache: str, timeout_seconds: float) -> None:
    """Count the flows of a draining cache down to none; exit with a failure if they outlast the timeout."""
    from wccpd.status import client  # noqa: PLC0415 - not needed for --help

    until, said = time.monotonic() + timeout_seconds, -1
    while True:
        try:
            answer = client.fetch(socket_path, "/v1/flows")
        except client.UnreachableError as error:
            typer.echo(f"wccpctl: {error}", err=True)
            raise typer.Exit(ExitCode.UNREACHABLE) from None
        flows = answer.get("flows") if isinstance(answer, dict) else None
        left = int(flows.get(cache, 0)) if isinstance(flows, dict) else 0
        if left != said:
            typer.echo(f"{left} flows left" if left else "no flows left")
        if left == 0:
            return
        said = left
        if time.monotonic() >= until:
            typer.echo(f"wccpctl: {cache} still has {left} flows after {timeout_seconds:g} s", err=True)
            raise typer.Exit(ExitCode.FAILURE)
        time.sleep(DRAIN_POLL_SECONDS)


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
