"""Notices in the event loop: heard at once, gathered, and never at the cost of everything else."""

from __future__ import annotations

import asyncio
import os

from wccpd.daemon.watching import GATHER_SECONDS, watch
from wccpd.errors import KernelError


class Pipe:
    """Notices by a pipe: `!` concerns us, anything else does not, `x` breaks it."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.drained = 0
        self.closed = False

    def fileno(self) -> int:
        return self._reading

    def drain(self) -> bool:
        self.drained += 1
        found = os.read(self._reading, 65536)
        if b"x" in found:
            raise KernelError("netlink socket", "read", 9)
        return b"!" in found

    def close(self) -> None:
        self.closed = True
        os.close(self._reading)
        os.close(self.writing)


class Bench:
    def __init__(self) -> None:
        self.pipe = Pipe()
        self.changes = 0
        self.heard = asyncio.Event()

    def on_change(self) -> None:
        self.changes += 1
        self.heard.set()

    async def opened(self) -> Pipe:
        return self.pipe

    async def until(self, work: object, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            await work  # type: ignore[misc]


async def test_a_change_is_told_at_once_and_what_concerns_nobody_is_not() -> None:
    bench = Bench()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch(bench.opened, bench.on_change))
        os.write(bench.pipe.writing, b"-")
        while bench.pipe.drained == 0:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)
        assert bench.changes == 0
        os.write(bench.pipe.writing, b"!")
        await bench.until(bench.heard.wait())
        assert bench.changes == 1
        task.cancel()
    assert bench.pipe.closed


async def test_a_flood_is_gathered() -> None:
    bench = Bench()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch(bench.opened, bench.on_change))
        started = loop.time()
        while bench.changes < 5:
            os.write(bench.pipe.writing, b"!")
            await asyncio.sleep(0)
        assert loop.time() - started >= 4 * GATHER_SECONDS
        task.cancel()


async def test_where_nothing_tells_nobody_waits() -> None:
    async def nothing() -> None:
        return None

    await asyncio.wait_for(watch(nothing, lambda: None), 5)


async def test_notices_that_break_are_opened_anew(monkeypatch: object) -> None:
    monkeypatch.setattr("wccpd.daemon.watching.RETRY_SECONDS", 0.01)  # type: ignore[attr-defined]
    bench = Bench()
    first = bench.pipe
    opened = 0

    async def open_some() -> Pipe:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise KernelError("netlink socket", "open", 24)
        if opened == 3:
            bench.pipe = Pipe()
        return bench.pipe

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch(open_some, bench.on_change))
        os.write(first.writing, b"x")
        async with asyncio.timeout(10):
            while opened < 3:  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.01)
        os.write(bench.pipe.writing, b"!")
        await bench.until(bench.heard.wait())
        task.cancel()
    assert first.closed
