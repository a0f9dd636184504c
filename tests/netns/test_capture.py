"""`wccpctl capture` in a namespace: what its filter lets through, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw
from typer.testing import CliRunner

from tests.support.namespaces import Namespace
from wccpd import ctl

pytestmark = pytest.mark.netns

VECTORS = Path(__file__).parents[1] / "vectors" / "wire"
OCTETS = bytes.fromhex("".join(json.loads((VECTORS / "squid-hash-here-i-am.json").read_text())["hex"]))
RUN = "from wccpd.ctl import main; main()"
BETWEEN = {"src": "10.0.0.2", "dst": "10.0.0.1"}


def send(namespace: Namespace, *packets: Packet, to: str = "10.0.0.1") -> None:
    def work() -> None:
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            for packet in packets:
                sock.sendto(bytes(packet), (to, 0))

    namespace.call(work)


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace("router") as router, Namespace("cache") as cache:
        router.connect("eth0", "10.0.0.1/24", cache, "eth0", "10.0.0.2/24")
        cache.run("ping", "-c1", "-W2", "10.0.0.1")
        yield router, cache


class Capture:
    """A running `wccpctl capture`."""

    def __init__(self, namespace: Namespace, *words: str) -> None:
        self.process = subprocess.Popen(
            [
                *["ip", "netns", "exec"],
                namespace.name,
                sys.executable,
                "-c",
                RUN,
                "capture",
                "-o",
                "json",
                *words,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def listening(self, namespace: Namespace) -> Capture:
        from tests.support.daemon import wait_for

        wait_for(
            lambda: len(namespace.run("cat", "/proc/net/packet").splitlines()) > 1, "it has its packet socket"
        )
        return self

    def found(self) -> list[dict[str, object]]:
        output, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, errors
        return [json.loads(line) for line in output.splitlines()]


def message() -> Packet:
    return IP(**BETWEEN) / UDP(sport=2048, dport=2048) / Raw(OCTETS)


def noise() -> list[Packet]:
    return [
        IP(**BETWEEN) / UDP(sport=53, dport=53) / Raw(OCTETS),
        IP(**BETWEEN) / TCP(dport=2048) / Raw(OCTETS),
        IP(**BETWEEN, frag=1) / Raw(b"\x08\x00\x08\x00" * 20),
        IP(**BETWEEN) / GRE(proto=0x0800) / IP(),
    ]


def redirected() -> Packet:
    inner = IP(src="10.1.0.10", dst="203.0.113.10") / TCP(dport=80)
    return IP(**BETWEEN) / GRE(proto=0x883E) / Raw(bytes((1, 70, 0, 0x5C)) + bytes(inner))


def test_messages_are_shown_in_words_and_kept_in_a_file(
    ends: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    router, cache = ends
    file = tmp_path / "kept.pcap"
    running = Capture(
        router, "-i", "eth0", "--count", "2", "--seconds", "20", "--write", str(file)
    ).listening(router)
    send(cache, *noise(), redirected(), message(), message())
    found = running.found()
    assert len(found) == 2
    assert "10.0.0.2 to 10.0.0.1: HERE_I_AM" in str(found[0]["title"])
    again = json.loads(CliRunner().invoke(ctl.app, ["decode", str(file), "-o", "json"]).output)
    assert [each["content"] for each in again] == [each["content"] for each in found]


def test_redirected_packets_are_shown_if_asked_for(ends: tuple[Namespace, Namespace]) -> None:
    router, cache = ends
    running = Capture(router, "--redirected", "--count", "2", "--seconds", "20").listening(router)
    send(cache, *noise(), redirected(), message())
    titles = [str(each["title"]) for each in running.found()]
    assert "redirected or returned packet" in titles[0]
    assert "HERE_I_AM" in titles[1]


def test_what_this_host_sends_is_shown_too(ends: tuple[Namespace, Namespace]) -> None:
    router, _ = ends
    running = Capture(router, "--count", "1", "--seconds", "20").listening(router)
    send(
        router, IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=2048, dport=2048) / Raw(OCTETS), to="10.0.0.2"
    )
    (found,) = running.found()
    assert "10.0.0.1 to 10.0.0.2" in str(found["title"])


def test_time_ends_it_and_an_unknown_device_is_said(ends: tuple[Namespace, Namespace]) -> None:
    router, _ = ends
    assert Capture(router, "--seconds", "0.5").found() == []
    wrong = Capture(router, "-i", "nowhere")
    _, errors = wrong.process.communicate(timeout=30)
    assert (wrong.process.returncode, errors) == (1, "wccpctl: cannot capture on nowhere: no such device\n")
