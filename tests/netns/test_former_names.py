"""Objects that a crashed daemon left under names that the operator has changed since."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counted_network import FIRST, SECOND
from tests.support.daemon import wait_for
from tests.support.stream_stage import Stage, redirected_all, settled, stream_stage
from wccpd.daemon.former_names import FormerNames
from wccpd.plan.policy import KernelSettings

pytestmark = pytest.mark.netns

FORMER = "{table_base: 20000, rule_priority: 21000, nft_table: elder, mark_shift: 0}"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stream_stage(tmp_path) as made:
        yield made


def ours(stage: Stage, table: int, priority: int, nft_table: str) -> list[str]:
    """What there is under such names."""
    rules = [line for line in stage.router.run("ip", "rule", "list").splitlines() if "/0xff lookup" in line]
    routes = stage.router.run("ip", "route", "list", "table", "all").splitlines()
    tables = stage.router.run("nft", "list", "tables").splitlines()
    return [
        *(line for line in rules if priority < int(line.partition(":")[0]) <= priority + 255),
        *(line for line in routes if any(f"table {table + slot} " in f"{line} " for slot in range(1, 256))),
        *(line for line in tables if line == f"table ip {nft_table}"),
    ]


def former(stage: Stage) -> list[str]:
    return ours(stage, 20000, 21000, "elder")


def current(stage: Stage) -> list[str]:
    return ours(stage, 18800, 18800, "wccpd")


def add_strangers(stage: Stage) -> list[str]:
    """Rules, routes and tables of somebody else right beside ours; return how they are listed."""
    router = stage.router
    router.run("ip", "rule", "add", "priority", "21001", "fwmark", "0x70000000", "lookup", "100")
    router.run("ip", "rule", "add", "priority", "18700", "fwmark", "0x1/0xff", "lookup", "20001")
    router.run("ip", "route", "add", "192.0.2.0/24", "via", "10.9.0.2", "proto", "static")
    router.run("nft", "add table ip other; add chain ip other c")
    return strangers(stage)


def strangers(stage: Stage) -> list[str]:
    listing = stage.router.run("sh", "-c", "ip rule list; ip route list; nft list tables").splitlines()
    wanted = ("18700:", "21001:\tfrom all fwmark 0x70000000", "192.0.2.0/24", "table ip other")
    return [line for line in listing if line.startswith(wanted)]


def crashed(stage: Stage, mode: str = "open") -> None:
    """A daemon with the former names was killed while it redirected."""
    daemon = stage.start(mode, kernel=FORMER)
    stage.join(FIRST, SECOND)
    wait_for(lambda: len(former(stage)) == 5, "two rules, two routes, a table")
    daemon.stop(signal.SIGKILL)


def test_the_next_start_removes_what_former_names_left_and_nothing_of_others(stage: Stage) -> None:
    theirs = add_strangers(stage)
    assert len(theirs) == 4
    crashed(stage)
    daemon = stage.start()
    for cache in stage.joined:
        cache.join()
    wait_for(lambda: len(current(stage)) == 5, "two rules, two routes, a table")
    assert former(stage) == []
    assert strangers(stage) == theirs
    (said,) = daemon.events("former_names_removed")
    assert said["nft_table"] == "elder"
    assert daemon.events("not_removed") == []
    names = json.loads((stage.directory / "state" / "kernel-names.json").read_text())["names"]
    assert [each["nft_table"] for each in names] == ["wccpd"], "what is gone is forgotten"


def test_a_closed_service_stays_closed_while_its_names_change(stage: Stage) -> None:
    crashed(stage, "closed")
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the kernel redirects by itself")
    stage.start("closed")
    for cache in stage.joined:
        cache.join()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    assert former(stage) == []
    _, _, past = settled(stage, stream)
    assert past == 0


def test_cleanup_removes_what_former_names_left_too(stage: Stage) -> None:
    theirs = add_strangers(stage)
    crashed(stage)
    config = stage.configure(kernel="{rule_priority: 21000}")
    done = stage.command("cleanup", "-c", str(config))
    assert done.returncode == 0, done.stderr
    assert former(stage) == current(stage) == []
    assert strangers(stage) == theirs


def test_one_name_that_changes_costs_only_what_goes_by_it(stage: Stage) -> None:
    crashed(stage)
    rules = [line for line in former(stage) if "fwmark" in line]
    stage.configure(kernel=FORMER.replace("elder", "younger"))
    settings = KernelSettings(table_base=20000, rule_priority=21000, nft_table="younger")
    names = stage.router.call(lambda: FormerNames(stage.directory / "state", settings))
    assert stage.router.call(names.claim) == ()
    assert [line for line in former(stage) if "fwmark" in line] == rules
    assert "table ip elder" in former(stage), "until the new one is in force"
    stage.start(kernel=FORMER.replace("elder", "younger"))
    wait_for(
        lambda: "table ip younger" in stage.router.run("nft", "list", "tables"), "the new table is there"
    )
    wait_for(lambda: "elder" not in stage.router.run("nft", "list", "tables"), "the old table is gone")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"format": 1, "boot_id": "BOOT", "names": [{"nft_table": "elder"}]}',
        '{"format": 2, "boot_id": "BOOT", "names": []}',
        '{"format": 1, "boot_id": "another boot", "names": [NAMES]}',
    ],
)
def test_names_that_cannot_be_believed_remove_nothing(stage: Stage, text: str) -> None:
    crashed(stage)
    path = stage.directory / "state" / "kernel-names.json"
    document = json.loads(path.read_text())
    names = json.dumps(document["names"][0])
    path.write_text(text.replace("BOOT", document["boot_id"]).replace("NAMES", names))
    left = former(stage)
    daemon = stage.start()
    assert former(stage) == left
    expected = 0 if "another boot" in text else 1
    assert len(daemon.events("former_names_unknown")) == expected


def test_a_table_that_took_a_former_name_and_is_not_ours_is_left_alone(stage: Stage) -> None:
    crashed(stage)
    stage.router.run("nft", "delete table ip elder; add table ip elder; add chain ip elder theirs")
    daemon = stage.start()
    for cache in stage.joined:
        cache.join()
    wait_for(lambda: len(current(stage)) == 5, "two rules, two routes, a table")
    assert former(stage) == ["table ip elder"]
    assert "theirs" in stage.router.run("nft", "list", "table", "ip", "elder")
    assert daemon.events("not_removed") == []
