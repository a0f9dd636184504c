"""What `explain` says of a flow beside what a real packet of it does.

By chance: plans and packets of the contract suite on the kernel's netlink plane, caches reached by L2, and by GRE where
the kernel (or the VM's) has GRE devices. What the host knows of each flow (routing, lease, pins) is read from the
kernel, as for an operator who asks.

By hand: the daemon and `wccpctl`, in the words that an operator gets.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.vm import IN_VM
from tests.contract.chance import PacketsByChance, PlansByChance
from tests.contract.kernel_stage import KernelStage, Network
from tests.contract.stage import fate_of
from tests.support.counted_network import FIRST, SECOND, SERVER
from tests.support.daemon import wait_for
from tests.support.namespaces import Namespace
from tests.support.redirect_stage import SOURCE_PORT, Stage, again_and_again, redirect_stage
from wccpd.daemon.explaining import ASSUMED_SOURCE_PORT, Examiner, Question
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.plan.decide import Packet
from wccpd.plan.policy import KernelSettings
from wccpd.plan.redirect import RedirectPlan
from wccpd.wire.enums import ForwardingMethod

pytestmark = pytest.mark.netns

SETTINGS = KernelSettings(services=("web-cache", "60", "70", "80", "90"))
SEED = "WCCPD_EXPLAIN_SEED"
"""Environment variable: a seed that was printed, to see the same again."""


STEPS = 4 if os.environ.get(IN_VM) else 12
METHODS = [
    pytest.param(ForwardingMethod.L2, id="l2"),
    pytest.param(ForwardingMethod.GRE, id="gre", marks=pytest.mark.gre),
]


@pytest.fixture(params=METHODS)
def kernel(request: pytest.FixtureRequest) -> Iterator[KernelStage]:
    with Namespace("router") as router, Namespace("world") as world:
        network = Network(router, world)
        stage = KernelStage(network, lambda: LinuxDataPlane(SETTINGS), request.param)
        yield stage
        stage.remove()
        stage.close()
        network.close()


def question_about(packet: Packet) -> Question:
    return Question(
        packet.source,
        packet.destination,
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        packet.device,
        packet.sender,
    )


def test_what_explain_says_is_what_a_packet_does(kernel: KernelStage) -> None:
    """ICMP and TTL aside: an ICMP flow is known by more than its addresses, and a question has no TTL."""
    seed = int(os.environ.get(SEED) or random.randrange(2**32))
    print(f"{SEED}={seed}")
    plans, packets = (
        PlansByChance(random.Random(seed), kernel.forwarding),
        PacketsByChance(random.Random(seed)),
    )
    compared, pinned = 0, 0
    for step in range(STEPS):
        changes = [plans.change() for _ in range(12 if step == 0 else 4)]
        plan = plans.plan()
        kernel.bring_to(plan)
        for packet in packets.bunch(14):
            if packet.ttl <= 1 or packet.protocol == 1:
                continue
            found = kernel.network.router.call(partial(examiner(plan).examine, question_about(packet)))
            fate, said = kernel.send(packet), fate_of(found.decision, packet)
            assert fate == said, "\n".join((f"step {step}", *changes, str(packet), str(found.decision)))
            assert found.differences == (), "\n".join(map(str, found.differences))
            compared += 1
            pinned += found.pinned is not None
    assert compared > 8 * STEPS
    assert pinned > STEPS // 3, "flows that there had been were among them"


def examiner(plan: RedirectPlan) -> Examiner:
    return Examiner(plan, SETTINGS, LinuxDataPlane.hash_function, leased=True)


# -- the daemon --------------------------------------------------------------------------------------

CONFIG = """\
router: {{id: 10.100.1.10}}
services:
  - service: 53
    group_list: [10.100.1.0/24]
    assignment: router
    match: {{protocol: udp, ports: [53], hash: [destination_ip], priority: 200}}
    redirect_list:
      - {{action: deny, destinations: [203.0.113.128/25]}}
      - {{action: permit}}
    forwarding: [l2]
    packet_return: [l2]
  - service: 54
    group_list: [10.100.1.0/24]
    mode: closed
    match: {{protocol: udp, ports: [54], hash: [destination_ip]}}
    forwarding: [l2]
    packet_return: [l2]
  - service: 70
    group_list: [10.100.1.0/24]
redirect: {{interfaces: [spokes], never: [198.51.100.0/24], lease_seconds: 3}}
control: {{socket: {directory}/control.sock}}
state_directory: {directory}/state
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with redirect_stage(tmp_path, CONFIG) as made:
        yield made


def words(answer: dict[str, Any], step: str) -> str:
    return " | ".join(each["words"] for each in answer["steps"] if each["step"] == step)


