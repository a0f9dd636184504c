"""The stages on which every test of this folder is played.

fake-xor, fake-jhash    in memory
netlink-l2              this machine's kernel, caches reached by L2
netlink-gre             a kernel with GRE devices, here or in the VM
ebpf-l2, ebpf-gre       this machine's kernel: the program needs no GRE devices
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.fake_stage import FakeStage
from tests.contract.kernel_stage import KernelStage, Network
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


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, network: Network) -> Iterator[KernelStage]:
    """Every plane that is in a real kernel."""
    kind, variant = request.param
    yield from kernel_stage(network, kind, variant)


def kernel_stage(network: Network, kind: str, forwarding: ForwardingMethod) -> Iterator[KernelStage]:
    """A stage that must be left as it was found."""
    stage = KernelStage(network, lambda: PLANES[kind](SETTINGS), forwarding)
    yield stage
    faults = stage.remove().faults
    stage.close()
    assert not faults
    assert not any(stage.objects().values()), "the plane left something behind"
