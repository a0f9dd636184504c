"""New settings for a running engine: what they change, and who has to leave because of them.

A group that is configured as before is not touched, and one whose settings differ goes on with everything it has:
numbers, definition, table, members. Only members leave, each with its reason, that the new settings would not admit as
they are; they may come again at once. All of them leave where their group becomes another one: another definition,
another group address, another Router ID.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from wccpd.protocol.capability import unserved
from wccpd.protocol.group import not_adjacent, same_definition
from wccpd.protocol.view import CacheState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from wccpd.protocol.group import Group
    from wccpd.protocol.membership import Member
    from wccpd.protocol.settings import EngineSettings, ServiceSettings
    from wccpd.wire.elements import ServiceKey


class Change(StrEnum):
    """What becomes of a group."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class GroupChange(NamedTuple):
    """One group that new settings do not leave as it is."""

    service: ServiceKey
    change: Change
    settings: tuple[str, ...] = ()
    """Fields of `ServiceSettings` that differ; empty also where only something of the router's own does."""
    leaving: Mapping[IPv4Address, str] = {}
    """Caches that leave the group, each with the reason."""


NOT_CONFIGURED = "the service is no longer configured"


def changes(
    groups: Mapping[ServiceKey, Group], now: EngineSettings, wanted: EngineSettings
) -> tuple[GroupChange, ...]:
    """What new settings would change, group by group; nothing is changed.

    Args:
        groups: The engine's, as they are.
        now: The settings in force.
        wanted: The new ones.
    """
    found = []
    before = {service.key: service for service in now.services}
    after = {service.key: service for service in wanted.services}
    for key in before.keys() - after.keys():
        leaving = {member.address: NOT_CONFIGURED for member in groups[key].usable_members()}
        found.append(GroupChange(key, Change.REMOVED, leaving=leaving))
    for key, service in after.items():
        if key not in before:
            found.append(GroupChange(key, Change.ADDED))
            continue
        differing = tuple(
            field.name
            for field in fields(service)
            if getattr(service, field.name) != getattr(before[key], field.name)
        )
        leaving = _leaving(groups[key], now, wanted, service)
        if differing or leaving:
            found.append(GroupChange(key, Change.CHANGED, differing, leaving))
    return tuple(sorted(found, key=lambda change: (change.service.service_type, change.service.service_id)))


def _leaving(
    group: Group, now: EngineSettings, wanted: EngineSettings, service: ServiceSettings
) -> dict[IPv4Address, str]:
    whole = _another_group(group, now, wanted, service)
    found = {}
    for member in group.members.values():
        reason = whole or _why_not(member, group, wanted, service)
        if reason:
            found[member.address] = reason
    return found


def _another_group(
    group: Group, now: EngineSettings, wanted: EngineSettings, service: ServiceSettings
) -> str:
    """Why nobody may stay, in words; empty where that is not so."""
    if now.router_id != wanted.router_id:
        return f"the Router ID is {wanted.router_id} now"
    mine, new = group.definition, service.definition
    if mine is None or new is None or same_definition(mine, new, service.interop):
        return ""
    return f"the configuration defines the service as {new} now"


def _why_not(member: Member, group: Group, wanted: EngineSettings, service: ServiceSettings) -> str:
    """Why the new settings would not have this member as it is; empty where they would."""
    address = member.address
    if address in {wanted.router_id, *wanted.addresses}:
        return f"{address} is an address of the router now"
    if service.group_list and not any(address in network for network in service.group_list):
        return "it is not in the group list any more"
    if member.multicast and service.group_address != group.settings.group_address:
        return "the group does not meet at its multicast address any more"
    if member.state is not CacheState.USABLE:
        return ""
    # What the first cache fixed was chosen from the old offer, so the new one alone counts.
    fault = unserved(member.selection, service, None, not_adjacent(address, wanted.adjacent))
    return fault.reason if fault is not None else ""
