"""How often one cache of one group is answered.

An I_SEE_YOU is larger than most HERE_I_AMs, so whoever may join could use the router to flood a third party in
its name. The limit leaves room for the fastest timers (two HERE_I_AMs a second), for the three quick ones that
answer a REMOVAL_QUERY, and for restarts.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST = 8.0
PER_SECOND = 4.0


@dataclass(slots=True)
class AnswerLimit:
    """A token bucket."""

    tokens: float = BURST
    at: float | None = None

    def allows(self, now: float) -> bool:
        """Take one token, if there is one."""
        if self.at is not None:
            self.tokens = min(BURST, self.tokens + max(0.0, now - self.at) * PER_SECOND)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
