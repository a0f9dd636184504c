"""Makes the status tree from the frozen views of engine, kernel and sidecar. Pure: `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gre.tunnel import redirect_device_name
from wccpd.plan.match import is_standard, service_match, service_name, words
from wccpd.protocol.view import AssignedBy, CacheState, CacheView, GroupView
from wccpd.status.view import (
    SCHEMA_VERSION,
    BgpStatus,
    CacheStatus,
    Health,
    RefusalStatus,
    RouterStatus,
    ServiceStatus,
    Status,
    TunnelStatus,
)
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.plan.compile import Policy
    from wccpd.plan.diff import Observed
    from wccpd.protocol.view import RouterView

Counter = tuple[int, int]
"""Packets and bytes."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a status is made of."""

    router: RouterStatus
    policy: Policy
    view: RouterView
    observed: Observed
    kernel_faults: tuple[str, ...]
    """Why the kernel is not as it should be; empty when it is."""
    bgp: BgpStatus | None
    refused: tuple[RefusalStatus, ...]


def build_status(sources: Sources, now: float) -> Status:
    """The whole tree at monotonic time `now`."""
    tunnels = tuple(_tunnel(sources, device) for device in sources.policy.tunnels)
    services = tuple(_service(sources, group) for group in sources.view.groups)
    caches = tuple(
        _cache(sources, group, cache, now) for group in sources.view.groups for cache in group.caches
    )
    reasons = (
        *(f"kernel: {fault}" for fault in sources.kernel_faults),
        *(f"service {each.service}: {each.reason}" for each in services if each.state is not Health.UP),
        *(f"tunnel {each.name}: {each.reason}" for each in tunnels if each.state is not Health.UP),
        *(f"bgp: {bgp.reason}" for bgp in (sources.bgp,) if bgp is not None and bgp.state is not Health.UP),
    )
    return Status(
        version=SCHEMA_VERSION,
        inspecting=_is_inspecting(sources, tunnels, services),
        reasons=reasons,
        router=sources.router,
        tunnels=tunnels,
        bgp=sources.bgp,
        services=services,
        caches=caches,
        refused=sources.refused,
    )


def _is_inspecting(
    sources: Sources, tunnels: tuple[TunnelStatus, ...], services: tuple[ServiceStatus, ...]
) -> bool:
    """Whether what should be inspected is: a path in, caches for every service, and a kernel that does its part."""
    arriving = not tunnels or any(each.state is not Health.DOWN for each in tunnels)
    served = bool(services) and all(each.state is Health.UP for each in services)
    return arriving and served and not sources.kernel_faults


def _tunnel(sources: Sources, device: GreDevice) -> TunnelStatus:
    present = sources.observed.devices.get(device.name)
    state, reason = _tunnel_health(device, present)
    inside = ", ".join(map(str, device.addresses))
    return TunnelStatus(
        name=device.name.removeprefix(sources.policy.device_prefix),
        state=state,
        reason=reason,
        device=device.name,
        local=str(device.local),
        remote=str(device.remote),
        inside=inside,
        mtu_bytes=present.mtu_bytes if present else 0,
        received_packets=present.received_packets if present else 0,
        received_bytes=present.received_bytes if present else 0,
        sent_packets=present.sent_packets if present else 0,
        sent_bytes=present.sent_bytes if present else 0,
        path_mtu_bytes=(present.path_mtu_bytes or 0) if present else 0,
        errors=present.errors if present else 0,
        dropped=present.dropped if present else 0,
    )


def _tunnel_health(device: GreDevice, present: ObservedGre | None) -> tuple[Health, str]:
    if present is None:
        return Health.DOWN, f"there is no device {device.name}"
    if not present.up:
        return Health.DOWN, f"device {device.name} is down"
    if not present.is_like(device):
        return Health.DEGRADED, f"device {device.name} is not as configured"
    fits = present.fitting_mtu_bytes
    if fits is not None and fits < present.mtu_bytes:
        return Health.DEGRADED, (
            f"the path to {present.remote} carries {present.path_mtu_bytes} bytes, which leaves {fits} for packets, "
            f"and its mtu_bytes is {present.mtu_bytes}"
        )
    return Health.UP, ""


def _service(sources: Sources, group: GroupView) -> ServiceStatus:
    name = service_name(group.key)
    counters = sources.observed.nft.counters if sources.observed.nft is not None else {}
    redirected = [value for counter, value in counters.items() if counter.startswith(f"redirected-{name}-")]
    unassigned = counters.get(f"unassigned-{name}", (0, 0))
    state, reason = _service_health(group)
    match = service_match(group)
    return ServiceStatus(
        service=name,
        state=state,
        reason=reason,
        mode="open",
        definition=words(group.definition) if group.definition is not None else "",
        priority=match.priority if match is not None else 0,
        caches_usable=_usable(group),
        caches_seen=len(group.caches),
        buckets_assigned=_assigned(group),
        assigned_by=group.assigned_by.value,
        designated_cache=str(group.designated) if group.designated is not None else "",
        change_number=group.change_number,
        packets_redirected=sum(packets for packets, _ in redirected),
        bytes_redirected=sum(octets for _, octets in redirected),
        packets_unassigned=unassigned[0],
        bytes_unassigned=unassigned[1],
        bucket_owners=tuple("" if owner is None else str(owner) for owner in group.bucket_owners),
    )


def _service_health(group: GroupView) -> tuple[Health, str]:
    if not group.caches:
        return Health.DOWN, "no cache has sent a HERE_I_AM"
    if is_standard(group.key) and service_match(group) is None:
        return Health.DOWN, "no such standard service is known, nothing is redirected"
    if _usable(group) == 0:
        first = group.caches[0]
        return Health.DOWN, f"no cache is usable; {first.address}: {first.reason}"
    if group.assigned_by is AssignedBy.NOBODY:
        return Health.DOWN, "a cache is usable, but no buckets are assigned yet"
    if _assigned(group) < BUCKETS:
        return Health.DEGRADED, f"{BUCKETS - _assigned(group)} of {BUCKETS} buckets belong to no usable cache"
    return Health.UP, ""


def _cache(sources: Sources, group: GroupView, cache: CacheView, now: float) -> CacheStatus:
    name = service_name(group.key)
    counters: Mapping[str, Counter] = (
        sources.observed.nft.counters if sources.observed.nft is not None else {}
    )
    redirected = counters.get(f"redirected-{name}-{cache.address}", (0, 0))
    device = sources.observed.devices.get(redirect_device_name(sources.policy.device_prefix, cache.address))
    return CacheStatus(
        service=name,
        address=str(cache.address),
        state=cache.state.value,
        rung=cache.rung.value,
        reason=cache.reason,
        forwarding=cache.forwarding,
        packet_return=cache.packet_return,
        weight=cache.weight,
        buckets=cache.buckets,
        packets_redirected=redirected[0],
        bytes_redirected=redirected[1],
        packets_returned=device.received_packets if device else 0,
        bytes_returned=device.received_bytes if device else 0,
        last_here_i_am_seconds=round(now - cache.last_heard, 1),
        usable_seconds=round(now - cache.usable_since, 1) if cache.usable_since is not None else 0.0,
    )


def _usable(group: GroupView) -> int:
    return sum(cache.state is CacheState.USABLE for cache in group.caches)


def _assigned(group: GroupView) -> int:
    return sum(owner is not None for owner in group.bucket_owners)
