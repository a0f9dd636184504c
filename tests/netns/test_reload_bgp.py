"""A running daemon takes another configuration beside a real gobgpd: what is not concerned keeps its session.

The topology is drawn in tests/support/bgp_lab.py; its veth pairs have the names that the daemon gives its tunnels.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.test_bgp_daemon import CONFIG, Stage, stage_in
from tests.support.bgp_lab import missing_tools
from tests.support.daemon import Daemon, wait_for

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "nothing is missing"),
]

TUNNEL_B = next(line for line in CONFIG.splitlines(keepends=True) if "name: b" in line)
B_ADDRESSES = {"169.254.7.2", "169.254.7.3"}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stage_in(tmp_path) as made:
        yield made


def edit(stage: Stage, old: str, new: str) -> None:
    text = stage.config.read_text()
    assert old in text
    stage.config.write_text(text.replace(old, new))


def take(stage: Stage) -> dict[str, list[dict[str, str]]]:
    done = stage.order("reload", "-o", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def up(daemon: Daemon) -> dict[str, int]:
    """Established sessions, each with how often it fell."""
    peers = daemon.status()["bgp"]["peers"]
    return {each["address"]: each["flops"] for each in peers if each["state"] == "established"}


def test_peers_go_and_come_while_the_other_tunnels_sessions_and_routes_stay(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(lambda: len(up(daemon)) == 4 and stage.seen(), "all sessions are up", 40)
    wait_for(lambda: len(daemon.status()["bgp"]["routes"]) == 2, "both prefixes are learnt")
    edit(stage, TUNNEL_B, "")
    answer = take(stage)
    assert {each["what"] for each in answer["changes"] if each["kind"] == "peer"} == B_ADDRESSES
    wait_for(lambda: all(bird.established() == 1 for bird in stage.lab.birds), "b's sessions are gone", 5)
    assert up(daemon).keys() == {"169.254.6.2", "169.254.6.3"}
    for route in daemon.status()["bgp"]["routes"]:
        assert route["tunnels"] == ["a"]
    assert stage.seen()
    assert set(up(daemon).values()) == {0}, "a's sessions did not fall"


def test_other_timers_restart_their_sessions_and_a_policy_or_a_service_restarts_none(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(lambda: len(up(daemon)) == 4 and stage.seen(), "all sessions are up", 40)
    stage.lab.announce(["10.0.0.0/8", "10.1.0.0/16", "172.20.0.0/16"])
    edit(
        stage,
        "accept: [10.0.0.0/8]",
        "accept: [10.0.0.0/8, 172.16.0.0/12]\n  advertise: [0.0.0.0/0, 192.0.2.0/24]",
    )
    edit(stage, "assignment: router", "assignment: auto")
    stage.lab.router.run("ip", "route", "add", "192.0.2.0/24", "via", "169.254.6.2")
    take(stage)
    wait_for(lambda: len(daemon.status()["bgp"]["routes"]) == 3, "the prefix that is allowed now is learnt")
    wait_for(
        lambda: all(bird.sees("192.0.2.0/24") for bird in stage.lab.birds), "the new prefix is advertised"
    )
    assert up(daemon) == dict.fromkeys(up(daemon), 0)
    assert len(up(daemon)) == 4
    edit(
        stage,
        "accept: [10.0.0.0/8, 172.16.0.0/12]\n  advertise: [0.0.0.0/0, 192.0.2.0/24]",
        "accept: [10.0.0.0/8]",
    )
    take(stage)
    wait_for(lambda: len(daemon.status()["bgp"]["routes"]) == 2, "what is not allowed any more is gone")
    wait_for(lambda: not any(bird.sees("192.0.2.0/24") for bird in stage.lab.birds), "and withdrawn")
    assert stage.seen()

    edit(stage, "  fail_seconds: 1", "  fail_seconds: 1\n  hold_time_seconds: 12\n  keepalive_seconds: 4")
    answer = take(stage)
    details = [each["detail"] for each in answer["changes"] if each["kind"] == "peer"]
    assert len(details) == 4
    assert all("its session starts anew" in each for each in details)
    wait_for(lambda: len(up(daemon)) == 4 and stage.seen(), "all sessions are up again", 40)


def test_what_gobgpd_or_the_kernel_refuses_leaves_everything_as_it_was(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(lambda: len(up(daemon)) == 4 and stage.seen(), "all sessions are up", 40)
    # A bridge with the name of the new tunnel's device: ours by name, but not of our kind.
    stage.lab.router.run("ip", "link", "add", "tun-c", "type", "bridge")
    third = TUNNEL_B.replace("name: b", "name: c").replace("10.99.0.2", "10.99.0.3")
    third = third.replace("169.254.7", "169.254.8")
    edit(stage, TUNNEL_B, TUNNEL_B + third)
    edit(
        stage,
        "assignment: router",
        "assignment: router\n    mode: reject",
    )
    done = stage.order("reload")
    assert done.returncode == 1
    assert "tun-c" in done.stderr
    (entry,) = daemon.events("reload_refused")
    assert "tun-c" in entry["reason"]
    status = daemon.status()
    assert {each["address"] for each in status["bgp"]["peers"]} == up(daemon).keys()
    assert up(daemon) == dict.fromkeys(up(daemon), 0)
    assert len(up(daemon)) == 4
    assert "tun-c" not in status["router"]["dataplane_reason"]
    assert status["services"][0]["mode"] == "open"

    edit(stage, third, "")
    stage.lab.signal_gobgpd(signal.SIGSTOP)
    try:
        edit(stage, "accept: [10.0.0.0/8]", "accept: [10.0.0.0/8, 172.16.0.0/12]")
        done = stage.order("reload")
    finally:
        stage.lab.signal_gobgpd(signal.SIGCONT)
    assert done.returncode == 1
    assert "gobgpd does not answer" in done.stderr
    assert daemon.status()["services"][0]["mode"] == "open"
    wait_for(lambda: len(up(daemon)) == 4 and stage.seen(), "gobgpd goes on as it was", 40)
    assert take(stage)["changes"]


def test_what_gobgpd_takes_at_its_start_alone_is_refused_with_the_remedy(stage: Stage) -> None:
    daemon = stage.start()
    edit(stage, "asn: 64513", "asn: 64999\n  listen_port: 1790")
    done = stage.order("reload")
    assert done.returncode == 1
    assert "bgp.asn: 64513 -> 64999" in done.stderr
    assert "bgp.listen_port: 179 -> 1790" in done.stderr
    assert "systemctl restart gobgpd-wccpd wccpd" in done.stderr
    assert daemon.status()["bgp"]["asn"] == 64513
