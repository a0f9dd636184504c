"""The stages on which every test of this folder is played.

fake-xor, fake-jhash    in memory
netlink-l2              this machine's kernel, caches reached by L2
netlink-gre             a kernel with GRE devices, here or in the VM
ebpf-l2, ebpf-gre       this machine's kernel: the program needs no GRE devices

In the VM a test costs 5 to 25 s. So where the kernel here has no GRE devices, only those tests go there in which
GRE matters, `selection.IN_THE_VM`; the others, which show what nftables and routing do, are deselected with
netlink-gre and run with netlink-l2. WCCPD_CONTRACT_GRE=all runs everything. A kernel that has GRE devices runs
everything by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.vm import IN_VM, kernel_has_gre
from tests.contract.fake_stage import FakeStage
from tests.contract.kernel_stage import KernelStage, Network
from tests.contract.selection import ALL, COLLECTED, EVERYTHING, goes_to_the_vm, name_of
from tests.contract.stage import Stage
from tests.support.namespaces import Namespace
from wccpd.dataplane.ebpf.plane import EbpfDataPlane
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.plan.policy import KernelSettings
from wccpd.wire.enums import ForwardingMethod

SETTINGS = KernelSettings(services=("web-cache", "60", "70", "80", "90"))
FAKES = [pytest.param(("fake", function), id=f"fake-{function}") for function in ("xor", "jhash")]
KERNELS = [
    pytest.param(("netlink", ForwardingMethod.L2), id="netlink-l2", marks=pytest.mark.netns),
    pytest.param(("netlink", ForwardingMethod.GRE), id="netlink-gre", marks=pytest.mark.gre),
    pytest.param(("ebpf", ForwardingMethod.L2), id="ebpf-l2", marks=pytest.mark.netns),
    pytest.param(("ebpf", ForwardingMethod.GRE), id="ebpf-gre", marks=pytest.mark.netns),
]
PLANES = {"netlink": LinuxDataPlane, "ebpf": EbpfDataPlane}


EBPF_DOES_NOT_YET = {
    "test_the_segments_of_a_redirected_connection_fit_both_ways": "it clamps no SYN-ACK that comes by the way out",
    "test_a_packet_that_is_too_big_is_fragmented_where_df_is_cleared": "a program cannot fragment",
    "test_the_cache_is_told_what_fits_of_what_it_sent_to_the_client": "the router's own ICMP meets no program",
    "test_all_fragments_of_a_packet_go_to_the_cache_of_its_ports": "it counts each fragment, not the packet",
}
"""What of the contract the eBPF plane breaks, and why; strict, so that a mended one is noticed."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say what a plane is known to break, and deselect what is not worth its time in the VM; see the module."""
    for item in items:
        reason = EBPF_DOES_NOT_YET.get(getattr(item, "originalname", ""))
        if reason is not None and _is_ours(item) and "[ebpf-" in item.nodeid:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    config.stash[COLLECTED] = frozenset(name_of(item.nodeid) for item in items if _is_ours(item))
    if os.environ.get(EVERYTHING) == ALL or os.environ.get(IN_VM) or kernel_has_gre():
        return
    left_out = [
        item
        for item in items
        if _is_ours(item) and item.get_closest_marker("gre") and not goes_to_the_vm(item.nodeid)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        unwanted = set(left_out)
        items[:] = [item for item in items if item not in unwanted]


def _is_ours(item: pytest.Item) -> bool:
    """Whether it is a test of this folder."""
    return Path(__file__).parent in item.path.parents


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    with Namespace("router") as router, Namespace("world") as world:
        made = Network(router, world)
        yield made
        made.close()


@pytest.fixture(params=[*FAKES, *KERNELS])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Every plane there is."""
    kind, variant = request.param
    if kind == "fake":
        yield FakeStage(variant)
    else:
        yield from kernel_stage(request.getfixturevalue("network"), kind, variant)


@pytest.fixture(params=[*FAKES, *KERNELS[1::2]])
def versatile(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Every plane where caches can be reached by GRE, and by L2 too."""
    kind, variant = request.param
    if kind == "fake":
        yield FakeStage(variant)
    else:
        yield from kernel_stage(request.getfixturevalue("network"), kind, variant)


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, network: Network) -> Iterator[KernelStage]:
    """Every plane that is in a real kernel."""
    kind, variant = request.param
    yield from kernel_stage(network, kind, variant)


@pytest.fixture(params=KERNELS[1::2])
def tunnelled(request: pytest.FixtureRequest, network: Network) -> Iterator[KernelStage]:
    """The plane in a real kernel with caches that are reached by GRE."""
    kind, variant = request.param
    yield from kernel_stage(network, kind, variant)


def kernel_stage(network: Network, kind: str, forwarding: ForwardingMethod) -> Iterator[KernelStage]:
    """A stage that must be left as it was found."""
    stage = KernelStage(network, lambda: PLANES[kind](SETTINGS), forwarding, SETTINGS)
    try:
        yield stage
        faults = stage.remove().faults
    finally:
        # Else the sockets of a plane that failed are closed by the collector, and the next test is told of it.
        stage.close()
    assert not faults
    assert not any(stage.objects().values()), "the plane left something behind"
