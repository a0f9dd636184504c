"""What a group says to its caches: I_SEE_YOU (draft 5.2) and REMOVAL_QUERY (draft 5.4), as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.protocol.assignment import bucket_vector
from wccpd.protocol.capability import offer
from wccpd.protocol.tables import MaskTable, is_assigned
from wccpd.protocol.view import CacheState
from wccpd.wire.assignments import AssignmentMap
from wccpd.wire.components import CommandExtension, RouterIdentity, RouterQuery, RouterView
from wccpd.wire.elements import Command
from wccpd.wire.enums import MAX_ROUTERS, CommandType
from wccpd.wire.messages import ISeeYou, RemovalQuery

if TYPE_CHECKING:
    from wccpd.protocol.group import Group
    from wccpd.protocol.membership import Member, Voice
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.identity import WebCacheIdentity
    from wccpd.wire.reader import IPAddress


def i_see_you(group: Group, members: tuple[Member, ...], voice: Voice) -> ISeeYou:
    """The answer to a HERE_I_AM of one member, or to all at the group address, with the present Receive ID.

    It is in the way of `voice`. SHUTDOWN_RESPONSE is sent only to a cache that asked for it: Traffic Server rejects
    an I_SEE_YOU with an unasked command.
    """
    first = members[0]
    commands = tuple(
        Command(CommandType.SHUTDOWN_RESPONSE, member.address)
        for member in members
        if member.state is CacheState.SHUTDOWN
    )
    return ISeeYou(
        service=_service(group, voice),
        minor_version=voice.minor_version,
        identity=RouterIdentity(
            router_id=group.router_id,
            receive_id=group.receive_id,
            sent_to=_sent_to(group, first),
            caches=tuple(member.address for member in members),
        ),
        view=RouterView(
            change_number=group.change_number,
            key=group.key,
            routers=routers(group),
            caches=tuple(_element(group, each) for each in group.usable_members()),
        ),
        assignment_map=_assignment_map(group),
        capabilities=offer(
            group.settings,
            group.fixed,
            adjacent=not first.not_adjacent,
            with_timers=voice.negotiates_timers,
        ),
        commands=CommandExtension(commands) if commands else None,
    )


def removal_query(group: Group, member: Member) -> RemovalQuery:
    """Asks a silent member whether it still lives."""
    return RemovalQuery(
        service=_service(group, member.voice),
        minor_version=member.voice.minor_version,
        query=RouterQuery(
            router_id=group.router_id,
            receive_id=group.receive_id,
            sent_to=_sent_to(group, member),
            cache=member.address,
        ),
    )


def routers(group: Group) -> tuple[IPAddress, ...]:
    """Routers that usable caches report, ourselves among them once one does (draft 5.6.5).

    Of more than 32 the lowest are shown, and ourselves: a longer list makes Traffic Server reject the message.
    """
    reported = {router for member in group.usable_members() for router in member.routers}
    if len(reported) > MAX_ROUTERS:
        ours = reported & {group.router_id}
        others = sorted(reported - ours, key=int)
        reported = {*ours, *others[: MAX_ROUTERS - len(ours)]}
    return tuple(sorted(reported, key=int))


def _service(group: Group, voice: Voice) -> ServiceInfo:
    """The service as that cache defines it: Traffic Server wants its own back, priority included.

    A cache whose definition the group has refused since is shown the group's.
    """
    refused = group.definition is not None and not group.same_definition(voice.service)
    return group.definition if refused and group.definition is not None else voice.service


def _sent_to(group: Group, member: Member) -> IPAddress:
    if member.multicast and group.settings.group_address is not None:
        return group.settings.group_address
    return member.local if member.local is not None else group.router_id


def _assignment_map(group: Group) -> AssignmentMap | None:
    """The whole mask table, as routers show it once there is one (draft 5.6.11); nothing for hash, as IOS."""
    if not isinstance(group.table, MaskTable) or not is_assigned(group.table):
        return None
    return AssignmentMap(group.table.assigned_sets())


def _element(group: Group, member: Member) -> WebCacheIdentity:
    """How a usable cache is shown: what it owns, or its own data with U while it has nothing (2.01, 6.4).

    With mask assignment an assigned cache is shown without sets: Squid takes its element for 16 octets then.
    """
    if member.address not in group.table.counts:
        return member.identity.as_unassigned()
    if isinstance(group.table, MaskTable):
        return member.identity.as_assigned_mask()
    low_bit_first = group.settings.interop.bucket_vector_low_bit_first
    return member.identity.as_assigned_hash(
        bucket_vector(group.table.owners, member.address, low_bit_first=low_bit_first)
    )
