"""Runs every case, prints a table, writes build/bench.json."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench import bgp, engine, routes, wire

if TYPE_CHECKING:
    from bench.case import Case

OUTPUT = Path("build") / "bench.json"
PARTS = {"wire": wire.cases, "engine": engine.cases, "routes": routes.cases, "bgp": bgp.cases}


def main() -> None:
    """Run the parts named on the command line, or all."""
    wanted = sys.argv[1:] or list(PARTS)
    measured: list[Case] = []
    for part in wanted:
        for case in PARTS[part]():
            measured.append(case)
            print(_line(case), flush=True)
    OUTPUT.parent.mkdir(exist_ok=True)
    document = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "kernel": platform.release(),
        "cases": [asdict(case) for case in measured],
    }
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {OUTPUT}")


def _line(case: Case) -> str:
    value = "not measured: " + case.reason if case.value is None else f"{case.value:12,.1f} {case.unit}"
    ratio = f"  {case.ratio:.1f} x {case.ratio_to}" if case.ratio is not None else ""
    verdict = {True: "  met", False: "  NOT MET", None: ""}[case.met]
    goal = f"  (goal: {case.goal}){verdict}" if case.goal else ""
    return f"{case.name:44} {value}{ratio}{goal}"


if __name__ == "__main__":
    main()
