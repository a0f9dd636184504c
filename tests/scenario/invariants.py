"""What must hold for a router at every moment, whatever its peers do.

One `Watch` follows one router. It knows only what a router shows and sends: outputs and views.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from wccpd.protocol.outputs import Output, Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState, GroupView
from wccpd.wire.elements import ServiceKey
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery, decode_message
from wccpd.wire.security import check_digest, peek_security

NUMBERS = 0xFFFFFFFF
"""Change numbers and Receive IDs are 1 to this."""


class Watch:
    """Checks everything that a router says and shows."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.settings = {service.key: service for service in router.settings.services}
        self.receive_ids: dict[ServiceKey, set[int]] = {key: set() for key in self.settings}
        self.before: dict[ServiceKey, GroupView] = {}
        self._listed: list[tuple[ServiceKey, frozenset[object]]] = []
        """Caches in the I_SEE_YOUs since the last look."""

    def said(self, outputs: Iterable[Output]) -> None:
        """Check what was sent."""
        for output in outputs:
            if isinstance(output, Send):
                self._sent(output)

    def shows(self) -> None:
        """Check the view, and what became of the last one; to be called after every step."""
        for group in self.router.view().groups:
            settings = self.settings[group.key]
            consistent(group)
            before = self.before.get(group.key)
            if before is not None:
                follows(before, group, settings)
            self.before[group.key] = group
            usable = {cache.address for cache in group.caches if cache.state is CacheState.USABLE}
            for key, listed in self._listed:
                assert key != group.key or listed <= usable, "an I_SEE_YOU lists a cache that is not usable"
        self._listed.clear()

    def _sent(self, send: Send) -> None:
        message = decode_message(send.datagram)
        assert not message.tolerated, message.tolerated
        settings = self.settings[message.service.key]
        if settings.passwords:
            assert check_digest(send.datagram, settings.passwords[0]), "the digest is wrong"
        else:
            assert not peek_security(send.datagram), "a digest without a password"
        assert send.local in {self.router.settings.router_id, *self.router.settings.addresses}
        match message:
            case ISeeYou():
                receive_id = message.identity.receive_id
                listed = frozenset(each.address for each in message.view.caches)
                self._listed.append((message.service.key, listed))
            case RemovalQuery():
                receive_id = message.query.receive_id
                assert message.query.cache == send.remote
            case HereIAm() | RedirectAssign():
                raise AssertionError(f"a router sent {message}")
        assert 1 <= receive_id <= NUMBERS
        seen = self.receive_ids[message.service.key]
        assert receive_id not in seen, f"Receive ID {receive_id} was used before"
        seen.add(receive_id)


def consistent(group: GroupView) -> None:
    """One view of a group agrees with itself."""
    usable = {cache.address for cache in group.caches if cache.state is CacheState.USABLE}
    assigned = [owner for owner in group.bucket_owners if owner is not None]
    assert len(group.bucket_owners) == 256
    assert set(assigned) <= usable, "a bucket belongs to a cache that is not usable"
    assert sum(cache.buckets for cache in group.caches) == len(assigned)
    for cache in group.caches:
        assert cache.buckets == assigned.count(cache.address)
        assert (cache.usable_since is not None) == (cache.state is CacheState.USABLE)
    assert len(group.caches) <= 32
    assert all(first.address < second.address for first, second in pairwise(group.caches))
    assert (group.definition is None) == (not group.caches)
    assert 1 <= group.change_number <= NUMBERS
    if group.assigned_by is AssignedBy.NOBODY:
        assert not assigned
    if group.designated is not None:
        assert group.designated in usable


def follows(before: GroupView, after: GroupView, settings: ServiceSettings) -> None:
    """A view may come after another one."""
    assert advanced(before.change_number, after.change_number), "the change number fell"
    usable, earlier = (
        {cache.address for cache in group.caches if cache.state is CacheState.USABLE}
        for group in (after, before)
    )
    if usable != earlier:
        assert before.change_number != after.change_number, "members changed, the number did not"
    if settings.policy is not AssignmentPolicy.CACHE and usable and None not in before.bucket_owners:
        assert None not in after.bucket_owners, "buckets fell free while there was a usable cache"


def advanced(before: int, after: int) -> bool:
    """Whether a number stayed or went up, past the wrap from 2^32-1 to 1 if need be."""
    return (after - before) % NUMBERS < NUMBERS // 2
