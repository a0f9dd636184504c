"""The lease: renewed as long as loop and worker live, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.support.daemon import wait_for
from wccpd.dataplane.lease import RENEWALS_PER_LEASE, SIGNS_PER_LEASE, LeaseKeeper
from wccpd.errors import KernelError

LEASE = 30.0
SIGN = LEASE / SIGNS_PER_LEASE


class Bench:
    """A keeper on a clock that a test turns, and when the kernel's lease ends."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends = 0.0
        self.renewals = 0
        self.refused = False
        self.keeper = LeaseKeeper(self._renew, LEASE, lambda: self.now)

    def _renew(self, seconds: float) -> None:
        if self.refused:
            raise KernelError("lease", "change", 2)
        assert seconds > 0
        self.ends = self.now + seconds
        self.renewals += 1

    def let_live(self, seconds: float, *signs: Callable[[], None]) -> None:
        """Let time pass, with these signs of life whenever they are due."""
        until = self.now + seconds
        while self.now < until:
            for sign in signs:
                sign()
            self.keeper.tick()
            self.now += SIGN

    @property
    def both(self) -> tuple[Callable[[], None], ...]:
        return self.keeper.loop_lives, self.keeper.worker_lives


def test_while_both_live_the_lease_never_comes_near_its_end() -> None:
    bench = Bench()
    bench.let_live(SIGN, *bench.both)
    for _ in range(100):
        bench.let_live(SIGN, *bench.both)
        assert bench.ends - bench.now >= LEASE / 2
    assert bench.renewals <= 101 * SIGN / LEASE * RENEWALS_PER_LEASE + 1


def test_when_one_falls_silent_the_lease_ends_when_it_is_due_whatever_the_other_does() -> None:
    for living in ("loop_lives", "worker_lives"):
        bench = Bench()
        bench.let_live(100, *bench.both)
        silent_since = bench.now - SIGN
        bench.let_live(10 * LEASE, getattr(bench.keeper, living))
        assert bench.ends <= silent_since + LEASE, living
        assert bench.ends > silent_since, living


def test_nothing_is_renewed_before_both_have_shown_life() -> None:
    for sign in ("loop_lives", "worker_lives"):
        bench = Bench()
        bench.let_live(LEASE, getattr(bench.keeper, sign))
        assert bench.renewals == 0


def test_a_worker_that_is_busy_for_longer_than_the_lease_but_gets_on_keeps_it_alive() -> None:
    bench = Bench()
    bench.let_live(SIGN, *bench.both)
    step = 0.8 * LEASE
    for _ in range(20):
        bench.keeper.worker_lives()
        bench.let_live(step, bench.keeper.loop_lives)
        assert bench.ends > bench.now


def test_one_that_comes_back_is_renewed_at_once() -> None:
    bench = Bench()
    bench.let_live(100, *bench.both)
    bench.let_live(3 * LEASE, bench.keeper.loop_lives)
    assert bench.ends < bench.now
    bench.let_live(SIGN, *bench.both)
    assert bench.ends > bench.now


def test_a_renewal_that_is_refused_is_tried_again_with_the_next_tick() -> None:
    bench = Bench()
    bench.refused = True
    bench.let_live(2 * LEASE, *bench.both)
    bench.refused = False
    bench.let_live(SIGN, *bench.both)
    assert bench.renewals == 1


def test_the_thread_renews_by_itself_and_ends_when_it_is_told() -> None:
    renewed: list[float] = []
    keeper = LeaseKeeper(renewed.append, 0.1)
    keeper.join()
    before = threading.active_count()
    keeper.start()
    keeper.loop_lives()
    keeper.worker_lives()
    wait_for(lambda: renewed, "it was renewed")
    assert all(0 < seconds <= 0.1 for seconds in renewed)
    keeper.stop()
    keeper.join()
    assert threading.active_count() == before
    count = len(renewed)
    keeper.loop_lives()
    keeper.worker_lives()
    assert len(renewed) == count
