"""The daemon's BGP side, with a kernel of its own that lists as slowly as one with very many routes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from ipaddress import IPv4Network
from pathlib import Path

import config
from bgp.events import IPNetwork, PathAttributes, PathLearned, PeerStateChanged, RouteSet, SessionState
from wccpd.daemon.bgp_side import BgpSide
from wccpd.dataplane.routes import GaveWayError, KernelRoutes, SyncResult

PATIENCE_SECONDS = 10.0
SPOKE = IPv4Network("10.1.0.0/16")


class SlowKernel(KernelRoutes):
    """Takes every route; a verifying look lasts until it is hurried."""

    def __init__(self) -> None:
        self.verifying = threading.Event()
        self.hurried = threading.Event()
        self.looked_again = threading.Event()
        self.done: list[tuple[RouteSet, bool]] = []

    def sync(
        self, wanted: RouteSet, protected: Collection[IPNetwork] = (), *, verify: bool = True
    ) -> SyncResult:
        del protected
        if verify and not self.hurried.is_set():
            self.verifying.set()
            if self.hurried.wait(PATIENCE_SECONDS):
                raise GaveWayError
        self.done.append((wanted, verify))
        if verify:
            self.looked_again.set()
        return SyncResult(0, 0, 0, len(wanted.routes))

    def hurry(self) -> None:
        self.hurried.set()


async def test_a_lost_session_is_written_before_a_look_that_is_under_way_ends(tmp_path: Path) -> None:
    example = config.load(Path(config.__file__).parent / "examples" / "one-router.yaml")
    side = BgpSide(example.model_copy(update={"state_directory": tmp_path}))
    side._table = kernel = SlowKernel()
    neighbour = next(iter(side._rib._neighbours))
    side._rib.handle(PeerStateChanged(neighbour, SessionState.ESTABLISHED), 0.0)
    side._rib.handle(PathLearned(neighbour, SPOKE, PathAttributes((64512,), 1)), 0.0)
    async with asyncio.timeout(PATIENCE_SECONDS / 2), asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(side._write_routes(), name="routes")
        try:
            await asyncio.to_thread(kernel.verifying.wait, PATIENCE_SECONDS)
            side._rib.handle(PeerStateChanged(neighbour, SessionState.IDLE), 1.0)
            side._on_dirty()
            await asyncio.to_thread(kernel.looked_again.wait, PATIENCE_SECONDS)
        finally:
            kernel.hurry()
            writer.cancel()
    assert kernel.done[0] == (RouteSet(), False)
    assert kernel.done[1][1], "the look is made up for at once"
