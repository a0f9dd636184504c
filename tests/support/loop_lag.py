"""How long the event loop left others waiting."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Self

_BARE = """
import select, sys, time
worst = 0.0
while True:
    asked = time.monotonic()
    ended = select.select([sys.stdin], [], [], 0.001)[0]
    if ended:
        break
    worst = max(worst, time.monotonic() - asked - 0.001)
print(worst)
"""


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


class BareLag:
    """The same for a process that does nothing else: how long the machine leaves anybody waiting."""

    def __init__(self) -> None:
        self.worst_seconds = 0.0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.worst_seconds = float(self._process.communicate("", timeout=10)[0])
