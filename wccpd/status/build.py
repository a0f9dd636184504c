"""Makes the status tree from the frozen views of engine, kernel and sidecar. Pure: `now` is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wccpd.plan.match import is_standard, priority, service_match, service_name, words
from wccpd.plan.probe import ProbeLedger, ProbeTarget
from wccpd.plan.verdict import Count, Outcome, Reason, Verdict
from wccpd.protocol.capability import method_name
from wccpd.protocol.view import AssignedBy, CacheState, CacheView, GroupView
from wccpd.status.view import (
    SCHEMA_VERSION,
    BgpStatus,
    CacheStatus,
    Health,
    ListLineStatus,
    OutcomeStatus,
    RefusalStatus,
    RouterStatus,
    ServiceStatus,
    Status,
    TunnelStatus,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from ipaddress import IPv4Address

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.dataplane.port import Observation
    from wccpd.plan.policy import Policy, ServicePolicy
    from wccpd.protocol.view import RouterView
    from wccpd.wire.elements import ServiceKey


LAPSED = "kernel: the lease is not running, so nothing is redirected and every service is in its mode"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a status is made of."""

    router: RouterStatus
    policy: Policy
    device_prefix: str
    view: RouterView
    observation: Observation
    kernel_faults: tuple[str, ...]
    """Why the kernel is not as it should be; empty when it is."""
    bgp: BgpStatus | None
    refused: tuple[RefusalStatus, ...]
    drained: Collection[IPv4Address] = ()
    probes: ProbeLedger = field(default_factory=lambda: ProbeLedger({}))
    uninspected_seconds: Mapping[str, float] = field(default_factory=dict)
    """By service, from the inspection ledger."""


