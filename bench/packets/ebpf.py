"""The eBPF plane's ways through a router: by GRE and L2, with what may make it slower.

The caches are next hops on the segment of `out`; GRE is pushed by the program, so no GRE device is needed.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

from bench.packets.forwarding import PLAIN, Scenario
from bench.packets.router import CACHE_HOPS, INGRESS, hop_address
from wccpd.dataplane.ebpf.plane import EbpfDataPlane
from wccpd.dataplane.port import Wish
from wccpd.plan.policy import KernelSettings
from wccpd.plan.redirect import (
    TCP,
    AclLine,
    Action,
    HashAssignment,
    HashFields,
    PacketMatch,
    Path,
    RedirectPlan,
    ServicePlan,
)
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.packets.router import Router

GRE, L2 = ForwardingMethod.GRE, ForwardingMethod.L2
LEASE_SECONDS: Final = 600.0
ROUTER_ID: Final = IPv4Address("172.16.1.1")
ELSEWHERE: Final = int(IPv4Address("203.0.112.0"))
"""Servers of no flow: a line of the redirect list for each, before the one that permits."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """How packets to port 80 are redirected."""

    forwarding: ForwardingMethod
    caches: int = 8
    """They share the buckets equally."""
    affinity: bool = False
    lines: int = 0
    """Of the redirect list."""
    services: int = 1
    """The one that takes the packets is the last."""
    goal: float | None = None
    """The least ratio to plain forwarding, or to `beside`."""
    beside: str = PLAIN

    @property
    def name(self) -> str:
        """Of the case."""
        caches = f"{self.caches}_cache{'s' if self.caches > 1 else ''}"
        lines = f"_{self.lines}_lines" if self.lines else ""
        services = f"_{self.services}_services" if self.services > 1 else ""
        affinity = "_affinity" if self.affinity else ""
        method = "gre" if self.forwarding is GRE else "l2"
        return f"ebpf_{method}_{caches}{affinity}{lines}{services}"

    @property
    def hops(self) -> tuple[int, ...]:
        """Next hops of the caches."""
        return tuple(CACHE_HOPS)[: self.caches]


REDIRECTS: Final = (
    Redirect(L2, goal=1.0),
    Redirect(GRE, goal=0.95),
    Redirect(GRE, affinity=True, goal=0.85),
    Redirect(GRE, caches=1),
    Redirect(GRE, caches=32, goal=1 / 1.1, beside="ebpf_gre_1_cache"),
    Redirect(GRE, lines=1),
    Redirect(GRE, lines=1000, goal=1 / 1.15, beside="ebpf_gre_8_caches_1_lines"),
    Redirect(GRE, services=256, goal=1 / 1.1, beside="ebpf_gre_8_caches"),
)


def scenarios() -> Iterator[Scenario]:
    """One for each way of redirecting."""
    for redirect in REDIRECTS:
        goal = redirect.goal
        yield Scenario(
            redirect.name,
            partial(_prepare, redirect),
            frozenset(redirect.hops),
            "ebpf",
            goal=f"at least {goal:.2f}" if goal is not None else "",
            is_met=partial(operator.le, goal) if goal is not None else None,
            beside=redirect.beside,
        )


def plan_for(redirect: Redirect) -> RedirectPlan:
    """What such a router is to do."""
    addresses = tuple(IPv4Address(hop_address(hop)) for hop in redirect.hops)
    paths = {address: Path(address, redirect.forwarding) for address in addresses}
    denied = (
        AclLine(Action.DENY, destination=IPv4Network((ELSEWHERE + number, 32)))
        for number in range(redirect.lines - 1)
    )
    web = ServicePlan(
        name="0",
        dynamic=False,
        service_id=0,
        match=PacketMatch(TCP, (80,)),
        assignment=HashAssignment(
            HashFields(destination_address=True),
            tuple(addresses[bucket % len(addresses)] for bucket in range(256)),
        ),
        paths=paths,
        acl=(*denied, AclLine(Action.PERMIT)) if redirect.lines else (),
        affinity=redirect.affinity,
    )
    others = (
        replace(web, name=str(number), service_id=number, match=PacketMatch(TCP, (8000 + number,)))
        for number in range(1, redirect.services)
    )
    returns = PacketReturnMethod(redirect.forwarding)
    return RedirectPlan(
        router_id=ROUTER_ID,
        ingress=(INGRESS,),
        services=(*others, web),
        caches=frozenset(addresses),
        returns={address: frozenset({returns}) for address in addresses},
        slots={path: slot for slot, path in enumerate(paths.values(), start=1)},
    )


def _prepare(redirect: Redirect, router: Router) -> None:
    router.namespace.call(lambda: _bring_to(Wish(plan_for(redirect))))
    # Its pins, not the program: that runs as long as the namespace is there.
    router.on_exit(lambda: _forget(router))


def _bring_to(wish: Wish) -> None:
    plane = EbpfDataPlane(_SETTINGS)
    try:
        applied = plane.bring_to(wish)
        if applied.faults:
            raise applied.faults[0]
        plane.renew_lease(LEASE_SECONDS)
    finally:
        plane.close()


def _forget(router: Router) -> None:
    def remove() -> None:
        plane = EbpfDataPlane(_SETTINGS)
        plane.remove()
        plane.close()

    router.namespace.call(remove)


_SETTINGS: Final = KernelSettings(services=tuple(map(str, range(256))))
