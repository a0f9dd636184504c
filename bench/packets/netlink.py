"""The netlink plane's ways through a router.

This kernel may have no GRE devices, so the caches are reached on-link: the routing table of each holds a default
route to a next hop instead of one to a GRE device. Classification, marks and rules are those of the plane itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from bench.packets.forwarding import Scenario
from bench.packets.router import CACHE_HOPS, EGRESS, INGRESS, hop_address
from tests.support.views import ROUTER_ID, WEB_CACHE, group, view
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.plan.compile import Policy, allocate_slots, compile_state
from wccpd.plan.diff import diff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.packets.router import Router
    from wccpd.plan.model import DesiredState
    from wccpd.protocol.view import RouterView

CACHES: Final = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A web-cache service as it is redirected."""

    caches: int
    """They share the buckets equally."""

    @property
    def name(self) -> str:
        """Of the case."""
        return f"netlink_redirect_on_link_{self.caches}_cache{'s' if self.caches > 1 else ''}"

    @property
    def hops(self) -> tuple[int, ...]:
        """Next hops of the caches."""
        return tuple(CACHE_HOPS)[: self.caches]


def scenarios() -> Iterator[Scenario]:
    """One for each number of caches."""
    for redirect in (Redirect(caches) for caches in CACHES):
        yield Scenario(redirect.name, partial(_prepare, redirect), frozenset(redirect.hops), "netlink")


def policy_for(_: Redirect) -> Policy:
    """What the operator of such a router decided."""
    return Policy(router_id=ROUTER_ID, services=(WEB_CACHE.key,), ingress=(INGRESS,))


def view_for(redirect: Redirect) -> RouterView:
    """What the engine sees of such a router's caches."""
    return view(group(WEB_CACHE, *_addresses(redirect)))


def _addresses(redirect: Redirect) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(hop_address(hop)) for hop in redirect.hops)


def _prepare(redirect: Redirect, router: Router) -> None:
    policy = policy_for(redirect)
    slots = allocate_slots({}, _addresses(redirect))
    desired = replace(compile_state(view_for(redirect), policy, slots), devices=(), routes=())
    router.namespace.call(partial(_apply, policy, desired))
    for cache, slot in slots.items():
        table = str(policy.table_base + slot)
        router.namespace.run(
            "ip", "route", "add", "default", "via", str(cache), "dev", EGRESS, "table", table
        )


def _apply(policy: Policy, desired: DesiredState) -> None:
    plane = LinuxDataPlane(policy)
    try:
        failures = plane.apply(diff(desired, plane.observe()))
        if failures:
            raise failures[0].error
    finally:
        plane.close()
