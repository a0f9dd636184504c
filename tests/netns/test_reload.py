"""A running daemon takes another configuration, with real packets over L2: all of it or nothing, and nobody notices."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.support.counted_network import (
    FIRST,
    L2,
    ROUTER_ID,
    SECOND,
    CountedNetwork,
    arrived,
    counted_network,
)
from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.scripted_cache import ScriptedCache
from tests.support.stream_stage import DNS, Stream
from wccpd.wire.security import check_digest

pytestmark = pytest.mark.netns

ANOTHER = IPv4Address("10.100.1.11")
CONFIG = """\
router: {id: 10.100.1.10}
services:
  - service: 53
    password_file: wccp.password
    group_list: [10.100.1.0/24]
    assignment: router
    mode: MODE
    match: {protocol: udp, ports: [53], hash: [source_port]}
    forwarding: [l2]
    packet_return: [l2]
redirect: {interfaces: [spokes]}
control: {socket: DIRECTORY/control.sock}
state_directory: DIRECTORY/state
"""
HTTPS = """\
  - service: 70
    group_list: [10.100.1.0/24]
    mode: closed
    match: {protocol: tcp, ports: [443]}
    forwarding: [l2]
    packet_return: [l2]
"""


class Stage:
    """The namespaces and what runs in them."""

    def __init__(self, network: CountedNetwork, directory: Path) -> None:
        self.router, self.caches, self.far = network.router, network.caches, network.far
        self.spoke = network.spoke
        self.config = directory / "wccpd.yaml"
        self.daemons: list[Daemon] = []
        self.streams: list[Stream] = []
        self.joined: list[NetworkCache] = []
        self.password("sesame")

    def password(self, word: str, file: str = "wccp.password") -> None:
        self.config.with_name(file).write_text(f"{word}\n")

    def write(self, mode: str = "open", **replacements: str) -> None:
        """Write the file; each replacement is a piece of it, with _ for a blank and the new text."""
        text = CONFIG.replace("MODE", mode).replace("DIRECTORY", str(self.config.parent))
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        self.config.write_text(text)

    def start(self, mode: str = "open") -> Daemon:
        self.write(mode)
        return self.start_again()

    def start_again(self) -> Daemon:
        self.daemons.append(Daemon(self.router, self.config))
        return self.daemons[-1].ready()

    def order(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from wccpd.ctl import main; main()"]
        command += ["--socket", str(self.config.with_name("control.sock")), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def take(self, *words: str) -> dict[str, Any]:
        """`wccpctl reload`, which must work; its answer."""
        done = self.order("reload", "-o", "json", *words)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def join(self, *addresses: IPv4Address) -> None:
        for address in addresses:
            scripted = ScriptedCache(
                address=address, router_address=ROUTER_ID, service=DNS, capabilities=L2, password=b"sesame"
            )
            self.joined.append(NetworkCache(self.caches, scripted))
            self.joined[-1].join()

    def stream(self) -> Stream:
        self.streams.append(Stream(self.spoke))
        return self.streams[-1]

    def table(self) -> str:
        return self.router.run("nft", "list", "table", "ip", "wccpd")

    def close(self) -> None:
        for stream in self.streams:
            stream.stop()
        for cache in self.joined:
            cache.close()
        for daemon in self.daemons:
            daemon.stop(signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with counted_network() as network:
        network.router.run("ip", "address", "add", f"{ANOTHER}/24", "dev", "farm")
        made = Stage(network, tmp_path)
        yield made
        made.close()


def test_a_service_is_added_and_removed_while_every_packet_of_another_reaches_the_caches(
    stage: Stage,
) -> None:
    daemon = stage.start()
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    stream.go_on()
    settled = arrived(stage.far)
    before = daemon.status()["services"][0]

    stage.write(**{"services:\n": f"services:\n{HTTPS}"})
    answer = stage.take()
    assert [(each["kind"], each["action"], each["what"]) for each in answer["changes"]] == [
        ("service", "add", "70"),
    ]
    stream.go_on()
    assert {each["service"] for each in daemon.status()["services"]} == {"53", "70"}
    assert "service-70" in stage.table()
    stage.write()
    stage.take()
    stream.go_on()
    assert "service-70" not in stage.table()
    (after,) = daemon.status()["services"]
    for key in ("change_number", "bucket_owners", "caches_usable"):
        assert after[key] == before[key]

    stream.stop()
    stage.streams.clear()
    assert arrived(stage.far) == settled, "none went past the caches"
    wait_for(lambda: arrived(stage.caches) + settled == stream.sent, "none was lost", 5)


def test_pinned_flows_stay_where_they_are_when_a_service_is_put_in_front_of_theirs(stage: Stage) -> None:
    daemon = stage.start()
    stage.join(FIRST, SECOND)
    stream = stage.stream()
    stream.go_on()
    assert stage.order("drain", str(FIRST)).returncode == 0

    def sent_to_first() -> int:
        (found,) = (each for each in daemon.status()["caches"] if each["address"] == str(FIRST))
        return int(found["packets_redirected"])

    def share_of_first() -> float:
        before, sent = sent_to_first(), stream.sent
        stream.go_on(300)
        return (sent_to_first() - before) / (stream.sent - sent)

    share = share_of_first()
    assert share > 0.2, "flows that began before the drain are pinned to it"
    stage.write(**{"services:\n": f"services:\n{HTTPS}"})
    stage.take()
    assert abs(share_of_first() - share) < 0.1
    # A new flow shows that nothing but the pin keeps the others there: the drained cache owns no bucket.
    stream.stop()
    stage.streams.clear()
    assert share_of_new(stage, sent_to_first) == 0


def share_of_new(stage: Stage, sent_to_first: Any) -> int:
    before = int(sent_to_first())
    fresh = stage.stream()
    fresh.go_on()
    return int(sent_to_first()) - before


def test_a_closed_service_lets_nothing_pass_while_others_come_and_go_around_it(stage: Stage) -> None:
    stage.start(mode="closed")
    stream = stage.stream()
    stream.go_on(50)
    settled = arrived(stage.far)
    for replacements in ({"services:\n": f"services:\n{HTTPS}"}, {"[spokes]": "[spokes, farm]"}, {}):
        stage.write("closed", **replacements)
        assert stage.take()["changes"]
        stream.go_on(50)
    assert arrived(stage.far) == settled
    stage.write("open")
    stage.take()
    stream.go_on(50)
    assert arrived(stage.far) > settled, "open lets the same packets pass"


def test_a_rotated_password_is_in_force_at_once_and_the_former_one_accepted_while_proxies_move(
    stage: Stage,
) -> None:
    daemon = stage.start()
    stage.join(FIRST)
    (cache,) = stage.joined
    number = daemon.status()["services"][0]["change_number"]
    stage.password("sesame", "former.password")
    stage.password("tahini")
    both = "password_file: wccp.password\n    previous_password_file: former.password"
    stage.write(**{"password_file: wccp.password": both})
    planned = stage.order("plan", str(stage.config))
    assert planned.returncode == 0, planned.stderr
    assert "~ password 53: the password\n" in planned.stdout
    assert "+ password 53: the previous password, still accepted\n" in planned.stdout
    answer = stage.take()
    for text in (planned.stdout, json.dumps(answer), daemon.log_text()):
        assert "sesame" not in text
        assert "tahini" not in text
    heard: list[bytes] = []
    cache.cache.hear = lambda send: heard.append(send.datagram)  # type: ignore[method-assign]
    for password in (b"sesame", b"tahini"):  # each is answered with the one that it knows
        cache.cache.password = password
        cache.hello()
        assert check_digest(heard[-1], password)
    service = daemon.status()["services"][0]
    assert (service["caches_usable"], service["change_number"]) == (1, number), "nobody had to join again"

    stage.write()
    stage.take()
    cache.cache.password = b"sesame"
    cache.send(cache.cache.here_i_am())
    wait_for(lambda: daemon.status()["refused"], "the former password is refused")


def test_a_broken_file_is_refused_with_every_place_and_nothing_changes(stage: Stage) -> None:
    daemon = stage.start()
    stage.join(FIRST)
    table = stage.table()
    stage.write(**{"assignment: router": "assignment: rooter", "redirect: {": "redirect: {never: nowhere, "})
    for command in ("plan", "reload"):
        done = stage.order(command)
        said = done.stdout + done.stderr
        assert done.returncode == {"plan": 2, "reload": 1}[command]
        assert f"{stage.config}:6:17: services[0].assignment" in said
        assert "auto, cache, router" in said
    (entry,) = daemon.events("reload_refused")
    assert "services[0].assignment" in entry["reason"]
    assert daemon.status()["services"][0]["caches_usable"] == 1
    assert "service-53" in table


def test_what_a_running_daemon_cannot_change_is_refused_all_at_once_and_plan_says_so(stage: Stage) -> None:
    daemon = stage.start()
    stage.write(
        **{
            "control.sock}": "other.sock}",
            "/state\n": "/elsewhere\nkernel: {mark_shift: 4, nft_table: other}\n",
            "[spokes]": "[farm]",
        }
    )
    planned = stage.order("plan", "-o", "json")
    assert planned.returncode == 1
    document = json.loads(planned.stdout)
    keys = {"control.socket", "state_directory", "kernel.mark_shift", "kernel.nft_table"}
    assert {each["key"] for each in document["refused"]} == keys
    done = stage.order("reload")
    assert done.returncode == 1
    assert all(key in done.stderr for key in keys)
    assert "restart wccpd" in done.stderr
    assert "farm :" not in stage.table(), "nothing of the file is taken, the harmless part neither"
    assert daemon.status()["router"]["config_unlike_file"] == ""


def test_an_address_that_is_not_local_is_refused_and_one_that_is_gets_answers(stage: Stage) -> None:
    daemon = stage.start()
    stage.write(**{"{id: 10.100.1.10}": "{id: 10.100.1.10, addresses: [10.100.1.99]}"})
    done = stage.order("reload")
    assert done.returncode == 1
    assert "UDP 10.100.1.99:2048" in done.stderr
    stage.write(**{"{id: 10.100.1.10}": f"{{id: 10.100.1.10, addresses: [{ANOTHER}]}}"})
    stage.take()
    scripted = ScriptedCache(
        address=FIRST, router_address=ANOTHER, service=DNS, capabilities=L2, password=b"sesame"
    )
    stage.joined.append(NetworkCache(stage.caches, scripted))
    stage.joined[-1].join()
    assert daemon.status()["services"][0]["caches_usable"] == 1
    stage.write()
    stage.take()
    with pytest.raises(TimeoutError):
        stage.joined[-1].hello()


def test_sighup_reloads_and_the_log_says_what_came_of_it(stage: Stage) -> None:
    daemon = stage.start()
    stage.write("closed")
    daemon.process.send_signal(signal.SIGHUP)
    (entry,) = wait_for(lambda: daemon.events("reloaded"), "reloaded")
    assert entry["changes"][0]["detail"] == "mode open -> closed"
    stage.config.write_text("router: [")
    daemon.process.send_signal(signal.SIGHUP)
    (entry,) = wait_for(lambda: daemon.events("reload_refused"), "refused")
    assert f"{stage.config}:1:" in entry["reason"]
    assert daemon.status()["services"][0]["mode"] == "closed"


def mode(daemon: Daemon) -> str:
    return str(daemon.status()["services"][0]["mode"])


def test_a_reload_that_nobody_confirms_is_rolled_back_and_one_that_is_confirmed_stays(stage: Stage) -> None:
    daemon = stage.start()
    stage.join(FIRST)
    stage.write("closed")
    stage.take("--confirm", "5m")
    assert mode(daemon) == "closed"
    assert 200 < daemon.status()["router"]["rollback_in_seconds"] <= 300
    assert "rolled back in" in stage.order("status").stdout
    assert "waits to be confirmed" in stage.order("reload").stderr
    assert stage.order("rollback").returncode == 0
    assert mode(daemon) == "open"

    stage.take("--confirm", "1s")
    wait_for(lambda: daemon.status()["router"]["rollback_in_seconds"] is None, "the time is over", 10)
    status = daemon.status()
    assert status["services"][0]["mode"] == "open"
    assert "was rolled back: it was not confirmed in time" in status["router"]["config_unlike_file"]
    assert status["services"][0]["caches_usable"] == 1
    assert stage.order("confirm").returncode == 1

    stage.take("--confirm", "60s")
    assert stage.order("confirm").stdout == "confirmed\n"
    assert daemon.status()["router"]["config_unlike_file"] == ""
    daemon.stop(signal.SIGKILL)
    assert mode(stage.start_again()) == "closed"


def test_a_daemon_that_is_killed_while_unconfirmed_comes_back_with_the_old_settings_and_passwords(
    stage: Stage,
) -> None:
    daemon = stage.start()
    stage.join(FIRST)
    stage.password("tahini")
    stage.write("closed")
    stage.take("--confirm", "1h")
    kept = stage.config.parent / "state" / "unconfirmed.json"
    assert kept.stat().st_mode & 0o077 == 0, "it holds passwords"
    daemon.stop(signal.SIGKILL)

    again = stage.start_again()
    assert mode(again) == "open"
    (entry,) = again.events("file_not_taken")
    assert "never confirmed" in entry["reason"]
    assert "never confirmed" in again.status()["router"]["config_unlike_file"]
    stage.joined[0].hello()
    assert again.status()["services"][0]["caches_usable"] == 1, "the former password is in force"
    again.stop(signal.SIGKILL)
    assert mode(stage.start_again()) == "open", "and so it stays at every further start"
    stage.take()
    assert not kept.exists()
    stage.daemons[-1].stop(signal.SIGKILL)
    assert mode(stage.start_again()) == "closed", "once it was taken for good"


def test_another_file_than_the_unconfirmed_one_is_taken_at_a_start(stage: Stage) -> None:
    daemon = stage.start()
    stage.write("closed")
    stage.take("--confirm", "1h")
    stage.write("reject")
    daemon.stop(signal.SIGKILL)
    assert mode(stage.start_again()) == "reject"
    assert not (stage.config.parent / "state" / "unconfirmed.json").exists()
