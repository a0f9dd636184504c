"""The engine's memory on disk: believed when young or still in force, set aside when damaged."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path as FilePath

import pytest
import structlog.testing

from tests.support.stage import FIRST, Stage
from wccpd.daemon.memory import Memory
from wccpd.daemon.state_file import BOOT_ID, StateFile
from wccpd.dataplane.port import Observation
from wccpd.plan.redirect import Path
from wccpd.protocol.record import GroupRecord, dump, group_state
from wccpd.protocol.router import Router
from wccpd.wire.enums import ForwardingMethod

EMPTY_KERNEL = Observation()


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.joined(FIRST)
    return made


def saved(
    stage: Stage, directory: FilePath, *, age_seconds: float = 0.0, boot_id: str | None = None
) -> Memory:
    """A memory that was saved so long ago."""
    memory = Memory(directory)
    asyncio.run(memory.save(stage.router))
    memory.close()
    path = directory / "engine.json"
    document = json.loads(path.read_text())
    document["saved_at"] = 1000.0 - age_seconds
    document["boot_id"] = boot_id or document["boot_id"]
    path.write_text(json.dumps(document))
    return memory


def redirecting() -> Observation:
    """A kernel that still has a path to a cache."""
    return Observation(slots={Path(FIRST, ForwardingMethod.GRE): 1})


def test_a_young_memory_brings_members_back(stage: Stage, tmp_path: FilePath) -> None:
    fresh = Router(stage.router.settings)
    assert saved(stage, tmp_path, age_seconds=29).resume(fresh, EMPTY_KERNEL, 1000.0) == "members"
    assert [cache.address for cache in fresh.view().groups[0].caches] == [FIRST]


def test_an_old_memory_brings_members_back_only_while_the_kernel_redirects(
    stage: Stage, tmp_path: FilePath
) -> None:
    memory = saved(stage, tmp_path, age_seconds=3600)
    assert memory.resume(Router(stage.router.settings), EMPTY_KERNEL, 1000.0) == "numbers"
    assert memory.resume(Router(stage.router.settings), redirecting(), 1000.0) == "members"


@pytest.mark.parametrize("age", [-1.0, float("-inf"), float("nan")])
def test_a_memory_from_the_future_is_not_a_young_one(stage: Stage, tmp_path: FilePath, age: float) -> None:
    memory = saved(stage, tmp_path, age_seconds=age)
    assert memory.resume(Router(stage.router.settings), EMPTY_KERNEL, 1000.0) == "numbers"


def test_after_a_reboot_only_numbers_come_back(stage: Stage, tmp_path: FilePath) -> None:
    memory = saved(stage, tmp_path, boot_id="another")
    assert memory.resume(Router(stage.router.settings), redirecting(), 1000.0) == "numbers"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "boot_id": "x", "saved_at": 0, "engine": {"groups": [1]}}',
        f'{{"format": 1, "boot_id": "{BOOT_ID.read_text().strip()}", "saved_at": 1{"0" * 400}, "engine": {{}}}}',
        '{"format": ' + "[" * 100_000,
    ],
)
def test_a_damaged_file_is_set_aside_with_a_warning(stage: Stage, tmp_path: FilePath, content: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(content)
    fresh = Router(stage.router.settings)
    with structlog.testing.capture_logs() as logs:
        assert Memory(tmp_path).resume(fresh, EMPTY_KERNEL, 0.0) == "nothing"
    assert [entry["event"] for entry in logs] == ["state_not_resumed"]
    assert (tmp_path / "engine.corrupt").read_text() == content
    assert not path.exists()
    assert fresh.view().groups[0].caches == ()


def test_no_file_is_nothing_to_resume_and_no_warning(stage: Stage, tmp_path: FilePath) -> None:
    with structlog.testing.capture_logs() as logs:
        assert Memory(tmp_path).resume(stage.router, EMPTY_KERNEL, 0.0) == "nothing"
    assert logs == []


async def test_a_directory_that_cannot_be_written_is_said_once(stage: Stage, tmp_path: FilePath) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    memory = Memory(blocker / "state")
    with structlog.testing.capture_logs() as logs:
        await memory.save(stage.router)
        await memory.save(stage.router)
    memory.close()
    assert [entry["event"] for entry in logs] == ["state_not_saved"]


def test_half_a_file_is_never_seen(stage: Stage, tmp_path: FilePath) -> None:
    file = StateFile(tmp_path)
    file.save(['{"one": 1}', '{"two": 2}'], 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]
    loaded = file.load(3.5)
    assert (loaded.state, loaded.age_seconds, loaded.same_boot) == (
        {"groups": [{"one": 1}, {"two": 2}]},
        2.5,
        True,
    )


async def test_what_is_saved_is_the_state_of_the_moment_and_each_change_reaches_the_file(
    stage: Stage, tmp_path: FilePath
) -> None:
    memory = Memory(tmp_path)
    file = StateFile(tmp_path)
    for _ in range(3):
        saving = asyncio.ensure_future(memory.save(stage.router))  # noqa: TID251 - a race on purpose
        await asyncio.sleep(0)
        expected = dump(stage.router)
        stage.live(10, stage.caches[FIRST])
        await saving
        assert file.load(0.0).state == expected
    memory.close()


async def test_a_group_in_which_nothing_changed_is_not_rendered_again(
    stage: Stage, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[GroupRecord] = []
    monkeypatch.setattr(
        "wccpd.daemon.memory.group_state", lambda group: rendered.append(group) or group_state(group)
    )
    memory = Memory(tmp_path)
    await memory.save(stage.router)
    await memory.save(stage.router)
    assert len(rendered) == 1
    stage.live(10, stage.caches[FIRST])
    await memory.save(stage.router)
    assert len(rendered) == 2
    memory.close()
