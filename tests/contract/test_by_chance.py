"""A real plane beside the one in memory: the same changes, the same packets, and everything must come out the same."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from tests.contract.chance import PacketsByChance, PlansByChance
from tests.contract.fake_stage import FakeStage
from tests.contract.kernel_stage import KernelStage
from tests.contract.stage import RESET, Fate, Stage
from wccpd.plan.decide import Packet
from wccpd.plan.verdict import Counters, Exemption

SEED = "WCCPD_CONTRACT_SEED"
"""Environment variable: a seed that was printed, to see the same again."""


def seeded() -> random.Random:
    seed = int(os.environ.get(SEED) or random.randrange(2**32))
    print(f"{SEED}={seed}")
    return random.Random(seed)


def packets_counted(counters: Counters) -> dict[object, int]:
    """What is counted, by what; the pings of the stage are to the router itself and left out."""
    counted: dict[object, int] = {key: count.packets for key, count in counters.outcomes.items()}
    counted |= {
        key: count.packets for key, count in counters.exempt.items() if key is not Exemption.NOT_UNICAST
    }
    for name, lines in counters.acl_lines.items():
        counted |= {(name, line): count.packets for line, count in enumerate(lines)}
    return counted


def growth(before: Counters, after: Counters) -> dict[object, int]:
    was, now = packets_counted(before), packets_counted(after)
    return {key: count - was.get(key, 0) for key, count in now.items() if count != was.get(key, 0)}


def differences(
    kernel: KernelStage, model: FakeStage, packets: Sequence[Packet]
) -> tuple[list[str], Sequence[Fate]]:
    """Send the same packets through both: what came out differently, in words, and what should have come out."""
    both: tuple[Stage, Stage] = (kernel, model)
    before = [stage.observe().counters for stage in both]
    fates = [stage.send_all(packets) for stage in both]
    told = [
        f"{packet}: {fate}, but should be {wanted}"
        for packet, fate, wanted in zip(packets, *fates, strict=True)
        if fate != wanted
    ]
    grown, should = (growth(was, stage.observe().counters) for was, stage in zip(before, both, strict=True))
    told += [
        f"counted {key}: {grown.get(key, 0)}, but should be {should.get(key, 0)}"
        for key in {*grown, *should}
        if grown.get(key) != should.get(key)
    ]
    return told, fates[1]


def test_packets_by_chance_fare_as_the_specification_says(kernel: KernelStage) -> None:
    chance = seeded()
    plans = PlansByChance(chance, kernel.forwarding)
    packets = PacketsByChance(chance)
    model = FakeStage(kernel.hash_function, kernel.forwarding)
    for step in range(25):
        changes = [plans.change() for _ in range(12 if step == 0 else 4)]
        for stage in (kernel, model):
            stage.bring_to(plans.plan())
        bunch = packets.bunch(30)
        told, fates = differences(kernel, model, bunch)
        packets.end(packet for packet, fate in zip(bunch, fates, strict=True) if fate == RESET)
        assert not told, "\n".join((f"step {step}", *changes, str(plans.plan()), *told))


CHANGES = 1000


def test_after_every_one_of_many_changes_the_plane_is_as_wished(stage: Stage) -> None:
    """Each change is applied once; a second look at everything finds nothing to do, and paths are as planned."""
    chance = seeded()
    plans = PlansByChance(chance, stage.forwarding)
    for step in range(CHANGES):
        change = plans.change()
        wanted = plans.plan()
        where = f"step {step}: {change}"
        stage.bring_to(wanted, leased=step % 50 == 0)
        stage.forget()
        assert stage.bring_to(wanted, leased=False).changes == (), where
        assert stage.observe().slots == wanted.slots, where
