"""Commands that need no daemon of ours: they play the other end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wccpd.ctl.application import app, fail
from wccpd.exit_codes import ExitCode


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
    from ipaddress import IPv4Address

    from wccpd import simulate as play
    from wccpd.simulator.cache import SimulatedCache

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
        fail(error, ExitCode.CONFIG)
    joined = False
    try:
        joined = simulation.run(seconds, until_joined=until_joined)
    except KeyboardInterrupt:
        joined = simulation.is_joined
    if not stay:
        simulation.leave()
    simulation.close()
    raise typer.Exit(ExitCode.OK if joined else ExitCode.FAILURE)
