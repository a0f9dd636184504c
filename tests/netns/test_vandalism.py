"""What somebody else takes away from under a running daemon is back within milliseconds, at a bounded price."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.counted_network import FIRST, SECOND, arrived
from tests.support.daemon import Daemon, wait_for
from tests.support.stream_stage import Stage, Stream, redirected_all, stream_stage
from wccpd.dataplane.nft import Nft
from wccpd.dataplane.reconciler import NOTICE_SHARE, PERIOD_SECONDS
from wccpd.errors import KernelError

pytestmark = pytest.mark.netns

LONG = 3600
"""Seconds: no lease runs out in these tests."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stream_stage(tmp_path) as made:
        yield made


def closed_service(stage: Stage) -> Stream:
    """A closed service whose stream is redirected."""
    stage.start("closed", lease_seconds=LONG)
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    return stream


def passed_until_repaired(stage: Stage, stream: Stream, vandalism: Callable[[], object]) -> int:
    """How many packets pass uninspected from the damage until all are redirected again."""
    before = arrived(stage.far)
    vandalism()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected again", PERIOD_SECONDS)
    return arrived(stage.far) - before


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft delete table ip wccpd",
        "nft flush chain ip wccpd prerouting",
        "nft insert rule ip wccpd prerouting accept",
        "nft 'add table ip wccpd { flags dormant; }'",
        "nft flush map ip wccpd ingress; nft flush map ip wccpd lease",
    ],
)
def test_a_closed_service_that_is_torn_open_is_closed_long_before_the_next_period(
    stage: Stage, damage: str
) -> None:
    stream = closed_service(stage)
    for _ in range(3):
        started, sent = time.monotonic(), stream.sent
        passed = passed_until_repaired(stage, stream, lambda: stage.router.run("sh", "-c", damage))
        rate = (stream.sent - sent) / (time.monotonic() - started)
        print(f"{damage}: {passed} packets passed, {1000 * passed / rate:.0f} ms")
        assert passed / rate < PERIOD_SECONDS / 4


def test_a_rule_that_is_taken_away_is_back_long_before_the_next_period(stage: Stage) -> None:
    stream = closed_service(stage)
    daemon = stage.daemons[-1]
    for _ in range(3):
        rules = stage.router.run("ip", "rule", "list")
        (first, *_) = [line.partition(":")[0] for line in rules.splitlines() if "fwmark" in line]
        started = time.monotonic()
        stage.router.run("ip", "rule", "del", "priority", first)
        wait_for(lambda: stage.router.run("ip", "rule", "list") == rules, "the rule is back")  # noqa: B023
        assert time.monotonic() - started < PERIOD_SECONDS / 4
    assert redirected_all(stage, stream)
    assert daemon.events("kernel_refused") == []


class Flood:
    """Changes by somebody else, as fast as they can be made, until it is over."""

    def __init__(self, stage: Stage, *changes: str) -> None:
        self.made = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(stage, changes))
        self._thread.start()

    def _run(self, stage: Stage, changes: tuple[str, ...]) -> None:
        nft = stage.router.call(lambda: Nft("other"))
        while not self._over.is_set():
            for change in changes:
                with contextlib.suppress(KernelError):  # it was repaired before
                    nft.run(change)
                    self.made += 1

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def cpu_seconds(daemon: Daemon) -> float:
    """What the process that `ip netns exec` became has used."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "changes",
    [
        ("add counter ip wccpd theirs\n", "delete counter ip wccpd theirs\n"),
        ("add table ip other\nadd chain ip other c\n", "delete table ip other\n"),
    ],
    ids=["of our table", "of another table"],
)
def test_a_flood_of_changes_by_somebody_else_costs_a_share_of_a_processor_and_the_redirect_goes_on(
    stage: Stage, changes: tuple[str, ...]
) -> None:
    stream = closed_service(stage)
    daemon = stage.daemons[-1]
    idle, idle_since = cpu_seconds(daemon), time.monotonic()
    wait_for(lambda: time.monotonic() - idle_since > 1, "a second passes")
    idle = (cpu_seconds(daemon) - idle) / (time.monotonic() - idle_since)
    past = arrived(stage.far)
    flood = Flood(stage, *changes)
    try:
        spent, since = cpu_seconds(daemon), time.monotonic()
        wait_for(lambda: time.monotonic() - since > 3, "three seconds pass")
        share = (cpu_seconds(daemon) - spent) / (time.monotonic() - since)
        rate = flood.made / (time.monotonic() - since)
        print(f"{rate:.0f} changes a second: {share:.2f} of a processor, idle {idle:.2f}")
        assert rate > 50, "it is a flood"
        assert share < NOTICE_SHARE + 0.25
        assert redirected_all(stage, stream)
        if "ip wccpd" in changes[0]:
            wait_for(lambda: "`nft monitor` shows who" in str(daemon.status()), "status says so")
    finally:
        flood.stop()
    assert arrived(stage.far) == past
    wait_for(lambda: "`nft monitor` shows who" not in str(daemon.status()), "status says no more of it")
    passed_until_repaired(stage, stream, lambda: stage.router.run("nft", "flush ruleset"))
