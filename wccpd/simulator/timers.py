"""The timers that a cache runs at (2.01, 2.1 and 3.5): its wish where that is offered, else what the group has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.wire.elements import TimerScale, TransmitT

if TYPE_CHECKING:
    from wccpd.simulator.heard import Heard
    from wccpd.simulator.profiles import Profile


@dataclass(frozen=True, slots=True)
class CacheTimers:
    """What a cache selected; the defaults are those of 2.00, which are never said."""

    transmit_t: TransmitT | None = None
    timer_scale: TimerScale | None = None

    @property
    def here_i_am_seconds(self) -> float:
        """TRANSMIT_T."""
        return 10.0 if self.transmit_t is None else self.transmit_t.lower_milliseconds / 1000

    @property
    def silence_seconds(self) -> float:
        """After which a router is gone: 3 TIMEOUT_BASE_T."""
        scale = 1 if self.timer_scale is None else self.timer_scale.timeout_lower
        return 3 * scale * self.here_i_am_seconds

    @property
    def change_wait_seconds(self) -> float:
        """What a designated cache waits after a change: 1.5 RA_TIMER_BASE_T."""
        scale = 1 if self.timer_scale is None else self.timer_scale.ra_timer_lower
        return 1.5 * scale * self.here_i_am_seconds

    @property
    def query_answer_seconds(self) -> float:
        """Between the HERE_I_AMs that answer a REMOVAL_QUERY: 0.1 TRANSMIT_T."""
        return 0.1 * self.here_i_am_seconds


def select(profile: Profile, heard: Heard, before: CacheTimers) -> CacheTimers:
    """What a cache of 2.01 selects after an offer: a single value offered is what the group runs at."""
    if heard.transmit_t is None or heard.timer_scale is None:
        return before
    upper, lower = heard.transmit_t
    wish = profile.transmit_milliseconds
    transmit = min(max(wish, lower), upper) if upper else lower
    timeout_upper, timeout, ra_upper, ra_timer = heard.timer_scale
    return CacheTimers(
        TransmitT(0, transmit),
        TimerScale(
            0,
            min(max(profile.timeout_scale, timeout), timeout_upper) if timeout_upper else timeout,
            0,
            min(max(profile.ra_timer_scale, ra_timer), ra_upper) if ra_upper else ra_timer,
        ),
    )
