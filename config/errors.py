"""What can be wrong with a configuration file: the operator's faults, all at once, each with its place.

Nothing here knows YAML or the meaning of a key. A problem never holds a secret: what was found is left out
wherever a password could have been written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN_PROBLEMS = 100
"""So many are written out; more come from a file of another kind, or from a program."""

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way to a value from the top of the file: keys by name, list items by index from 0."""


def key_path_text(path: KeyPath) -> str:
    """Write a key path as people say it: `services[0].mode`; empty for the file as a whole.

    A key is what somebody wrote: one that is long or holds more than letters is shortened and quoted.
    """
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
            continue
        plain = re.fullmatch(r"[A-Za-z0-9_.<-]{1,60}", step)
        key = step if plain else ascii(step if len(step) <= 60 else step[:60] + "...")
        text += f".{key}" if text else key
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct."""

    file: str
    line: int
    """From 1; 0 when the problem is the file itself (missing, unreadable, empty)."""
    column: int
    """From 1, in characters; 0 with line 0."""
    path: KeyPath
    message: str
    found: str = ""
    """The value as it was written, shortened; empty where it says nothing or could be a secret."""
    allowed: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        key = key_path_text(self.path)
        text = f"{place}: {key}: {self.message}" if key else f"{place}: {self.message}"
        if self.found:
            text += f", found {self.found}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.hint:
            text += f"; {self.hint}"
        return text


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems as their lines come in the file."""
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds everything wrong with it, in the file's order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = in_order(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"... and {len(self.problems) - SHOWN_PROBLEMS} more")
        return "\n".join(lines)
