"""Commands about the configuration of a running daemon: what a file would change, take it, keep it, go back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from wccpd.ctl.application import Output, OutputFormat, app, command, fail
from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Document = Mapping[str, list[dict[str, object]]]

_UNITS = {"s": 1, "m": 60, "h": 3600}
_SIGNS = {"add": "+", "remove": "-", "change": "~"}


def seconds(text: str) -> int:
    """A time such as `90s`, `5m` or `1h`.

    Raises:
        typer.BadParameter: It is none.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", text)
    if found is None:
        raise typer.BadParameter("must be a time such as 90s, 5m or 1h")
    return int(found[1]) * _UNITS[found[2]]


@app.command()
def plan(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Default: the daemon's own file, as it is now.")
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what a configuration file would change in the running daemon; nothing is changed.

    Ends with 0 if `wccpctl reload` would take it, with 1 if it would be refused, with 2 if the file is broken.
    """
    resource, body = "/v1/plan", b""
    if file is not None:
        try:
            body = file.read_bytes()
        except OSError as error:
            fail(f"{file} cannot be read: {(error.strerror or str(error)).lower()}", ExitCode.CONFIG)
        resource += "?" + urlencode({"file": file.absolute()})
    document = _show(command(context, resource, body), output)
    if document.get("problems"):
        raise typer.Exit(ExitCode.CONFIG)
    raise typer.Exit(ExitCode.FAILURE if document.get("refused") else ExitCode.OK)


@app.command()
def reload(
    context: typer.Context,
    confirm: Annotated[
        int | None,
        typer.Option(
            parser=seconds,
            metavar="TIME",
            help="Roll back after so long, e.g. 5m, unless `wccpctl confirm` comes.",
        ),
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Have the daemon take its configuration file as it is now: all of it, or nothing and say why.

    Ends with 1, and with all the reasons, if it is refused; nothing is changed then.
    """
    resource = "/v1/reload" if confirm is None else f"/v1/reload?confirm_seconds={confirm}"
    _show(command(context, resource), output)
    if confirm is not None and output is OutputFormat.TABLE:
        typer.echo(f"rolled back in {confirm} s unless you say `wccpctl confirm`")


@app.command()
def confirm(context: typer.Context) -> None:
    """Keep what `wccpctl reload --confirm` took."""
    command(context, "/v1/confirm")
    typer.echo("confirmed")


@app.command()
def rollback(context: typer.Context, output: Output = OutputFormat.TABLE) -> None:
    """Go back at once to the settings from before `wccpctl reload --confirm`."""
    _show(command(context, "/v1/rollback"), output)


def _show(answer: object, output: OutputFormat) -> Mapping[str, object]:
    if not isinstance(answer, dict):
        fail("the answer is not understood: is this wccpctl of another version?", ExitCode.UNREACHABLE)
    if output is OutputFormat.JSON:
        import json

        typer.echo(json.dumps(answer, indent=2))
        return answer
    for line in _lines(answer):
        typer.echo(line)
    return answer


def _lines(answer: Document) -> Iterator[str]:
    yield from (str(each["text"]) for each in answer["problems"])
    if answer["problems"]:
        return
    if not any(answer[key] for key in ("changes", "refused", "kernel")):
        yield "nothing changes"
        return
    for each in answer["refused"]:
        yield f"refused: {each['key']}: {each['reason']}; {each['remedy']}"
    for each in answer["changes"]:
        detail = f": {each['detail']}" if each["detail"] else ""
        yield f"{_SIGNS[str(each['action'])]} {each['kind']} {each['what']}{detail}"
    for each in answer["services"]:
        leaving = each["leaving"] if isinstance(each["leaving"], dict) else {}
        yield from (f"service {each['service']}: {cache} leaves: {why}" for cache, why in leaving.items())
        if each["buckets_moved"]:
            yield f"service {each['service']}: {each['buckets_moved']} buckets or values go to others"
    if answer["kernel"]:
        yield "kernel:"
        yield from (f"  {line}" for line in answer["kernel"])
