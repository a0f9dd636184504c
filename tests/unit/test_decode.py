"""What `wccpctl decode` makes of captures and hexadecimal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, wrpcap
from typer.testing import CliRunner, Result

from wccpd import ctl
from wccpd.exit_codes import ExitCode

VECTORS = Path(__file__).parents[1] / "vectors" / "wire"


def vector(name: str) -> tuple[str, bytes]:
    data = json.loads((VECTORS / f"{name}.json").read_text())
    return "".join(data["hex"]), data["password"].encode()


def decode(*words: str) -> Result:
    return CliRunner().invoke(ctl.app, ["decode", *words])


def wccp(name: str, source: str = "10.0.0.2", destination: str = "10.0.0.1") -> Packet:
    octets, _ = vector(name)
    return (
        Ether() / IP(src=source, dst=destination) / UDP(sport=2048, dport=2048) / Raw(bytes.fromhex(octets))
    )


def redirected(header: bytes) -> Packet:
    inner = IP(src="10.1.0.10", dst="203.0.113.10") / TCP(dport=80)
    return Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / GRE(proto=0x883E) / Raw(header + bytes(inner))


@pytest.mark.parametrize("name", [path.stem for path in sorted(VECTORS.glob("*.json"))])
def test_every_vector_is_put_into_words(name: str, tmp_path: Path) -> None:
    octets, password = vector(name)
    key = tmp_path / "password"
    key.write_bytes(password)
    shown = decode(octets, "--password-file", str(key))
    assert shown.exit_code == 0, shown.output
    assert (
        shown.output.split(" ")[0].lower().replace("_", "-")
        == name.split("-", 2 if "squid" in name else 1)[-1]
    )
    assert "digest: right" in shown.output
    key.write_bytes(b"another")
    assert "digest: wrong" in decode(octets, "--password-file", str(key)).output


def test_blanks_and_colons_in_hexadecimal_do_not_count() -> None:
    octets, _ = vector("squid-hash-here-i-am")
    spaced = ":".join(octets[place : place + 2] for place in range(0, len(octets), 2))
    assert decode(spaced).output == decode(octets).output == decode(" ".join(octets.split())).output


def test_values_of_a_message_are_there_as_json() -> None:
    octets, _ = vector("hash-i-see-you")
    (shown,) = json.loads(decode(octets, "-o", "json").output)
    assert shown["title"].startswith("I_SEE_YOU 2.00")
    assert shown["content"]["identity"]["receive_id"] == 102
    assert shown["content"]["view"]["change_number"] == 8


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_a_capture_is_decoded_packet_by_packet_and_others_are_passed_over(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"some.{kind}"
    packets = [
        wccp("squid-hash-here-i-am"),
        Ether() / IP() / UDP(sport=53, dport=53),
        wccp("hash-i-see-you", "10.0.0.1", "10.0.0.2"),
        redirected(bytes((1, 70, 0, 0x5C))),
        redirected(b""),
    ]
    if kind == "pcap":
        wrpcap(str(file), packets)
    else:
        with PcapNgWriter(str(file)) as writer:
            for packet in packets:
                writer.write(packet)
    shown = json.loads(decode(str(file), "-o", "json").output)
    assert [each["title"].split(" ")[1] for each in shown] == ["1:", "3:", "4:", "5:"]
    assert "HERE_I_AM" in shown[0]["title"]
    assert shown[2]["content"]["redirect_header"] == {
        "dynamic": True,
        "service_id": 70,
        "alternate_bucket": None,
        "primary_bucket": 0x5C,
    }
    assert "redirect_header" not in shown[3]["content"]
    assert "203.0.113.10" in shown[3]["content"]["packet"]


def test_what_a_router_would_refuse_is_said_with_its_reason() -> None:
    octets, _ = vector("squid-hash-here-i-am")
    shown = decode(octets[:100])
    assert shown.exit_code == ExitCode.FAILURE
    assert "a router refuses it: " in shown.output
    assert "message_past_end" in shown.output


@pytest.mark.parametrize("what", ["", "xyz", "0b0", "nowhere.pcap"])
def test_what_is_neither_file_nor_hexadecimal_is_said(what: str) -> None:
    shown = decode(what)
    assert shown.exit_code in {ExitCode.CONFIG, ExitCode.FAILURE}
    assert shown.output


def test_a_capture_that_is_cut_is_an_error_in_words(tmp_path: Path) -> None:
    file = tmp_path / "cut.pcap"
    wrpcap(str(file), [wccp("squid-hash-here-i-am")])
    file.write_bytes(file.read_bytes()[:30])
    shown = decode(str(file))
    assert shown.exit_code != 0
    assert "Traceback" not in shown.output


def test_a_capture_without_wccp_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "dns.pcap"
    wrpcap(str(file), [Ether() / IP() / UDP(sport=53, dport=53)])
    shown = decode(str(file))
    assert shown.exit_code == ExitCode.FAILURE
    assert "nothing of WCCP" in shown.output
