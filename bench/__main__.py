"""Runs every case, prints a table, writes build/bench.json."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench import bgp, elements, engine, rounds, routes, wire
from bench.packets import ebpf, forwarding, netlink, static

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.case import Case

OUTPUT = Path("build") / "bench.json"
PARTS: dict[str, Callable[[], Iterator[Case]]] = {
    "wire": wire.cases,
    "engine": engine.cases,
    "elements": elements.cases,
    "rounds": rounds.cases,
    "routes": routes.cases,
    "bgp": bgp.cases,
    "packets": lambda: forwarding.cases(
        [*ebpf.scenarios(), *netlink.scenarios(), *static.scenarios()], netlink.COMPARISONS
    ),
}
"""All that goes through a router is one part: its ratios are to plain forwarding in the same run."""


def main() -> int:
    """Run the parts named on the command line, or all; 1 if a case could not be measured."""
    unknown = set(sys.argv[1:]) - set(PARTS)
    if unknown:
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    measured: list[Case] = []
    for part in sys.argv[1:] or PARTS:
        for case in PARTS[part]():
            measured.append(case)
            print(line(case), flush=True)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(document(measured), indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {OUTPUT}")
    return int(any(case.value is None for case in measured))


def document(measured: Sequence[Case]) -> dict[str, object]:
    """What is written: the machine, and every case with what it was compared with."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "kernel": platform.release(),
        "cases": [asdict(case) for case in measured],
    }


def _processor() -> str:
    for entry in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = entry.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def line(case: Case) -> str:
    """A case as a line of the table."""
    value = "not measured: " + case.reason if case.value is None else f"{case.value:12,.1f} {case.unit}"
    ratio = f"  {case.ratio:.3g} x {case.ratio_to}" if case.ratio is not None else ""
    verdict = {True: "  met", False: "  NOT MET", None: ""}[case.met]
    goal = f"  (goal: {case.goal}){verdict}" if case.goal else ""
    figures = ", ".join(f"{name} {figure:,.0f}" for name, figure in case.figures.items())
    return f"{case.name:44} {value}{ratio}{goal}{figures and f'  [{figures}]'}"


if __name__ == "__main__":
    sys.exit(main())
