"""Frozen pictures of a group and its caches, with a reason in words for where each cache stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.protocol import answers
from wccpd.protocol.assignment import EMPTY
from wccpd.protocol.membership import by_address
from wccpd.protocol.settings import AssignmentPolicy
from wccpd.protocol.tables import HashTable, MaskTable
from wccpd.protocol.view import AssignedBy, CacheState, CacheView, GroupView, Rung

if TYPE_CHECKING:
    from wccpd.protocol.group import Group
    from wccpd.protocol.membership import Member


def group_view(group: Group) -> GroupView:
    """The group as it is now, the same object as the last time if nothing has changed."""
    if group.picture is None:
        group.picture = fresh_view(group)
    return group.picture


def fresh_view(group: Group) -> GroupView:
    """The group as it is now, whatever was made of it before."""
    table = group.table
    counts = table.counts
    return GroupView(
        key=group.settings.key,
        definition=group.definition,
        caches=tuple(
            _cache_view(group, member, counts.get(member.address, 0))
            for member in sorted(group.members.values(), key=by_address)
        ),
        bucket_owners=table.owners if isinstance(table, HashTable) else EMPTY,
        assigned_by=group.assigned_by,
        designated=group.designated,
        change_number=group.change_number,
        alternate_buckets=table.alternate if isinstance(table, HashTable) else frozenset(),
        mask_sets=table.owned_sets if isinstance(table, MaskTable) else (),
        values=len(table.owners),
        routers=answers.routers(group),
        timers=group.timers,
    )


def _cache_view(group: Group, member: Member, buckets: int) -> CacheView:
    rung = member.rung(group.assigned_by is AssignedBy.ROUTER)
    return CacheView(
        address=member.address,
        state=member.state,
        rung=rung,
        reason=_reason(group, member, rung),
        forwarding=member.selection.forwarding,
        packet_return=member.selection.packet_return,
        weight=member.weight,
        buckets=buckets,
        last_heard=member.last_heard,
        usable_since=member.usable_since,
    )


def _reason(group: Group, member: Member, rung: Rung) -> str:
    match member.state:
        case CacheState.INCOMPATIBLE:
            return member.fault
        case CacheState.SHUTDOWN:
            return "it sent SHUTDOWN"
        case CacheState.NEGOTIATING if member.dual_valid:
            return "it does not echo standard I_SEE_YOUs (Squid 4.17 to 7.6?); trying the dual-valid form"
        case CacheState.NEGOTIATING:
            return "it has not echoed our I_SEE_YOU yet"
        case CacheState.USABLE:
            return _usable_reason(group, member, rung)


def _usable_reason(group: Group, member: Member, rung: Rung) -> str:
    reasons = []
    if member.dual_valid:
        reasons.append("reads only the dual-valid I_SEE_YOU (Squid 4.17 to 7.6)")
    if rung is Rung.ROUTER_ASSIGNS and group.settings.policy is AssignmentPolicy.ROUTER:
        reasons.append("assignment is set to router")
    elif rung is Rung.ROUTER_ASSIGNS:
        reasons.append("no valid REDIRECT_ASSIGN came in time, so the router assigns")
    elif group.assigned_by is AssignedBy.NOBODY:
        reasons.append("waiting for a REDIRECT_ASSIGN")
    return "; ".join(reasons)