def test_each_way_that_a_flow_can_fare_is_told_as_it_is(stage: Stage) -> None:
    assert SOURCE_PORT == ASSUMED_SOURCE_PORT, "so that the packet sent is the one asked about"
    stage.join(FIRST, SECOND)
    answer = stage.explain(f"{SERVER}:53", "-p", "udp")
    assert stage.send(SERVER, 53) == answer["verdict"] == "redirected"
    assert answer["cache"] in {str(FIRST), str(SECOND)}
    assert answer["differences"] == []
    assert "bucket" in words(answer, "hash")
    assert words(answer, "list") == "line 2 of the redirect list matches first: permit ip any any"
    assert "no cache has said what it redirects" in words(answer, "service"), "70 is not defined"
    assert words(answer, "way") == f"the kernel sends it via {answer['cache']} by device farm"

    pinned = stage.explain(f"{SERVER}:53", "-p", "udp", "-s", str(SOURCE_PORT))
    assert f"pinned to {answer['cache']} by service 53" in words(pinned, "pin")

    for server, port, verdict, reason in (
        ("203.0.113.200", 53, "forwarded", "denied"),
        ("198.51.100.7", 53, "forwarded", "never"),
        (SERVER, 54, "dropped", "unassigned"),
    ):
        answer = stage.explain(f"{server}:{port}", "-p", "udp")
        assert (answer["verdict"], answer["reason"]) == (verdict, reason)
        assert stage.send(server, port) == verdict
        assert answer["differences"] == []
    assert stage.explain(f"{SERVER}:53", "-p", "udp", "-d", "out")["reason"] == "not-ingress"
    assert stage.explain(f"{SERVER}:53", "-p", "tcp")["reason"] == "no-service"
    assert "no cache has sent a HERE_I_AM" in words(stage.explain(f"{SERVER}:54", "-p", "udp"), "cache")


def test_a_drained_cache_is_named_with_the_one_that_covers_it(stage: Stage) -> None:
    stage.join(FIRST, SECOND)
    before = stage.explain(f"{SERVER}:53", "-p", "udp")
    other = ({str(FIRST), str(SECOND)} - {before["cache"]}).pop()
    assert stage.wccpctl("drain", before["cache"]).returncode == 0
    answer = stage.explain(f"{SERVER}:53", "-p", "udp")
    assert answer["cache"] == other
    assert f"it is {before['cache']}'s, which is drained; covered by {other}" in words(answer, "cache")


def test_a_lease_that_has_run_out_is_said(stage: Stage) -> None:
    stage.join(FIRST)
    wait_for(
        lambda: stage.explain(f"{SERVER}:53", "-p", "udp")["verdict"] == "redirected", "it is redirected"
    )

    def lapsed() -> bool:
        answer = stage.explain(f"{SERVER}:53", "-p", "udp")
        return answer["reason"] == "lapsed" and answer["verdict"] == "forwarded"

    with again_and_again(lambda: stage.router.run("nft", "flush", "map", "ip", "wccpd", "lease")):
        wait_for(lapsed, "the renewal comes between at most now and then")


DAMAGES = {
    "ip rule": ("ip rule del priority 18801", "ip rule 18801"),
    "another's rule": (
        "ip rule add priority 100 from 10.1.0.0/24 lookup 99; ip route add default via 10.9.0.2 table 99",
        "ip rule 100",
    ),
    "a bucket": ("nft flush map ip wccpd buckets-53", "nft map buckets-53, element"),
    "a foreign rule": ("nft insert rule ip wccpd prerouting accept", "nft chain prerouting"),
    "the table": ("nft delete table ip wccpd", "nft table ip wccpd"),
    "the neighbour": ("ip link set farm down; ip link set farm up", "10.100.1.21"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_the_kernel_does_not_hold_is_named(stage: Stage, what: str) -> None:
    stage.join(FIRST)
    wait_for(lambda: stage.explain(f"{SERVER}:53", "-p", "udp")["differences"] == [], "all is well")
    damage, named = DAMAGES[what]

    def is_named() -> bool:
        answer = stage.explain(f"{SERVER}:53", "-p", "udp")
        return any(named in f"{each['object']} {each['is']}" for each in answer["differences"])

    with again_and_again(lambda: stage.router.run("sh", "-c", damage)):
        wait_for(is_named, "named, though the daemon repairs it every now and then")


def test_a_question_that_makes_no_sense_is_refused_with_what_is_allowed(stage: Stage) -> None:
    for arguments, said in (
        (("10.1.0.300:53",), "destination: '10.1.0.300' is no IPv4 address"),
        ((f"{SERVER}:99999",), "destination_port: '99999' is no number from 0 to 65535"),
        ((SERVER, "-p", "tpc"), "protocol: 'tpc' is none of icmp, tcp, udp"),
    ):
        done = stage.wccpctl("explain", "10.1.0.10", *arguments)
        assert done.returncode == 1
        assert said in done.stderr


def test_on_the_ebpf_plane_the_decision_is_told_and_what_is_not_compared_is_said(tmp_path: Path) -> None:
    config = CONFIG.replace("redirect: {{", "redirect: {{dataplane: ebpf, ")
    with redirect_stage(tmp_path, config) as stage:
        stage.join(FIRST, SECOND)
        answer = stage.explain(f"{SERVER}:53", "-p", "udp")
        assert (answer["dataplane"], answer["verdict"]) == ("ebpf", "redirected")
        assert stage.send(SERVER, 53) == "redirected"
        assert answer["compared"].startswith("nothing")
        assert "eBPF plane" in words(answer, "pin")
