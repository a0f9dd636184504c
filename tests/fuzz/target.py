"""The coverage-guided fuzzer's target: `python tests/fuzz/target.py [libFuzzer options] CORPUS...`.

A process of its own, for libFuzzer takes it over and ends it at the first fault.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["wccpd.wire", "wccpd.protocol"]):
    from tests.support.survival import engine_survives, survive


def attempt(octets: bytes) -> None:
    """One input."""
    survive(octets)
    engine_survives(octets)


if __name__ == "__main__":
    # To merge, libFuzzer gives its own name to the shell again and again.
    atheris.Setup([f"{sys.executable} {__file__}", *sys.argv[1:]], attempt)
    atheris.Fuzz()
