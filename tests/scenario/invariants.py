"""What must hold for a router at every moment, whatever its peers do.

One `Watch` follows one router. It knows only what a router shows and sends: outputs and views.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise

from wccpd.protocol.assignment import bucket_vector
from wccpd.protocol.outputs import Output, Send
from wccpd.protocol.readout import fresh_view
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, OnLoss, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState, GroupView
from wccpd.wire.elements import ServiceKey
from wccpd.wire.identity import HashAssignment
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery, decode_message
from wccpd.wire.security import check_digest, peek_security

NUMBERS = 0xFFFFFFFF
"""Change numbers and Receive IDs are 1 to this."""


class Watch:
    """Checks everything that a router says and shows."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.receive_ids: dict[ServiceKey, set[int]] = {}
        self.before: dict[ServiceKey, GroupView] = {}
        self._answers: list[ISeeYou] = []
        """I_SEE_YOUs since the last look."""

    @property
    def settings(self) -> dict[ServiceKey, ServiceSettings]:
        """Those in force."""
        return {service.key: service for service in self.router.settings.services}

    def said(self, outputs: Iterable[Output]) -> None:
        """Check what was sent."""
        for output in outputs:
            if isinstance(output, Send):
                self._sent(output)

    def shows(self, *, every_step: bool = True) -> None:
        """Check the view, and what became of the last one.

        Called after every step it also finds the present view in the I_SEE_YOUs that were sent since.
        """
        shown = self.router.view().groups
        assert shown == tuple(fresh_view(group) for group in self.router.groups.values()), "an old view"
        for each in self.router.groups.values():
            silent = [member for member in each.members.values() if not member.ever_echoed]
            assert {*each.waiting} == {member.address for member in silent}, "not who is waiting"
            assert each.next_deadline() == min(each.deadlines(), default=None), "an old deadline"
        settings = self.settings
        for group in shown:
            consistent(group, settings[group.key])
            before = self.before.get(group.key)
            if before is not None:
                follows(before, group, settings[group.key])
            self.before[group.key] = group
        for answer in self._answers if every_step else ():
            agrees(answer, self.before[answer.service.key])
        self._answers.clear()

    def _sent(self, send: Send) -> None:
        message = decode_message(send.datagram)
        assert not message.tolerated, message.tolerated
        settings = self.settings[message.service.key]
        if settings.passwords:
            known = (check_digest(send.datagram, password) for password in settings.passwords)
            assert any(known), "the digest is wrong"
        else:
            assert not peek_security(send.datagram), "a digest without a password"
        assert send.local in {self.router.settings.router_id, *self.router.settings.addresses}
        match message:
            case ISeeYou():
                receive_id = message.identity.receive_id
                self._answers.append(message)
            case RemovalQuery():
                receive_id = message.query.receive_id
                assert message.query.cache == send.remote
            case HereIAm() | RedirectAssign():
                raise AssertionError(f"a router sent {message}")
        assert 1 <= receive_id <= NUMBERS
        seen = self.receive_ids.setdefault(message.service.key, set())
        assert receive_id not in seen, f"Receive ID {receive_id} was used before"
        seen.add(receive_id)


def usable(group: GroupView) -> list[IPv4Address]:
    """The usable caches of a group, by address."""
    return [cache.address for cache in group.caches if cache.state is CacheState.USABLE]


def owned(group: GroupView) -> list[IPv4Address]:
    """The owner of each bucket or mask value that has one."""
    if group.mask_sets:
        values = (value for each in group.mask_sets for value in each.values)
        return [value.owner for value in values if value.owner is not None]
    return [owner for owner in group.bucket_owners if owner is not None]


def is_full(group: GroupView) -> bool:
    """Whether everything is assigned."""
    return len(owned(group)) == group.values > 0


def consistent(group: GroupView, settings: ServiceSettings) -> None:
    """One view of a group agrees with itself."""
    assigned = owned(group)
    assert len(group.bucket_owners) == 256
    assert set(assigned) <= set(usable(group)), "a bucket belongs to a cache that is not usable"
    assert sum(cache.buckets for cache in group.caches) == len(assigned) <= group.values
    for cache in group.caches:
        assert cache.buckets == assigned.count(cache.address)
        assert (cache.usable_since is not None) == (cache.state is CacheState.USABLE)
    assert len(usable(group)) <= 32
    assert all(first.address < second.address for first, second in pairwise(group.caches))
    if usable(group):
        assert group.definition is not None
    if not usable(group) or settings.definition is not None:
        assert group.definition == settings.definition
    assert 1 <= group.change_number <= NUMBERS
    assert (group.assigned_by is AssignedBy.NOBODY) == (not assigned)
    assert group.designated is None or group.designated in usable(group)


def follows(before: GroupView, after: GroupView, settings: ServiceSettings) -> None:
    """A view may come after another one."""
    assert advanced(before.change_number, after.change_number), "the change number fell"
    if usable(before) != usable(after):
        assert before.change_number != after.change_number, "members changed, the number did not"
    covers = settings.policy is not AssignmentPolicy.CACHE and settings.on_loss is OnLoss.COVER
    if covers and usable(after) and is_full(before):
        assert is_full(after), "buckets fell free while there was a usable cache"


def agrees(answer: ISeeYou, group: GroupView) -> None:
    """An I_SEE_YOU shows what the router itself shows."""
    if group.definition is not None:
        assert replace(answer.service, priority=group.definition.priority) == group.definition
    assert answer.view.change_number == group.change_number
    assert [each.address for each in answer.view.caches] == usable(group)
    assert answer.view.routers == group.routers
    for shown in answer.view.caches:
        counted = next(each for each in group.caches if each.address == shown.address)
        assert shown.weight == counted.weight
        assert shown.is_unassigned == (counted.buckets == 0)
        if isinstance(shown.assignment, HashAssignment) and counted.buckets:
            assert shown.assignment.buckets == bucket_vector(group.bucket_owners, counted.address)


def advanced(before: int, after: int) -> bool:
    """Whether a number stayed or went up, past the wrap from 2^32-1 to 1 if need be."""
    return (after - before) % NUMBERS < NUMBERS // 2
