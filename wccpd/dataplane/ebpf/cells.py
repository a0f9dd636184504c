"""Which counter cell counts what: every kind of packet has a label, and keeps its cell as long as it is planned.

The labels lie in the kernel beside the counters, so that a restarted daemon goes on counting.
"""

from __future__ import annotations

from hashlib import blake2s
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from wccpd.plan.verdict import Count, Counters, Exemption, Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from wccpd.plan.redirect import AclLine

FIXED_CELLS: Final = 64
"""The first cells are the program's own (layout.h, `enum cell`)."""
CELLS: Final = 16384
EXEMPTIONS: Final = dict(enumerate(Exemption, start=1))
DROPS: Final = {
    8: "stray-fragment",
    9: "too-big",
    10: "unanswered",
    11: "no-room",
    12: "bad-return",
}
"""Why the program itself drops, beside what services say (layout.h)."""


class CellsFullError(Exception):
    """More is to be counted than there are cells."""


class Cells:
    """Labels and their cells; `begin` and `finish` enclose the making of a plan."""

    def __init__(self, labels: Mapping[int, str]) -> None:
        self._cells = {label: cell for cell, label in labels.items()}
        self._free = iter(sorted(set(range(FIXED_CELLS, CELLS)) - set(labels)))
        self._wanted: set[str] = set()
        self.new: dict[int, str] = {}
        """Given out since `begin`."""

    def begin(self) -> None:
        """Forget what was wanted so far."""
        self._wanted, self.new = set(), {}

    def cell(self, label: str) -> int:
        """The cell of a label.

        Raises:
            CellsFullError: See there.
        """
        self._wanted.add(label)
        if label not in self._cells:
            found = next(self._free, None)
            if found is None:
                raise CellsFullError
            self._cells[label] = found
            self.new[found] = label
        return self._cells[label]

    def finish(self) -> tuple[int, ...]:
        """The cells of labels that nobody wants any more; they are free from now on."""
        gone = [label for label in self._cells if label not in self._wanted]
        cells = tuple(self._cells.pop(label) for label in gone)
        taken = set(self._cells.values())
        self._free = iter(sorted(set(range(FIXED_CELLS, CELLS)) - taken))
        return cells

    def counters(self, read: Callable[[int], Count], lists: Mapping[str, tuple[AclLine, ...]]) -> Counters:
        """Everything that was counted.

        Args:
            read: Reads a cell.
            lists: Redirect lists by service.
        """
        outcomes, returned = {}, {}
        for label, cell in self._cells.items():
            kind, *words = label.split("|")
            if kind == "outcome":
                outcomes[_outcome(words)] = read(cell)
            elif kind == "returned":
                returned[IPv4Address(words[0])] = read(cell)
        return Counters(
            {key: count for key, count in outcomes.items() if count.packets},
            {
                service: tuple(
                    read(self._cells[label]) if label in self._cells else Count()
                    for label in line_labels(service, lines)
                )
                for service, lines in lists.items()
            },
            {exemption: count for cell, exemption in EXEMPTIONS.items() if (count := read(cell)).packets},
            {cache: count for cache, count in returned.items() if count.packets},
            {reason: count for cell, reason in DROPS.items() if (count := read(cell)).packets},
        )


def outcome_label(outcome: Outcome) -> str:
    """The label of an outcome."""
    reason, cache = outcome.reason or "", outcome.cache or ""
    return f"outcome|{outcome.service}|{outcome.verdict}|{reason}|{cache}"


def returned_label(cache: IPv4Address) -> str:
    """The label of what a cache gave back."""
    return f"returned|{cache}"


def line_labels(service: str, lines: Iterable[AclLine]) -> tuple[str, ...]:
    """The labels of the lines of a redirect list: by what they say, so that a line that moves keeps its count."""
    seen: dict[str, int] = {}
    labels = []
    for line in lines:
        digest = blake2s(repr(line).encode(), digest_size=8).hexdigest()
        seen[digest] = seen.get(digest, 0) + 1
        labels.append(f"line|{service}|{digest}|{seen[digest]}")
    return tuple(labels)


def _outcome(words: list[str]) -> Outcome:
    service, verdict, reason, cache = words
    return Outcome(
        service,
        Verdict(verdict),
        Reason(reason) if reason else None,
        IPv4Address(cache) if cache else None,
    )
