"""Commands that say why: what becomes of a flow, and what is wrong with this router."""

from __future__ import annotations

from typing import Annotated

import typer

from wccpd.ctl.application import Output, OutputFormat, app, ask, fail
from wccpd.exit_codes import ExitCode


@app.command()
def explain(  # noqa: PLR0913, PLR0917 - a command line's options
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="Address of the client.")],
    destination: Annotated[str, typer.Argument(metavar="DST[:PORT]", help="Where it wants to go.")],
    protocol: Annotated[
        str,
        typer.Option("--protocol", "-p", metavar="PROTOCOL", help="tcp, udp, icmp, gre, esp or a number."),
    ] = "tcp",
    source_port: Annotated[
        int | None,
        typer.Option(
            "--source-port", "-s", min=0, max=0xFFFF, help="Finds an existing flow; else a new one."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "-d", metavar="DEVICE", help="Comes in by it; else where the route back leads."
        ),
    ] = None,
    sender: Annotated[
        str | None, typer.Option(metavar="CACHE", help="Comes in a frame of this cache, as L2 returns do.")
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say what becomes of a flow, step by step, and whether the kernel holds what it should.

    Ends with 0 if the kernel holds what it should, with 1 if something differs.
    """
    from urllib.parse import urlencode

    address, _, port = destination.partition(":")
    asked = {
        "source": source,
        "destination": address,
        "destination_port": port or None,
        "protocol": protocol,
        "source_port": source_port,
        "device": device,
        "sender": sender,
    }
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    answer = ask(context, f"/v1/explain?{query}")
    if not isinstance(answer, dict) or "steps" not in answer:
        fail("the answer is no explanation", ExitCode.UNREACHABLE)
    if output is OutputFormat.JSON:
        import json

        typer.echo(json.dumps(answer, indent=2))
    else:
        _print_explanation(answer)
    raise typer.Exit(ExitCode.FAILURE if answer["differences"] else ExitCode.OK)


def _print_explanation(answer: dict[str, object]) -> None:
    ends = [
        f"{answer[end]}{'' if answer[f'{end}_port'] is None else ':' + str(answer[f'{end}_port'])}"
        for end in ("source", "destination")
    ]
    typer.echo(f"{answer['protocol']} {ends[0]} -> {ends[1]}")
    steps, differences = answer["steps"], answer["differences"]
    assert isinstance(steps, list)
    assert isinstance(differences, list)
    for step in steps:
        typer.echo(f"  {step['step']:<11}  {step['words']}")
    if not differences:
        typer.echo(f"Kernel: as it should be (compared: {answer['compared']})")
        return
    typer.echo("Kernel: NOT as it should be")
    for each in differences:
        typer.echo(f"  {each['object']}\n    should be {each['should']}\n    is {each['is']}")
