"""`wccpd guard`: services in mode closed refuse before there is a daemon, which takes over without a gap."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counted_network import FIRST, arrived
from tests.support.daemon import wait_for
from tests.support.stream_stage import Stage, Stream, redirected_all, settled, stream_stage
from wccpd.exit_codes import ExitCode

pytestmark = pytest.mark.netns


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stream_stage(tmp_path) as made:
        yield made


def guard(stage: Stage, mode: str) -> None:
    done = stage.command("guard", str(stage.configure(mode)))
    assert done.returncode == ExitCode.OK, done.stderr


def passes(stage: Stage, stream: Stream) -> bool:
    """Whether what is sent now goes past the caches."""
    sent, past = stream.sent, arrived(stage.far)
    wait_for(lambda: stream.sent >= sent + 25, "the stream flows")
    return arrived(stage.far) > past


def test_a_closed_service_refuses_from_the_guard_on_until_the_daemon_redirects_it(stage: Stage) -> None:
    stream = stage.stream()
    wait_for(lambda: passes(stage, stream), "without a guard packets pass")
    guard(stage, "closed")
    past = arrived(stage.far)
    assert not passes(stage, stream)
    daemon = stage.start("closed")
    stage.join(FIRST)
    wait_for(lambda: redirected_all(stage, stream), "the stream is redirected")
    guard(stage, "closed")
    assert redirected_all(stage, stream), "beside a daemon it changes nothing"
    renamed = stage.configure("closed", kernel="{nft_table: younger, table_base: 20000}")
    assert stage.command("guard", str(renamed)).returncode == ExitCode.OK
    assert redirected_all(stage, stream), "whatever the file calls things by now"
    daemon.stop(signal.SIGKILL)
    guard(stage, "closed")
    assert redirected_all(stage, stream), "nor where a daemon has left its table"
    assert settled(stage, stream)[2] == past


def test_where_every_service_is_open_there_is_nothing_to_guard(stage: Stage) -> None:
    guard(stage, "open")
    assert stage.router.run("nft", "list", "tables") == ""


def test_cleanup_ends_a_guard(stage: Stage) -> None:
    stream = stage.stream()
    guard(stage, "reject")
    assert not passes(stage, stream)
    assert stage.command("cleanup", "-c", str(stage.configure("reject"))).returncode == ExitCode.OK
    wait_for(lambda: passes(stage, stream), "packets pass again")


def test_a_guard_whose_table_was_renamed_is_replaced_by_the_daemon(stage: Stage) -> None:
    config = stage.configure("closed", kernel="{nft_table: elder}")
    assert stage.command("guard", str(config)).returncode == ExitCode.OK
    stage.start("closed")
    wait_for(lambda: stage.router.run("nft", "list", "tables") == "table ip wccpd\n", "only ours is there")


def test_a_table_of_our_name_that_is_not_ours_is_told_and_left_alone(stage: Stage) -> None:
    stage.router.run("nft", "add table ip wccpd; add chain ip wccpd theirs")
    done = stage.command("guard", str(stage.configure("closed")))
    assert done.returncode == ExitCode.FAILURE
    assert "somebody else's" in done.stderr + done.stdout
    assert "theirs" in stage.router.run("nft", "list", "table", "ip", "wccpd")