def build_status(sources: Sources, now: float) -> Status:
    """The whole tree at monotonic time `now`."""
    tunnels = build_tunnels(sources)
    services = build_services(sources)
    caches = tuple(
        _cache(sources, group, cache, now) for group in sources.view.groups for cache in group.caches
    )
    reasons = (
        *(f"kernel: {fault}" for fault in sources.kernel_faults),
        *(() if sources.observation.leased else (LAPSED,)),
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


def build_services(sources: Sources) -> tuple[ServiceStatus, ...]:
    """The services alone."""
    return tuple(_service(sources, group) for group in sources.view.groups)


def build_tunnels(sources: Sources) -> tuple[TunnelStatus, ...]:
    """The tunnels alone."""
    return tuple(_tunnel(sources, device) for device in sources.policy.tunnels)


def _is_inspecting(
    sources: Sources, tunnels: tuple[TunnelStatus, ...], services: tuple[ServiceStatus, ...]
) -> bool:
    """Whether what should be inspected is: a path in, caches for every service, and a kernel that does its part."""
    arriving = not tunnels or any(each.state is not Health.DOWN for each in tunnels)
    served = bool(services) and all(each.state is Health.UP for each in services)
    return arriving and served and sources.observation.leased and not sources.kernel_faults


def _tunnel(sources: Sources, device: GreDevice) -> TunnelStatus:
    present = sources.observation.devices.get(device.name)
    state, reason = _tunnel_health(device, present)
    inside = ", ".join(map(str, device.addresses))
    return TunnelStatus(
        name=device.name.removeprefix(sources.device_prefix),
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
    counters = sources.observation.counters
    redirected = counters.total(name, Verdict.REDIRECTED)
    unassigned = _sum(counters.total(name, verdict, Reason.UNASSIGNED) for verdict in Verdict)
    forwarded = {reason: counters.total(name, Verdict.FORWARDED, reason) for reason in Reason}
    uninspected = _sum(count for reason, count in forwarded.items() if reason is not Reason.DENIED)
    state, reason = _service_health(group, sources.drained, sources.probes.out().get(name, ()))
    mine = _service_policy(sources.policy, group.key)
    return ServiceStatus(
        service=name,
        state=state,
        reason=reason,
        mode=mine.mode.value if mine is not None else "",
        definition=words(group.definition) if group.definition is not None else "",
        priority=priority(group) if service_match(group) is not None else 0,
        caches_usable=_usable(group),
        caches_seen=len(group.caches),
        buckets_assigned=_assigned(group),
        assigned_by=group.assigned_by.value,
        designated_cache=str(group.designated) if group.designated is not None else "",
        change_number=group.change_number,
        packets_redirected=redirected.packets,
        bytes_redirected=redirected.octets,
        packets_unassigned=unassigned.packets,
        bytes_unassigned=unassigned.octets,
        bucket_owners=tuple("" if owner is None else str(owner) for owner in group.bucket_owners),
        buckets_total=group.values,
        assignment_method="mask" if group.mask_sets else "hash",
        packets_uninspected=uninspected.packets,
        bytes_uninspected=uninspected.octets,
        uninspected_seconds=round(sources.uninspected_seconds.get(name, 0.0), 1),
        not_redirected=_not_redirected(sources, name),
        redirect_list=_redirect_list(sources, name, mine),
        routers=tuple(map(str, group.routers)),
    )


def _service_policy(policy: Policy, key: ServiceKey) -> ServicePolicy | None:
    return next((each for each in policy.services if each.key == key), None)


def _not_redirected(sources: Sources, service: str) -> tuple[OutcomeStatus, ...]:
    """What was counted for each verdict and reason, the most frequent first."""
    found = [
        (outcome, count)
        for outcome, count in sources.observation.counters.outcomes.items()
        if outcome.service == service and outcome.reason is not None and count.packets
    ]
    return tuple(
        OutcomeStatus(outcome.verdict.value, (outcome.reason or "").lower(), count.packets, count.octets)
        for outcome, count in sorted(found, key=lambda pair: (-pair[1].packets, pair[0].verdict))
    )


def _redirect_list(sources: Sources, service: str, mine: ServicePolicy | None) -> tuple[ListLineStatus, ...]:
    """The configured lines; what one enumerates is counted together."""
    if mine is None:
        return ()
    counted = sources.observation.counters.acl_lines.get(service, ())
    totals = [Count() for _ in mine.redirect_list.words]
    for origin, count in zip(mine.redirect_list.origins, counted, strict=False):
        totals[origin] += count
    return tuple(
        ListLineStatus(line, total.packets, total.octets)
        for line, total in zip(mine.redirect_list.words, totals, strict=True)
    )


def _sum(counts: Iterable[Count]) -> Count:
    return sum(counts, Count())


def _service_health(
    group: GroupView, drained: Collection[IPv4Address], failing: Collection[IPv4Address]
) -> tuple[Health, str]:
    if not group.caches:
        return Health.DOWN, "no cache has sent a HERE_I_AM"
    if is_standard(group.key) and service_match(group) is None:
        return Health.DOWN, "no such standard service is known, nothing is redirected"
    if _usable(group) == 0:
        first = group.caches[0]
        return Health.DOWN, f"no cache is usable; {first.address}: {first.reason}"
    if all(cache.address in failing for cache in group.caches if cache.state is CacheState.USABLE):
        return Health.DOWN, "every usable cache fails the probe: its packets are in the service's mode"
    if all(cache.address in drained for cache in group.caches if cache.state is CacheState.USABLE):
        return Health.DOWN, "every usable cache is drained: new flows are in the service's mode"
    if group.assigned_by is AssignedBy.NOBODY:
        return Health.DOWN, "a cache is usable, but no buckets are assigned yet"
    if _assigned(group) < group.values:
        what = "values" if group.mask_sets else "buckets"
        left = group.values - _assigned(group)
        return Health.DEGRADED, f"{left} of {group.values} {what} belong to no usable cache"
    return Health.UP, ""


def _cache(sources: Sources, group: GroupView, cache: CacheView, now: float) -> CacheStatus:
    name = service_name(group.key)
    counters = sources.observation.counters
    redirected = counters.outcomes.get(Outcome(name, Verdict.REDIRECTED, None, cache.address), Count())
    returned = counters.returned.get(cache.address, Count())
    return CacheStatus(
        service=name,
        address=str(cache.address),
        state=cache.state.value,
        rung=cache.rung.value,
        reason=cache.reason,
        forwarding=method_name(cache.forwarding),
        packet_return=method_name(cache.packet_return),
        weight=cache.weight,
        buckets=cache.buckets,
        packets_redirected=redirected.packets,
        bytes_redirected=redirected.octets,
        packets_returned=returned.packets,
        bytes_returned=returned.octets,
        last_here_i_am_seconds=round(now - cache.last_heard, 1),
        usable_seconds=round(now - cache.usable_since, 1) if cache.usable_since is not None else 0.0,
        zone=sources.policy.zone_of(cache.address),
        draining=cache.address in sources.drained,
        probe=sources.probes.words(ProbeTarget(name, cache.address), now),
    )


def _usable(group: GroupView) -> int:
    return sum(cache.state is CacheState.USABLE for cache in group.caches)


def _assigned(group: GroupView) -> int:
    return sum(cache.buckets for cache in group.caches)
