"""Commands that say why: what becomes of a flow, and what is wrong with this router."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wccpd.ctl.application import Output, OutputFormat, app, ask, fail
from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wccpd.doctor.findings import Finding

DEFAULT_CONFIG = Path("/etc/wccpd/wccpd.yaml")
_WIDTH = 100


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


@app.command()
def doctor(
    context: typer.Context,
    config_file: Annotated[
        Path,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Where the daemon does not answer: its configuration."
        ),
    ] = DEFAULT_CONFIG,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show also what is as it should be.")] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Examine this router and its host: what is wrong, what was measured, and what to do about it.

    Ends with 0 if nothing is wrong, with 1 if something is broken, with 4 if there are only warnings. Without a
    daemon the host alone is examined, which ends with 1: a router without its daemon is broken.
    """
    from wccpd.doctor import findings
    from wccpd.status import client

    try:
        found = findings.from_document(client.fetch(context.obj, "/v1/doctor"))
    except client.UnreachableError as error:
        found = _examine_host(config_file, str(error))
    except ValueError as error:
        fail(error, ExitCode.UNREACHABLE)
    found = tuple(map(_second_opinion, found))
    if output is OutputFormat.JSON:
        import json

        typer.echo(json.dumps(findings.document(found), indent=2))
    else:
        _print_findings(found, every=every)
    raise typer.Exit(findings.EXIT_CODES[findings.worst(found)])


def _examine_host(config_file: Path, unreachable: str) -> tuple[Finding, ...]:
    """What can be said without the daemon."""
    import config
    from wccpd import assemble
    from wccpd.doctor.checks import examine
    from wccpd.doctor.facts import Facts
    from wccpd.doctor.gather import gather

    try:
        wanted = assemble.wanted_of_host(config.load(config_file))
    except config.ConfigError as error:
        typer.echo(str(error), err=True)
        fail(
            f"{unreachable}; and without its configuration the host cannot be examined", ExitCode.UNREACHABLE
        )
    return examine(Facts(wanted, gather(wanted), None, unreachable))


def _second_opinion(finding: Finding) -> Finding:
    """The clock, which systemd's sandbox does not let the daemon ask for, and which all processes share."""
    from wccpd.doctor import clock, findings, host_checks

    if finding.check != "clock" or finding.severity is not findings.Severity.SKIPPED:
        return finding
    try:
        return host_checks.judge_clock(clock.read_clock())
    except OSError:
        return finding


def _print_findings(found: Iterable[Finding], *, every: bool) -> None:
    from wccpd.doctor import findings

    counts = dict.fromkeys(findings.Severity, 0)
    for each in findings.by_severity(found):
        counts[each.severity] += 1
        if each.severity is findings.Severity.OK and not every:
            continue
        _print_wrapped(f"{each.severity.upper():<8} {each.check}: {each.measured}", 9)
        if each.remedy:
            _print_wrapped(f"         remedy: {each.remedy}", 17)
    typer.echo(
        f"{counts[findings.Severity.FAULT]} faults, {counts[findings.Severity.WARNING]} warnings, "
        f"{counts[findings.Severity.OK]} as it should be, {counts[findings.Severity.SKIPPED]} not looked at"
    )


def _print_wrapped(text: str, indent: int) -> None:
    import textwrap

    lead = len(text) - len(text.lstrip())
    lines = textwrap.wrap(
        text.lstrip(),
        _WIDTH,
        initial_indent=" " * lead,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )
    typer.echo("\n".join(lines))


@app.command(name="proxy-config")
def proxy_config(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="squid|linux|generic", help="What is wanted.")],
    cache: Annotated[str, typer.Argument(metavar="CACHE", help="The proxy's address.")],
    config_file: Annotated[
        Path,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Where the daemon does not answer: its configuration."
        ),
    ] = DEFAULT_CONFIG,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Write the complete set-up of a proxy, from this router's configuration and what it knows of that proxy.

    `linux` and `squid` are shell scripts for the proxy, passwords come from its environment. `generic` is for people.
    """
    from wccpd.status import client

    try:
        answer = client.fetch(context.obj, f"/v1/caches/{cache}/proxy-config/{kind}")
    except client.RefusedError as error:
        fail(error, ExitCode.FAILURE)
    except client.UnreachableError as error:
        answer = _configured_alone(config_file, kind, cache, str(error))
    if output is OutputFormat.JSON:
        import json

        typer.echo(json.dumps(answer, indent=2))
    elif isinstance(answer, dict):
        typer.echo(answer["text"], nl=False)


def _configured_alone(config_file: Path, kind: str, cache: str, unreachable: str) -> dict[str, object]:
    """The set-up by the configuration alone."""
    from ipaddress import AddressValueError, IPv4Address

    import config
    from wccpd.daemon.proxy_side import proxy_configuration
    from wccpd.proxy_config.side import CannotError

    try:
        text = proxy_configuration(config.load(config_file), kind, IPv4Address(cache))
    except config.ConfigError as error:
        typer.echo(str(error), err=True)
        fail(f"{unreachable}; and without its configuration there is nothing to go by", ExitCode.UNREACHABLE)
    except (CannotError, AddressValueError) as error:
        fail(error, ExitCode.FAILURE)
    return {"version": 1, "cache": cache, "kind": kind, "text": text}
