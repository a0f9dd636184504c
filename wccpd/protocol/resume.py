"""The engine's memory as JSON-able values, so that a restarted router goes on where the old one stopped.

What is kept: the numbers of each group (a Squid that sees a change number again does not assign anew), its
definition and bucket table, and for each member what it takes to recognise its next HERE_I_AM. A resumed member
has the full removal time to show itself: it is believed, not re-admitted.

Times are left out: a file is only resumed when it is young (`daemon.app` decides), and every clock starts afresh.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from wccpd.protocol.assignment import EMPTY
from wccpd.protocol.capability import Selection
from wccpd.protocol.group import NO_KEY, next_number
from wccpd.protocol.membership import Member
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.wire.components import ServiceInfo
from wccpd.wire.elements import AssignmentKey
from wccpd.wire.enums import (
    BUCKETS,
    AssignmentMethod,
    ForwardingMethod,
    PacketReturnMethod,
    ServiceFlags,
    ServiceType,
)
from wccpd.wire.identity import HashAssignment, WebCacheIdentity

if TYPE_CHECKING:
    from wccpd.protocol.group import Group
    from wccpd.protocol.router import Router

State = dict[str, Any]
NOBODY = -1


def dump(router: Router) -> State:
    """The engine's memory, ready for `json.dump`."""
    return {"groups": [_dump_group(group) for group in router.groups.values()]}


def restore(router: Router, state: State, now: float, *, members: bool = True) -> None:
    """Put a dumped memory into a router that has not received anything yet.

    Groups that are no longer configured are left out. Members are only restored whole.

    Args:
        router: A new engine.
        state: From `dump`, through JSON.
        now: Monotonic seconds; resumed members count as heard of just now.
        members: False to restore the numbers alone, e.g. after a reboot, when no cache is known to live.

    Raises:
        ValueError, KeyError, TypeError, IndexError: `state` was not made by `dump`. The router is then half restored
            and must be thrown away.
    """
    for item in state["groups"]:
        for key, group in router.groups.items():
            if (int(key.service_type), key.service_id) == (item["service_type"], item["service_id"]):
                _restore_group(group, item, now, members=members)


def _dump_group(group: Group) -> State:
    owners = sorted({owner for owner in group.owners if owner is not None}, key=int)
    index = {owner: position for position, owner in enumerate(owners)}
    return {
        "service_type": int(group.settings.key.service_type),
        "service_id": group.settings.key.service_id,
        "change_number": group.change_number,
        "receive_id": group.receive_id,
        "definition": _dump_definition(group.definition),
        "owners": [str(owner) for owner in owners],
        "buckets": [NOBODY if owner is None else index[owner] for owner in group.owners],
        "assigned_by": group.assigned_by.value,
        "designated": str(group.designated) if group.designated is not None else None,
        "key": [str(group.key.address), group.key.change_number],
        "router_had_to_assign": group.router_had_to_assign,
        "dual_valid": {str(address): form for address, form in group.known_dual_valid.items()},
        "members": [
            _dump_member(member) for member in group.members.values() if member.state is CacheState.USABLE
        ],
    }


def _dump_definition(info: ServiceInfo | None) -> State | None:
    if info is None:
        return None
    return {
        "priority": info.priority,
        "protocol": info.protocol,
        "flags": int(info.flags),
        "ports": list(info.ports),
    }


def _dump_member(member: Member) -> State:
    return {
        "address": str(member.address),
        "weight": member.weight,
        "status": member.identity.status,
        "dual_valid": member.dual_valid,
        "receive_id": max(member.expected_ids, default=member.resumed_id or 0),
        "routers": [str(router) for router in member.routers],
        "local": str(member.local) if member.local is not None else None,
        "port": member.port,
        "selection": [
            int(member.selection.forwarding),
            int(member.selection.assignment),
            int(member.selection.packet_return),
        ],
    }


def _restore_group(group: Group, item: State, now: float, *, members: bool) -> None:
    # Without its members the group is a new one, and caches must see that.
    number = _number(item["change_number"])
    group.change_number = number if members else next_number(number)
    group.receive_id = _number(item["receive_id"])
    group.router_had_to_assign = bool(item["router_had_to_assign"])
    group.known_dual_valid = {IPv4Address(text): bool(form) for text, form in item["dual_valid"].items()}
    definition = item["definition"]
    restored = [_restore_member(saved, now) for saved in item["members"]]
    if not members or definition is None or not restored:
        return
    group.definition = ServiceInfo(
        ServiceType(item["service_type"]),
        int(item["service_id"]),
        int(definition["priority"]),
        int(definition["protocol"]),
        ServiceFlags(definition["flags"]),
        tuple(int(port) for port in definition["ports"]),
    )
    group.members = {member.address: member for member in restored}
    group.owners = _owners(item, group)
    group.assigned_by = AssignedBy(item["assigned_by"]) if group.owners != EMPTY else AssignedBy.NOBODY
    group.designated = IPv4Address(item["designated"]) if item["designated"] is not None else None
    address, change_number = item["key"]
    group.key = AssignmentKey(IPv4Address(address), int(change_number)) if change_number else NO_KEY
    if group.assigned_by is AssignedBy.NOBODY:
        group.assign_at = now + group.settings.timers.assignment_wait_seconds


def _restore_member(saved: State, now: float) -> Member:
    address = IPv4Address(saved["address"])
    forwarding, assignment, packet_return = saved["selection"]
    data = HashAssignment(weight=int(saved["weight"]), status=int(saved["status"]))
    return Member(
        address=address,
        identity=WebCacheIdentity(address, data),
        state=CacheState.USABLE,
        selection=Selection(
            ForwardingMethod(forwarding), AssignmentMethod(assignment), PacketReturnMethod(packet_return)
        ),
        dual_valid=bool(saved["dual_valid"]),
        ever_echoed=True,
        resumed_id=_number(saved["receive_id"]),
        routers=tuple(IPv4Address(text) for text in saved["routers"]),
        local=IPv4Address(saved["local"]) if saved["local"] is not None else None,
        port=int(saved["port"]),
        last_heard=now,
        last_echo=now,
        usable_since=now,
    )


def _owners(item: State, group: Group) -> tuple[IPv4Address | None, ...]:
    """The bucket table, without owners that were not restored."""
    caches = [IPv4Address(text) for text in item["owners"]]
    table = tuple(None if index == NOBODY else caches[index] for index in item["buckets"])
    if len(table) != BUCKETS:
        raise ValueError(f"a table of {len(table)} buckets")
    return tuple(owner if owner in group.members else None for owner in table)


def _number(value: Any) -> int:  # noqa: ANN401 - straight from JSON
    if not isinstance(value, int) or not 1 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{value!r} is no Receive ID or change number")
    return value
