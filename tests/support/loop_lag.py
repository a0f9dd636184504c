"""How long the event loop left others waiting."""

from __future__ import annotations

import asyncio
import time


class LoopLag:
    """A task that wants its turn each millisecond, and remembers the longest wait beyond that."""

    def __init__(self) -> None:
        self.worst_seconds = 0.0

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            asked = time.monotonic()
            await asyncio.sleep(0.001)
            self.worst_seconds = max(self.worst_seconds, time.monotonic() - asked - 0.001)
