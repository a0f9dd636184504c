"""What becomes of traffic while the daemon restarts, hangs, or is gone, with real packets over L2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.counted_network import FIRST, SECOND, arrived
from tests.support.daemon import Daemon, wait_for
from tests.support.stream_stage import Stage, redirected_all, settled, stream_stage

pytestmark = pytest.mark.netns


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stream_stage(tmp_path) as made:
        yield made


def test_a_daemon_that_is_killed_and_started_again_within_the_lease_loses_no_packet(stage: Stage) -> None:
    first = stage.start()
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    past_before = arrived(stage.far)
    for _ in range(2):
        first.stop(signal.SIGKILL)
        first = stage.start()
        for cache in stage.joined:
            cache.hello()
    assert redirected_all(stage, stream)
    sent, there, past = settled(stage, stream)
    assert past == past_before, "nothing went past the caches"
    assert sent == there + past, "nothing was lost"


def test_a_daemon_that_hangs_longer_than_the_lease_leaves_the_kernel_in_mode_open(stage: Stage) -> None:
    daemon = stage.start(lease_seconds=3)
    stage.join(FIRST)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    stopped, past = time.monotonic(), arrived(stage.far)
    wait_for(lambda: arrived(stage.far) > past, "the kernel forwards by itself", seconds=10)
    assert time.monotonic() - stopped <= 3 + 1
    os.kill(daemon.process.pid, signal.SIGCONT)
    wait_for(lambda: redirected_all(stage, stream), "the daemon has renewed the lease")
    sent, there, past = settled(stage, stream)
    assert sent == there + past, "nothing was lost"


def test_a_closed_service_lets_nothing_past_whatever_happens_to_the_daemon(stage: Stage) -> None:
    stage.stream()
    wait_for(lambda: arrived(stage.far), "without a daemon packets pass")
    daemon = stage.start("closed", lease_seconds=3)
    wait_for(lambda: daemon.status()["services"][0]["not_redirected"], "packets are dropped and counted")
    past = arrived(stage.far)
    stage.join(FIRST)
    wait_for(lambda: arrived(stage.caches), "the stream is redirected")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    there = -1
    while there != arrived(stage.caches):  # the lease runs out
        there = arrived(stage.caches)
        time.sleep(0.5)
    os.kill(daemon.process.pid, signal.SIGCONT)
    wait_for(lambda: arrived(stage.caches) > there, "it is redirected again")
    daemon.stop(signal.SIGKILL)
    daemon = stage.start("closed", lease_seconds=3)
    assert daemon.stop(signal.SIGTERM) == 0
    time.sleep(0.5)
    assert arrived(stage.far) == past


def test_a_cache_that_comes_takes_no_flow_of_another(stage: Stage) -> None:
    stage.start()
    stage.join(FIRST)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    wait_for(lambda: stream.sent > 100, "every flow is pinned")
    stage.join(SECOND)
    daemon = stage.daemons[-1]
    wait_for(
        lambda: (
            {cache["address"]: cache["buckets"] for cache in daemon.status()["caches"]}
            == {str(FIRST): 128, str(SECOND): 128}
        ),
        "both have half of the buckets",
    )
    before = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    wait_for(lambda: stream.sent > 300, "the stream flows on")
    after = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    assert after[str(SECOND)] == before[str(SECOND)] == 0
    assert after[str(FIRST)] > before[str(FIRST)]


def test_a_drained_cache_keeps_its_flows_gets_no_new_ones_and_stays_drained_over_a_restart(
    stage: Stage,
) -> None:
    daemon = stage.start()
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    wait_for(lambda: stream.sent > 100, "every flow is pinned")
    flows = command_line(stage, "drain", str(FIRST), "--wait", "--timeout", "0").stdout
    assert int(flows.splitlines()[1].split()[0]) > 0, "its flows live on"
    before = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    sent = stream.sent
    wait_for(lambda: stream.sent > sent + 60, "the old flows go on")
    after = {cache["address"]: cache["packets_redirected"] for cache in daemon.status()["caches"]}
    assert after[str(FIRST)] > before[str(FIRST)]
    daemon.stop(signal.SIGKILL)
    daemon = stage.start()
    stage.stream()  # flows of its own
    assert [cache["draining"] for cache in daemon.status()["caches"]] == [True, False]
    wait_for(
        lambda: redirected_to(daemon, SECOND) > redirected_to(daemon, FIRST) + 50,
        "new flows go to the other cache",
    )
    assert command_line(stage, "undrain", str(FIRST)).returncode == 0
    assert [cache["draining"] for cache in daemon.status()["caches"]] == [False, False]
    assert "no cache 10.9.9.9" in command_line(stage, "drain", "10.9.9.9").stderr


def redirected_to(daemon: Daemon, address: IPv4Address) -> int:
    return sum(
        cache["packets_redirected"] for cache in daemon.status()["caches"] if cache["address"] == str(address)
    )


def command_line(stage: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `wccpctl`."""
    command = [sys.executable, "-c", "from wccpd.ctl import main; main()"]
    return subprocess.run(
        [*command, "--socket", str(stage.directory / "control.sock"), *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
