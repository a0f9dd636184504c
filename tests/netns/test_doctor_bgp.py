"""What `wccpctl doctor` says when BGP's part of a router is broken, beside a real gobgpd and a gateway of two BIRDs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.netns.test_bgp_daemon import Stage
from tests.support.bgp_lab import Lab, missing_tools
from tests.support.daemon import wait_for

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "nothing is missing"),
]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Lab(passive=False) as lab:
        lab.announce(["10.1.0.0/16"])
        lab.router.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
        lab.router.run("ip", "link", "add", "out", "type", "bridge")
        lab.router.run("ip", "address", "add", "192.0.2.9/29", "dev", "out")
        lab.router.run("ip", "link", "set", "out", "up")
        lab.router.run("ip", "route", "add", "default", "via", "192.0.2.10")
        lab.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        lab.start_gobgpd()
        made = Stage(lab, tmp_path)
        made.start()
        wait_for(made.established, "all sessions are up", 30)
        yield made
        for daemon in made.daemons:
            daemon.stop(signal.SIGKILL)


def end_birds(count: int) -> Callable[[Stage], object]:
    def end(stage: Stage) -> None:
        for bird in stage.lab.birds[:count]:
            assert bird.process is not None
            bird.process.kill()
            bird.process.wait(5)

    return end


WAYS: dict[str, tuple[Callable[[Stage], object], str]] = {
    "gobgpd dead": (lambda stage: stage.lab.kill_gobgpd(), "gobgpd does not answer at"),
    "one speaker of the gateway gone": (end_birds(1), "a: no session with 169.254.6.2"),
    "both speakers gone": (end_birds(2), "b: no session with 169.254.7.2"),
    "tunnel dark": (
        lambda stage: stage.lab.router.run("ip", "link", "set", "tun-b", "down"), "b: no session with 169.254.7.2",
    ),
    "firewall route missing": (
        lambda stage: stage.lab.router.run("ip", "route", "del", "default"), "no route of its own towards 0.0.0.0/0",
    ),
    "router drained": (lambda stage: stage.order("drain", "router"), "this router is drained"),
    "hash policy": (
        lambda stage: stage.lab.router.run("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=2"),
        "fib_multipath_hash_policy is 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_cause_is_named(stage: Stage, name: str) -> None:
    breaking, cause = WAYS[name]

    def named() -> bool:
        findings = json.loads(stage.order("doctor", "-o", "json").stdout)["findings"]
        return any(cause in each["measured"] for each in findings if each["severity"] in {"fault", "warning"})

    wait_for(lambda: not named(), "a healthy router does not have it")
    breaking(stage)
    wait_for(named, "named", 45)
