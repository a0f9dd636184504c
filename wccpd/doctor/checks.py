"""All checks in the order in which they are told: each is given the facts and says what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.doctor.host_checks import HOST_CHECKS
from wccpd.doctor.router_checks import ROUTER_CHECKS

if TYPE_CHECKING:
    from wccpd.doctor.facts import Facts
    from wccpd.doctor.findings import Finding


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Everything that all checks find."""
    return tuple(finding for check in (*ROUTER_CHECKS, *HOST_CHECKS) for finding in check(facts))
