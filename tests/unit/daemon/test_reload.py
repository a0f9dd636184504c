"""Reload, confirm and roll back over parts that are slow, refuse or fail; what the parts do is for other tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

import config
from config import Config
from wccpd.daemon import reload as module
from wccpd.daemon.change import Changer, NotTakenError, Prospect
from wccpd.daemon.notify import Notifier
from wccpd.daemon.reload import Reloader
from wccpd.daemon.unconfirmed import Content, Unconfirmed
from wccpd.plan.redirect import RedirectPlan
from wccpd.status.control import VerbError

TEXT = """\
router: {id: 10.0.0.1}
redirect: {interfaces: [eth0]}
services: [{service: 70, group_list: [10.0.0.0/8], mode: open, match: {}}]
"""
CLOSED = TEXT.replace("mode: open", "mode: closed")


class FakeChanger:
    """Takes everything at once, unless it is told to wait or to fail."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.failure: Exception | None = None

    async def prospect(self, after: Config) -> Prospect:
        return Prospect((), None, RedirectPlan(after.router.id, (), ()), ())

    async def change(self, after: Config) -> None:
        self.asked.set()
        await self.gate.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.taken.append(after.services[0].mode.value)

    async def next_change(self) -> None:
        self.asked.clear()
        async with asyncio.timeout(10):
            await self.asked.wait()


class Bench:
    def __init__(self, directory: Path) -> None:
        self.file = directory / "wccpd.yaml"
        self.file.write_text(CLOSED)
        self.changer = FakeChanger()
        self.kept = Unconfirmed(directory)
        content = Content(config.parse(TEXT, directory=directory), TEXT)
        self.reloader = Reloader(self.file, content, cast("Changer", self.changer), self.kept, Notifier({}))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.reloader.run(), name="reload")
            await asyncio.sleep(0)
            yield tasks
            assert not task.done(), "it lives whatever happens"
            task.cancel()


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_nothing_is_reloaded_before_the_daemon_has_started_or_while_it_stops(bench: Bench) -> None:
    with pytest.raises(VerbError, match="still starting"):
        await bench.reloader.reload()
    async with bench.running():
        bench.reloader.stop()
        with pytest.raises(VerbError, match="stopping"):
            await bench.reloader.reload()
    assert bench.changer.taken == []


async def test_a_second_reload_does_not_wait_for_the_first(bench: Bench) -> None:
    async with bench.running() as tasks:
        bench.changer.gate.clear()
        first = tasks.create_task(bench.reloader.reload(), name="first")
        await bench.changer.next_change()
        with pytest.raises(VerbError, match="another reload is under way"):
            await bench.reloader.reload()
        bench.changer.gate.set()
        assert (await first)["changes"]
    assert bench.changer.taken == ["closed"]


async def test_a_stop_abandons_a_reload_and_the_next_start_goes_by_what_was_in_force(bench: Bench) -> None:
    async with bench.running() as tasks:
        bench.changer.gate.clear()
        trial = tasks.create_task(bench.reloader.reload(60), name="trial")
        await bench.changer.next_change()
        bench.reloader.stop()
        with pytest.raises(asyncio.CancelledError):
            await trial
    in_file = Content(config.parse(CLOSED, directory=bench.file.parent), CLOSED)
    assert bench.kept.at_start(in_file).config.services[0].mode == "open"


async def test_what_refuses_leaves_no_note_and_a_former_one_stays(bench: Bench) -> None:
    async with bench.running():
        bench.changer.failure = NotTakenError("the kernel says no")
        with pytest.raises(VerbError, match="the kernel says no"):
            await bench.reloader.reload(60)
        assert bench.kept.read() is None
        assert bench.reloader.seconds_left(0.0) is None
        await bench.reloader.reload(60)
        await bench.reloader.rollback()
        noted = bench.kept.read()
        assert noted is not None
        bench.changer.failure = NotTakenError("the kernel says no")
        with pytest.raises(VerbError):
            await bench.reloader.reload(60)
        assert bench.kept.read() == noted


@pytest.mark.parametrize("failure", [NotTakenError("not now"), RuntimeError("a bug")], ids=repr)
async def test_a_rollback_that_fails_is_tried_again_until_it_works(
    bench: Bench, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    async with bench.running():
        await bench.reloader.reload(0.05)
        bench.changer.failure = failure
        await bench.changer.next_change()
        await bench.changer.next_change()
        assert bench.changer.taken == ["closed", "open"]
        assert bench.changer.failure is None
        assert "not confirmed in time" in bench.reloader.unlike_file


async def test_a_request_by_signal_survives_a_bug_and_a_broken_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.running():
        bench.changer.failure = RuntimeError("a bug")
        bench.reloader.request()
        await bench.changer.next_change()
        bench.file.write_text("router: [")
        refused = asyncio.Event()
        monkeypatch.setattr(module.log, "error", lambda *_, **__: refused.set())
        bench.reloader.request()
        async with asyncio.timeout(10):
            await refused.wait()
        bench.file.write_text(CLOSED)
        bench.reloader.request()
        await bench.changer.next_change()
        assert bench.changer.taken == ["closed"]


async def test_verbs_about_a_trial_are_refused_when_there_is_none(bench: Bench) -> None:
    async with bench.running():
        for verb in (bench.reloader.confirm, bench.reloader.rollback):
            with pytest.raises(VerbError, match="nothing waits to be confirmed"):
                await verb()
        await bench.reloader.reload(60)
        with pytest.raises(VerbError, match="waits to be confirmed"):
            await bench.reloader.reload()
        await bench.reloader.confirm()
        assert bench.kept.read() is None
        assert bench.changer.taken == ["closed"]
