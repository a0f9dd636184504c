"""The whole daemon as a process in a namespace, as far as it goes without a GRE device.

caches 10.100.1.21, .22 --- 10.100.1.10 wccpd, no tunnels, redirect on the same interface
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.status.client import fetch
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ServiceType
from wccpd.wire.messages import ISeeYou, decode_message

pytestmark = pytest.mark.netns

ROUTER_ID = IPv4Address("10.100.1.10")
SECOND_ADDRESS = IPv4Address("10.100.1.11")
FIRST = IPv4Address("10.100.1.21")
SECOND = IPv4Address("10.100.1.22")
PASSWORD = b"sesame"

CONFIG = """\
router:
  id: 10.100.1.10
  addresses: [10.100.1.11]
services:
  - service: web-cache
    password_file: wccp.password
    group_list: [10.100.1.0/24]
    assignment: router
redirect:
  interfaces: [spokes]
control:
  socket: {directory}/control.sock
state_directory: {directory}/state
"""


class Stage:
    """The two namespaces and what runs in them."""

    def __init__(self, router: Namespace, caches: Namespace, directory: Path) -> None:
        self.router, self.caches = router, caches
        (directory / "wccp.password").write_bytes(PASSWORD + b"\n")
        self.config = directory / "wccpd.yaml"
        self.config.write_text(CONFIG.format(directory=directory))
        self.daemons: list[Daemon] = []
        self.open: list[NetworkCache] = []

    def start(self) -> Daemon:
        self.daemons.append(Daemon(self.router, self.config))
        return self.daemons[-1].ready()

    def cache(self, address: IPv4Address = FIRST, **details: object) -> NetworkCache:
        scripted = ScriptedCache(
            **{"address": address, "router_address": ROUTER_ID, "password": PASSWORD, **details}
        )
        self.open.append(NetworkCache(self.caches, scripted))
        return self.open[-1]

    def close(self) -> None:
        for cache in self.open:
            cache.close()
        for daemon in self.daemons:
            daemon.stop(signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Namespace("router") as router, Namespace("caches") as caches:
        router.connect("spokes", f"{ROUTER_ID}/24", caches, "eth0", f"{FIRST}/24")
        router.run("ip", "address", "add", f"{SECOND_ADDRESS}/24", "dev", "spokes")
        caches.run("ip", "address", "add", f"{SECOND}/24", "dev", "eth0")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        made = Stage(router, caches, tmp_path)
        yield made
        made.close()


def test_a_cache_joins_and_gets_all_buckets(stage: Stage) -> None:
    daemon = stage.start()
    stage.cache().join()
    (service,) = daemon.status()["services"]
    assert (service["caches_usable"], service["buckets_assigned"], service["assigned_by"]) == (
        1,
        256,
        "router",
    )
    (cache,) = daemon.status()["caches"]
    assert (cache["address"], cache["state"], cache["rung"]) == (str(FIRST), "usable", "router-assigns")
    wait_for(lambda: daemon.events("cache_usable"), "the log says so")
    heard = fetch(daemon.socket_path, "/v1/events/recent")["events"]
    assert [each["event"] for each in heard] == [each["event"] for each in daemon.log()], (
        "and so do the events"
    )


def test_the_answer_comes_from_the_address_that_was_asked(stage: Stage) -> None:
    stage.start()
    cache = stage.cache(router_address=SECOND_ADDRESS)
    cache.hello()
    assert cache.cache.last is not None
    assert cache.cache.last.identity.sent_to == SECOND_ADDRESS
    assert cache.cache.last.identity.router_id == ROUTER_ID


def test_a_multicast_group_is_answered_at_its_address(stage: Stage) -> None:
    group = IPv4Address("239.192.0.5")
    text = stage.config.read_text().replace(
        "assignment: router", f"assignment: router\n    group_address: {group}"
    )
    stage.config.write_text(text)
    for namespace, device in ((stage.router, "spokes"), (stage.caches, "eth0")):
        namespace.run("ip", "route", "add", "224.0.0.0/4", "dev", device)
    stage.start()
    cache = stage.cache(router_address=group)
    listener = stage.caches.call(lambda: listening_at(group, FIRST))
    try:
        cache.send(cache.cache.here_i_am())
        datagram, (source, port) = listener.recvfrom(65535)
    finally:
        listener.close()
    assert (source, port) == (str(ROUTER_ID), 2048)
    message = decode_message(datagram)
    assert isinstance(message, ISeeYou)
    assert (message.identity.sent_to, message.identity.caches) == (group, (FIRST,))


def listening_at(group: IPv4Address, own: IPv4Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group.packed + own.packed)
    sock.bind((str(group), 2048))
    sock.settimeout(15)
    return sock


def test_bad_datagrams_are_counted_under_a_reason_logged_once_each_and_hurt_nobody(stage: Stage) -> None:
    daemon = stage.start()
    good = stage.cache()
    good.join()
    bad = stage.cache(SECOND)
    hello = bad.cache.here_i_am()
    wrong = ScriptedCache(SECOND, ROUTER_ID, password=b"guess").here_i_am()
    unknown = ScriptedCache(SECOND, ROUTER_ID, ServiceInfo(ServiceType.DYNAMIC, 99), PASSWORD).here_i_am()
    foreign = ScriptedCache(FIRST, ROUTER_ID, password=PASSWORD).here_i_am()
    seed = random.randrange(2**32)
    noise = random.Random(seed)
    garbage = [noise.randbytes(noise.randrange(200)) for _ in range(50)]
    for datagram in (b"", hello[:7], hello[:40], wrong, unknown, foreign, *garbage):
        bad.send(datagram)
    expected = {"authentication_wrong", "unknown_service", "source_mismatch"}
    counts = wait_for(
        lambda: (
            (refused := {each["reason"]: each["count"] for each in daemon.status()["refused"]})
            and sum(refused.values()) >= 56
            and refused
        ),
        f"all are counted (seed {seed})",
    )
    assert expected <= counts.keys()
    assert sum(counts.values()) == 56
    assert sorted(each["reason"] for each in daemon.events("datagram_refused")) == sorted(counts)
    good.hello()
    assert daemon.status()["services"][0]["caches_usable"] == 1
    assert "Traceback" not in daemon.log_text()


def test_sigterm_removes_what_is_ours_and_leaves_what_is_not(stage: Stage) -> None:
    stage.router.run("nft", "add table ip other")
    daemon = stage.start()
    stage.cache().join()
    wait_for(lambda: "table ip wccpd" in stage.router.run("nft", "list", "tables"), "the table is there")
    assert daemon.stop() == 0
    assert stage.router.run("nft", "list", "tables").split() == ["table", "ip", "other"]
    assert "188" not in stage.router.run("ip", "rule", "list")
    assert not daemon.socket_path.exists()


def test_a_killed_daemon_comes_back_without_the_cache_noticing(stage: Stage) -> None:
    daemon = stage.start()
    cache = stage.cache()
    cache.join()
    before = daemon.status()["services"][0]
    wait_for((stage.config.parent / "state" / "engine.json").exists, "the memory is saved")
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    again = stage.start()
    assert again.events("started")[-1]["resumed"] == "members"
    cache.hello()
    after = again.status()["services"][0]
    for key in ("change_number", "bucket_owners", "assigned_by", "caches_usable"):
        assert after[key] == before[key]


def test_a_kernel_that_refuses_is_said_in_status_and_the_protocol_goes_on(stage: Stage) -> None:
    # A bridge named like the device that the cache will need: ours by name, but not of our kind.
    stage.router.run("ip", "link", "add", "wccp-0a640115", "type", "bridge")
    daemon = stage.start()
    cache = stage.cache()
    cache.join()
    status = wait_for(
        lambda: (now := daemon.status())["router"]["dataplane_state"] == "degraded" and now,
        "status is degraded",
    )
    assert not status["inspecting"]
    assert "wccp-0a640115" in status["router"]["dataplane_reason"]
    cache.hello()
    assert daemon.status()["caches"][0]["state"] == "usable"
    assert "bridge" in stage.router.run("ip", "-d", "link", "show", "wccp-0a640115"), "it is left alone"


def test_a_host_that_does_not_forward_does_not_inspect(stage: Stage) -> None:
    stage.router.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    daemon = stage.start()
    status = wait_for(
        lambda: (now := daemon.status())["router"]["dataplane_reason"] and now, "status says so"
    )
    assert not status["inspecting"]
    assert "kernel: net.ipv4.ip_forward is 0: it drops what is not for the host" in status["reasons"]


def test_every_kernel_setting_may_be_another_and_nothing_stays_behind(stage: Stage) -> None:
    other = "kernel:\n  nft_table: egress\n  table_base: 20000\n  rule_priority: 20000\n  mark_shift: 8\n"
    stage.config.write_text(stage.config.read_text() + other)
    stage.router.run("nft", "add table ip wccpd; add chain ip wccpd theirs")
    before = stage.router.run("ip", "rule", "list")
    daemon = stage.start()
    stage.cache().join()
    wait_for(lambda: "table ip egress" in stage.router.run("nft", "list", "tables"), "our table is there")
    assert daemon.stop() == 0
    assert stage.router.run("nft", "list", "tables").strip() == "table ip wccpd"
    assert "theirs" in stage.router.run("nft", "list", "table", "ip", "wccpd")
    assert stage.router.run("ip", "rule", "list") == before


def test_cleanup_removes_what_a_killed_daemon_left_and_refuses_beside_a_living_one(stage: Stage) -> None:
    daemon = stage.start()
    stage.cache().join()
    wait_for(lambda: "table ip wccpd" in stage.router.run("nft", "list", "tables"), "the table is there")
    command = [
        "ip",
        "netns",
        "exec",
        stage.router.name,
        sys.executable,
        "-m",
        "wccpd",
        "cleanup",
        "-c",
        str(stage.config),
    ]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 1
    assert "table ip wccpd" in stage.router.run("nft", "list", "tables")
    daemon.stop(signal.SIGKILL)
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    assert stage.router.run("nft", "list", "tables") == ""


def test_an_address_that_is_not_local_stops_the_start_before_anything_is_touched(stage: Stage) -> None:
    stage.config.write_text(stage.config.read_text().replace("[10.100.1.11]", "[10.100.1.99]"))
    daemon = Daemon(stage.router, stage.config)
    stage.daemons.append(daemon)
    assert daemon.process.wait(20) == 1
    (entry,) = daemon.events("cannot_listen")
    assert "10.100.1.99:2048" in entry["reason"]
    assert stage.router.run("nft", "list", "tables") == ""


def test_a_broken_file_is_refused_with_its_place_and_nothing_is_touched(stage: Stage) -> None:
    text = stage.config.read_text().replace("assignment: router", "assignment: rooter")
    stage.config.write_text(text)
    line = text[: text.index("rooter")].count("\n") + 1
    done = subprocess.run(
        [
            "ip",
            "netns",
            "exec",
            stage.router.name,
            sys.executable,
            "-m",
            "wccpd",
            "run",
            "--config",
            str(stage.config),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"{stage.config}:{line}:17: services[0].assignment" in done.stderr
    assert "auto, cache, router" in done.stderr
    assert stage.router.run("nft", "list", "tables") == ""


def recent_events(daemon: Daemon) -> list[dict[str, object]]:
    answer = fetch(daemon.socket_path, "/v1/events/recent")
    assert isinstance(answer, dict)
    return list(answer["events"])


def test_what_happens_is_told_by_log_and_control_api_in_the_same_words(stage: Stage) -> None:
    daemon = stage.start()
    stage.cache().join()
    stage.cache(SECOND, password=b"guess").send(
        ScriptedCache(SECOND, ROUTER_ID, password=b"guess").here_i_am()
    )
    wait_for(lambda: daemon.events("datagram_refused"), "the refusal is in the log")
    wait_for(lambda: daemon.events("inspection_resumed"), "the service is inspected")
    events = recent_events(daemon)
    names = [each["event"] for each in events]
    assert {"cache_seen", "cache_usable", "assignment_changed", "inspection_resumed"} <= set(names)
    for event, line in zip(events, daemon.log(), strict=False):
        assert line == {
            "event": event["event"],
            "level": event["level"],
            "timestamp": event["time"],
            **event["fields"],  # type: ignore[dict-item]
        }
    (refused,) = (each for each in events if each["event"] == "datagram_refused")
    assert refused["fields"] == {
        "reason": "authentication_wrong",
        "source": str(SECOND),
        "service": "web-cache",
        "detail": "wrong password",
        "count": 1,
    }


def test_what_others_take_out_of_the_kernel_is_put_back_and_told(stage: Stage) -> None:
    daemon = stage.start()
    wait_for(lambda: "table ip wccpd" in stage.router.run("nft", "list", "tables"), "the table is there")
    wait_for(lambda: daemon.events("inspection_interrupted"), "a round is over")
    assert not daemon.events("kernel_repaired")
    stage.router.run("nft", "delete", "table", "ip", "wccpd")
    wait_for(lambda: daemon.events("kernel_repaired"), "the repair is told")
    assert "table ip wccpd" in stage.router.run("nft", "list", "tables")
