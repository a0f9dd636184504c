"""Whether our prefixes should be advertised: condition, quorum, hysteresis, drain. Pure: `now` is an argument.

Advertised prefixes draw traffic. A router that cannot do its duty withdraws them, and the Transit Gateway's ECMP
moves on to the others within milliseconds.

Hysteresis. A condition must fail for `fail_seconds` before the prefixes are withdrawn, and then hold without
interruption for `recover_seconds` before they return: caches that come and go every few seconds cost one
withdrawal, not one each time. The first decision after a start needs no such time when the condition holds. While
it does not hold yet, nothing is decided for `patience_seconds`, because caches need that long to find us again, and
the gobgpd that we found may be advertising for our predecessor. The operator's word, drain or undrain, counts at
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class AdvertiseWhen(StrEnum):
    """What must hold for our prefixes to be advertised; each includes the ones before."""

    ALWAYS = "always"
    FORWARDING = "forwarding"
    """Packets can get through this router."""
    REDIRECTING = "redirecting"
    """And every service group has its quorum of usable caches."""


@dataclass(frozen=True, slots=True)
class AdvertisePolicy:
    """The operator's choice; times in seconds."""

    when: AdvertiseWhen = AdvertiseWhen.FORWARDING
    quorum: int = 1
    """Usable caches that every service group needs."""
    fail_seconds: float = 3.0
    recover_seconds: float = 10.0
    patience_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision looks at."""

    cannot_forward: tuple[str, ...] = ()
    """Why packets cannot get through this router, in words; empty when they can."""
    usable_caches: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Service group -> usable caches; every configured group is in it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows, until the next one."""

    advertise: bool | None
    """None: not decided yet, gobgpd is left as found."""
    reason: str
    """Why not, or what is about to change the decision; empty when all is well."""


class Gate:
    """Decides from the newest facts; see the module's docstring for the rules.

    Args:
        policy: The operator's choice.
        now: Monotonic seconds.
        drained: Whether an operator had taken this router out of service before.
    """

    def __init__(self, policy: AdvertisePolicy, now: float, *, drained: bool = False) -> None:
        self._policy = policy
        self._drained = drained
        self._decided: bool | None = None
        self._undecided_since = now
        self._failing_since: float | None = None
        self._holding_since: float | None = None
        self._deadline = inf

    @property
    def drained(self) -> bool:
        """Whether an operator took this router out of service."""
        return self._drained

    def reconfigure(self, policy: AdvertisePolicy) -> None:
        """Take another policy; the next `judge` goes by it, with what was decided before."""
        self._policy = policy

    def drain(self, drained: bool, now: float) -> None:
        """Take the operator's word; the next `judge` acts on it."""
        if self._drained and not drained:
            self._decided, self._undecided_since = None, now
        self._drained = drained

    def next_deadline(self) -> float:
        """When `judge` may decide otherwise on the same facts, `inf` for never."""
        return self._deadline

    def judge(self, facts: Facts, now: float) -> Decision:
        """Decide."""
        self._deadline = inf
        if self._drained:
            self._decided, self._failing_since, self._holding_since = False, None, None
            return Decision(False, "drained by the operator")
        unmet = self._unmet(facts)
        if not unmet:
            return self._holds(now)
        return self._fails(unmet, now)

    def _holds(self, now: float) -> Decision:
        self._failing_since = None
        if self._decided is not False:
            self._decided = True
            return Decision(True, "")
        if self._holding_since is None:
            self._holding_since = now
        left = self._holding_since + self._policy.recover_seconds - now
        if left > 0:
            self._deadline = now + left
            return Decision(False, f"all is well again, must stay so for {self._policy.recover_seconds:g} s")
        self._decided, self._holding_since = True, None
        return Decision(True, "")

    def _fails(self, unmet: str, now: float) -> Decision:
        self._holding_since = None
        if self._failing_since is None:
            self._failing_since = now
        if self._decided is None:
            left = self._undecided_since + self._policy.patience_seconds - now
        elif self._decided:
            left = self._failing_since + self._policy.fail_seconds - now
        else:
            left = 0.0
        if left > 0:
            self._deadline = now + left
        else:
            self._decided = False
        return Decision(self._decided, unmet)

    def _unmet(self, facts: Facts) -> str:
        """Why the condition does not hold, empty when it does."""
        policy = self._policy
        if policy.when is AdvertiseWhen.ALWAYS:
            return ""
        reasons = [*facts.cannot_forward]
        if policy.when is AdvertiseWhen.REDIRECTING:
            reasons += [
                f"service {service} has {usable} usable caches, the quorum is {policy.quorum}"
                for service, usable in sorted(facts.usable_caches.items())
                if usable < policy.quorum
            ]
        return "; ".join(reasons)
