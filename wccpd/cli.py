"""The `wccpd` command: run the router, check its configuration, remove what it left in the kernel.

Reads the command line, maps errors to exit codes, and leaves the work to `config` and `wccpd.daemon`, which
are imported only by the command that needs them, so that `--help` and `version` stay quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wccpd import __version__
from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from config import Config

DEFAULT_CONFIG = Path("/etc/wccpd/wccpd.yaml")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="Configuration file.", show_default=True)
]

app = typer.Typer(
    name="wccpd",
    help="A WCCPv2 router for Linux.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def run(config_file: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the router until it is told to stop."""
    # A reload reads it again, and what it names is to be the same then.
    file = config_file.absolute()
    settings, text = _load_with_text(file)
    from wccpd.daemon import app as daemon  # noqa: PLC0415 - heavy, and only this command needs it

    raise typer.Exit(daemon.run(settings, file, text))


@app.command()
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file.")]) -> None:
    """Check a configuration file without touching anything else."""
    typer.echo(f"{file}: {_summary(_load(file))}")


@app.command()
def cleanup(config_file: ConfigOption = DEFAULT_CONFIG) -> None:
    """Remove all of ours from the kernel: tunnels, redirection, routes. The daemon must not be running."""
    settings = _load(config_file)
    from wccpd.daemon import app as daemon  # noqa: PLC0415 - heavy, and only this command needs it

    raise typer.Exit(daemon.cleanup(settings))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"wccpd {__version__}")


def main() -> None:
    """Entry point of the `wccpd` command."""
    app()


def _load(file: Path) -> Config:
    return _load_with_text(file)[0]


def _load_with_text(file: Path) -> tuple[Config, str]:
    """The settings and what they were made of, or every problem on standard error and the end of the command."""
    import config  # noqa: PLC0415 - pydantic takes longer to import than --help may

    try:
        text = config.read(file)
        return config.parse(text, file=str(file), directory=file.parent), text
    except config.ConfigError as error:
        typer.echo(str(error), err=True)
        count = len(error.problems)
        typer.echo(f"{count} problem{'s' if count != 1 else ''}; nothing was changed", err=True)
    raise typer.Exit(ExitCode.CONFIG)


def _summary(settings: Config) -> str:
    services = ", ".join(str(each.service) for each in settings.services)
    tunnels = ", ".join(each.name for each in settings.tunnels) or "none"
    bgp = f"AS {settings.bgp.asn} to AS {settings.bgp.peer_asn}" if settings.bgp else "none"
    return f"ok: router {settings.router.id}; services: {services}; tunnels: {tunnels}; BGP: {bgp}"
