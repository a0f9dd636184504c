"""One service group: its members, its numbers, its assignment.

Life of a group. Each HERE_I_AM is answered by an I_SEE_YOU with a fresh Receive ID; the cache that echoes it
becomes usable and the Member Change Number goes up (draft 4.3, 4.6). The first usable cache defines the service
(draft 4.2); one that never echoed could be a forgery. The designated cache then sends REDIRECT_ASSIGN; where none
comes in time, the router assigns by itself. A cache silent for 25 s is queried, after 30 s it is gone and the
others cover its buckets at once (`on_loss`; draft 4.14 leaves them unassigned, covering keeps the traffic
inspected). When the last usable cache has left, definition, method, timers, assignment and key are forgotten (2.01,
3.2).

On a multicast group address nobody is answered at once: one I_SEE_YOU every nine seconds names all caches that
met there.

Two rules. Every change of the usable caches goes through `membership_changed`; every new table goes through
`_replace`. This file knows no datagram, no password and no other group: `router` does.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from wccpd.protocol import answers, assignment, redirect_assign
from wccpd.protocol.capability import Incompatible, Selection, judge
from wccpd.protocol.membership import Member, Place, Voice, by_address
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
from wccpd.protocol.settings import AssignmentPolicy, OnLoss, ServiceSettings, Timers
from wccpd.protocol.tables import (
    HashTable,
    MaskTable,
    Table,
    is_assigned,
    same_shape,
    wanted_mask,
)
from wccpd.protocol.view import AssignedBy, CacheState
from wccpd.wire.elements import AssignmentKey
from wccpd.wire.enums import MAX_CACHES, AssignmentMethod, IdentityFlags, ServiceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Network

    from wccpd.protocol.settings import EngineSettings, Interop
    from wccpd.protocol.view import GroupView
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.messages import HereIAm, RedirectAssign, RemovalQuery

NO_KEY = AssignmentKey.none()
MAX_PATIENCE_SECONDS = 900.0
"""Three times the slowest timers that there are: 60 s with a scale of 5."""
MAX_WAITING = 1024
"""Caches that may be waiting to echo their first I_SEE_YOU; a forged HERE_I_AM never gets further."""
MAY_HAVE_ASSIGNED = {
    AssignmentPolicy.AUTO: {AssignedBy.CACHE, AssignedBy.ROUTER},
    AssignmentPolicy.CACHE: {AssignedBy.CACHE, AssignedBy.NOBODY},
    AssignmentPolicy.ROUTER: {AssignedBy.ROUTER},
}
"""By whom an assignment made under other settings may be, for the group to want no other."""
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
        adjacent: tuple[IPv4Network, ...] | None = None,
    ) -> None:
        self.settings = settings
        self.adjacent = adjacent
        self.router_id = router_id
        self.addresses = addresses
        self.change_number = first_number
        self.receive_id = first_number
        self.definition = settings.definition
        self.members: dict[IPv4Address, Member] = {}
        self.waiting: dict[IPv4Address, None] = {}
        """Of the members those that never echoed, the one not heard of longest first."""
        self.fixed: Selection | None = None
        """What the first usable cache selected: assignment method and timers of the whole group."""
        self.table: Table = HashTable()
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
        self.members_revision = 0
        """Counts changes of what members say of themselves; the usable ones are shown to all."""
        self.multicast_at: float | None = None
        """When the next I_SEE_YOU goes to the group address."""
        self.picture: GroupView | None = None
        """What `readout` made of the group as it is now; None once something has changed."""
        self._deadline: float | None = None
        self._deadline_is_known = False

    @property
    def timers(self) -> Timers:
        """The timers that the group runs at."""
        return self.fixed.timers if self.fixed is not None else Timers()

    @property
    def method(self) -> AssignmentMethod:
        """How the group assigns."""
        return self.fixed.assignment if self.fixed is not None else AssignmentMethod.HASH

    # -- messages ------------------------------------------------------------------------------------

    def admit(
        self, message: HereIAm, password: bytes | None, address: IPv4Address, now: float
    ) -> Fault | tuple[Member, Voice, tuple[Event, ...]]:
        """Find or make the member at `address` that a HERE_I_AM speaks for, or say why not.

        Args:
            message: What it says.
            password: What it is signed with.
            address: Its source.
            now: Monotonic time in seconds.

        Returns:
            The member, how it speaks in this message, what happened.
        """
        self._changed()
        known = self.members.get(address)
        usable = known is not None and known.state is CacheState.USABLE
        if known is not None and usable and known.message is message and known.voice.password == password:
            return known, known.voice, ()
        minor_version = self._minor_version(message)
        if minor_version is None:
            detail = f"it speaks nothing below 2.{message.minor_version:02}, this group stops before"
            return Fault(Refusal.VERSION_NOT_SPOKEN, detail)
        if self.definition is not None and not self.same_definition(message.service):
            who = "the group" if self.settings.definition is None else "the configuration"
            detail = f"it defines the service as {message.service}; {who} as {self.definition}"
            return Fault(Refusal.DEFINITION_DIFFERS, detail)
        voice = Voice(message.service, minor_version, _negotiates_timers(message), password)
        if known is not None and known.ever_echoed:
            return known, voice, ()
        # Those who wait too: more may be waiting than there are places.
        if len(self.members) - len(self.waiting) >= MAX_CACHES:
            return Fault(Refusal.GROUP_FULL, f"the group already has {MAX_CACHES} caches")
        if known is not None:
            return known, voice, ()
        self._make_room()
        member = Member(address, message.identity, voice, last_heard=now)
        member.patience_seconds = _patience_seconds(message)
        member.dual_valid = self.known_dual_valid.get(address, False)
        member.not_adjacent = self.not_adjacent(address)
        self.members[address] = member
        self.waiting[address] = None
        return member, voice, (CacheSeen(self.settings.key, address),)

    def not_adjacent(self, address: IPv4Address) -> str:
        """Why a cache there is not offered L2, in words; empty when it is on a segment of ours."""
        return not_adjacent(address, self.adjacent)

    def _make_room(self) -> None:
        """Keep those who never echoed anything from filling the group: the one not heard of longest goes."""
        if len(self.waiting) >= MAX_WAITING:
            longest = next(iter(self.waiting))
            del self.waiting[longest], self.members[longest]

    def here_i_am(
        self, message: HereIAm, member: Member, voice: Voice, now: float, *, echoes: bool, aside: bool
    ) -> tuple[Event, ...]:
        """Take a HERE_I_AM of an admitted member; `answers` makes the I_SEE_YOU for it.

        Args:
            message: What it says. The object of last time means: the same as last time.
            member: The sender.
            voice: How it speaks.
            now: Monotonic time in seconds.
            echoes: It echoes a Receive ID that counts, see `echoed_row`.
            aside: It came from another place than the member's own and echoes nothing, so it decides nothing.
        """
        repeated = member.message is message
        member.last_heard = now
        if not member.ever_echoed:
            self.waiting.pop(member.address)
            if not echoes:
                self.waiting[member.address] = None
        if member.multicast and self.multicast_at is None:
            self.multicast_at = self._next_multicast(now)
        if aside:
            return ()
        if voice is not member.voice and (echoes or not member.ever_echoed):
            member.voice = voice
            member.patience_seconds = _patience_seconds(message)
        if not echoes:
            return self._unechoed(member)
        member.echoed(now)
        if repeated and member.state is CacheState.USABLE:
            return ()
        routers = message.view.router_ids
        if (member.identity, member.routers) != (message.identity, routers):
            member.identity, member.routers = message.identity, routers
            self.members_revision += 1
        events: list[Event] = []
        if message.shutdown is not None and member.state is not CacheState.SHUTDOWN:
            events += self._gone(member, "it sent SHUTDOWN", now)
            member.state = CacheState.SHUTDOWN
        elif message.shutdown is None:
            events += self._negotiate(member, message, now)
        member.message = message
        return tuple(events)

    def own_rows(self, message: HereIAm) -> list[int]:
        """Which rows of its Cache View name us: more than one where the cache knows several addresses of ours."""
        rows = enumerate(message.view.router_ids)
        return [index for index, router in rows if router in self.addresses]

    def echoed(self, message: HereIAm, rows: list[int], address: IPv4Address) -> int:
        """The Receive ID of ours that counts; 0 for none.

        A cache may not reach each address that it knows of us: one row stays at 0, or at what was last heard there.
        """
        ids = [message.view.receive_ids[row] for row in rows]
        member = self.members.get(address)
        if member is not None and len(ids) > 1:
            ids.sort(key=member.is_echo, reverse=True)
        return ids[0] if ids else 0

    def sends(self, *members: Member, beside: bool = False) -> None:
        """Give the I_SEE_YOU that is about to go to these members a Receive ID of its own; see `Member.sent`."""
        self.receive_id = next_number(self.receive_id)
        for member in members:
            member.sent(self.receive_id, self.settings.interop.accepted_receive_ids, beside=beside)

    def sends_aside(self, member: Member, place: Place) -> None:
        """The same for an I_SEE_YOU to another place than the one that the member echoes from."""
        self.receive_id = next_number(self.receive_id)
        member.sent_aside(self.receive_id, place)

    def shown(self, voice: Voice) -> tuple[object, ...]:
        """Everything that an I_SEE_YOU shows besides whom it is for; equal as long as none of it changes."""
        numbers = self.change_number, self.key, self.members_revision
        return *numbers, self.table, self.definition, self.fixed, voice.service

    def withheld_answer(self, member: Member, place: Place, now: float) -> Fault | None:
        """Why a HERE_I_AM just taken is not answered at once; None when it is."""
        if not self.settings.interop.answer_unusable and (
            member.expected_ids and member.state in {CacheState.NEGOTIATING, CacheState.INCOMPATIBLE}
        ):
            return Fault(Refusal.STALE_RECEIVE_ID, "not answered, as draft 4.3 has it")
        if not member.limit_at(place).allows(now):
            return Fault(Refusal.TOO_OFTEN, "it sends more HERE_I_AMs than any timers explain")
        return None

    def redirect_assign(
        self, message: RedirectAssign, source: IPv4Address, now: float
    ) -> Fault | tuple[Event, ...]:
        """Take the assignment of a usable cache, or say why not (draft 4.8.1, 5.7.4)."""
        fault = redirect_assign.fault(self, message, source)
        if fault is not None:
            if fault.reason is Refusal.ROUTER_NOT_LISTED and self.settings.interop.flush_when_not_listed:
                return *self._flush(fault.detail), *self.await_assignment(now, fault.detail)
            return fault
        self._changed()
        received = redirect_assign.table(message, self.usable)
        assert received is not None
        if not is_assigned(received) and self.settings.policy is AssignmentPolicy.AUTO:
            # It leaves everything uninspected: no reason to give up the router's own patience.
            return Fault(Refusal.ASSIGNS_NOBODY, "it gives no bucket to a cache that is usable here")
        self.key = redirect_assign.component(message).key
        self.designated = source
        self.assign_at = self.flush_at = None
        self.router_had_to_assign = False
        return self._replace(received, AssignedBy.CACHE, f"REDIRECT_ASSIGN of {source}")

    def _minor_version(self, message: HereIAm) -> int | None:
        """The minor version to answer with (2.01, 3.4); None when there is none in common."""
        ours, theirs = self.settings.minor_version, message.minor_version
        if IdentityFlags.MINIMUM_VERSION in message.identity.flags:
            return ours if theirs <= ours else None
        return min(ours, theirs)

    def same_definition(self, service: ServiceInfo) -> bool:
        """Whether a cache means the service that the group already is."""
        assert self.definition is not None
        return same_definition(self.definition, service, self.settings.interop)

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
        others = bool(self.usable - {member.address})
        fixed = self.fixed if others else None
        verdict = judge(message.capabilities, self.settings, fixed, member.not_adjacent)
        if isinstance(verdict, Incompatible):
            if member.state is CacheState.INCOMPATIBLE and member.fault == verdict.reason:
                return ()
            was_usable = member.state is CacheState.USABLE
            member.fault = verdict.reason
            lost = self._gone(member, verdict.reason, now) if was_usable else ()
            member.state = CacheState.INCOMPATIBLE
            return (CacheIncompatible(self.settings.key, member.address, verdict.reason), *lost)
        member.selection = verdict
        changed = self._fix(verdict, now, others=others)
        if member.state is CacheState.USABLE:
            return changed
        if self.definition is None:
            self.definition = member.voice.service
        member.state = CacheState.USABLE
        member.fault = ""
        member.usable_since = now
        self._remember_form(member)
        return (
            *changed,
            CacheUsable(self.settings.key, member.address),
            *self.membership_changed(now, f"{member.address} joined"),
        )

    def _fix(self, selection: Selection, now: float, *, others: bool) -> tuple[Event, ...]:
        """Let the only usable cache decide on method and timers of the group."""
        if others or selection == self.fixed:
            return ()
        changed_method = self.fixed is not None and selection.assignment is not self.fixed.assignment
        self.fixed = selection
        if selection.assignment is AssignmentMethod.MASK and isinstance(self.table, HashTable):
            self.table = MaskTable()
        elif selection.assignment is AssignmentMethod.HASH and isinstance(self.table, MaskTable):
            self.table = HashTable()
        if not changed_method:
            return ()
        reason = "the only cache selected another assignment method"
        return *self._flush(reason), *self.membership_changed(now, reason)

    # -- time ----------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When a tick next has something to do here; None when nothing is pending."""
        if not self._deadline_is_known:
            self._deadline = min(self.deadlines(), default=None)
            self._deadline_is_known = True
        return self._deadline

    def _changed(self) -> None:
        """Forget what was made of the group as it was."""
        self.picture = None
        self._deadline_is_known = False

    def deadlines(self) -> Iterable[float]:
        """Every moment at which there will be something to do."""
        timers = self.timers
        for member in self.members.values():
            if member.state is CacheState.USABLE:
                if not member.query_sent:
                    yield member.last_echo + timers.removal_query_seconds
                yield member.last_echo + timers.removal_seconds
            else:
                yield member.last_heard + max(timers.removal_seconds, member.patience_seconds)
        if self.assign_at is not None:
            yield self.assign_at
        if self.flush_at is not None:
            yield self.flush_at
        if self.multicast_at is not None:
            yield self.multicast_at

    def expire(self, now: float) -> tuple[Event, ...]:
        """Remove silent members, and assign or flush where that is due."""
        silent = {}
        for member in self.members.values():
            silence, heard = self.timers.removal_seconds, member.last_echo
            if member.state is not CacheState.USABLE:
                silence, heard = max(silence, member.patience_seconds), member.last_heard
            if now >= heard + silence:
                silent[member.address] = f"no valid HERE_I_AM for {silence:g} s"
        return *self.part(silent, now), *self._assign_if_due(now)

    def part(self, leaving: Mapping[IPv4Address, str], now: float) -> tuple[Event, ...]:
        """Remove members, each for its reason; what the usable ones among them had moves once."""
        if not leaving:
            return ()
        self._changed()
        gone = [self.members.pop(address) for address in leaving]
        for address in leaving:
            self.waiting.pop(address, None)
        lost = [CacheLost(self.settings.key, member.address, leaving[member.address]) for member in gone]
        events: tuple[Event, ...] = ()
        usable = [member.address for member in gone if member.state is CacheState.USABLE]
        if usable:
            if self.designated in usable:
                self.key, self.designated = NO_KEY, None
            who = ", ".join(map(str, usable))
            events = self.membership_changed(now, f"{who} left: {leaving[usable[0]]}")
        return *lost, *events

    def reconfigure(
        self,
        settings: ServiceSettings,
        router: EngineSettings,
        leaving: Mapping[IPv4Address, str],
        now: float,
    ) -> tuple[Event, ...]:
        """Take new settings.

        Args:
            settings: The group's.
            router: The router's.
            leaving: Whom they do not let stay (`reconfigure.changes`), each with the reason.
            now: Monotonic time in seconds.
        """
        self._changed()
        before, self.settings = self.settings, settings
        self.router_id, self.adjacent = router.router_id, router.adjacent
        self.addresses = frozenset((router.router_id, *router.addresses))
        events = self.part(leaving, now)
        if settings.definition is not None or not self.usable:
            self.definition = settings.definition
        for member in self.members.values():
            member.not_adjacent = self.not_adjacent(member.address)
            member.voice = member.voice._replace(
                minor_version=min(member.voice.minor_version, settings.minor_version)
            )
            if member.voice.password not in (settings.passwords or (None,)):
                member.voice = member.voice._replace(password=settings.own_password)
            if member.local not in self.addresses and not member.multicast:
                member.local = None
        if settings.policy is before.policy:
            return events
        self.router_had_to_assign = self.router_had_to_assign and settings.policy is AssignmentPolicy.AUTO
        self.assign_at = self.flush_at = None
        if self.usable and self.assigned_by not in MAY_HAVE_ASSIGNED[settings.policy]:
            events += self.await_assignment(now, f"the configuration lets {settings.policy} assign now")
        return events

    def twin(self) -> Group:
        """A group like this one, for a trial of `reconfigure`: its members are its own, what they hold is shared."""
        made = copy.copy(self)
        made.members = {address: copy.copy(member) for address, member in self.members.items()}
        made.known_dual_valid = dict(self.known_dual_valid)
        return made

    def queries(self, now: float) -> tuple[tuple[Member, RemovalQuery], ...]:
        """REMOVAL_QUERYs due now (draft 4.14). They take a Receive ID too, as the 2017 draft and IOS have it."""
        due = []
        for member in self.members.values():
            silent = now >= member.last_echo + self.timers.removal_query_seconds
            if member.state is CacheState.USABLE and silent and not member.query_sent:
                if self.settings.interop.removal_query_takes_receive_id:
                    self.receive_id = next_number(self.receive_id)
                self._changed()
                member.queried(self.receive_id)
                due.append((member, answers.removal_query(self, member)))
        return tuple(due)

    def multicast(self, now: float) -> tuple[tuple[Member, ...], ...]:
        """Members to be answered at the group address now, a batch for each form of the answer and 32 of them."""
        if self.multicast_at is None or now < self.multicast_at:
            return ()
        self._changed()
        waiting = [member for member in self.members.values() if member.multicast]
        self.multicast_at = self._next_multicast(now) if waiting else None
        batches: dict[tuple[object, ...], list[Member]] = {}
        for member in waiting:
            leaving = member.address if member.state is CacheState.SHUTDOWN else None
            voice = member.voice._replace(minor_version=0)
            form = member.dual_valid, not member.not_adjacent, voice, leaving
            batches.setdefault(form, []).append(member)
        return tuple(
            tuple(batch[start : start + MAX_CACHES])
            for batch in batches.values()
            for start in range(0, len(batch), MAX_CACHES)
        )

    def _next_multicast(self, now: float) -> float:
        return now + self.timers.multicast_seconds * jitter(self.receive_id)

    # -- membership and assignment -------------------------------------------------------------------

    def _gone(self, member: Member, reason: str, now: float) -> tuple[Event, ...]:
        """Take a member out of the usable ones; its buckets are covered at once."""
        was_usable = member.state is CacheState.USABLE
        lost = CacheLost(self.settings.key, member.address, reason)
        member.state = CacheState.NEGOTIATING
        member.usable_since = None
        if not was_usable:
            return (lost,)
        if self.designated == member.address:
            self.key = NO_KEY
            self.designated = None
        return lost, *self.membership_changed(now, f"{member.address} left: {reason}")

    def membership_changed(self, now: float, reason: str) -> tuple[Event, ...]:
        """Note that a cache became usable or is no longer.

        With the last usable one everything that they decided is forgotten (2.01, 3.2), whoever else goes on talking.
        """
        self._changed()
        self.change_number = next_number(self.change_number)
        if not self.usable:
            self.definition = self.settings.definition
            self.fixed = None
            self.key, self.designated = NO_KEY, None
            self.assign_at = self.flush_at = None
            return self._replace(HashTable(), AssignedBy.NOBODY, reason)
        return self.await_assignment(now, reason)

    def await_assignment(self, now: float, reason: str) -> tuple[Event, ...]:
        """Want a new assignment, from whom the policy says; until it comes, cover or leave the lost ones' share."""
        if self.settings.policy is AssignmentPolicy.ROUTER or self.router_had_to_assign:
            return self._router_assigns(reason)
        weights = self._weights()
        if self.settings.policy is AssignmentPolicy.AUTO:
            wait = self.settings.assignment_wait_seconds
            # While nothing is assigned further changes do not prolong the wait: in a restless farm it would never end.
            if self.assign_at is None or is_assigned(self.table):
                self.assign_at = now + (self.timers.assignment_wait_seconds if wait is None else wait)
        else:
            self.flush_at = now + self.timers.flush_seconds
        gone = frozenset(owner for owner in self.table.owners if owner is not None) - weights.keys()
        if self.settings.on_loss is OnLoss.COVER:
            owners = assignment.cover(self.table.owners, gone, weights)
        else:
            owners = assignment.leave(self.table.owners, gone)
        return self._replace(self.table.with_owners(owners), self.assigned_by, reason)

    def _assign_if_due(self, now: float) -> tuple[Event, ...]:
        if self.assign_at is not None and now >= self.assign_at:
            self.router_had_to_assign = True
            return self._router_assigns("no valid REDIRECT_ASSIGN came in time")
        if self.flush_at is not None and now >= self.flush_at:
            flushed = self._flush("no valid REDIRECT_ASSIGN after a membership change")
            # A Squid whose REDIRECT_ASSIGN was lost never repeats it; it assigns anew when this number differs.
            self.change_number = next_number(self.change_number)
            self.flush_at = now + self.timers.flush_seconds
            return flushed
        return ()

    def _flush(self, reason: str) -> tuple[Event, ...]:
        """Drop the assignment whole."""
        self._changed()
        self.flush_at = None
        self.key, self.designated = NO_KEY, None
        empty = HashTable() if self.method is AssignmentMethod.HASH else MaskTable()
        return self._replace(empty, AssignedBy.NOBODY, reason)

    def _router_assigns(self, reason: str) -> tuple[Event, ...]:
        self._changed()
        self.assign_at = self.flush_at = None
        self.key, self.designated = NO_KEY, None
        table = self.table
        if isinstance(table, MaskTable) and not table.owners:
            assert self.definition is not None
            table = MaskTable.of_mask(wanted_mask(self.usable_members()[0].identity, self.definition))
        owners = assignment.assign(table.owners, self._weights())
        return self._replace(table.with_owners(owners), AssignedBy.ROUTER, reason)

    def _replace(self, table: Table, assigned_by: AssignedBy, reason: str) -> tuple[Event, ...]:
        if table == self.table and assigned_by is self.assigned_by:
            return ()
        self._changed()
        before = self.table
        same = same_shape(before, table)
        moved = assignment.moved(before.owners, table.owners) if same else len(table.owners)
        self.table, self.assigned_by = table, assigned_by if is_assigned(table) else AssignedBy.NOBODY
        assigned = sum(owner is not None for owner in table.owners)
        return (AssignmentChanged(self.settings.key, self.assigned_by, moved, assigned, reason),)

    def _remember_form(self, member: Member) -> None:
        self.known_dual_valid.pop(member.address, None)
        self.known_dual_valid[member.address] = member.dual_valid
        while len(self.known_dual_valid) > REMEMBERED_FORMS:
            del self.known_dual_valid[next(iter(self.known_dual_valid))]

    @property
    def usable(self) -> frozenset[IPv4Address]:
        """Addresses of the usable caches."""
        return frozenset(
            member.address for member in self.members.values() if member.state is CacheState.USABLE
        )

    def usable_members(self) -> tuple[Member, ...]:
        """Usable caches by address."""
        usable = [member for member in self.members.values() if member.state is CacheState.USABLE]
        return tuple(sorted(usable, key=by_address))

    def _weights(self) -> dict[IPv4Address, int]:
        return {member.address: member.weight for member in self.usable_members()}


