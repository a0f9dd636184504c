"""A proxy that takes no traffic gets none, however well its WCCP process is: probes through the redirect, by L2.

spoke 10.1.0.10 --- router 10.100.1.10 --- 10.100.1.21 first
                           10.100.2.10 --- 10.100.2.21 second
                           10.9.0.1 ------ 10.9.0.2 far, the way past the caches
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.namespaces import Namespace
from tests.support.scripted_cache import ScriptedCache
from wccpd.status.client import RefusedError, command
from wccpd.wire.components import Capabilities
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod

pytestmark = pytest.mark.netns

ROUTER_ID = IPv4Address("10.100.1.10")
FIRST, SECOND = IPv4Address("10.100.1.21"), IPv4Address("10.100.2.21")
L2 = Capabilities(
    forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.L2
)
INTERCEPT = (
    "table ip proxy { chain in { type nat hook prerouting priority -100; tcp dport 80 redirect to :3129; }; }"
)
CONFIG = """\
router: {{id: 10.100.1.10}}
services:
  - service: web-cache
    group_list: [10.100.0.0/16]
    assignment: router
    forwarding: [l2]
    packet_return: [l2]
    probe: {{kind: {kind}, canary: 192.0.2.1, canary_port: 80, interval_milliseconds: 100, timeout_milliseconds: 300}}
redirect: {{interfaces: [spokes]}}
control: {{socket: {directory}/control.sock}}
state_directory: {directory}/state
"""


class Proxy:
    """Answers every connection that is intercepted, and says who it is."""

    def __init__(self, namespace: Namespace, address: IPv4Address) -> None:
        self.namespace, self.address = namespace, address
        self.status = b"200 OK"
        self._listener = namespace.call(lambda: socket.create_server(("", 3129), backlog=64))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.intercept()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(2)
                    connection.sendall(
                        b"HTTP/1.1 %s\r\nVia: %s\r\n\r\n" % (self.status, str(self.address).encode())
                    )
                    connection.recv(4096)
                except OSError:
                    continue

    def intercept(self) -> None:
        self.namespace.run("nft", INTERCEPT)

    def forget_to_intercept(self) -> None:
        self.namespace.run("nft", "delete table ip proxy")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


class Stage:
    def __init__(self, spoke: Namespace, router: Namespace, proxies: list[Proxy], directory: Path) -> None:
        self.spoke, self.router, self.proxies, self.directory = spoke, router, proxies, directory
        self.daemons: list[Daemon] = []
        self.joined: list[NetworkCache] = []

    def start(self, kind: str = "tcp") -> Daemon:
        config = self.directory / "wccpd.yaml"
        config.write_text(CONFIG.format(directory=self.directory, kind=kind))
        self.daemons.append(Daemon(self.router, config))
        return self.daemons[-1].ready()

    def join(self) -> None:
        for proxy in self.proxies:
            scripted = ScriptedCache(address=proxy.address, router_address=ROUTER_ID, capabilities=L2)
            self.joined.append(NetworkCache(proxy.namespace, scripted))
            self.joined[-1].join()

    def served_by(self) -> set[str]:
        """Who answers a client's connections to twenty servers."""
        return {self.spoke.call(lambda last=last: fetched(f"198.51.100.{last}")) for last in range(1, 21)}

    def reload(self) -> bool:
        """Whether the daemon took its file again; it does not while it is starting."""
        try:
            command(self.directory / "control.sock", "/v1/reload", timeout_seconds=15)
        except RefusedError as error:
            if "still starting" not in str(error):
                raise
            return False
        return True

    def probes(self) -> dict[str, str]:
        status = self.daemons[-1].status()
        return {each["address"]: each["probe"].split(" for ")[0] for each in status["caches"]}

    def close(self) -> None:
        for cache in self.joined:
            cache.close()
        for daemon in self.daemons:
            daemon.stop(signal.SIGKILL)
        for proxy in self.proxies:
            proxy.close()


