"""Renews the lease in time however long a round takes, and lets it run out when the daemon hangs.

A thread of its own, which waits for nobody. Event loop and worker each give signs of life: the loop whenever it
turns, the worker when it takes work and between the steps of what takes long. The lease always ends
`lease_seconds` after the last sign of whichever has been silent for longer, not after the last renewal. So a worker
that is busy for minutes but gets on keeps it alive, and when one of the two hangs it ends as promised. One call into
the kernel or libnftables is one step: it may take as long as the lease. A transaction of a round renews it too.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Final

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNS_PER_LEASE: Final = 12
"""How often signs of life are due, and looked for."""
RENEWALS_PER_LEASE: Final = 3
"""So many may fail before the kernel falls to the services' modes."""


class LeaseKeeper:
    """The thread and the signs of life."""

    def __init__(
        self,
        renew: Callable[[float], None],
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is renewed before `start`.

        Args:
            renew: Lets the lease run for so many seconds from now; may raise `KernelError`.
            lease_seconds: How long the kernel goes on redirecting without a sign of life.
            clock: Monotonic seconds.
        """
        self._renew = renew
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._loop_at = self._worker_at = -math.inf
        self._renewed_at = -math.inf
        self._promised = -math.inf
        self._ending = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def set_lease(self, seconds: float) -> None:
        """Let it run for another time from now on; the next renewal is now."""
        if seconds != self._lease_seconds:
            self._lease_seconds = seconds
            self._renewed_at = self._promised = -math.inf
            self._wake.set()

    def loop_lives(self) -> None:
        """The event loop turns."""
        self._loop_at = self._clock()

    def worker_lives(self) -> None:
        """The worker takes work, or gets on with it."""
        self._worker_at = self._clock()

    def start(self) -> None:
        """Begin to renew."""
        self._ending = False
        self._wake.clear()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew no more; a renewal that is under way may still succeed, see `join`."""
        self._ending = True
        self._wake.set()

    def join(self) -> None:
        """Wait until no renewal is under way; only after `stop`."""
        if self._thread is not None and self._ending:
            self._thread.join()

    def lost(self) -> None:
        """Somebody took the lease away: renew it at once, if there is one to renew."""
        if self._promised > self._clock():
            self._renewed_at = self._promised = -math.inf
            self._wake.set()

    def tick(self) -> None:
        """Renew if that is due and there are new signs of life."""
        now = self._clock()
        until = min(self._loop_at, self._worker_at) + self._lease_seconds
        due = now - self._renewed_at >= self._lease_seconds / RENEWALS_PER_LEASE
        if not due or until <= max(now, self._promised):
            return
        try:
            self._renew(until - now)
        except KernelError:
            return  # tried again with the next tick; what is wrong is a fault of the next round too
        self._renewed_at, self._promised = now, until

    def _run(self) -> None:
        while not self._ending:
            self.tick()
            # A little early, so that a renewal that is due is not put off to the tick after.
            self._wake.wait(0.99 * self._lease_seconds / SIGNS_PER_LEASE)
            self._wake.clear()
