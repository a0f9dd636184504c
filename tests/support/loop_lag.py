"""How long the event loop left others waiting."""

from __future__ import annotations

import asyncio
import time


class LoopLag:
    """A task that wants its turn each millisecond, and remembers the longest wait beyond that."""

    def __init__(self) -> None:
        self.worst_seconds = 0.0
        self.worst_cpu_seconds = 0.0
        """The most CPU time of the loop's own thread between two turns: what a busy machine adds is not in it."""

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            asked, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.001)
            self.worst_seconds = max(self.worst_seconds, time.monotonic() - asked - 0.001)
            self.worst_cpu_seconds = max(self.worst_cpu_seconds, time.thread_time() - cpu)
