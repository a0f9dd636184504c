"""Compiles the harness's BPF programs, into build/bpf."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).parent / "sources"
OUTPUT = Path("build") / "bpf"


class CompileError(Exception):
    """clang is missing, or refused a program; the text is clang's."""


def compiled(name: str) -> Path:
    """Compile `sources/NAME.bpf.c` and return the object file.

    Raises:
        CompileError: See there.
    """
    made = OUTPUT / f"{name}.bpf.o"
    compile_program(SOURCES / f"{name}.bpf.c", made)
    return made


def compile_program(source: Path, made: Path) -> None:
    """Compile one file; whoever reads the object file meanwhile finds the old one or the new one.

    Raises:
        CompileError: See there.
    """
    made.parent.mkdir(parents=True, exist_ok=True)
    unfinished = made.with_suffix(f".{os.getpid()}")
    architecture = Path("/usr/include") / (sysconfig.get_config_var("MULTIARCH") or "")
    command = ["clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-isystem", str(architecture)]
    try:
        subprocess.run(
            [*command, "-c", str(source), "-o", str(unfinished)],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CompileError("there is no clang; `make setup` installs it") from error
    except subprocess.CalledProcessError as error:
        raise CompileError(error.stderr.strip()) from error
    unfinished.replace(made)
