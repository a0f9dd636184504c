"""The engine's memory: first as frozen values, taken in no time, then as JSON-able ones, for whoever has the time.

What is kept: the numbers of each group (a Squid that sees a change number again does not assign anew), its
definition and table, and for each usable cache what it takes to recognise its next HERE_I_AM.

Taking a record must not hold up the answers, writing it out may take long: so the two are apart, and a record holds
nothing that still changes. Equal records of a group give equal states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from wccpd.protocol.tables import HashTable, Table
from wccpd.protocol.view import CacheState

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.protocol.capability import Selection
    from wccpd.protocol.group import Group
    from wccpd.protocol.membership import Member
    from wccpd.protocol.router import Router
    from wccpd.protocol.view import AssignedBy
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.elements import AssignmentKey, ServiceKey
    from wccpd.wire.identity import WebCacheIdentity
    from wccpd.wire.reader import IPAddress

State = dict[str, Any]
NOBODY = -1


class MemberRecord(NamedTuple):
    """A usable cache; the fields are those of `membership.Member`."""

    address: IPv4Address
    identity: WebCacheIdentity
    selection: Selection
    dual_valid: bool
    receive_id: int
    """The newest that it may echo."""
    routers: tuple[IPAddress, ...]
    local: IPv4Address | None
    port: int
    minor_version: int
    negotiates_timers: bool
    multicast: bool


class GroupRecord(NamedTuple):
    """A service group; the fields are those of `group.Group`."""

    key: ServiceKey
    change_number: int
    receive_id: int
    definition: ServiceInfo | None
    table: Table
    assigned_by: AssignedBy
    designated: IPv4Address | None
    assignment_key: AssignmentKey
    renewal_pending: bool
    """An assignment is awaited."""
    router_had_to_assign: bool
    dual_valid: tuple[tuple[IPv4Address, bool], ...]
    members: tuple[MemberRecord, ...]


Record = tuple[GroupRecord, ...]


def take(router: Router) -> Record:
    """The memory as it is now."""
    return tuple(_take_group(group) for group in router.groups.values())


def dump(router: Router) -> State:
    """The engine's memory, ready for `json.dumps`."""
    return {"groups": [group_state(group) for group in take(router)]}


def group_state(group: GroupRecord) -> State:
    """One group of the memory as JSON-able values, which `resume.restore` reads."""
    owners = sorted(group.table.counts, key=int)
    index: dict[IPv4Address | None, int] = {owner: position for position, owner in enumerate(owners)}
    index[None] = NOBODY
    return {
        "service_type": int(group.key.service_type),
        "service_id": group.key.service_id,
        "change_number": group.change_number,
        "receive_id": group.receive_id,
        "definition": _definition(group.definition),
        "owners": [str(owner) for owner in owners],
        "entries": [index[owner] for owner in group.table.owners],
        "table": _table(group.table),
        "assigned_by": group.assigned_by.value,
        "designated": str(group.designated) if group.designated is not None else None,
        "key": [str(group.assignment_key.address), group.assignment_key.change_number],
        "renewal_pending": group.renewal_pending,
        "router_had_to_assign": group.router_had_to_assign,
        "dual_valid": {str(address): form for address, form in group.dual_valid},
        "members": [_member(member) for member in group.members],
    }


def _take_group(group: Group) -> GroupRecord:
    return GroupRecord(
        group.settings.key,
        group.change_number,
        group.receive_id,
        group.definition,
        group.table,
        group.assigned_by,
        group.designated,
        group.key,
        group.assign_at is not None or group.flush_at is not None,
        group.router_had_to_assign,
        tuple(group.known_dual_valid.items()),
        tuple(_take_member(member) for member in group.members.values() if member.state is CacheState.USABLE),
    )


def _take_member(member: Member) -> MemberRecord:
    return MemberRecord(
        member.address,
        member.identity,
        member.selection,
        member.dual_valid,
        max(member.expected_ids, default=member.resumed_id or 0),
        member.routers,
        member.local,
        member.port,
        member.voice.minor_version,
        member.voice.negotiates_timers,
        member.multicast,
    )


def _definition(info: ServiceInfo | None) -> State | None:
    if info is None:
        return None
    return {
        "priority": info.priority,
        "protocol": info.protocol,
        "flags": int(info.flags),
        "ports": list(info.ports),
    }


def _table(table: Table) -> State:
    if isinstance(table, HashTable):
        return {"alternate": sorted(table.alternate)}
    return {
        "sets": [
            {"mask": _row(each.mask), "values": [_row(value) for value in each.values]} for each in table.sets
        ]
    }


def _row(fields: tuple[Any, ...]) -> list[int]:
    return [int(each) for each in fields]


def _member(member: MemberRecord) -> State:
    selection = member.selection
    return {
        "address": str(member.address),
        "weight": member.identity.weight,
        "status": member.identity.status,
        "dual_valid": member.dual_valid,
        "receive_id": member.receive_id,
        "routers": [str(router) for router in member.routers],
        "local": str(member.local) if member.local is not None else None,
        "port": member.port,
        "selection": [int(selection.forwarding), int(selection.assignment), int(selection.packet_return)],
        "timers": [
            selection.timers.transmit_seconds,
            selection.timers.timeout_scale,
            selection.timers.ra_timer_scale,
        ],
        "minor_version": member.minor_version,
        "negotiates_timers": member.negotiates_timers,
        "multicast": member.multicast,
        "masks": [_row(each.mask) for each in getattr(member.identity.assignment, "sets", ())],
    }
