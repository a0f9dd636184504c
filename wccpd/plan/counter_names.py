"""How counters are called in the nft table, and what a name says.

redirected-web-cache-10.0.0.21     forwarded-70-unassigned     dropped-70-lapsed
exempt-from-cache                  returned-10.0.0.21
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from wccpd.plan.verdict import Counters, Exemption, Outcome, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wccpd.plan.verdict import Count


def outcome_name(outcome: Outcome) -> str:
    """The counter of what became of packets of a service."""
    return (
        f"{outcome.verdict}-{outcome.service}-{outcome.cache if outcome.reason is None else outcome.reason}"
    )


def exempt_name(exemption: Exemption) -> str:
    """The counter of packets that no service could take."""
    return f"exempt-{exemption}"


def returned_name(cache: IPv4Address) -> str:
    """The counter of frames that a cache returned by L2."""
    return f"returned-{cache}"


def outcome_of(name: str) -> Outcome | None:
    """What a counter with this name counts, if it is an outcome."""
    verdict, _, rest = name.partition("-")
    service, _, what = rest.rpartition("-")
    if verdict not in set(Verdict) or not service:
        return None
    try:
        if verdict == Verdict.REDIRECTED:
            return Outcome(service, Verdict.REDIRECTED, None, IPv4Address(what))
        return Outcome(service, Verdict(verdict), Reason(what))
    except ValueError:
        return None  # another version's, or somebody's; the next change takes it away


def read_counters(named: Mapping[str, Count]) -> Counters:
    """All named counters, sorted out; the lines of redirect lists are read elsewhere."""
    exempt = {exempt_name(each): each for each in Exemption}
    outcomes = {outcome: count for name, count in named.items() if (outcome := outcome_of(name)) is not None}
    return Counters(
        outcomes=outcomes,
        exempt={exempt[name]: count for name, count in named.items() if name in exempt},
        returned={
            IPv4Address(name.removeprefix("returned-")): count
            for name, count in named.items()
            if name.startswith("returned-")
        },
    )
