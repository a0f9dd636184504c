"""What a group says to its caches: I_SEE_YOU (draft 5.2) and REMOVAL_QUERY (draft 5.4), as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.protocol.assignment import EMPTY, bucket_counts, bucket_vector
from wccpd.protocol.capability import offer
from wccpd.protocol.view import CacheState
from wccpd.wire.components import CommandExtension, RouterIdentity, RouterQuery, RouterView
from wccpd.wire.elements import Command
from wccpd.wire.enums import CommandType
from wccpd.wire.messages import ISeeYou, RemovalQuery

if TYPE_CHECKING:
    from wccpd.protocol.group import Group
    from wccpd.protocol.membership import Member
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.identity import WebCacheIdentity
    from wccpd.wire.reader import IPAddress


def i_see_you(group: Group, member: Member) -> ISeeYou:
    """The answer to a HERE_I_AM of `member`, carrying the group's present Receive ID.

    SHUTDOWN_RESPONSE is sent only to a cache that asked for it: Traffic Server rejects an I_SEE_YOU with
    an unasked command.
    """
    acknowledged = member.state is CacheState.SHUTDOWN
    return ISeeYou(
        service=_service(group),
        identity=RouterIdentity(
            router_id=group.router_id,
            receive_id=group.receive_id,
            sent_to=_sent_to(group, member),
            caches=(member.address,),
        ),
        view=RouterView(
            change_number=group.change_number,
            key=group.key,
            routers=_routers(group),
            caches=tuple(_element(group, each) for each in group.usable_members()),
        ),
        capabilities=offer(group.settings),
        commands=(
            CommandExtension((Command(CommandType.SHUTDOWN_RESPONSE, member.address),))
            if acknowledged
            else None
        ),
    )


def removal_query(group: Group, member: Member) -> RemovalQuery:
    """Asks a silent member whether it still lives."""
    return RemovalQuery(
        service=_service(group),
        query=RouterQuery(
            router_id=group.router_id,
            receive_id=group.receive_id,
            sent_to=_sent_to(group, member),
            cache=member.address,
        ),
    )


def _service(group: Group) -> ServiceInfo:
    """The definition as the first cache sent it: Traffic Server wants its own back, priority included."""
    assert group.definition is not None
    return group.definition


def _sent_to(group: Group, member: Member) -> IPAddress:
    return member.local if member.local is not None else group.router_id


def _routers(group: Group) -> tuple[IPAddress, ...]:
    """Routers that usable caches report, ourselves among them once one does (draft 5.6.5)."""
    return tuple(sorted({router for member in group.usable_members() for router in member.routers}))


def _element(group: Group, member: Member) -> WebCacheIdentity:
    """How a usable cache is shown: its buckets, or its own data with U while it has none (2.01, 6.4)."""
    if group.owners == EMPTY or member.address not in bucket_counts(group.owners):
        return member.identity.as_unassigned()
    return member.identity.as_assigned_hash(bucket_vector(group.owners, member.address))
