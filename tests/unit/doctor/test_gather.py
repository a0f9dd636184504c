"""Looking at the host: the parts that can be shown without a router."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.namespaces import Namespace
from wccpd.doctor.clock import read_clock
from wccpd.doctor.ethtool import driver_counters
from wccpd.doctor.facts import Ec2Fact, RuleFact, TrafficFact, Wanted
from wccpd.doctor.gather import gather
from wccpd.doctor.metadata import is_ec2, read_metadata
from wccpd.doctor.window import SAMPLE_SECONDS, SAMPLES, TrafficWindow
from wccpd.plan.verdict import Count, Counters, Outcome, Verdict

CACHE = IPv4Address("10.100.1.21")


def counted(redirected: int, returned: int) -> Counters:
    outcome = Outcome("web-cache", Verdict.REDIRECTED, None, CACHE)
    return Counters({outcome: Count(redirected)}, returned={CACHE: Count(returned)})


def test_traffic_is_counted_within_the_window_and_not_since_the_start() -> None:
    window = TrafficWindow()
    assert window.since(0.0, counted(1, 1)) == {}
    now = 0.0
    for step in range(SAMPLES * 2):
        now = step * SAMPLE_SECONDS
        window.note(now, counted(step * 100, 7))
    found = window.since(now + 5, counted(SAMPLES * 200, 9))
    assert found == {CACHE: TrafficFact(SAMPLE_SECONDS * (SAMPLES - 1) + 5, (SAMPLES) * 100, 2)}


def test_counters_that_were_reset_count_from_nothing() -> None:
    window = TrafficWindow()
    window.note(0.0, counted(1000, 1000))
    assert window.since(10.0, counted(30, 0)) == {CACHE: TrafficFact(10.0, 30, 0)}


def test_the_kernel_tells_about_its_clock() -> None:
    assert read_clock().error_seconds >= 0


@pytest.mark.netns
def test_a_drivers_counters_are_read_by_name() -> None:
    with Namespace("one") as one, Namespace("other") as other:
        one.connect("veth", "192.0.2.1/24", other, "peer", "192.0.2.2/24")
        counters = one.call(lambda: driver_counters("veth"))
        assert counters["peer_ifindex"] > 0
        with pytest.raises(OSError, match="No such device"):
            one.call(lambda: driver_counters("nothing"))


@pytest.mark.netns
def test_rules_are_read_with_what_they_ask_for() -> None:
    wanted = Wanted((IPv4Address("192.0.2.1"),))
    commands = (
        "from 10.1.0.0/24 lookup 99 priority 100",
        "fwmark 0x1/0xff lookup 99 priority 101",
        "not fwmark 0xca6c lookup 51820 priority 102",
        "lookup main suppress_prefixlength 0 priority 103",
        "iif lo lookup 99 priority 104",
    )
    with Namespace("rules") as namespace:
        for command in commands:
            namespace.run("ip", "rule", "add", *command.split())
        found = {each.priority: each for each in namespace.call(lambda: gather(wanted)).rules}
    assert found[100] == RuleFact(100, 99, selector="from 10.1.0.0/24")
    assert found[101] == RuleFact(101, 99, 1, 0xFF)
    assert found[102] == RuleFact(102, 51820, selector="not fwmark 0xca6c")
    assert found[103] == RuleFact(103, 254, selector="suppress_prefixlength 0")
    assert found[104] == RuleFact(104, 99, selector="iif lo")


class Metadata(BaseHTTPRequestHandler):
    """An instance metadata service of version 2, as far as it is asked."""

    def do_PUT(self) -> None:
        wanted = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self.answer("secret" if wanted else None)

    def do_GET(self) -> None:
        known = {
            "/latest/meta-data/instance-id": "i-0123",
            "/latest/meta-data/network/interfaces/macs/": "02:00:00:00:00:01/\n02:00:00:00:00:02/",
            "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/interface-id": "eni-1",
            "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:02/interface-id": "eni-2",
        }
        authorised = self.headers.get("X-aws-ec2-metadata-token") == "secret"
        self.answer(known.get(self.path) if authorised else None)

    def answer(self, text: str | None) -> None:
        body = (text or "").encode()
        self.send_response(404 if text is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_metadata_service_is_asked_with_a_token(service: int) -> None:
    assert read_metadata("127.0.0.1", service) == Ec2Fact("i-0123", ("eni-1", "eni-2"))


def test_a_metadata_service_that_does_not_answer_costs_a_moment() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        started = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            read_metadata("127.0.0.1", deaf.getsockname()[1])
        assert time.monotonic() - started < 5


def test_ec2_is_known_by_its_firmware(tmp_path: Path) -> None:
    (tmp_path / "nitro").write_text("Amazon EC2\n")
    (tmp_path / "xen").write_text("ec2e1916-9099\n")
    (tmp_path / "other").write_text("QEMU\n")
    assert is_ec2((tmp_path / "absent", tmp_path / "nitro"))
    assert is_ec2((tmp_path / "xen",))
    assert not is_ec2((tmp_path / "other", tmp_path / "absent"))
