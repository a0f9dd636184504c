"""What is ours is repaired and removed; what is not is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from tests.contract.kernel_stage import KernelStage
from tests.contract.stage import PASSED, Place, Stage, everything_to, fresh
from tests.support.plans import CACHES, FIRST, SECOND, SERVER, deny, network, permit, plan, service
from wccpd.dataplane.ebpf.kernel import PRIORITY
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.dataplane.port import Wish
from wccpd.errors import KernelError
from wccpd.plan.redirect import TCP, UDP, Mode, PacketMatch, RedirectPlan

FOREIGN_MARK = 0x5A000000
FOREIGN_TABLE = f"""
table ip other {{
    counter of-packets {{ }}
    counter of-connections {{ }}
    chain pre {{
        type filter hook prerouting priority -200;
        meta mark set {FOREIGN_MARK:#x}
        ct mark set ct mark & 0x00ffffff | {FOREIGN_MARK:#x}
    }}
    chain post {{
        type filter hook postrouting priority 0;
        meta mark & 0xff000000 == {FOREIGN_MARK:#x} counter name of-packets
        ct mark & 0xff000000 == {FOREIGN_MARK:#x} counter name of-connections
    }}
}}
"""

MARKS_TABLE = """
table ip marks {
    counter ours { }
    chain post {
        type filter hook postrouting priority 0;
        meta mark & 0x00ffffff != 0 counter name ours
    }
}
"""


def packets_of(listing: str) -> int:
    """What a counter counted, as nft lists it."""
    (count,) = re.findall(r"packets (\d+)", listing)
    return int(count)


def rich(stage: Stage) -> RedirectPlan:
    """A plan that needs most kinds of objects."""
    lines = (deny(destination=network("203.0.113.200/32")), permit())
    first = service("70", *CACHES, forwarding=stage.forwarding, acl=lines)
    return plan(first, everything_to(stage, "80", SECOND), never=(network("198.51.100.0/24"),))


def test_a_wish_that_is_fulfilled_changes_nothing(stage: Stage) -> None:
    assert stage.bring_to(rich(stage)).changes
    assert stage.bring_to(rich(stage)).changes == ()
    stage.forget()
    assert stage.bring_to(rich(stage)).changes == ()


def test_whatever_somebody_damaged_is_repaired(stage: Stage) -> None:
    wanted = rich(stage)
    stage.bring_to(wanted)
    flows = [fresh(SERVER + number) for number in range(10)]
    before = stage.send_all(flows)
    assert {fate.place for fate in before} == {Place.CACHE}
    damages = stage.damages
    assert damages
    for what in damages:
        stage.damage(what)
        stage.bring_to(wanted)
        stage.forget()
        assert stage.bring_to(wanted, leased=False).changes == (), what
        assert stage.send_all(flows) == before, what


@pytest.fixture
def neighbours(kernel: KernelStage) -> Iterator[KernelStage]:
    """A router with rules, routes and tables of somebody else's."""
    router = kernel.network.router
    router.run("ip", "rule", "add", "priority", "18700", "fwmark", "0x7000000/0xff000000", "lookup", "100")
    router.run("ip", "rule", "add", "priority", "19500", "fwmark", "0x1/0xff", "lookup", "100")
    router.run("ip", "route", "add", "192.0.2.0/24", "via", "10.9.0.2", "table", "100", "proto", "118")
    router.run("nft", FOREIGN_TABLE)
    yield kernel
    router.run("nft", "delete table ip other")
    router.run("ip", "route", "flush", "table", "100")
    router.run("ip", "rule", "del", "priority", "18700")
    router.run("ip", "rule", "del", "priority", "19500")


def test_what_is_not_ours_survives_beside_it_and_after_it(neighbours: KernelStage) -> None:
    stage, theirs = neighbours, neighbours.objects()
    stage.bring_to(rich(stage))
    together = stage.objects()
    assert all(set(theirs[kind]) <= set(together[kind]) for kind in theirs)
    stage.remove()
    assert stage.objects() == theirs


def test_marks_of_others_on_packets_and_connections_survive(neighbours: KernelStage) -> None:
    stage = neighbours
    if not isinstance(stage.plane, LinuxDataPlane):
        pytest.skip("what the eBPF plane redirects never meets netfilter, and it sets no marks")
    stage.bring_to(plan(everything_to(stage, "70", FIRST)))
    flow = fresh()
    assert [stage.send(flow).cache for _ in range(3)] == [FIRST] * 3
    assert stage.send(fresh(port=443)) == PASSED
    # By GRE the outer packet passes postrouting once more.
    for kind in ("of-packets", "of-connections"):
        assert packets_of(stage.network.router.run("nft", "list", "counter", "ip", "other", kind)) >= 4


@pytest.fixture
def marks_seen(kernel: KernelStage) -> Iterator[Callable[[], int]]:
    """Counts packets that leave the router with a bit of ours in their mark."""
    router = kernel.network.router
    router.run("nft", MARKS_TABLE)
    yield lambda: packets_of(router.run("nft", "list", "counter", "ip", "marks", "ours"))
    router.run("nft", "delete table ip marks")


@pytest.mark.parametrize("leased", [True, False], ids=["leased", "lapsed"])
def test_what_is_not_redirected_leaves_without_a_mark_of_ours(
    kernel: KernelStage, marks_seen: Callable[[], int], leased: bool
) -> None:
    to_server = deny(destination=network(f"{SERVER}/32"))
    kernel.bring_to(
        plan(
            service("60", acl=(deny(),), fallthrough=True),
            service("70", acl=(to_server, permit())),
            service("80", match=PacketMatch(TCP, (8080,)), fallthrough=True),
            service(
                "90", match=PacketMatch(TCP, (8081,)), mode=Mode.REJECT, acl=(to_server,), affinity=False
            ),
            never=(network("198.51.100.0/24"),),
        ),
        leased=leased,
    )
    again = fresh(SERVER + 1)
    packets = [
        *(fresh(port=port) for port in (80, 443, 8080, 8081)),
        *(fresh(destination) for destination in (FIRST, IPv4Address("198.51.100.1"))),
        fresh(protocol=UDP),
        again,
    ]
    assert kernel.send_all(packets) == [PASSED] * len(packets)
    assert kernel.send(again) == PASSED
    assert marks_seen() == 0


def test_what_is_redirected_is_known_by_its_mark(kernel: KernelStage, marks_seen: Callable[[], int]) -> None:
    """So that the counter of the test before could have seen something."""
    if not isinstance(kernel.plane, LinuxDataPlane):
        pytest.skip("the eBPF plane sets no marks")
    kernel.bring_to(plan(everything_to(kernel, "70", FIRST)))
    assert kernel.send(fresh()).cache == FIRST
    assert marks_seen() >= 1


def test_a_table_of_our_name_that_is_not_ours_is_refused_and_left_alone(kernel: KernelStage) -> None:
    router = kernel.network.router
    if not isinstance(kernel.plane, LinuxDataPlane):
        pytest.skip("only the netlink plane has a table")
    router.run("nft", "add table ip wccpd; add chain ip wccpd theirs")
    try:
        with pytest.raises(KernelError, match="nft table wccpd"):
            kernel.bring_to(rich(kernel))
        assert "theirs" in router.run("nft", "list", "table", "ip", "wccpd")
    finally:
        router.run("nft", "delete table ip wccpd")


def test_a_filter_of_somebody_elses_in_our_place_is_refused_and_left_alone(kernel: KernelStage) -> None:
    if isinstance(kernel.plane, LinuxDataPlane):
        pytest.skip("only the eBPF plane has programs")
    router = kernel.network.router
    router.run("tc", "qdisc", "add", "dev", "spokes", "clsact")
    bytecode = "1,6 0 0 4294967295"
    place = ("dev", "spokes", "ingress", "protocol", "all", "prio", str(PRIORITY), "handle", "0x1", "bpf")
    router.run("tc", "filter", "add", *place, "da", "bytecode", bytecode)
    try:
        applied = kernel.network.router.call(lambda: kernel.plane.bring_to(Wish(rich(kernel))))
        assert "somebody else's" in str(applied.faults[0])
        kernel.remove()
        assert "bytecode" in router.run("tc", "filter", "list", "dev", "spokes", "ingress")
    finally:
        router.run("tc", "qdisc", "del", "dev", "spokes", "clsact")
