"""`wccpctl simulate` against a real `wccpd run`.

caches 10.100.1.21 to .25 --- 10.100.1.10 wccpd, no tunnels
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.namespaces import Namespace

pytestmark = pytest.mark.netns

ROUTER_ID = IPv4Address("10.100.1.10")
FIRST = IPv4Address("10.100.1.21")
CONFIG = """\
router:
  id: 10.100.1.10
services:
  - service: web-cache
    password_file: wccp.password
  - service: 70
    password_file: wccp.password
redirect:
  interfaces: [spokes]
control:
  socket: {directory}/control.sock
state_directory: {directory}/state
"""
PROFILES = ("strict", "squid-5.1", "squid-5.7", "squid-7.6", "ats-9.2")
CACHES = {str(FIRST + number): profile for number, profile in enumerate(PROFILES)}
JOIN_SECONDS = 60


class Stage:
    """A daemon and the namespace of the caches."""

    def __init__(self, daemon: Daemon, caches: Namespace, directory: Path) -> None:
        self.daemon, self._caches, self._directory = daemon, caches, directory

    def simulate(self, *options: str, password: str = "wccp.password") -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self._caches.name, sys.executable, "-c"]
        main = "import sys; from wccpd.ctl import main; sys.argv[0] = 'wccpctl'; main()"
        chosen = ["simulate", str(ROUTER_ID), "--password-file", str(self._directory / password), *options]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [*command, main, *chosen],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def states(self) -> dict[tuple[str, str], tuple[str, str]]:
        caches = self.daemon.status()["caches"]
        return {(each["service"], each["address"]): (each["state"], each["rung"]) for each in caches}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "wccp.password").write_text("sesame\n")
    (tmp_path / "wrong.password").write_text("guess\n")
    config = tmp_path / "wccpd.yaml"
    config.write_text(CONFIG.format(directory=tmp_path))
    with Namespace("router") as router, Namespace("caches") as caches:
        router.connect("spokes", f"{ROUTER_ID}/24", caches, "eth0", f"{FIRST}/24")
        for address in list(CACHES)[1:]:
            caches.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        daemon = Daemon(router, config).ready()
        yield Stage(daemon, caches, tmp_path)
        daemon.stop(signal.SIGKILL)


def test_every_kind_of_cache_joins_two_services_of_a_real_router_and_says_so(stage: Stage) -> None:
    caches = [f"--cache={profile}@{address}" for address, profile in CACHES.items()]
    services = ["--service=web-cache", "--service=70/tcp/443,8443"]
    playing = stage.simulate(*caches, *services, "--until-joined", "--stay", f"--seconds={JOIN_SECONDS}")
    output, _ = playing.communicate(timeout=JOIN_SECONDS + 20)
    assert playing.returncode == 0, output
    states = stage.states()
    assert set(states) == {(service, address) for service in ("web-cache", "70") for address in CACHES}
    assert {state for state, _ in states.values()} == {"usable"}, output
    for address, profile in CACHES.items():
        lines = [line for line in output.splitlines() if f"{address} {profile} web-cache" in line]
        assert any(f"is answered by router {ROUTER_ID}" in line for line in lines), output
        assert any("lists it as usable" in line or "was echoed" in line for line in lines), output


def test_a_strict_cache_says_goodbye_when_it_is_interrupted_and_is_out_at_once(stage: Stage) -> None:
    playing = stage.simulate(f"--cache=strict@{FIRST}")
    wait_for(lambda: stage.states().get(("web-cache", str(FIRST)), ("", ""))[0] == "usable", "it joins", 30)
    playing.send_signal(signal.SIGINT)
    output, _ = playing.communicate(timeout=20)
    assert playing.returncode == 0, output
    assert "stops: left, acknowledged" in output
    assert stage.states()["web-cache", str(FIRST)][0] == "shutdown"


def test_a_cache_with_the_wrong_password_ends_with_1_and_the_router_says_why(stage: Stage) -> None:
    playing = stage.simulate(f"--cache=strict@{FIRST}", "--seconds=1", password="wrong.password")
    output, _ = playing.communicate(timeout=20)
    assert playing.returncode == 1, output
    assert stage.daemon.events("datagram_refused")[0]["reason"] == "authentication_wrong"


def test_an_address_that_is_not_local_is_said_and_ends_with_2(stage: Stage) -> None:
    playing = stage.simulate("--cache=strict@192.0.2.1", "--seconds=1")
    output, _ = playing.communicate(timeout=20)
    assert playing.returncode == 2
    assert "UDP 192.0.2.1:2048" in output
