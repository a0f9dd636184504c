"""The packet harness of `make bench`: what it sends is right, and what it loses is noticed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from bench.packets import forwarding, static
from bench.packets.compiler import compiled
from bench.packets.forwarding import Scenario, cases
from bench.packets.frames import DESTINATIONS, FLOWS, SOURCES, checksum, frame
from bench.packets.netlink import Redirect, scenarios
from bench.packets.router import CACHE_HOPS, GATEWAY, LostPacketsError, Router
from wccpd.dataplane.bpf.libbpf import LibBpf
from wccpd.dataplane.bpf.objects import BpfObject

pytestmark = pytest.mark.netns
MAC = bytes.fromhex("020000000100")


@pytest.fixture
def router() -> Iterator[Router]:
    with Router(LibBpf(), "bench") as made:
        yield made


def injected(count: int, octets: int) -> list[bytes]:
    """What the injector makes of frames that the stack has spoilt."""
    wanted = frame(octets, MAC)
    with BpfObject(LibBpf(), compiled("inject")) as loaded:
        loaded.load()
        loaded.map("injection").update(struct.pack("=I", 0), struct.pack("=Q56s", FLOWS - 1, wanted[:56]))
        program = loaded.program("inject")
        # Every CPU numbers its packets by itself; the harness too sends from one.
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(allowed)})
        try:
            packets = [program.run(b"\xff" * 54 + wanted[54:]).packet for _ in range(count)]
        finally:
            os.sched_setaffinity(0, allowed)
    return packets


@pytest.mark.parametrize("octets", [64, 65, 1400])
def test_every_packet_is_a_whole_one_with_right_checksums(octets: int) -> None:
    for packet in injected(300, octets):
        ip, tcp = packet[14:34], packet[34:]
        assert packet[:14] == frame(octets, MAC)[:14]
        assert checksum(ip) == 0
        assert ip[8] == 64
        assert int.from_bytes(ip[2:4], "big") == octets - 14
        assert checksum(ip[12:20] + struct.pack("!HH", 6, len(tcp)) + tcp) == 0


def test_there_are_as_many_flows_as_said_each_to_a_destination_of_its_own() -> None:
    packets = injected(FLOWS + 1, 64)
    assert packets[0] == packets[-1]
    assert len({packet[26:38] for packet in packets}) == FLOWS
    assert len({packet[30:34] for packet in packets}) == FLOWS
    assert {packet[26:28] for packet in packets} == {SOURCES.packed[:2]}
    assert {packet[30:32] for packet in packets} == {DESTINATIONS.packed[:2]}


def test_a_plain_router_forwards_every_packet_again_and_again(router: Router) -> None:
    for octets in (64, 1400, 64):
        assert router.send(octets, 10_000, frozenset({GATEWAY})) > 0


def test_a_router_that_drops_one_packet_in_a_thousand_is_noticed(router: Router) -> None:
    router.namespace.run(
        "nft", "add table ip lossy; add chain ip lossy f { type filter hook forward priority 0; };"
        "add rule ip lossy f numgen inc mod 1000 == 7 drop",
    )  # fmt: skip
    with pytest.raises(LostPacketsError, match="9990 of 10000 packets were delivered"):
        router.send(64, 10_000, frozenset({GATEWAY}))


def test_packets_that_take_another_way_are_noticed(router: Router) -> None:
    with pytest.raises(LostPacketsError, match="next hops"):
        router.send(64, 1000, frozenset({GATEWAY, 2}))
    with pytest.raises(LostPacketsError, match="next hops"):
        router.send(64, 1000, frozenset({2}))


@pytest.mark.parametrize("scenario", list(scenarios()), ids=lambda scenario: scenario.name)
def test_the_netlink_plane_sends_every_packet_to_the_caches_and_none_past_them(
    router: Router, scenario: Scenario
) -> None:
    scenario.prepare(router)
    router.send(64, 2 * FLOWS, scenario.hops)


@pytest.mark.parametrize("scenario", list(static.scenarios()), ids=lambda scenario: scenario.name)
def test_a_static_redirect_sends_every_packet_to_its_cache(router: Router, scenario: Scenario) -> None:
    scenario.prepare(router)
    for octets in (64, 1400):
        router.send(octets, 10_000, scenario.hops)


@pytest.mark.parametrize("method", ["l2", "gre"])
def test_a_static_redirect_makes_whole_packets(method: str) -> None:
    (sent,) = injected(1, 100)
    with BpfObject(LibBpf(), compiled("static")) as loaded:
        loaded.load()
        run = loaded.program(f"static_{method}").run(sent)
    assert run.verdict == 7, "TC_ACT_REDIRECT"
    assert run.packet[:14] == bytes.fromhex("020000000002") + sent[6:14]
    inner = run.packet[14:]
    if method == "gre":
        outer, gre, inner = inner[:20], inner[20:28], inner[28:]
        assert checksum(outer) == 0
        assert int.from_bytes(outer[2:4], "big") == len(run.packet) - 14
        assert (outer[8:10], outer[12:20]) == (b"\xff\x2f", bytes([10, 100, 1, 10, 172, 16, 1, 2]))
        assert gre == bytes.fromhex("0000883e00000000")
    assert (inner[8], checksum(inner[:20])) == (63, 0)
    assert inner[12:] == sent[26:]


def test_a_cache_is_a_next_hop_of_the_router() -> None:
    assert set(Redirect(32).hops) == set(CACHE_HOPS)


def test_a_scenario_that_loses_packets_has_no_figure_and_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "ROUNDS", 2)
    monkeypatch.setattr(forwarding, "PACKETS", 1000)

    def drop_one(router: Router) -> None:
        router.namespace.run(
            "nft", "add table ip lossy; add chain ip lossy f { type filter hook forward priority 0; };"
            "add rule ip lossy f numgen inc mod 50000 == 40000 drop",
        )  # fmt: skip

    made = {
        case.name: case
        for case in cases([Scenario("lossy", drop_one, goal="at least 0 x", is_met=lambda ratio: ratio >= 0)])
    }
    for octets in (64, 1400):
        lossy, plain, one_rule = (
            made[f"{name}_{octets}"] for name in ("lossy", "packet_forward", "packet_forward_one_rule")
        )
        assert (lossy.value, lossy.met, lossy.ratio) == (None, None, None)
        assert "32767 of 32768 packets were delivered" in lossy.reason
        assert (plain.ratio, plain.figures["rounds"]) == (1, 2)
        assert one_rule.ratio is not None
        assert 0 < one_rule.ratio < 1


def test_who_may_not_make_namespaces_gets_a_reason_for_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    made = list(cases(scenarios()))
    assert {case.name for case in made} >= {"packet_forward_64", "netlink_l2_32_caches_1400"}
    assert all(case.value is None and case.met is None and "root" in case.reason for case in made)
