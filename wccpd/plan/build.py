"""From the engine's view and the operator's policy to the redirect plan: who is asked, who owns what, who has a path.

The engine says who owns a bucket; who is sent *new* flows can be somebody else: a draining cache, one of another
zone while the own has a quorum, one that fails the probe, or one whose path the kernel refused, is covered by the
others, its owners' table untouched. Flows that are pinned to it stay (`ServicePlan.paths`), unless there is no path or
the probe failed.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from types import MappingProxyType
from typing import TYPE_CHECKING

from wccpd.plan.match import by_priority, hash_fields, is_standard, service_match, service_name
from wccpd.plan.policy import ServicePolicy
from wccpd.plan.redirect import (
    HashAssignment,
    MaskAssignment,
    MaskFields,
    MaskSet,
    Path,
    RedirectPlan,
    ServicePlan,
)
from wccpd.protocol.assignment import cover
from wccpd.protocol.view import CacheState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from wccpd.plan.policy import Policy
    from wccpd.plan.redirect import Assignment
    from wccpd.plan.slots import Slots
    from wccpd.protocol.assignment import Owners
    from wccpd.protocol.view import CacheView, GroupView, OwnedValue, RouterView
    from wccpd.wire.enums import PacketReturnMethod
    from wccpd.wire.masks import Mask

_NOBODY: Mapping[str, Collection[IPv4Address]] = MappingProxyType({})


def wanted_paths(view: RouterView) -> frozenset[Path]:
    """The path of every usable cache of every group."""
    return frozenset(
        Path(cache.address, cache.forwarding) for group in view.groups for cache in _usable(group)
    )


def redirect_plan(
    view: RouterView,
    policy: Policy,
    slots: Slots,
    *,
    refused: Collection[Path] = (),
    drained: Collection[IPv4Address] = (),
    failing: Mapping[str, Collection[IPv4Address]] = _NOBODY,
) -> RedirectPlan:
    """The whole plan.

    Args:
        view: The engine's picture.
        policy: The operator's decisions.
        slots: From `allocate_slots`, for `wanted_paths`; nobody is sent to one that has none.
        refused: Paths that the kernel refused at the last attempt: planned again, but nobody is sent there.
        drained: Caches that get no new flows.
        failing: Caches that fail the probe, by service: as if they had left it.
    """
    working = {path: slot for path, slot in slots.paths.items() if path not in refused}
    policies = {each.key: each for each in policy.services}
    services = (
        _service(
            group,
            policy,
            policies.get(group.key, ServicePolicy(group.key)),
            working,
            drained,
            failing.get(service_name(group.key), ()),
        )
        for group in by_priority(view.groups, [each.key for each in policy.services])
    )
    returns: dict[IPv4Address, set[PacketReturnMethod]] = {}
    for group in view.groups:
        for cache in _usable(group):
            returns.setdefault(cache.address, set()).add(cache.packet_return)
    return RedirectPlan(
        router_id=policy.router_id,
        ingress=policy.ingress,
        services=tuple(services),
        caches=frozenset(cache.address for group in view.groups for cache in group.caches),
        returns={cache: frozenset(methods) for cache, methods in returns.items()},
        slots=dict(slots.paths),
        former=dict(slots.former),
        routers=frozenset(
            router for group in view.groups for router in group.routers if isinstance(router, IPv4Address)
        )
        - {policy.router_id},
        never=policy.never,
        clamp_mss=policy.clamp_mss,
        clear_df=policy.clear_df,
    )


def _service(
    group: GroupView,
    policy: Policy,
    mine: ServicePolicy,
    working: Mapping[Path, int],
    drained: Collection[IPv4Address],
    failing: Collection[IPv4Address],
) -> ServicePlan:
    match = service_match(group)
    assert match is not None
    working_paths = {
        cache.address: path
        for cache in _usable(group)
        if (path := Path(cache.address, cache.forwarding)) in working
    }
    paths = {cache: path for cache, path in working_paths.items() if cache not in failing}
    weights = {
        cache.address: cache.weight
        for cache in _usable(group)
        if cache.address in paths and cache.address not in drained
    }
    return ServicePlan(
        name=service_name(group.key),
        dynamic=not is_standard(group.key),
        service_id=group.key.service_id,
        match=match,
        assignment=_assignment(group, _preferred(weights, policy, mine)),
        paths=paths,
        mode=mine.mode,
        acl=mine.redirect_list.lines,
        fallthrough=mine.fallthrough,
        affinity=mine.affinity,
        lost_flows=mine.lost_flows,
        probed=working_paths if mine.probe is not None else {},
    )


def _preferred(
    weights: dict[IPv4Address, int], policy: Policy, mine: ServicePolicy
) -> dict[IPv4Address, int]:
    """The caches of our own zone if they are to be preferred and make a quorum, else all."""
    if not mine.prefer_zone or not policy.zone:
        return weights
    near = {cache: weight for cache, weight in weights.items() if policy.zone_of(cache) == policy.zone}
    return near if len(near) >= mine.zone_quorum else weights


def _assignment(group: GroupView, eligible: Mapping[IPv4Address, int]) -> Assignment:
    if group.mask_sets:
        sets = [each for each in group.mask_sets if isinstance(each.mask.source_address, IPv4Address)]
        owners = iter(_covered(tuple(value.owner for each in sets for value in each.values), eligible))
        return MaskAssignment(
            tuple(
                MaskSet(_fields(each.mask), _first_of_each(each.values, [next(owners) for _ in each.values]))
                for each in sets
            )
        )
    primary, alternate = hash_fields(group.definition)
    return HashAssignment(
        primary=primary,
        owners=_covered(group.bucket_owners, eligible),
        alternate=alternate,
        alternate_buckets=group.alternate_buckets,
    )


def _covered(owners: Owners, eligible: Mapping[IPv4Address, int]) -> Owners:
    """The owners with what belongs to caches that are not eligible given to those that are."""
    lost = {owner for owner in owners if owner is not None and owner not in eligible}
    return cover(owners, lost, eligible) if lost else owners


def _first_of_each(
    values: Sequence[OwnedValue], owners: Sequence[IPv4Address | None]
) -> dict[MaskFields, IPv4Address | None]:
    """Values in their order; of equal ones the first counts (draft 4.11.2)."""
    table: dict[MaskFields, IPv4Address | None] = {}
    for value, owner in zip(values, owners, strict=True):
        table.setdefault(_fields(value), owner)
    return table


def _fields(element: Mask | OwnedValue) -> MaskFields:
    return MaskFields(
        int(element.source_address),
        int(element.destination_address),
        element.source_port,
        element.destination_port,
    )


def _usable(group: GroupView) -> tuple[CacheView, ...]:
    return tuple(cache for cache in group.caches if cache.state is CacheState.USABLE)
