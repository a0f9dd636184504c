"""Wireshark's dissector as the third opinion on what we send."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.unit.wire.test_against_scapy import ALL
from tests.unit.wire.vectors import VECTORS
from wccpd.wire.messages import decode_message, encode_message

TSHARK = shutil.which("tshark")
pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")

SENT = {
    **{name: encode_message(message, password=b"secret") for name, message in ALL.items()},
    **{f"unsigned {name}": encode_message(message) for name, message in ALL.items()},
    **{
        f"{name} again": encode_message(decode_message(each.datagram))
        for each in VECTORS
        for name in [each.name]
    },
}
DUAL_VALID = encode_message(ALL["hash i-see-you"], password=b"secret", dual_valid=True)


def dissect(folder: Path, datagrams: list[bytes], *options: str) -> str:
    capture = folder / "wccp.pcap"
    ports = UDP(sport=2048, dport=2048)
    wrpcap(str(capture), [Ether() / IP(src="10.0.0.1", dst="10.1.0.11") / ports / each for each in datagrams])
    command = [TSHARK, "-r", str(capture), "-n", "-o", "ip.defragment:FALSE", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def complaints(folder: Path, datagrams: list[bytes]) -> list[list[str]]:
    """Per datagram: what tshark finds malformed or odd, without what it says of Squid's own datagrams."""
    fields = ["-T", "fields", "-E", "separator=,", "-e", "_ws.malformed", "-e", "_ws.expert.message"]
    lines = dissect(folder, datagrams, *fields).splitlines()
    return [[each for each in line.split(",") if each and each not in UNFOUNDED] for line in lines]


UNFOUNDED = {"Ports fields not used", "Receive ID shouldn't be 0"}
"""Said of every standard service and of every first HERE_I_AM."""


@pytest.mark.parametrize("name", SENT)
def test_tshark_finds_nothing_malformed_in_what_we_send(name: str, verdicts: dict[str, list[str]]) -> None:
    assert verdicts[name] == []


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    found = complaints(tmp_path_factory.mktemp("tshark"), list(SENT.values()))
    return dict(zip(SENT, found, strict=True))


def test_tshark_complains_of_a_message_that_was_cut(tmp_path: Path) -> None:
    whole = SENT["hash i-see-you"]
    cut = whole[:6] + (len(whole) - 48).to_bytes(2, "big") + whole[8:-40]
    assert complaints(tmp_path, [whole, cut])[0] == []
    assert complaints(tmp_path, [whole, cut])[1] != []


def test_tshark_reads_the_dual_valid_form_to_its_end(tmp_path: Path) -> None:
    text = dissect(tmp_path, [DUAL_VALID], "-V")
    assert "Malformed" not in text
    assert "Router View Info" in text
    assert "Capabilities Info" in text


def test_tshark_reads_the_values_that_we_meant(tmp_path: Path) -> None:
    text = dissect(
        tmp_path, [SENT["hash i-see-you"], SENT["hash redirect-assign"], SENT["removal-query"]], "-V"
    )
    for meant in ("10.1.0.11", "10.1.0.12", "10.0.0.1", "Weight: 10000", "8080"):
        assert meant in text, meant
