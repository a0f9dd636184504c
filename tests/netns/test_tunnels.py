"""Tunnels in a real kernel: two of them, over IPv4 and over IPv6, damaged and repaired, with real packets.

router eth0 10.99.1.10, 2001:db8:1::10 ---- veth ---- 10.99.1.1 (and .2), 2001:db8:1::1 the Transit Gateway
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest
from pyroute2 import IPRoute

import gre.link
from gre.tunnel import GreDevice, ObservedGre
from tests.support.namespaces import Namespace

pytestmark = [pytest.mark.gre, pytest.mark.netns]

LOCAL, REMOTES = "10.99.1.10", ("10.99.1.1", "10.99.1.2")
FIRST, SECOND = (
    GreDevice(
        f"wccp-tgw-{name}",
        ip_address(LOCAL),
        ip_address(remote),
        mtu_bytes=8476,
        addresses=(IPv4Interface(f"169.254.{third}.1/29"), IPv6Interface(f"fd00:{third}::1/125")),
    )
    for name, remote, third in zip(("a", "b"), REMOTES, (6, 7), strict=True)
)
SIXTH = GreDevice(
    "wccp-tgw-c",
    ip_address("2001:db8:1::10"),
    ip_address("2001:db8:1::1"),
    mtu_bytes=8456,
    addresses=(IPv4Interface("169.254.8.1/29"),),
)
DEVICES = (FIRST, SECOND, SIXTH)


@dataclass
class Stage:
    router: Namespace
    ipr: IPRoute

    def observe(self) -> dict[str, ObservedGre]:
        return self.router.call(lambda: gre.link.observe(self.ipr, "wccp-"))

    def repair(self) -> None:
        """What a round of the reconciler does for devices."""
        present = self.observe()
        for device in DEVICES:
            found = present.get(device.name)
            if found is None or not found.is_like(device):
                self.router.call(lambda d=device, f=found: gre.link.ensure(self.ipr, d, f))

    def answers(self, third: int, size: int = 56) -> bool:
        command = f"ping -c 1 -W 5 -M do -s {size} 169.254.{third}.2 >/dev/null && echo yes || echo no"
        return self.router.run("sh", "-c", command).strip() == "yes"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        router, far = stack.enter_context(Namespace("r")), stack.enter_context(Namespace("t"))
        router.connect("eth0", f"{LOCAL}/24", far, "eth0", f"{REMOTES[0]}/24")
        for namespace, six in ((router, "2001:db8:1::10/64"), (far, "2001:db8:1::1/64")):
            namespace.run("ip", "link", "set", "eth0", "mtu", "8500")
            namespace.run("ip", "address", "add", six, "dev", "eth0", "nodad")
        far.run("ip", "address", "add", f"{REMOTES[1]}/24", "dev", "eth0")
        for number, device in enumerate(DEVICES):
            kind = ("ip6gre", "encaplimit", "none") if device.remote.version == 6 else ("gre",)
            far.run(
                *("ip", "link", "add", f"tgw{number}", "mtu", str(device.mtu_bytes), "type", kind[0]),
                *("local", str(device.remote), "remote", str(device.local), "ttl", "255", *kind[1:]),
            )
            far.run("ip", "address", "add", f"169.254.{6 + number}.2/29", "dev", f"tgw{number}")
            far.run("ip", "link", "set", f"tgw{number}", "up")
        ipr = router.call(IPRoute)
        stack.callback(router.call, ipr.close)
        made = Stage(router, ipr)
        made.repair()
        yield made


def test_tunnels_over_both_ip_versions_come_up_as_specified_and_carry_full_packets(stage: Stage) -> None:
    found = stage.observe()
    for device in DEVICES:
        assert found[device.name].is_like(device), device.name
        assert found[device.name].path_mtu_bytes == 8500
        assert found[device.name].fitting_mtu_bytes == device.mtu_bytes
    for third, mtu in ((6, 8476), (7, 8476), (8, 8456)):
        assert stage.answers(third, mtu - 28), f"the largest packet of tunnel {third}"
    counted = stage.observe()
    assert all(counted[device.name].sent_packets > 0 for device in DEVICES)
    assert all(counted[device.name].received_packets > 0 for device in DEVICES)


@pytest.mark.parametrize(
    "damage",
    ["link delete DEVICE", "link set DEVICE down", "link set DEVICE mtu 1400", "address flush dev DEVICE"],
)
@pytest.mark.parametrize(("device", "third"), [(SECOND, 7), (SIXTH, 8)], ids=["IPv4", "IPv6"])
def test_a_damaged_tunnel_is_repaired_and_the_others_are_left_alone(
    stage: Stage, damage: str, device: GreDevice, third: int
) -> None:
    before = stage.observe()[FIRST.name].index
    stage.router.run("ip", *damage.replace("DEVICE", device.name).split())
    found = stage.observe().get(device.name)
    assert found is None or not found.is_like(device)
    stage.repair()
    assert stage.observe()[device.name].is_like(device)
    assert stage.answers(third)
    assert stage.observe()[FIRST.name].index == before


def test_a_path_that_carries_less_is_measured(stage: Stage) -> None:
    stage.router.run("ip", "route", "add", f"{REMOTES[1]}/32", "dev", "eth0", "mtu", "1500")
    assert stage.observe()[SECOND.name].fitting_mtu_bytes == 1476
    stage.router.run("ip", "link", "set", "eth0", "mtu", "1400")
    assert stage.observe()[FIRST.name].fitting_mtu_bytes == 1376
    assert stage.observe()[SIXTH.name].fitting_mtu_bytes == 1356


def test_a_second_tunnel_between_the_same_ends_is_refused_by_the_kernel(stage: Stage) -> None:
    twin = GreDevice("wccp-tgw-x", FIRST.local, FIRST.remote)
    with pytest.raises(Exception, match="File exists"):
        stage.router.call(lambda: gre.link.ensure(stage.ipr, twin, None))
