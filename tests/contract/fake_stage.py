"""The stage in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from tests.contract.stage import LEASE_SECONDS, Fate, as_known_to_the_host, fate_of
from wccpd.dataplane.fake_plane import FakeDataPlane, FakeKernel
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.plan.decide import Packet
from wccpd.plan.policy import KernelSettings
from wccpd.plan.redirect import Path, RedirectPlan
from wccpd.wire.enums import ForwardingMethod

ICMP = 1


class FakeStage:
    """See tests.contract.stage.Stage."""

    def __init__(
        self, hash_function: str = "jhash", forwarding: ForwardingMethod = ForwardingMethod.GRE
    ) -> None:
        self.now = 1000.0
        self.kernel = FakeKernel(lambda: self.now)
        self.forwarding = forwarding
        self.plane = FakeDataPlane(self.kernel, hash_function)

    @property
    def hash_function(self) -> str:
        return self.plane.hash_function

    def bring_to(self, plan: RedirectPlan, *, leased: bool = True, faults: int = 0) -> Applied:
        applied = self.plane.bring_to(Wish(plan))
        assert len(applied.faults) == faults, applied.faults
        if leased:
            self.renew_lease()
        return applied

    def preview(self, plan: RedirectPlan) -> tuple[str, ...]:
        return self.plane.preview(Wish(plan), KernelSettings())

    def reconfigure(self, services: tuple[str, ...]) -> None:
        self.plane.reconfigure(KernelSettings(services))

    def observe(self) -> Observation:
        return self.plane.observe()

    def renew_lease(self, seconds: float = LEASE_SECONDS) -> None:
        self.plane.renew_lease(seconds)

    def let_the_lease_run_out(self) -> None:
        self.now += 10 * LEASE_SECONDS

    def forget(self) -> None:
        self.plane.forget()

    def restart(self) -> None:
        self.plane.close()
        self.plane = FakeDataPlane(self.kernel, self.plane.hash_function)

    def send(self, packet: Packet) -> Fate:
        (fate,) = self.send_all([packet])
        return fate

    def send_all(self, packets: Sequence[Packet]) -> list[Fate]:
        function = self.plane.hash_function
        known = [as_known_to_the_host(each) for each in packets]
        for each in known:
            plan = self.kernel.plan
            if each.sender is not None and plan is not None and plan.counts_frames_of(each.sender):
                self.kernel.take_back(each.sender)
        return [fate_of(self.kernel.carry(each, function), each) for each in known]

    def send_error(self, about: Packet) -> Fate:
        error = replace(as_known_to_the_host(about), protocol=ICMP, icmp_error=True)
        return fate_of(self.kernel.carry(error, self.plane.hash_function, about=about), error)

    def live_flows(self) -> Mapping[IPv4Address, int]:
        return self.plane.live_flows()

    def refuse(self, path: Path) -> None:
        self.kernel.refused_paths.add(path)

    @property
    def damages(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.kernel.objects)

    def damage(self, what: str) -> None:
        (name,) = (name for name in self.kernel.objects if str(name) == what)
        del self.kernel.objects[name]

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied:
        return self.plane.remove(keep_closed)
