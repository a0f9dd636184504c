"""Files made to exhaust whoever reads them: each ends in an answer within bounds of CPU time and memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MOST = 262_144
CPU_SECONDS = 30
"""Far above what the slowest takes (2 s here), far below what the quadratic ways took that these files once found."""
MEMORY_BYTES = 1 << 30
GOOD = """\
router: {id: 10.100.1.10}
redirect: {interfaces: [ens6]}
services: [{service: web-cache, group_list: [10.100.1.0/24]}]
"""
NETWORKS = ", ".join(f"10.{number // 250}.{number % 250}.1" for number in range(9_000))

HOSTILE = {
    "nothing but brackets": "[" * MOST,
    "nothing but lines": "\n" * MOST,
    "one word": "x" * MOST,
    "an open quotation": '"' + "x" * (MOST - 1),
    "lists in a list": "[" + "[]," * 87_000,
    "unknown keys": "".join(f"{'k' * 40}{number}: 1\n" for number in range(4_900)),
    "misspelt keys": "services:\n" + "- {servic: 1, x: 2}\n" * 1_900,
    "entries without their keys": "tunnels:\n" + "".join(f"- {{name: t{n}}}\n" for n in range(3_300)),
    "entries without values": "a:\n" + "- ~\n" * 9_900,
    "a long list of networks": GOOD.replace("10.100.1.0/24", NETWORKS),
    "a list of one network": GOOD.replace("10.100.1.0/24", ", ".join(["10.0.0.0/8"] * 9_000)),
    "an alias used often": f"a: &a {{{', '.join(f'k{n}: 1' for n in range(1_000))}}}\nb: [{'*a, ' * 3_000}]",
}
CHILD = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), int(sys.argv[3])))
import config
try:
    config.load(sys.argv[1])
except config.ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_answered_within_bounds_of_time_and_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(HOSTILE[name][:MOST])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(CPU_SECONDS), str(MEMORY_BYTES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) < 100_000
    assert (done.stdout == "") == (name == "a long list of networks")
