"""The `wccpd` command: run the router, check and explain its configuration, remove what it left in the kernel.

Reads the command line, maps errors to exit codes, and leaves the work to `config` and `wccpd.daemon`, which
are imported only by the command that needs them, so that `--help` and `version` stay quick. The help is also
the manual page wccpd(8).
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wccpd import __version__
from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from config import Loaded
    from config.reference import Setting

DEFAULT_CONFIG = Path("/etc/wccpd/wccpd.yaml")


class OutputFormat(StrEnum):
    """How an answer is written."""

    TEXT = "text"
    JSON = "json"


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file.", show_default=True)
]
OutputOption = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="How to write the answer. Keys of the JSON are stable.")
]

app = typer.Typer(
    name="wccpd",
    help=(
        "A WCCPv2 router for Linux. It redirects flows to transparent proxies, terminates the GRE tunnels of AWS "
        "Transit Gateway Connect and speaks BGP over them. Ask a running one with wccpctl."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def run(config_file: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the router until it is told to stop.

    A systemd service does this. A file that cannot be used ends it with 2 before anything is touched.
    """
    # A reload reads it again, and what it names is to be the same then.
    file = config_file.absolute()
    loaded, text = _load_with_text(file)
    from wccpd.daemon import app as daemon  # noqa: PLC0415 - heavy, and only this command needs it

    raise typer.Exit(daemon.run(loaded.config, file, text, tuple(map(str, loaded.warnings))))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file.")] = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Check a configuration file; touch nothing.

    Says what the file means, or every mistake in it with line and column. Warnings, about what is allowed and yet
    seldom meant, do not count as mistakes. Passwords that only the running service can have are not missed.

    Ends with 0 if the file can be used, with 2 if not.
    """
    if output is OutputFormat.JSON:
        _check_json(file)
        return
    loaded = _load(file, passwords_needed=False)
    from wccpd import check as checking  # noqa: PLC0415 - not needed for --help

    typer.echo(checking.text(str(file), loaded))
    _say_warnings(loaded)


@app.command("explain-config")
def explain_config(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="A key, its beginning, or its last part.", show_default=False),
    ] = "",
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Explain a key of the configuration file.

    Says what may be written, the default, the meaning, and gives an example.

    A key is written like services.mode or bgp.hold_time_seconds. Without one, all keys are listed; a section lists
    its own. Ends with 2 if there is no such key.
    """
    from config.reference import look_up, settings  # noqa: PLC0415 - pydantic takes longer than --help may
    from wccpd import explain_config as explaining  # noqa: PLC0415 - not needed for --help

    found = look_up(key)
    chosen: list[Setting] = [found.setting] if found.setting is not None else []
    chosen += found.related
    if not key:
        chosen = list(settings())
    if not chosen:
        typer.echo(f"wccpd: there is no key '{key}'", err=True)
        if found.suggestions:
            typer.echo(f"did you mean {' or '.join(found.suggestions)}?", err=True)
        raise typer.Exit(ExitCode.CONFIG)
    if output is OutputFormat.JSON:
        typer.echo(json.dumps([explaining.document(each) for each in chosen], indent=2))
        return
    if found.setting is not None:
        typer.echo(explaining.text(found.setting))
        if found.related:
            typer.echo("\n" + explaining.listing(found.related))
    else:
        typer.echo(explaining.listing(chosen))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors.

    An editor with the YAML language server completes and checks keys with it: begin the configuration file with the
    line `# yaml-language-server: $schema=` and the name of the file into which this was written.
    """
    from config.schema import schema_text  # noqa: PLC0415 - pydantic takes longer to import than --help may

    typer.echo(schema_text(), nl=False)


@app.command()
def cleanup(config_file: ConfigOption = DEFAULT_CONFIG) -> None:
    """Remove all of ours from the kernel.

    Tunnels, redirection, learnt routes; also what services in mode closed or reject left behind to go on refusing.
    The daemon must not be running.
    """
    loaded = _load(config_file, passwords_needed=False)
    from wccpd.daemon import app as daemon  # noqa: PLC0415 - heavy, and only this command needs it

    raise typer.Exit(daemon.cleanup(loaded.config))


@app.command()
def guard(file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file.")]) -> None:
    """Have services in mode closed or reject refuse what they take until the daemon is there: for the boot."""
    loaded = _load(file, passwords_needed=False)
    from wccpd.daemon import app as daemon  # noqa: PLC0415 - heavy, and only this command needs it

    raise typer.Exit(daemon.guard(loaded.config))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"wccpd {__version__}")


def main() -> None:
    """Entry point of the `wccpd` command."""
    app()


def _load(file: Path, *, passwords_needed: bool = True) -> Loaded:
    return _load_with_text(file, passwords_needed=passwords_needed)[0]


def _load_with_text(file: Path, *, passwords_needed: bool = True) -> tuple[Loaded, str]:
    """The settings and what they were made of, or every problem on standard error and the end of the command."""
    import config  # noqa: PLC0415 - pydantic takes longer to import than --help may

    try:
        text = config.read(file)
        loaded = config.parse_with_warnings(
            text, file=str(file), directory=file.parent, passwords_needed=passwords_needed
        )
        return loaded, text
    except config.ConfigError as error:
        typer.echo(str(error), err=True)
        count = len(error.problems)
        typer.echo(f"{count} problem{'s' if count != 1 else ''}; nothing was changed", err=True)
    raise typer.Exit(ExitCode.CONFIG)


def _check_json(file: Path) -> None:
    """Print one document, whether the file is good or bad; the exit code tells too."""
    import config  # noqa: PLC0415 - pydantic takes longer to import than --help may
    from wccpd import check as checking  # noqa: PLC0415 - not needed for --help

    try:
        document = checking.good_document(str(file), config.load_with_warnings(file, passwords_needed=False))
    except config.ConfigError as error:
        document = checking.bad_document(str(file), error)
    typer.echo(json.dumps(document, indent=2))
    if not document["usable"]:
        raise typer.Exit(ExitCode.CONFIG)


def _say_warnings(loaded: Loaded) -> None:
    from wccpd import check as checking  # noqa: PLC0415 - not needed for --help

    for warning in loaded.warnings:
        typer.echo(checking.warning_text(warning), err=True)
