"""The stage of a real kernel tells the truth: a router with hand-made rules instead of a data plane."""

from __future__ import annotations

import pytest

from tests.contract.kernel_stage import KernelStage, Network
from tests.contract.selection import COLLECTED, IN_THE_VM, WHOLLY, file_of
from tests.contract.stage import (
    EXPIRED,
    FARM,
    NOWHERE,
    PASSED,
    PROHIBITED,
    RESET,
    Fate,
    Place,
    answer_to,
    fresh,
)
from tests.support.plans import FIRST, SECOND
from wccpd.plan.redirect import TCP, UDP, Path
from wccpd.wire.enums import ForwardingMethod

pytestmark = pytest.mark.netns


class NoPlane:
    """Does nothing."""

    hash_function = "none"

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def stage(network: Network) -> KernelStage:
    return KernelStage(network, NoPlane, ForwardingMethod.L2)


def test_a_router_without_rules_forwards_everything(stage: KernelStage) -> None:
    packets = [
        fresh(),
        fresh(protocol=UDP),
        fresh(protocol=1),
        fresh(protocol=50),
        fresh(device=FARM, source=FIRST),
    ]
    assert stage.send_all(packets) == [PASSED] * 5


def test_answers_come_out_at_the_spoke(stage: KernelStage) -> None:
    assert stage.send(answer_to(fresh())) == PASSED


def test_what_routing_brings_to_a_cache_is_not_redirected(stage: KernelStage) -> None:
    assert stage.send(fresh(SECOND)) == PASSED


def test_the_last_hop_is_answered_with_time_exceeded(stage: KernelStage) -> None:
    assert stage.send(fresh(ttl=1)) == EXPIRED


@pytest.mark.parametrize(
    ("rule", "fate", "protocol"),
    [
        ("ip protocol tcp drop", NOWHERE, TCP),
        ("ip protocol tcp reject with tcp reset", RESET, TCP),
        ("udp dport 80 reject with icmp type admin-prohibited", PROHIBITED, UDP),
    ],
)
def test_drops_and_answers_are_told_apart(stage: KernelStage, rule: str, fate: Fate, protocol: int) -> None:
    chain = f"chain pre {{ type filter hook prerouting priority 0; {rule}; }};"
    stage.network.router.run("nft", f"table ip byhand {{ {chain} }};")
    try:
        assert stage.send_all([fresh(protocol=protocol) for _ in range(20)]) == [fate] * 20
        assert [stage.send(fresh(protocol=protocol)) for _ in range(20)] == [fate] * 20
    finally:
        stage.network.router.run("nft", "delete table ip byhand")


def test_a_packet_routed_to_a_cache_is_told_by_its_frame(stage: KernelStage) -> None:
    router = stage.network.router
    router.run("ip", "route", "add", "203.0.113.7", "via", str(SECOND))
    try:
        assert stage.send(fresh()) == Fate(Place.CACHE, Path(SECOND, ForwardingMethod.L2))
    finally:
        router.run("ip", "route", "del", "203.0.113.7")


def test_every_test_that_is_selected_for_the_vm_is_there(request: pytest.FixtureRequest) -> None:
    if any("::" in arg for arg in request.config.args):
        pytest.skip("single tests were asked for, so not all of a file's were collected")
    collected = request.config.stash[COLLECTED]
    files = {file_of(name) for name in collected}
    assert {name for name in IN_THE_VM if file_of(name) in files} <= collected
    assert any("[netlink-gre" in name and file_of(name) in WHOLLY for name in collected) or not WHOLLY & files
