"""The netlink plane's ways through a router.

This kernel may have no GRE devices, so the caches take L2: they are next hops on the segment of `out`. All else is
the plane itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

from bench.packets.forwarding import Comparison, Scenario
from bench.packets.router import CACHE_HOPS, INGRESS, hop_address
from tests.support.views import ROUTER_ID, WEB_CACHE, group, view
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.dataplane.port import Wish
from wccpd.plan.build import redirect_plan, wanted_paths
from wccpd.plan.policy import KernelSettings, Policy, RedirectList, ServicePolicy
from wccpd.plan.redirect import AclLine, Action
from wccpd.plan.slots import Slots, allocate_slots
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.packets.router import Router
    from wccpd.protocol.view import RouterView

LEASE_SECONDS: Final = 600.0
LINES_GOAL: Final = 1.2
ELSEWHERE: Final = int(IPv4Address("203.0.112.0"))
"""Servers of no flow: a line of the redirect list for each, before the one that permits."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A web-cache service as it is redirected."""

    caches: int
    """They share the buckets equally."""
    affinity: bool = False
    lines: int = 0
    """Of the redirect list."""

    @property
    def name(self) -> str:
        """Of the case."""
        caches = f"{self.caches}_cache{'s' if self.caches > 1 else ''}"
        lines = f"_{self.lines}_lines" if self.lines else ""
        return f"netlink_l2_{caches}{'_affinity' if self.affinity else ''}{lines}"

    @property
    def hops(self) -> tuple[int, ...]:
        """Next hops of the caches."""
        return tuple(CACHE_HOPS)[: self.caches]


REDIRECTS: Final = (
    Redirect(1),
    Redirect(8),
    Redirect(32),
    Redirect(8, affinity=True),
    Redirect(8, lines=1),
    Redirect(8, lines=1000),
)


def scenarios() -> Iterator[Scenario]:
    """One for each way of redirecting."""
    for redirect in REDIRECTS:
        yield Scenario(redirect.name, partial(_prepare, redirect), frozenset(redirect.hops), "netlink")


COMPARISONS: Final = (
    Comparison(
        "netlink_l2_1000_lines_over_1",
        Redirect(8, lines=1000).name,
        Redirect(8, lines=1).name,
        "at most 1.2 x",
        lambda ratio: ratio <= LINES_GOAL,
        "netlink",
    ),
)


def policy_for(redirect: Redirect) -> Policy:
    """What the operator of such a router decided."""
    denied = (
        AclLine(Action.DENY, destination=IPv4Network((ELSEWHERE + number, 32)))
        for number in range(redirect.lines - 1)
    )
    lines = (*denied, AclLine(Action.PERMIT)) if redirect.lines else ()
    service = ServicePolicy(
        WEB_CACHE.key,
        affinity=redirect.affinity,
        redirect_list=RedirectList(lines, tuple(range(len(lines))), tuple(map(str, range(len(lines))))),
    )
    return Policy(router_id=ROUTER_ID, services=(service,), ingress=(INGRESS,))


def view_for(redirect: Redirect) -> RouterView:
    """What the engine sees of such a router's caches."""
    addresses = tuple(IPv4Address(hop_address(hop)) for hop in redirect.hops)
    made = group(WEB_CACHE, *addresses)
    caches = (
        replace(cache, forwarding=ForwardingMethod.L2, packet_return=PacketReturnMethod.L2)
        for cache in made.caches
    )
    return view(replace(made, caches=tuple(caches)))


def _prepare(redirect: Redirect, router: Router) -> None:
    wanted = view_for(redirect)
    plan = redirect_plan(wanted, policy_for(redirect), allocate_slots(Slots(), wanted_paths(wanted)))
    router.namespace.call(lambda: _bring_to(Wish(plan)))


def _bring_to(wish: Wish) -> None:
    plane = LinuxDataPlane(KernelSettings(services=("web-cache",)))
    try:
        applied = plane.bring_to(wish)
        if applied.faults:
            raise applied.faults[0]
        plane.renew_lease(LEASE_SECONDS)
    finally:
        plane.close()
