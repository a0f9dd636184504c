"""The engine's memory across restarts, as a JSON file in the state directory.

Written whole to a temporary file, synced and renamed, so that a reader sees the old or the new state, never half,
even after a power cut.
A file that cannot be read, parsed or believed is set aside under another name, with a reason for the log.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found; `state` is None when there is nothing to resume, and `warning` says so if that is odd."""

    state: dict[str, Any] | None
    age_seconds: float = 0.0
    same_boot: bool = False
    warning: str = ""


class StateFile:
    """`engine.json` in the state directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "engine.json"

    def save(self, groups: Iterable[str], now: float) -> None:
        """Replace the file.

        Args:
            groups: JSON text of each group of the engine.
            now: Monotonic seconds, comparable across processes of one boot.

        Raises:
            OSError: Disk full, read-only, no such directory.
        """
        head = json.dumps({"format": FORMAT, "boot_id": boot_id(), "saved_at": now})
        temporary = self.path.with_suffix(".tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(head.removesuffix("}") + ', "engine": {"groups": [')
            file.write(", ".join(groups))
            file.write("]}}")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def load(self, now: float) -> Loaded:
        """Read the file; never raises."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Loaded(None)
        except (OSError, UnicodeDecodeError) as error:
            return Loaded(None, warning=f"cannot read {self.path}: {error}")
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}, expected {FORMAT}")
            same_boot = document["boot_id"] == boot_id()
            age = now - float(document["saved_at"]) if same_boot else 0.0
            return Loaded(dict(document["engine"]), age, same_boot)
        except (ArithmeticError, ValueError, KeyError, TypeError, RecursionError) as error:
            return Loaded(None, warning=self.set_aside(f"{type(error).__name__}: {error}"))

    def set_aside(self, fault: str) -> str:
        """Move a file that cannot be believed out of the way; return the warning to log."""
        aside = self.path.with_suffix(".corrupt")
        try:
            self.path.replace(aside)
        except OSError as error:
            return f"{self.path} is not usable ({fault}) and cannot be moved away: {error}"
        return f"{self.path} is not usable ({fault}); it was moved to {aside.name}, starting afresh"


def boot_id() -> str:
    """Another one after each boot of the machine."""
    return BOOT_ID.read_text(encoding="ascii").strip()
