"""One service group: its members, its numbers, its bucket table.

Life of a group. The first cache defines the service (draft 4.2). Each HERE_I_AM is answered by an
I_SEE_YOU with a fresh Receive ID; the cache that echoes it becomes usable and the Member Change Number goes
up (draft 4.3, 4.6). The designated cache then sends REDIRECT_ASSIGN; where none comes in time, the router
assigns by itself. A cache silent for 25 s is queried, after 30 s it is gone and the others cover its buckets
at once (draft 4.14 leaves them unassigned; covering keeps the traffic inspected). When the last cache has
left, definition, assignment and key are forgotten (2.01, 3.2).

Two rules. Every change of the usable caches goes through `_membership_changed`; every new bucket table goes
through `_replace`. This file knows no datagram, no password and no other group: `router` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.protocol import answers, assignment
from wccpd.protocol.capability import Incompatible, judge
from wccpd.protocol.membership import Member
from wccpd.protocol.outputs import (
    AssignmentChanged,
    CacheIncompatible,
    CacheLost,
    CacheSeen,
    CacheUsable,
    Event,
    Fault,
    Refusal,
    RungChanged,
)
from wccpd.protocol.settings import AssignmentPolicy, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState, CacheView, GroupView, Rung
from wccpd.wire.elements import AssignmentKey
from wccpd.wire.enums import MAX_CACHES, ServiceType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery

NO_KEY = AssignmentKey.none()
REMEMBERED_FORMS = 64
"""Caches whose I_SEE_YOU form is remembered after they left, so that they rejoin in one step."""


class Group:
    """The state machine of one service group. Methods return what happened; nothing raises on peer input."""

    def __init__(
        self,
        settings: ServiceSettings,
        router_id: IPv4Address,
        addresses: frozenset[IPv4Address],
        first_number: int,
    ) -> None:
        self.settings = settings
        self.router_id = router_id
        self.addresses = addresses
        self.change_number = first_number
        self.receive_id = first_number
        self.definition: ServiceInfo | None = None
        self.members: dict[IPv4Address, Member] = {}
        self.owners = assignment.EMPTY
        self.assigned_by = AssignedBy.NOBODY
        self.designated: IPv4Address | None = None
        self.key = NO_KEY
        self.assign_at: float | None = None
        """When the router assigns by itself unless a REDIRECT_ASSIGN comes first."""
        self.flush_at: float | None = None
        """When an assignment older than the last membership change is dropped."""
        self.router_had_to_assign = False
        """This farm did not assign before: do not wait for it again."""
        self.known_dual_valid: dict[IPv4Address, bool] = {}

    # -- messages ------------------------------------------------------------------------------------

    def admit(self, message: HereIAm, address: IPv4Address, now: float) -> Fault | tuple[Event, ...]:
        """Find or make the member at `address` that a HERE_I_AM speaks for, or say why not."""
        if self.definition is not None and not same_definition(self.definition, message.service):
            detail = f"it defines the service as {message.service}, the group is {self.definition}"
            return Fault(Refusal.DEFINITION_DIFFERS, detail)
        if address in self.members:
            return ()
        if len(self.members) >= MAX_CACHES:
            return Fault(Refusal.GROUP_FULL, f"the group already has {MAX_CACHES} caches")
        if self.definition is None:
            self.definition = message.service
        member = Member(address, message.identity, last_heard=now)
        member.dual_valid = self.known_dual_valid.get(address, False)
        self.members[address] = member
        return (CacheSeen(self.settings.key, address),)

    def here_i_am(self, message: HereIAm, member: Member, now: float) -> tuple[Event, ...]:
        """Take a HERE_I_AM of an admitted member; `answer` makes the I_SEE_YOU for it."""
        member.last_heard = now
        if not member.is_echo(self._echoed_id(message)):
            return self._unechoed(member)
        member.echoed(now)
        member.identity = message.identity
        member.routers = tuple(row.router_id for row in message.view.routers)
        events: list[Event] = []
        if message.shutdown is not None and member.state is not CacheState.SHUTDOWN:
            events += self._gone(member, "it sent SHUTDOWN", now)
            member.state = CacheState.SHUTDOWN
        elif member.state is not CacheState.SHUTDOWN:
            events += self._negotiate(member, message, now)
        return tuple(events)

    def answer(self, member: Member) -> ISeeYou:
        """The I_SEE_YOU for a member, with a Receive ID of its own."""
        self.receive_id = next_number(self.receive_id)
        member.sent(self.receive_id)
        return answers.i_see_you(self, member)

    def redirect_assign(self, message: RedirectAssign, source: IPv4Address) -> Fault | tuple[Event, ...]:
        """Take the assignment of a usable cache, or say why not (draft 4.8.1, 5.7.4)."""
        fault = self._assignment_fault(message, source)
        if fault is not None:
            return fault
        info = message.hash_assignment
        assert info is not None
        owners = assignment.from_redirect_assign(info.caches, info.buckets, frozenset(self._usable()))
        self.key = info.key
        self.designated = source
        self.assign_at = self.flush_at = None
        self.router_had_to_assign = False
        return self._replace(owners, AssignedBy.CACHE, f"REDIRECT_ASSIGN of {source}")

    def _assignment_fault(self, message: RedirectAssign, source: IPv4Address) -> Fault | None:
        member = self.members.get(source)
        if member is None or member.state is not CacheState.USABLE:
            return Fault(Refusal.NOT_A_USABLE_CACHE, f"{source} is not a usable cache of this group")
        if self.settings.policy is AssignmentPolicy.ROUTER:
            return Fault(Refusal.ROUTER_ASSIGNS, "assignment is set to router for this service")
        info = message.hash_assignment
        if info is None:
            return Fault(Refusal.WRONG_ASSIGNMENT_METHOD, "it is not a hash assignment")
        row = next((row for row in info.routers if row.router_id == self.router_id), None)
        if row is None:
            return Fault(Refusal.ROUTER_NOT_LISTED, f"it does not list router {self.router_id}")
        if row.receive_id not in member.expected_ids:
            detail = f"it carries Receive ID {row.receive_id}, we last sent {member.expected_ids}"
            return Fault(Refusal.STALE_RECEIVE_ID, detail)
        if row.change_number != self.change_number:
            detail = f"it is for change number {row.change_number}, the group is at {self.change_number}"
            return Fault(Refusal.STALE_CHANGE_NUMBER, detail)
        return None

    def _echoed_id(self, message: HereIAm) -> int:
        """The Receive ID in the row that names us; 0 when there is none."""
        for row in message.view.routers:
            if row.router_id in self.addresses:
                return row.receive_id
        return 0

    def _unechoed(self, member: Member) -> tuple[Event, ...]:
        if not member.choose_form():
            return ()
        if member.dual_valid:
            reason = (
                "it did not echo two standard I_SEE_YOUs; trying the form that Squid 4.17 to 7.6 can read"
            )
        else:
            reason = "it did not echo two dual-valid I_SEE_YOUs either; trying the standard form again"
        return (RungChanged(self.settings.key, member.address, member.rung(False), reason),)

    def _negotiate(self, member: Member, message: HereIAm, now: float) -> tuple[Event, ...]:
        verdict = judge(message.capabilities, self.settings)
        if isinstance(verdict, Incompatible):
            if member.state is CacheState.INCOMPATIBLE and member.fault == verdict.reason:
                return ()
            was_usable = member.state is CacheState.USABLE
            member.fault = verdict.reason
            lost = self._gone(member, verdict.reason, now) if was_usable else ()
            member.state = CacheState.INCOMPATIBLE
            return (CacheIncompatible(self.settings.key, member.address, verdict.reason), *lost)
        member.selection = verdict
        if member.state is CacheState.USABLE:
            return ()
        member.state = CacheState.USABLE
        member.fault = ""
        member.usable_since = now
        self._remember_form(member)
        return (
            CacheUsable(self.settings.key, member.address),
            *self._membership_changed(now, f"{member.address} joined"),
        )

    # -- time ----------------------------------------------------------------------------------------

    def deadlines(self) -> Iterable[float]:
        """Every moment at which `tick` has something to do."""
        timers = self.settings.timers
        for member in self.members.values():
            if member.state is CacheState.USABLE:
                if not member.query_sent:
                    yield member.last_echo + timers.removal_query_seconds
                yield member.last_echo + timers.removal_seconds
            else:
                yield member.last_heard + timers.removal_seconds
        if self.assign_at is not None:
            yield self.assign_at
        if self.flush_at is not None:
            yield self.flush_at

    def expire(self, now: float) -> tuple[Event, ...]:
        """Remove silent members, and assign or flush where that is due."""
        events: list[Event] = []
        silence = self.settings.timers.removal_seconds
        for member in list(self.members.values()):
            usable = member.state is CacheState.USABLE
            last = member.last_echo if usable else member.last_heard
            if now < last + silence:
                continue
            del self.members[member.address]
            reason = f"no valid HERE_I_AM for {silence:g} s"
            events += self._gone(member, reason, now)
            if not self.members:
                self._forget()
        events += self._assign_if_due(now)
        return tuple(events)

    def queries(self, now: float) -> tuple[tuple[Member, RemovalQuery], ...]:
        """REMOVAL_QUERYs due now (draft 4.14). They take a Receive ID too, as the 2017 draft and IOS have it."""
        due = []
        for member in self.members.values():
            silent = now >= member.last_echo + self.settings.timers.removal_query_seconds
            if member.state is CacheState.USABLE and silent and not member.query_sent:
                self.receive_id = next_number(self.receive_id)
                member.queried(self.receive_id)
                due.append((member, answers.removal_query(self, member)))
        return tuple(due)

    # -- membership and assignment -------------------------------------------------------------------

    def _gone(self, member: Member, reason: str, now: float) -> tuple[Event, ...]:
        """Take a member out of the usable ones; its buckets are covered at once."""
        was_usable = member.state is CacheState.USABLE
        lost = CacheLost(self.settings.key, member.address, reason)
        member.state = CacheState.NEGOTIATING
        member.usable_since = None
        if not was_usable:
            return (lost,)
        if self.key.address == member.address:
            self.key = NO_KEY
            self.designated = None
        return lost, *self._membership_changed(now, f"{member.address} left: {reason}")

    def _membership_changed(self, now: float, reason: str) -> tuple[Event, ...]:
        self.change_number = next_number(self.change_number)
        weights = self._weights()
        if not weights:
            self.assign_at = self.flush_at = None
            return self._replace(assignment.EMPTY, AssignedBy.NOBODY, reason)
        if self.settings.policy is AssignmentPolicy.ROUTER or self.router_had_to_assign:
            return self._router_assigns(reason)
        if self.settings.policy is AssignmentPolicy.AUTO:
            self.assign_at = now + self.settings.timers.assignment_wait_seconds
        else:
            self.flush_at = now + self.settings.timers.flush_seconds
        gone = frozenset(owner for owner in self.owners if owner is not None) - weights.keys()
        return self._replace(assignment.cover(self.owners, gone, weights), self.assigned_by, reason)

    def _assign_if_due(self, now: float) -> tuple[Event, ...]:
        if self.assign_at is not None and now >= self.assign_at:
            self.router_had_to_assign = True
            return self._router_assigns("no valid REDIRECT_ASSIGN came in time")
        if self.flush_at is not None and now >= self.flush_at:
            self.flush_at = None
            self.key, self.designated = NO_KEY, None
            return self._replace(
                assignment.EMPTY, AssignedBy.NOBODY, "no valid REDIRECT_ASSIGN after a membership change"
            )
        return ()

    def _router_assigns(self, reason: str) -> tuple[Event, ...]:
        self.assign_at = self.flush_at = None
        self.key, self.designated = NO_KEY, None
        return self._replace(assignment.assign(self.owners, self._weights()), AssignedBy.ROUTER, reason)

    def _replace(self, owners: assignment.Owners, assigned_by: AssignedBy, reason: str) -> tuple[Event, ...]:
        moved = assignment.moved(self.owners, owners)
        if moved == 0 and assigned_by is self.assigned_by:
            return ()
        self.owners, self.assigned_by = owners, assigned_by
        assigned = sum(owner is not None for owner in owners)
        return (AssignmentChanged(self.settings.key, assigned_by, moved, assigned, reason),)

    def _forget(self) -> None:
        self.definition = None
        self.key, self.designated = NO_KEY, None
        self.assign_at = self.flush_at = None

    def _remember_form(self, member: Member) -> None:
        self.known_dual_valid.pop(member.address, None)
        self.known_dual_valid[member.address] = member.dual_valid
        while len(self.known_dual_valid) > REMEMBERED_FORMS:
            del self.known_dual_valid[next(iter(self.known_dual_valid))]

    def _usable(self) -> dict[IPv4Address, Member]:
        return {
            address: member for address, member in self.members.items() if member.state is CacheState.USABLE
        }

    def usable_members(self) -> tuple[Member, ...]:
        """Usable caches by address."""
        return tuple(member for _, member in sorted(self._usable().items()))

    def _weights(self) -> dict[IPv4Address, int]:
        return {member.address: member.weight for member in self.usable_members()}

    # -- read-out ------------------------------------------------------------------------------------

    def view(self) -> GroupView:
        """A frozen picture of the group."""
        counts = assignment.bucket_counts(self.owners)
        return GroupView(
            key=self.settings.key,
            definition=self.definition,
            caches=tuple(
                self._cache_view(member, counts.get(member.address, 0))
                for _, member in sorted(self.members.items())
            ),
            bucket_owners=self.owners,
            assigned_by=self.assigned_by,
            designated=self.designated,
            change_number=self.change_number,
        )

    def _cache_view(self, member: Member, buckets: int) -> CacheView:
        rung = member.rung(self.assigned_by is AssignedBy.ROUTER)
        return CacheView(
            address=member.address,
            state=member.state,
            rung=rung,
            reason=self._reason(member, rung),
            forwarding=member.selection.forwarding.name or "",
            packet_return=member.selection.packet_return.name or "",
            weight=member.weight,
            buckets=buckets,
            last_heard=member.last_heard,
            usable_since=member.usable_since,
        )

    def _reason(self, member: Member, rung: Rung) -> str:
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
                return self._usable_reason(member, rung)

    def _usable_reason(self, member: Member, rung: Rung) -> str:
        form = "reads only the dual-valid I_SEE_YOU (Squid 4.17 to 7.6)" if member.dual_valid else ""
        if rung is Rung.ROUTER_ASSIGNS:
            why = (
                "assignment is set to router"
                if self.settings.policy is AssignmentPolicy.ROUTER
                else "no valid REDIRECT_ASSIGN came in time, so the router assigns"
            )
            return f"{form}; {why}" if form else why
        if self.assigned_by is AssignedBy.NOBODY:
            waiting = "waiting for a REDIRECT_ASSIGN"
            return f"{form}; {waiting}" if form else waiting
        return form


def same_definition(first: ServiceInfo, second: ServiceInfo) -> bool:
    """Whether two descriptions are of the same service.

    Draft 4.2 lists protocol, flags and ports; whether the priority counts is unsaid, and we let the first
    cache's stand. A standard service is defined by its number.
    """
    if first.key != second.key:
        return False
    if first.key.service_type is ServiceType.STANDARD:
        return True
    return (first.protocol, first.flags, first.ports) == (second.protocol, second.flags, second.ports)


def next_number(number: int) -> int:
    """The next Receive ID or change number: 32 bits, never 0 (draft 5.7.1)."""
    return number % 0xFFFFFFFF + 1
