"""Removes what an earlier run left under other names, when the operator has changed them since.

What is ours in the kernel is known by the names under `kernel:` alone (device prefix, priorities, tables, protocol,
nft table). After a crash and a change of them nobody would know the old objects. So the state directory keeps the
names in use, from before the first object is made until the last one is gone. They count in the boot in which they
were written: no object lives longer, and by then they may be somebody else's.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from wccpd.daemon.state_file import boot_id
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.dataplane.routes import KernelRoutes
from wccpd.errors import KernelError
from wccpd.plan.policy import KernelSettings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = structlog.get_logger("wccpd.former_names")

FORMAT: Final = 1
_NAMES: Final = ("device_prefix", "table_base", "rule_priority", "route_protocol", "nft_table")
UNBELIEVABLE: Final = (ValueError, KeyError, TypeError, RecursionError)


class FormerNames:
    """The names in use, now and before.

    Args:
        directory: The state directory.
        current: What is in force now.
    """

    def __init__(self, directory: Path, current: KernelSettings) -> None:
        self._path = directory / "kernel-names.json"
        self._current = current
        self._left = [each for each in self._read() if each != _names_of(current)]

    def note(self) -> tuple[KernelError, ...]:
        """Write down the names in force beside the former ones, before anything is made.

        Returns:
            Why they could not be written.
        """
        fault = self._write([*self._left, _names_of(self._current)])
        return () if fault is None else (fault,)

    def claim(self) -> tuple[KernelError, ...]:
        """Write down the names in force, and remove what former ones left; their nft table stays for `release`.

        Packets that it marks find no path from now on: those of closed services are refused by the table itself.

        Returns:
            What could not be removed, or written; it is tried again at the next start.
        """
        faults = list(self.note())
        for names in self._left:
            faults += _remove_paths(_settings(names), self._current)
        return tuple(faults)

    def release(self) -> tuple[KernelError, ...]:
        """Remove the former nft tables too, once ours is in force; then forget the former names.

        Returns:
            What could not be removed; it is tried again at the next start.
        """
        faults: list[KernelError] = []
        left = []
        for names in self._left:
            found = [*_remove_paths(_settings(names), self._current), *_remove_table(names, self._current)]
            faults += found
            if found:
                left.append(names)
            else:
                log.info("former_names_removed", **names)
        if left != self._left:
            fault = self._write([*left, _names_of(self._current)])
            faults += [] if fault is None else [fault]
        self._left = left
        return tuple(faults)

    def _read(self) -> list[dict[str, Any]]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}, expected {FORMAT}")
            if document["boot_id"] != boot_id():
                return []
            return [_names_of(_settings(names)) for names in document["names"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("former_names_unknown", reason=f"cannot read {self._path}: {error.strerror}")
        except UNBELIEVABLE as error:
            reason = f"{self._path} is not usable: {type(error).__name__}: {error}"
            log.warning("former_names_unknown", reason=reason)
        return []

    def _write(self, names: Iterable[dict[str, Any]]) -> KernelError | None:
        document = {"format": FORMAT, "boot_id": boot_id(), "names": list(names)}
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            fresh.replace(self._path)
        except OSError as error:
            return KernelError(str(self._path), "write", error.errno or 0)
        return None


def _remove_paths(former: KernelSettings, current: KernelSettings) -> list[KernelError]:
    """Rules, routes and devices that go by the former names only."""
    faults: list[KernelError] = []
    try:
        with closing(LinuxDataPlane(former)) as plane:
            faults += plane.disown(current)
        if former.route_protocol != current.route_protocol:
            with closing(KernelRoutes(protocol=former.route_protocol)) as routes:
                routes.remove_all()
    except KernelError as error:
        faults.append(error)
    return faults


def _remove_table(names: dict[str, Any], current: KernelSettings) -> list[KernelError]:
    former = replace(current, nft_table=names["nft_table"])
    if former == current:
        return []
    try:
        with closing(LinuxDataPlane(former)) as plane:
            return list(plane.disown_table())
    except KernelError as error:
        return [error]


def _settings(names: dict[str, Any]) -> KernelSettings:
    """Settings that recognise what goes by these names."""
    return KernelSettings(
        device_prefix=str(names["device_prefix"]),
        table_base=int(names["table_base"]),
        rule_priority=int(names["rule_priority"]),
        route_protocol=int(names["route_protocol"]),
        nft_table=str(names["nft_table"]),
    )


def _names_of(settings: KernelSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _NAMES}
