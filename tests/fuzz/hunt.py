"""A long hunt: `python -m tests.fuzz.hunt SECONDS`, by `make fuzz`. What reaches new code is added to the kept corpus.

Ends with 1 and prints the input if one breaks what `tests.support.survival` demands.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corpus

TARGET = Path(__file__).with_name("target.py")
LONGEST = 4096


def command(*options: str | Path) -> list[str | Path]:
    """The fuzzer with options and corpus folders."""
    return [sys.executable, str(TARGET), f"-max_len={LONGEST}", "-timeout=5", "-rss_limit_mb=2048", *options]


def fault(directory: Path) -> str:
    """The input that broke something, in hex; empty if none did."""
    found = [*directory.glob("crash-*"), *directory.glob("timeout-*"), *directory.glob("oom-*")]
    return found[0].read_bytes().hex() if found else ""


def main() -> int:
    """Hunt, then keep what the kept corpus lacks."""
    seconds = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        known, new = corpus.unpack(directory / "known"), directory / "new"
        new.mkdir()
        prefix = f"-artifact_prefix={directory}/"
        hunt = subprocess.run(
            command(f"-max_total_time={seconds}", prefix, str(new), str(known)), check=False
        )
        if hunt.returncode:
            print(f"this datagram breaks it: {fault(directory)}", file=sys.stderr)
            return 1
        merged = directory / "merged"
        merged.mkdir()
        subprocess.run(command("-merge=1", prefix, str(merged), str(known), str(new)), check=True)
        before = set(corpus.load())
        after = {path.read_bytes() for path in merged.iterdir()}
        corpus.save(after)
        print(f"the kept corpus had {len(before)} datagrams, has {len(after)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
