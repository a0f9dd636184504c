"""What a doctor says: findings, how severe they are, and with which code the command ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from wccpd.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wccpd.doctor.facts import Facts

VERSION = 1


class Severity(StrEnum):
    """How severe a finding is."""

    OK = "ok"
    """Looked at, and as it should be."""
    SKIPPED = "skipped"
    """Not looked at; what was measured says why."""
    WARNING = "warning"
    """It works, but less well than it could, or may break."""
    FAULT = "fault"
    """Traffic is not inspected as it should be, or soon will not be."""


EXIT_CODES = {
    Severity.OK: ExitCode.OK,
    Severity.SKIPPED: ExitCode.OK,
    Severity.WARNING: ExitCode.WARNING,
    Severity.FAULT: ExitCode.FAILURE,
}
_RANK = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Which check: a stable name."""
    severity: Severity
    measured: str
    """What was found, in one line."""
    remedy: str = ""
    """What to do about it; empty if nothing."""

    @property
    def exit_code(self) -> ExitCode:
        """The code that this finding alone ends the command with."""
        return EXIT_CODES[self.severity]


def ok(check: str, measured: str) -> Finding:
    """Something that is as it should be."""
    return Finding(check, Severity.OK, measured)


def unread(facts: Facts, check: str, key: str) -> Finding:
    """Something that could not be looked at; `key` is what `HostFacts.unread` calls it."""
    return Finding(check, Severity.SKIPPED, f"not looked at: {facts.host.unread.get(key, 'not known')}")


def worst(findings: Iterable[Finding]) -> Severity:
    """The severity of all together."""
    return max((each.severity for each in findings), key=_RANK.index, default=Severity.OK)


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first; equal ones stay in their order."""
    return tuple(sorted(findings, key=lambda each: -_RANK.index(each.severity)))


def document(findings: Iterable[Finding]) -> dict[str, object]:
    """Findings as plain JSON values; keys are stable."""
    found = by_severity(findings)
    severity = worst(found)
    return {
        "version": VERSION,
        "severity": severity.value,
        "exit_code": int(EXIT_CODES[severity]),
        "findings": [
            {
                "check": each.check,
                "severity": each.severity.value,
                "measured": each.measured,
                "remedy": each.remedy,
                "exit_code": int(each.exit_code),
            }
            for each in found
        ],
    }


def from_document(answer: object) -> tuple[Finding, ...]:
    """The findings of a document.

    Raises:
        ValueError: It is none.
    """
    match answer:
        case {"version": int(), "findings": list(items)}:
            return tuple(map(_finding, items))
        case _:
            raise ValueError("the answer is no list of findings")


def _finding(item: Mapping[str, str]) -> Finding:
    return Finding(item["check"], Severity(item["severity"]), item["measured"], item["remedy"])
