"""`wccpctl completion`: what a shell has to read to complete our command line."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from wccpd.ctl.application import app

VARIABLE = "_WCCPCTL_COMPLETE"
"""In which the shell says that it wants completions (click's own way)."""


class Shell(StrEnum):
    """Shells that are served."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="For which shell.")]) -> None:
    """Print the completion script of a shell, e.g. for `. <(wccpctl completion bash)` in ~/.bashrc."""
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="wccpctl", complete_var=VARIABLE, shell=shell.value))


def prepare() -> None:
    """Let a shell that asks for completions be answered."""
    if VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
