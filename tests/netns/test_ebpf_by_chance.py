"""The eBPF program against the specification: the same packets through both, by chance.

The packets go through the program by BPF_PROG_TEST_RUN: nothing is sent, all that it does to a packet is seen. It
must do what `decide` says: to the same cache, the same octets on the wire, the same pins.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.contract.chance import PacketsByChance, PlansByChance
from tests.contract.kernel_stage import ROUTER_MAC, Network, sender_mac
from tests.contract.stage import as_known_to_the_host
from tests.contract.wires import ICMP, RST, Details, Seen, checksum, craft, ethernet
from tests.support.namespaces import Namespace
from tests.support.plans import ROUTER_ID
from wccpd.dataplane.ebpf.plane import EbpfDataPlane
from wccpd.dataplane.port import Wish
from wccpd.plan.decide import Decision, Packet, Pin, decide
from wccpd.plan.hashes import xor_bucket
from wccpd.plan.policy import KernelSettings
from wccpd.plan.redirect import TCP, Mode, RedirectPlan
from wccpd.plan.verdict import Verdict
from wccpd.wire.enums import ForwardingMethod

pytestmark = pytest.mark.netns
PLANS, PACKETS = 170, 300
"""By each forwarding method, and at least so many packets for each plan: more than 100,000 in all."""
UNSPEC, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7
"""TC_ACT_*."""
CONTEXT = struct.Struct("=40xI")
"""`struct __sk_buff` up to `ifindex`."""
SLOT_OFFSET = 48
"""`cb[0]`: the program says there which path it chose."""
FlowKey = frozenset[tuple[IPv4Address, int]]


@pytest.fixture
def network() -> Iterator[Network]:
    with Namespace("router") as router, Namespace("world") as world:
        made = Network(router, world)
        yield made
        made.close()


@pytest.mark.parametrize("forwarding", [ForwardingMethod.GRE, ForwardingMethod.L2], ids=["gre", "l2"])
def test_the_program_does_what_the_specification_says(network: Network, forwarding: ForwardingMethod) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    plans, packets = PlansByChance(chance, forwarding), PacketsByChance(chance)
    for _ in range(8):
        plans.change()
    settings = KernelSettings(services=("web-cache", "60", "70", "80", "90"))
    plane = network.router.call(lambda: EbpfDataPlane(settings))
    trial = Trial(network, plane)
    try:
        for number in range(PLANS):
            plans.change()
            plans.put_all_into(list(Mode)[number % len(Mode)])  # chance alone may hardly ever close a service
            trial.hold(plans.plan(), packets.bunch(PACKETS))
        assert trial.carried >= PLANS * PACKETS
        assert all(trial.verdicts[verdict] > 100 for verdict in Verdict), trial.verdicts
    finally:
        network.router.call(plane.remove)
        network.router.call(plane.close)


class Trial:
    """The program and the specification, with the pins that the latter keeps."""

    def __init__(self, network: Network, plane: EbpfDataPlane) -> None:
        self.network, self.plane = network, plane
        self.pins: dict[tuple[int, FlowKey], Pin] = {}
        self.carried = 0
        self.verdicts = dict.fromkeys(Verdict, 0)
        self.indexes = {
            device: int(network.router.run("cat", f"/sys/class/net/{device}/ifindex"))
            for device in ROUTER_MAC
        }

    def hold(self, plan: RedirectPlan, packets: list[Packet]) -> None:
        """Carry packets under a plan."""
        applied = self.network.router.call(lambda: self.plane.bring_to(Wish(plan)))
        assert not applied.faults
        self.network.router.call(lambda: self.plane.renew_lease(120))
        chosen = [each for each in packets if each.device in plan.ingress]
        # Those that come in elsewhere come in where packets are looked at.
        chosen += [as_from(plan.ingress[0], each) for each in packets if each.device not in plan.ingress]
        self.network.router.call(lambda: [self._carry(plan, each) for each in chosen])

    def _carry(self, plan: RedirectPlan, packet: Packet) -> None:
        key = (packet.protocol, flow(packet))
        decision = decide(
            plan, as_known_to_the_host(packet), hash_function=xor_bucket, pinned=self.pins.get(key)
        )
        if decision.pin is not None:
            self.pins[key] = decision.pin
        self.carried += 1
        self.verdicts[decision.verdict] += 1
        sent = craft(packet, self.carried & 0xFFFF, Details(payload=bytes(self.carried % 40)))
        frame = ethernet(sender_mac(packet), ROUTER_MAC[packet.device], sent)
        assert self.plane._loaded is not None
        run = self.plane._loaded.programs["wccp_ethernet"].run(
            frame, context=CONTEXT.pack(self.indexes[packet.device])
        )
        (slot,) = struct.unpack_from("=I", run.context, SLOT_OFFSET)
        problem = compare(plan, packet, decision, frame, run.verdict, run.packet, slot)
        assert not problem, f"{problem}\n{packet}\n{decision}\n{plan}"


def as_from(device: str, packet: Packet) -> Packet:
    return Packet(
        device, packet.source, packet.destination, packet.protocol, packet.source_port, packet.destination_port,
        packet.ttl, packet.unicast,
    )  # fmt: skip


def flow(packet: Packet) -> FlowKey:
    return frozenset(
        ((packet.source, packet.fields.source_port), (packet.destination, packet.fields.destination_port))
    )


def compare(
    plan: RedirectPlan,
    packet: Packet,
    decision: Decision,
    frame: bytes,
    verdict: int,
    octets: bytes,
    slot: int,
) -> str:
    """What is wrong with what the program did; empty if nothing is."""
    match decision.verdict:
        case Verdict.FORWARDED:
            return "" if (verdict, octets) == (UNSPEC, frame) else f"not forwarded as it came: {verdict}"
        case Verdict.DROPPED:
            return "" if verdict == SHOT else f"not dropped: {verdict}"
        case Verdict.REJECTED:
            # Beyond so many answers a second it drops without one.
            return "" if verdict == SHOT else answer_problem(packet, verdict, octets, frame)
    assert decision.path is not None
    if verdict != REDIRECT or slot != plan.slots[decision.path]:
        return f"not to slot {plan.slots[decision.path]}: {verdict}, {slot}"
    expected = frame[:14]
    inner = one_hop_less(frame[14:])
    if decision.path.forwarding is ForwardingMethod.GRE:
        assert decision.header is not None
        gre = struct.pack("!HHI", 0, 0x883E, decision.header)
        outer = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 28 + len(inner), 0, 0x4000, 255, 47, 0,
            ROUTER_ID.packed, decision.path.cache.packed,
        )  # fmt: skip
        expected += outer[:10] + checksum(outer) + outer[12:] + gre
    return (
        "" if octets == expected + inner else f"other octets: {octets.hex()} not {(expected + inner).hex()}"
    )


def one_hop_less(ip: bytes) -> bytes:
    header = ip[:8] + bytes([ip[8] - 1]) + ip[9:10] + bytes(2) + ip[12:20]
    return header[:10] + checksum(header) + header[12:] + ip[20:]


def answer_problem(packet: Packet, verdict: int, octets: bytes, frame: bytes) -> str:
    total = int.from_bytes(octets[16:18])
    seen = Seen(octets[6:12], octets[:6], octets[14 : 14 + total])
    if verdict != REDIRECT or (octets[:6], octets[6:12]) != (frame[6:12], frame[:6]):
        return f"not sent back: {verdict}"
    if checksum(seen.ip[:20]) != bytes(2) or seen.destination != packet.source:
        return f"a bad header: {seen.ip.hex()}"
    if packet.protocol == TCP:
        pseudo = seen.ip[12:20] + struct.pack("!HH", TCP, len(seen.body))
        ports = frame[36:38] + frame[34:36]
        right = seen.protocol == TCP and seen.body[:4] == ports and seen.body[13] & RST
        right = right and checksum(pseudo + seen.body) == bytes(2) and seen.source == packet.destination
        return "" if right else f"no reset: {seen.ip.hex()}"
    right = (
        seen.protocol == ICMP and (seen.body[0], seen.body[1]) == (3, 13) and checksum(seen.body) == bytes(2)
    )
    return "" if right and seen.quoted.ip == frame[14:42] else f"no ICMP: {seen.ip.hex()}"
