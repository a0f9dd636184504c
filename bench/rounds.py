"""What a round of the netlink plane costs, small and at full size: nothing to do, one bucket moved, one cache gone.

A round is what the reconciler's worker does: the plan out of the engine's view, the plane brought to it, what is there
observed. The caches are reached by L2, in namespaces of its own. CPU time of the worker, the kernel's part of its
calls included, the least of several rounds; what the kernel frees later, in a thread of its own, is not in it. The
plane checks its belief by listing the whole table, at most a fiftieth of the time; that is a figure of its own.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from bench.case import Case
from tests.support.namespaces import Namespace
from tests.support.views import ROUTER_ID, group
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.dataplane.port import Wish
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.policy import KernelSettings, Policy, ServicePolicy
from wccpd.plan.redirect import Mode
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.protocol.view import RouterView
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod, ServiceFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wccpd.protocol.view import GroupView

ROUNDS: Final = 5
INGRESS: Final = "spokes"
FIRST_CACHE: Final = IPv4Address("10.100.1.21")
LEASE_SECONDS: Final = 30.0
NAMES: Final = ("unchanged", "one_bucket", "cache_leaves", "listing", "lease")
_FLAGS: Final = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED


@dataclass(frozen=True, slots=True)
class Size:
    """So many services of so many caches."""

    services: int
    caches: int

    def __str__(self) -> str:
        return f"{self.services}x{self.caches}"


SMALL: Final = Size(1, 2)
LARGE: Final = Size(64, 32)


class Router:
    """A plane in the namespace of the calling thread, with so many services and caches."""

    def __init__(self, size: Size) -> None:
        self._infos = [
            ServiceInfo.dynamic(number, 100, 6, _FLAGS, (1000 + number,)) for number in range(size.services)
        ]
        self.caches = [FIRST_CACHE + number for number in range(size.caches)]
        self._policy = Policy(
            router_id=ROUTER_ID,
            services=tuple(ServicePolicy(info.key, mode=Mode.CLOSED) for info in self._infos),
            ingress=(INGRESS,),
        )
        names = tuple(str(info.key.service_id) for info in self._infos)
        self.plane = LinuxDataPlane(KernelSettings(services=names))
        self._slots = Slots()

    def view(self, *caches: IPv4Address) -> RouterView:
        """All services with these caches."""
        return RouterView(tuple(_by_l2(group(info, *caches)) for info in self._infos))

    def round(self, view: RouterView) -> int:
        """One round; how many lines changed."""
        self._slots = allocate_slots(self._slots, wanted_paths(view))
        applied = self.plane.bring_to(Wish(redirect_plan(view, self._policy, self._slots)))
        assert applied.faults == (), applied.faults
        self.plane.observe()
        return len(applied.changes)

    def listing(self) -> None:
        """Read the whole table, as a check of belief does."""
        self.plane.forget()
        self.plane.observe()


def cases() -> Iterator[Case]:
    """Every kind of round, small and large."""
    if os.geteuid() != 0:
        for name in NAMES:
            for size in (SMALL, LARGE):
                yield Case(_name(name, size), "ms", None, plane="netlink", reason="needs root: a namespace")
        return
    least = _measured(SMALL)
    for name, value in least.items():
        yield Case(_name(name, SMALL), "ms", value, plane="netlink")
    for name, value in _measured(LARGE).items():
        base = _name(name, SMALL)
        yield Case(_name(name, LARGE), "ms", value, ratio_to=base, ratio=value / least[name], plane="netlink")


def _measured(size: Size) -> dict[str, float]:
    with Namespace("router") as namespace, Namespace("world") as world:
        namespace.connect(INGRESS, "10.1.0.1/24", world, "uplink", "10.1.0.10/24")
        namespace.connect("farm", f"{ROUTER_ID}/24", world, "caches", "10.100.1.200/24")
        router = namespace.call(lambda: Router(size))
        try:
            return {name: namespace.call(work) for name, work in _works(router).items()}
        finally:
            namespace.call(router.plane.close)


def _works(router: Router) -> dict[str, Callable[[], float]]:
    """What is measured, in this order."""
    caches = router.caches
    whole, without = router.view(*caches), router.view(*caches[:-1])
    moved = _moved(whole, *caches[:2])

    def first() -> None:
        router.round(whole)
        router.plane.renew_lease(LEASE_SECONDS)

    return {
        "unchanged": lambda: _least(lambda: _expect(router.round(whole) == 0), first),
        "one_bucket": lambda: _least(lambda: _expect(router.round(moved) > 0), first),
        "cache_leaves": lambda: _least(lambda: _expect(router.round(without) > 0), first),
        "listing": lambda: _least(router.listing),
        "lease": lambda: _least(lambda: router.plane.renew_lease(LEASE_SECONDS)),
    }


def _least(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
    """Milliseconds of CPU for the work; what prepares it is not counted."""
    best = float("inf")
    for _ in range(ROUNDS):
        prepare()
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return best * 1e3


def _moved(view: RouterView, one: IPv4Address, other: IPv4Address) -> RouterView:
    """The view in which the first service's first bucket is the other cache's."""
    first, *rest = view.groups
    owner, *others = first.bucket_owners
    return RouterView((replace(first, bucket_owners=(other if owner == one else one, *others)), *rest))


def _expect(held: bool) -> None:
    assert held, "the round did something else than what is measured"


def _name(what: str, size: Size) -> str:
    return f"netlink_round_{what}_{size}"


def _by_l2(whole: GroupView) -> GroupView:
    caches = (
        replace(cache, forwarding=ForwardingMethod.L2, packet_return=PacketReturnMethod.L2)
        for cache in whole.caches
    )
    return replace(whole, caches=tuple(caches))
