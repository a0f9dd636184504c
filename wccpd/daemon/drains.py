"""Which caches the operator has taken out of service; kept on disk, so that a restart forgets none."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger("wccpd.drains")


class Drains:
    """The draining caches."""

    def __init__(self, directory: Path) -> None:
        """Read what an earlier run kept; lines that are no address are said and left out."""
        self.directory = directory
        self._path = directory / "draining-caches"
        self.caches: frozenset[IPv4Address] = frozenset(self._read())

    def _read(self) -> list[IPv4Address]:
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").split()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("drains_not_resumed", reason=f"cannot read {self._path}: {error.strerror}")
            return []
        found = []
        for line in lines:
            try:
                found.append(IPv4Address(line))
            except AddressValueError:
                log.warning("drains_not_resumed", reason=f"{self._path}: {line[:40]!a} is no address")
        return found

    def change(self, cache: IPv4Address, *, draining: bool) -> None:
        """Take a cache out of service, or put it back.

        Raises:
            OSError: It cannot be kept on disk; nothing has changed.
        """
        wanted = self.caches | {cache} if draining else self.caches - {cache}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text("".join(f"{each}\n" for each in sorted(wanted)), encoding="utf-8")
        fresh.replace(self._path)
        self.caches = wanted
        log.info("cache_drained" if draining else "cache_undrained", cache=str(cache))
