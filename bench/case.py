"""A measured case, and how time and memory are taken.

Time is thread CPU time, the least of several rounds: what else runs on the machine adds to the others.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table, one entry of the JSON."""

    name: str
    """Begins with its part: `wire_`, `engine_`, ..."""
    unit: str
    value: float | None
    goal: str = ""
    """What an issue asks for; empty where nothing is asked."""
    met: bool | None = None
    """By measurement; None where there is no goal, or it could not be measured."""
    ratio_to: str = ""
    ratio: float | None = None
    plane: str = ""
    reason: str = ""
    """Why there is no value."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else was measured on the way, by name and unit."""


def microseconds(work: Callable[[], object], repeat: int, rounds: int = ROUNDS) -> float:
    """CPU time of one call in microseconds: the least of several rounds of `repeat` calls."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        started = time.thread_time()
        for _ in range(repeat):
            work()
        best = min(best, (time.thread_time() - started) / repeat)
    return best * 1e6


def allocated_bytes(make: Callable[[], object]) -> int:
    """Memory that what `make` returns keeps allocated."""
    gc.collect()
    tracemalloc.start()
    kept = make()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size
