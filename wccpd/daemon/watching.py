"""Hears in the event loop of what others change in the kernel, and tells whom it concerns, within milliseconds.

After each hearing it is deaf for a moment: however many notices come, they are gathered, and what finds no room in
the kernel's buffer meanwhile counts as one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from wccpd.dataplane.port import Notices

log = structlog.get_logger("wccpd.watching")

GATHER_SECONDS = 0.02
"""How long it is deaf after it has heard something."""
RETRY_SECONDS = 5.0
"""After notices could not be had."""


async def watch(open_notices: Callable[[], Awaitable[Notices | None]], on_change: Callable[[], None]) -> None:
    """Tell of changes until cancelled; without notices the periodic rounds must do.

    Args:
        open_notices: Opens what tells; None if nothing does, and nobody need wait.
        on_change: Called, in the event loop, when something that concerns us was changed.
    """
    fault = ""
    while True:
        try:
            notices = await open_notices()
            if notices is None:
                return
            try:
                await _hear(notices, on_change)
            finally:
                notices.close()
        except KernelError as error:
            if str(error) != fault:
                log.error("no_notices", reason=str(error))
            fault = str(error)
        await asyncio.sleep(RETRY_SECONDS)


async def _hear(notices: Notices, on_change: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    while True:
        loop.add_reader(notices.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(notices.fileno())
        readable.clear()
        if notices.drain():
            on_change()
        await asyncio.sleep(GATHER_SECONDS)
