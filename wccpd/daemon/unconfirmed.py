"""What a start must know of a reload that had to be confirmed: kept in the state directory, for root alone.

`reload --confirm` writes, before it takes anything, what is in force now and a digest of what it is about to take. The
rule for a start follows: content that was taken on trial and never confirmed is not taken from the file again, the
settings before it are; any other content of the file is taken as always, and ends the matter. So it is after a crash, a
reboot, a stop, and also after a rollback, until somebody reloads or writes another file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import structlog

from config.kept import KeptError, keep, restore

if TYPE_CHECKING:
    from pathlib import Path

    from config import Config

log = structlog.get_logger("wccpd.reload")

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Content:
    """A configuration and the text that it was made of."""

    config: Config
    text: str

    @property
    def digest(self) -> str:
        """Of text and passwords: a rotated password is another content, though the text be the same."""
        return sha256(json.dumps(keep(self.config, self.text), sort_keys=True).encode()).hexdigest()


class Unconfirmed:
    """`unconfirmed.json` in the state directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "unconfirmed.json"

    def write(self, before: Content, trial: Content) -> None:
        """Note that `trial` is not to be taken from the file at a start, but `before` again.

        Raises:
            OSError: It cannot be kept; nothing has changed.
        """
        document = {
            "format": FORMAT,
            "not_confirmed": trial.digest,
            "before": keep(before.config, before.text),
        }
        self._replace(json.dumps(document).encode())

    def read(self) -> bytes | None:
        """What is noted, None if nothing is, for `put_back`.

        Raises:
            OSError: It cannot be read.
        """
        return self.path.read_bytes() if self.path.exists() else None

    def put_back(self, noted: bytes | None) -> None:
        """Note again what was noted before a `write`.

        Raises:
            OSError: It cannot be kept.
        """
        if noted is None:
            self.forget()
        else:
            self._replace(noted)

    def _replace(self, octets: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)

    def forget(self) -> None:
        """The file is to be taken at a start, whatever it holds.

        Raises:
            OSError: It cannot be forgotten: the next start would not take what was confirmed.
        """
        self.path.unlink(missing_ok=True)

    def at_start(self, file: Content) -> Content:
        """What to start with: the file, or what was in force before it was taken on trial. Never raises."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise KeptError(f"format {document['format']}, expected {FORMAT}")
            if document["not_confirmed"] == file.digest:
                kept = document["before"]
                return Content(restore(kept), str(kept["text"]))
            self.forget()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, KeptError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.error("cannot_roll_back", reason=f"{self.path}: {reason}; the file is taken as it is")
        return file
