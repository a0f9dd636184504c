"""Puts what `record` kept into a new engine, so that a restarted router goes on where the old one stopped.

A resumed member has the full removal time to show itself: it is believed, not re-admitted.

Times are left out: a file is only resumed when it is young (`daemon.app` decides), and every clock starts afresh.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from wccpd.protocol import answers
from wccpd.protocol.capability import Selection, unserved
from wccpd.protocol.group import MAY_HAVE_ASSIGNED, next_number
from wccpd.protocol.membership import Member, Voice
from wccpd.protocol.record import NOBODY, State
from wccpd.protocol.settings import AssignmentPolicy, Timers
from wccpd.protocol.tables import MAX_MASK_SETS, MAX_MASK_VALUES, HashTable, MaskTable, Table, is_assigned
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.wire.components import ServiceInfo
from wccpd.wire.elements import AssignmentKey
from wccpd.wire.enums import (
    MAX_CACHES,
    PORTS,
    AssignmentMethod,
    ForwardingMethod,
    PacketReturnMethod,
    ServiceFlags,
    ServiceType,
)
from wccpd.wire.identity import HashAssignment, MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import Mask, MaskValueSet, Value
from wccpd.wire.messages import encode_message

if TYPE_CHECKING:
    from wccpd.protocol.group import Group
    from wccpd.protocol.router import Router


def restore(router: Router, state: State, now: float, *, members: bool = True) -> None:
    """Put a dumped memory into a router that has not received anything yet.

    Groups that are no longer configured are left out. Members are only restored whole.

    Args:
        router: A new engine.
        state: From `dump`, through JSON.
        now: Monotonic seconds; resumed members count as heard of just now.
        members: False to restore the numbers alone, e.g. after a reboot, when no cache is known to live.

    Raises:
        ValueError, KeyError, TypeError, IndexError, AttributeError: `state` was not made by `record.dump`. The
            router is then half restored and must be thrown away.
    """
    for item in state["groups"]:
        for key, group in router.groups.items():
            if (int(key.service_type), key.service_id) == (item["service_type"], item["service_id"]):
                _restore_group(group, item, now, members=members)


def _restore_group(group: Group, item: State, now: float, *, members: bool) -> None:
    # Without its members the group is a new one, and caches must see that.
    number = _number(item["change_number"])
    group.change_number = number if members else next_number(number)
    group.receive_id = _number(item["receive_id"])
    auto = group.settings.policy is AssignmentPolicy.AUTO
    group.router_had_to_assign = auto and bool(item["router_had_to_assign"])
    group.known_dual_valid = {IPv4Address(text): bool(form) for text, form in item["dual_valid"].items()}
    definition = item["definition"]
    if not members or definition is None or not item["members"]:
        return
    saved_definition = ServiceInfo(
        ServiceType(item["service_type"]),
        int(item["service_id"]),
        _within(definition["priority"], 0, 0xFF),
        _within(definition["protocol"], 0, 0xFF),
        ServiceFlags(_within(definition["flags"], 0, 0xFFFFFFFF)),
        tuple(_within(port, 0, 0xFFFF) for port in definition["ports"]),
    )
    if len(saved_definition.ports) != PORTS:
        raise ValueError(f"{len(saved_definition.ports)} ports")
    if group.definition is None:
        group.definition = saved_definition
    elif not group.same_definition(saved_definition):
        return
    if len(item["members"]) > MAX_CACHES:
        raise ValueError(f"{len(item['members'])} usable caches, there can be {MAX_CACHES}")
    for saved in item["members"]:
        member = _restore_member(saved, group, saved_definition, now)
        if _fits(member, group):
            group.members[member.address] = member
            group.fixed = group.fixed or member.selection
    if not group.members:
        group.definition = group.settings.definition
        return
    if any(member.multicast for member in group.members.values()):
        group.multicast_at = now
    _restore_assignment(group, item, now)
    _try_answers(group)


def _restore_assignment(group: Group, item: State, now: float) -> None:
    table = _restore_table(item["table"])
    if isinstance(table, HashTable) is not (group.method is AssignmentMethod.HASH):
        raise ValueError(f"a table of another method than {group.method.name}")
    group.table = table.with_owners(_owners(item, len(table.owners)))
    group.assigned_by = AssignedBy(item["assigned_by"]) if is_assigned(group.table) else AssignedBy.NOBODY
    designated = IPv4Address(item["designated"]) if item["designated"] is not None else None
    address, change_number = item["key"]
    if designated in group.members and change_number:
        group.designated = designated
        group.key = AssignmentKey(IPv4Address(address), _number(change_number))
    owners = {owner for owner in group.table.owners if owner is not None}
    if len(group.members) < len(item["members"]) or not owners <= group.members.keys():
        group.membership_changed(now, "not everybody was resumed")
    elif bool(item["renewal_pending"]) or group.assigned_by not in MAY_HAVE_ASSIGNED[group.settings.policy]:
        group.await_assignment(now, "resumed")


def _try_answers(group: Group) -> None:
    """Make what every member will be sent, so that no value that cannot be sent is believed."""
    for member in group.members.values():
        for message in (
            answers.i_see_you(group, (member,), member.voice),
            answers.removal_query(group, member),
        ):
            try:
                encode_message(message, dual_valid=member.dual_valid)
            except (struct.error, OverflowError) as error:
                raise ValueError(f"{member.address} could not be answered: {error}") from error


def _restore_member(saved: State, group: Group, service: ServiceInfo, now: float) -> Member:
    address = IPv4Address(saved["address"])
    forwarding, assignment, packet_return = saved["selection"]
    weight, status = _within(saved["weight"], 0, 0xFFFF), _within(saved["status"], 0, 0xFFFF)
    transmit, timeout_scale, ra_timer_scale = saved["timers"]
    local = IPv4Address(saved["local"]) if saved["local"] is not None else None
    # The element is echoed until its next HERE_I_AM brings the real one; Squid in mask mode measures it.
    sets = tuple(MaskValueSet(Mask(*_addresses(mask))) for mask in saved["masks"])
    data: HashAssignment | MaskAssignment = MaskAssignment(sets, weight, status)
    if AssignmentMethod(assignment) is AssignmentMethod.HASH:
        data = HashAssignment(weight=weight, status=status)
    return Member(
        address=address,
        identity=WebCacheIdentity(address, data),
        voice=Voice(
            service,
            _within(saved["minor_version"], 0, group.settings.minor_version),
            bool(saved["negotiates_timers"]),
            # Passwords are not saved; its next HERE_I_AM tells.
            group.settings.own_password,
        ),
        state=CacheState.USABLE,
        selection=Selection(
            ForwardingMethod(forwarding),
            AssignmentMethod(assignment),
            PacketReturnMethod(packet_return),
            _timers(transmit, timeout_scale, ra_timer_scale),
        ),
        dual_valid=bool(saved["dual_valid"]),
        not_adjacent=group.not_adjacent(address),
        multicast=bool(saved["multicast"]) and group.settings.group_address is not None,
        ever_echoed=True,
        resumed_id=_number(saved["receive_id"]),
        routers=tuple(IPv4Address(text) for text in saved["routers"]),
        local=local if local in group.addresses else None,
        port=_within(saved["port"], 1, 0xFFFF),
        last_heard=now,
        last_echo=now,
        usable_since=now,
    )


def _restore_table(saved: State) -> Table:
    if "alternate" in saved:
        return HashTable(alternate=frozenset(_within(bucket, 0, 0xFF) for bucket in saved["alternate"]))
    sets = tuple(
        MaskValueSet(
            Mask(*_addresses(each["mask"])), tuple(Value(*_addresses(row)) for row in each["values"])
        )
        for each in saved["sets"]
    )
    values = sum(len(each.values) for each in sets)
    if values > MAX_MASK_VALUES or len(sets) > MAX_MASK_SETS:
        raise ValueError(f"{values} values in {len(sets)} sets are more than an answer can show")
    return MaskTable(sets, (None,) * values)


def _addresses(row: list[int]) -> list[Any]:
    """A dumped mask or value: two addresses, two ports, and in a value one more address."""
    source, destination, source_port, destination_port, *cache = row
    addresses = [IPv4Address(source), IPv4Address(destination)]
    ports = [_within(port, 0, 0xFFFF) for port in (source_port, destination_port)]
    return [*addresses, *ports, *(IPv4Address(each) for each in cache)]


def _owners(item: State, expected: int) -> tuple[IPv4Address | None, ...]:
    caches = [IPv4Address(text) for text in item["owners"]]
    owners = tuple(None if index == NOBODY else caches[index] for index in item["entries"])
    if len(owners) != expected:
        raise ValueError(f"{len(owners)} owners for {expected} entries")
    return owners


def _fits(member: Member, group: Group) -> bool:
    """Whether the configuration of today would still let the member be what it was."""
    settings = group.settings
    listed = not settings.group_list or any(member.address in network for network in settings.group_list)
    served = unserved(member.selection, settings, group.fixed, member.not_adjacent) is None
    return listed and served and member.address not in group.addresses


def _timers(transmit_seconds: float, timeout_scale: int, ra_timer_scale: int) -> Timers:
    if not 0.1 <= transmit_seconds <= 66:
        raise ValueError(f"a TRANSMIT_T of {transmit_seconds} s")
    return Timers(float(transmit_seconds), _within(timeout_scale, 1, 0xFF), _within(ra_timer_scale, 1, 0xFF))


def _within(value: Any, low: int, high: int) -> int:  # noqa: ANN401 - straight from JSON
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r} is not within {low} and {high}")
    return value


def _number(value: Any) -> int:  # noqa: ANN401 - straight from JSON
    return _within(value, 1, 0xFFFFFFFF)
