"""Whether a REDIRECT_ASSIGN may be taken, and the table that it means (draft 4.8.1, 5.7.4; 2.01, 5.4).

The drafts leave the election to the caches, so any usable cache may assign. What must agree is what it knows
of us: our row, the Receive ID that we last sent to it, and our change number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.protocol.outputs import Fault, Refusal
from wccpd.protocol.settings import AssignmentPolicy
from wccpd.protocol.tables import MAX_MASK_SETS, MAX_MASK_VALUES, HashTable, MaskTable, Table
from wccpd.wire.assignments import AlternateSets, AssignmentMap, HashBuckets
from wccpd.wire.enums import AssignmentMethod

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.protocol.group import Group
    from wccpd.wire.assignments import AlternateAssignment, AssignmentInfo
    from wccpd.wire.messages import RedirectAssign


def fault(group: Group, message: RedirectAssign, source: IPv4Address) -> Fault | None:
    """Why the group does not take the assignment; None when it does."""
    if source not in group.usable:
        return Fault(Refusal.NOT_A_USABLE_CACHE, f"{source} is not a usable cache of this group")
    if group.settings.policy is AssignmentPolicy.ROUTER:
        return Fault(Refusal.ROUTER_ASSIGNS, "assignment is set to router for this service")
    rows = [row for row in component(message).routers if row.router_id == group.router_id]
    if not rows:
        return Fault(Refusal.ROUTER_NOT_LISTED, f"it does not list router {group.router_id}")
    sent = group.members[source].expected_ids
    # A Squid that is told two addresses of ours lists us twice, each time with what it last heard there.
    row = next((row for row in rows if row.receive_id in sent), rows[0])
    if row.receive_id not in sent:
        return Fault(Refusal.STALE_RECEIVE_ID, f"it carries Receive ID {row.receive_id}, we last sent {sent}")
    if row.change_number != group.change_number:
        detail = f"it is for change number {row.change_number}, the group is at {group.change_number}"
        return Fault(Refusal.STALE_CHANGE_NUMBER, detail)
    return _table_fault(group, message)


def component(message: RedirectAssign) -> AssignmentInfo | AlternateAssignment:
    """The assignment, in whichever component it came."""
    found = message.assignment or message.alternate_assignment
    assert found is not None
    return found


def table(message: RedirectAssign, usable: frozenset[IPv4Address]) -> Table | None:
    """The table that the assignment means; None for a form that its version does not have."""
    info = message.hash_assignment
    if info is not None:
        return HashTable.of_redirect_assign(info.caches, info.buckets, usable)
    assert message.alternate_assignment is not None
    match message.alternate_assignment.body:
        case AssignmentMap(sets):
            return MaskTable.of_redirect_assign(sets, usable)
        case AlternateSets(sets) if message.minor_version > 0:
            return MaskTable.of_redirect_assign(tuple(each.written_out() for each in sets), usable)
        case AlternateSets() | HashBuckets():
            return None


def _table_fault(group: Group, message: RedirectAssign) -> Fault | None:
    detail = _size_fault(message)
    if detail:
        return Fault(Refusal.TOO_MANY_VALUES, detail)
    received = table(message, group.usable)
    if received is None or isinstance(received, HashTable) is not (group.method is AssignmentMethod.HASH):
        detail = f"it is not a {(group.method.name or '').lower()} assignment, which the group agreed on"
        return Fault(Refusal.WRONG_ASSIGNMENT_METHOD, detail)
    return None


def _size_fault(message: RedirectAssign) -> str:
    """Why a mask assignment is too large to be shown in one I_SEE_YOU, before anything is made of it."""
    alternate = message.alternate_assignment
    match alternate.body if alternate is not None else None:
        case AssignmentMap(sets):
            values = sum(len(each.values) for each in sets)
        case AlternateSets(sets):
            values = sum(len(owned.numbers) for each in sets for owned in each.caches)
        case _:
            return ""
    if values > MAX_MASK_VALUES:
        return f"{values} values, at most {MAX_MASK_VALUES} are taken"
    if len(sets) > MAX_MASK_SETS:
        return f"{len(sets)} mask/value sets, at most {MAX_MASK_SETS} are taken"
    return ""