def fetched(server: str) -> str:
    try:
        with socket.create_connection((server, 80), timeout=1) as connection:
            answer = connection.recv(4096).decode()
    except OSError as error:
        return type(error).__name__
    return answer.split("Via: ")[1].split()[0]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with (
        Namespace("spoke") as spoke,
        Namespace("router") as router,
        Namespace("first") as first,
        Namespace("second") as second,
        Namespace("far") as far,
    ):
        spoke.connect("uplink", "10.1.0.10/24", router, "spokes", "10.1.0.1/24")
        router.connect("farm1", f"{ROUTER_ID}/24", first, "eth0", f"{FIRST}/24")
        router.connect("farm2", "10.100.2.10/24", second, "eth0", f"{SECOND}/24")
        router.connect("out", "10.9.0.1/24", far, "in", "10.9.0.2/24")
        spoke.run("ip", "route", "add", "default", "via", "10.1.0.1")
        router.run("ip", "route", "add", "default", "via", "10.9.0.2")
        first.run("ip", "route", "add", "default", "via", "10.100.1.10")
        second.run("ip", "route", "add", "default", "via", "10.100.2.10")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        made = Stage(spoke, router, [Proxy(first, FIRST), Proxy(second, SECOND)], tmp_path)
        yield made
        made.close()


def test_a_proxy_that_intercepts_nothing_any_more_is_out_within_seconds_and_in_again_when_it_does(
    stage: Stage,
) -> None:
    daemon = stage.start()
    stage.join()
    wait_for(lambda: stage.probes() == {str(FIRST): "passing", str(SECOND): "passing"}, "both pass")
    wait_for(lambda: stage.served_by() == {str(FIRST), str(SECOND)}, "both serve")
    stage.proxies[0].forget_to_intercept()
    wait_for(lambda: stage.served_by() == {str(SECOND)}, "the other serves all")
    wait_for(lambda: stage.probes()[str(FIRST)] == "failing", "status says so")
    (failed,) = daemon.events("cache_probe_failed")
    assert (failed["service"], failed["cache"]) == ("web-cache", str(FIRST))
    first = next(each for each in daemon.status()["caches"] if each["address"] == str(FIRST))
    assert first["state"] == "usable", "to WCCP it is as before"
    stage.proxies[0].intercept()
    wait_for(lambda: stage.served_by() == {str(FIRST), str(SECOND)}, "both serve again")
    assert daemon.events("cache_probe_passed")


def test_when_the_last_proxy_fails_its_packets_are_in_the_services_mode_and_come_back(stage: Stage) -> None:
    daemon = stage.start()
    stage.join()
    wait_for(lambda: set(stage.probes().values()) == {"passing"}, "both pass")
    for proxy in stage.proxies:
        proxy.forget_to_intercept()
    wait_for(
        lambda: daemon.status()["services"][0]["reason"].startswith("every usable cache fails the probe"),
        "status says that nothing is inspected",
    )
    for proxy in stage.proxies:
        proxy.intercept()
    wait_for(lambda: stage.served_by() == {str(FIRST), str(SECOND)}, "both serve again")


def test_a_probe_that_a_reload_brings_is_carried_out_and_one_that_it_takes_away_is_not(stage: Stage) -> None:
    stage.start()
    config = stage.directory / "wccpd.yaml"
    whole = config.read_text()
    for text, known in (
        ("".join(line + "\n" for line in whole.splitlines() if "probe:" not in line), {""}),
        (whole, {"passing"}),
    ):
        config.write_text(text)
        wait_for(stage.reload, "the daemon takes it")
        if not stage.joined:
            stage.join()
        wait_for(lambda known=known: set(stage.probes().values()) == known, f"caches are {known}")


def test_a_probe_that_nobody_ever_passed_has_no_consequences(stage: Stage) -> None:
    daemon = stage.start("http")
    for proxy in stage.proxies:
        proxy.status = b"503 Service Unavailable"
    stage.join()
    wait_for(
        lambda: all("HTTP status 503" in each["probe"] for each in daemon.status()["caches"]),
        "status says what comes back",
    )
    assert stage.served_by() == {str(FIRST), str(SECOND)}
    assert not daemon.events("cache_probe_failed")
    stage.proxies[1].status = b"404 Not Found"
    wait_for(lambda: stage.served_by() == {str(SECOND)}, "once one has passed, the failing one is out")
