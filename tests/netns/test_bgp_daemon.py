"""The whole daemon beside a real gobgpd: when it advertises, and what an operator can order.

The topology is drawn in tests/support/bgp_lab.py. Its veth pairs have the names that the daemon gives its tunnels,
so BGP runs over them although this kernel may have no GRE device; status says that they are not as configured.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.bgp_lab import ROUTER_ASN, TGW_ASN, Lab, missing_tools
from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.scripted_cache import ScriptedCache

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "nothing is missing"),
]

DEFAULT = "0.0.0.0/0"
PASSWORD = b"sesame"
CONFIG = f"""\
router:
  id: 192.0.2.1
  addresses: [169.254.6.1]
tunnels:
  - {{name: a, local: 169.254.6.1, remote: 10.99.0.1, inside: 169.254.6.0/29}}
  - {{name: b, local: 169.254.7.1, remote: 10.99.0.2, inside: 169.254.7.0/29}}
bgp:
  asn: {ROUTER_ASN}
  peer_asn: {TGW_ASN}
  gobgp_socket: SOCKET
  accept: [10.0.0.0/8]
  fail_seconds: 1
  recover_seconds: 1
services:
  - service: web-cache
    password_file: wccp.password
    group_list: [169.254.6.0/29]
    assignment: router
kernel:
  device_prefix: tun-
control:
  socket: DIRECTORY/control.sock
state_directory: DIRECTORY/state
"""


class Stage:
    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.config = directory / "wccpd.yaml"
        self.config.write_text(CONFIG.replace("SOCKET", str(lab.socket)).replace("DIRECTORY", str(directory)))
        (directory / "wccp.password").write_bytes(PASSWORD + b"\n")
        self.daemons: list[Daemon] = []

    def start(self, **settings: object) -> Daemon:
        lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
        self.config.write_text(self.config.read_text().replace("bgp:\n", f"bgp:\n{lines}"))
        self.daemons.append(Daemon(self.lab.router, self.config))
        return self.daemons[-1].ready()

    def order(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from wccpd.ctl import main; main()"]
        command += ["--socket", str(self.config.with_name("control.sock")), verb, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def seen(self) -> bool:
        return all(bird.sees(DEFAULT) for bird in self.lab.birds)

    def gone(self) -> bool:
        return not any(bird.sees(DEFAULT) for bird in self.lab.birds)

    def established(self) -> bool:
        return all(bird.established() == 2 for bird in self.lab.birds)


@contextmanager
def stage_in(directory: Path) -> Iterator[Stage]:
    """The lab with a gobgpd and without a daemon, whose configuration is in `directory`."""
    with Lab(passive=False) as lab:
        lab.announce(["10.0.0.0/8", "10.1.0.0/16"])
        lab.router.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
        lab.router.run("ip", "route", "add", "default", "via", "169.254.6.2")
        lab.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        lab.start_gobgpd()
        made = Stage(lab, directory)
        yield made
        for daemon in made.daemons:
            daemon.stop(signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with stage_in(tmp_path) as made:
        yield made


def test_a_router_that_cannot_forward_is_left_by_the_gateway_and_taken_again(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(stage.seen, "the default is advertised", 30)
    stage.lab.router.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    wait_for(stage.gone, "withdrawn: it does not forward")
    assert "ip_forward is 0" in daemon.status()["bgp"]["advertise_reason"]
    assert stage.established(), "the sessions stay, and so do the learnt routes"
    stage.lab.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    wait_for(stage.seen, "advertised again")
    stage.lab.router.run("ip", "route", "delete", "default", "via", "169.254.6.2")
    wait_for(stage.gone, "withdrawn: there is nowhere to forward to")
    assert "no route of its own towards 0.0.0.0/0" in daemon.status()["bgp"]["advertise_reason"]


def test_drain_withdraws_at_once_outlives_a_crash_and_ends_with_undrain(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(stage.seen, "the default is advertised", 30)
    done = stage.order("drain", "router")
    assert (done.returncode, done.stdout) == (0, "drained: nothing is advertised any more\n"), done.stderr
    wait_for(stage.gone, "withdrawn", 2)
    assert daemon.status()["bgp"]["drained"] is True
    assert "drained by the operator" in stage.order("status").stdout
    daemon.stop(signal.SIGKILL)
    again = stage.start()
    wait_for(lambda: again.events("advertising_decided"), "the successor has decided")
    assert again.status()["bgp"]["drained"] is True
    assert stage.gone()
    assert stage.order("undrain", "router").returncode == 0
    wait_for(stage.seen, "advertised again", 10)
    assert again.stop() in {0, 1}
    assert stage.gone(), "a stop withdraws first"


def test_with_redirecting_the_default_waits_for_the_quorum_of_caches(stage: Stage) -> None:
    daemon = stage.start(advertise_when="redirecting")
    wait_for(stage.established, "all sessions are up", 30)
    assert stage.gone()
    assert daemon.status()["bgp"]["advertise_reason"] == (
        "service web-cache has 0 usable caches, the quorum is 1"
    )
    cache = NetworkCache(
        stage.lab.gateway,
        ScriptedCache(IPv4Address("169.254.6.2"), IPv4Address("169.254.6.1"), password=PASSWORD),
    )
    try:
        cache.join()
        wait_for(stage.seen, "one usable cache is the quorum", 10)
    finally:
        cache.close()


def test_a_summary_over_the_tunnels_ends_is_taken_and_status_names_the_pins(stage: Stage) -> None:
    daemon = stage.start()
    status = wait_for(
        lambda: (now := daemon.status()["bgp"]) and len(now["routes"]) == 2 and now["pins"] and now,
        "both prefixes are learnt",
        30,
    )
    assert set(status["pins"]) == {"10.99.0.1/32", "10.99.0.2/32"}
    shown = stage.lab.router.run("ip", "route", "get", "10.99.0.1")
    assert "via 169.254.6.2" in shown, "the host's default, not the group of tunnels"
    stage.lab.router.run("ip", "route", "delete", "default", "via", "169.254.6.2")
    refused = wait_for(lambda: daemon.status()["bgp"]["refused"], "the summary is withheld")
    assert any("10.0.0.0/8: covers 10.99.0.1/32" in line for line in refused)


def test_the_hash_policy_is_told_and_set_only_when_configured(stage: Stage) -> None:
    setting = "net.ipv4.fib_multipath_hash_policy"
    daemon = stage.start()
    (warning,) = daemon.status()["bgp"]["warnings"]
    assert f"{setting} is 0" in warning
    daemon.stop()
    daemon = stage.start(multipath_hash_policy=1)
    wait_for(lambda: daemon.status()["bgp"]["warnings"] == [], "no warning is left")
    assert stage.lab.router.run("sysctl", "-n", setting).strip() == "1"


def test_a_device_that_flaps_gets_its_routes_back_at_once(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(lambda: len(daemon.status()["bgp"]["routes"]) == 2, "both prefixes are learnt", 30)

    def devices() -> set[str]:
        words = stage.lab.router.run("ip", "route", "show", "10.1.0.0/16").split()
        return {words[index + 1] for index, word in enumerate(words) if word == "dev"}

    wait_for(lambda: devices() == {"tun-a", "tun-b"}, "both tunnels carry it")
    stage.lab.router.run("ip", "link", "set", "tun-b", "down")
    wait_for(lambda: devices() == {"tun-a"}, "one is left", 2)
    stage.lab.router.run("ip", "link", "set", "tun-b", "up")
    wait_for(lambda: devices() == {"tun-a", "tun-b"}, "and the other is back within two seconds", 2)
