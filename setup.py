"""Compiles the eBPF program on the way into a wheel; everything else is in pyproject.toml.

Without clang the wheel has no program, and wccpd says so and takes the netlink data plane.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDER = Path(__file__).parent / "wccpd" / "dataplane" / "ebpf"


class BuildWithProgram(build_py):
    """`build_py`, and the program before it."""

    def run(self) -> None:
        """Compile if need be, then build."""
        try:
            compile_program()
        except (OSError, subprocess.CalledProcessError) as error:
            self.announce(f"no eBPF program: {error}", 3)
        super().run()


def compile_program() -> None:
    """Compile the program, unless what is there is newer than its sources."""
    source, made = FOLDER / "program" / "redirect.bpf.c", FOLDER / "redirect.bpf.o"
    newest = max(each.stat().st_mtime for each in source.parent.iterdir())
    if made.exists() and made.stat().st_mtime >= newest:
        return
    headers = Path("/usr/include") / (sysconfig.get_config_var("MULTIARCH") or "")
    command = [
        "clang",
        "-O2",
        "-g",
        "-Wall",
        "-Werror",
        "-target",
        "bpf",
        "-mcpu=v3",
        "-isystem",
        str(headers),
    ]
    subprocess.run([*command, "-c", str(source), "-o", str(made)], check=True)  # noqa: S603 - our own files


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithProgram})