def _negotiates_timers(message: HereIAm) -> bool:
    asked = message.capabilities
    knows = asked is not None and (asked.transmit_t is not None or asked.timer_scale is not None)
    return knows or message.minor_version > 0


def _patience_seconds(message: HereIAm) -> float:
    """Silence after which a cache that is not usable yet is gone: one that selects slow timers speaks as slowly."""
    asked = message.capabilities
    if asked is None or asked.transmit_t is None:
        return Timers().removal_seconds
    scale = asked.timer_scale.timeout_lower if asked.timer_scale is not None else 1
    return min(
        MAX_PATIENCE_SECONDS, Timers(asked.transmit_t.lower_milliseconds / 1000, scale).removal_seconds
    )


def same_definition(mine: ServiceInfo, other: ServiceInfo, interop: Interop) -> bool:
    """Whether two definitions of a group are of one service.

    Draft 4.2 lists protocol, flags and ports; whether the priority counts is unsaid. A standard service is defined by
    its number.
    """
    if mine.service_type is ServiceType.STANDARD:
        return True
    same = (mine.protocol, mine.flags, mine.ports) == (other.protocol, other.flags, other.ports)
    return same and (mine.priority == other.priority or not interop.priority_defines_service)


def not_adjacent(address: IPv4Address, adjacent: tuple[IPv4Network, ...] | None) -> str:
    """Why a cache there cannot have L2, in words; empty when it is in one of these networks, or they are None."""
    if adjacent is None or any(address in network for network in adjacent):
        return ""
    ours = ", ".join(map(str, adjacent)) or "none"
    return f"{address} is not adjacent at layer 2 (networks that are: {ours})"


def next_number(number: int) -> int:
    """The next Receive ID or change number: 32 bits, never 0 (draft 5.7.1)."""
    return number % 0xFFFFFFFF + 1


def jitter(number: int) -> float:
    """A factor of 0.9 to 1.1 that differs from message to message (draft 4.1), without drawing chance."""
    return 0.9 + 0.2 * (number * 0x9E3779B1 & 0xFFFFFFFF) / 0xFFFFFFFF
