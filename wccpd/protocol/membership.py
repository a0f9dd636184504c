"""One web-cache's life in one service group.

    first HERE_I_AM -> NEGOTIATING --echo, compatible--> USABLE --silence 30 s--> gone
                           |  ^                            |
                           |  +---- selection fixed        +--SHUTDOWN--> SHUTDOWN --silence--> gone
                           +--echo, incompatible--> INCOMPATIBLE

A cache echoes when a HERE_I_AM carries the Receive ID that we last sent to it (draft 4.3). Only an echo
counts as a sign of life: a cache that cannot read our answers cannot be trusted with traffic.

The form of the I_SEE_YOU is chosen here. Squid 4.17 to 7.6 cannot read a standard one: after two that
were not echoed we send two of the dual-valid form, then two standard ones again, and so on, so that two
lost datagrams do not condemn a correct cache for ever. A form that was echoed is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from wccpd.protocol.answer_limit import AnswerLimit
from wccpd.protocol.capability import Selection
from wccpd.protocol.view import CacheState, Rung
from wccpd.wire.enums import WCCP_PORT

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.identity import WebCacheIdentity
    from wccpd.wire.messages import HereIAm
    from wccpd.wire.reader import IPAddress

Place = tuple["IPv4Address", int]
"""Our address that a HERE_I_AM was sent to, and its source port."""

ATTEMPTS_PER_FORM = 2
"""I_SEE_YOUs of one form that may go unechoed before the other form is tried."""


class Voice(NamedTuple):
    """How a cache speaks, which is how it wants to be answered."""

    service: ServiceInfo
    """The service as it defines it."""
    minor_version: int = 0
    """Minor version of the answers to it."""
    negotiates_timers: bool = False
    """It has shown that it knows the timers of 2.01."""
    password: bytes | None = None
    """The one of the group's that it signs with; while passwords are rotated it knows no other. None: it does not."""

    def __repr__(self) -> str:
        """Without the password, which is nobody's business where members are printed."""
        return f"Voice({self.service!r}, {self.minor_version}, {self.negotiates_timers})"


@dataclass(slots=True)
class Member:
    """What a group remembers of one cache. Owned and changed by `group.Group` alone."""

    address: IPv4Address
    identity: WebCacheIdentity
    """Its Web-Cache Identity element as it sent it: weight and status are redistributed unchanged."""
    voice: Voice
    """How it spoke when it last echoed, or before that when it last spoke at all: what somebody else sends in its
    name must not make the answers such as it cannot read."""
    message: HereIAm | None = None
    """The last HERE_I_AM that was taken whole; the very same object again says nothing new."""
    state: CacheState = CacheState.NEGOTIATING
    selection: Selection = field(default_factory=Selection)
    fault: str = ""
    """Why it is incompatible; empty otherwise."""
    dual_valid: bool = False
    """Send it the dual-valid I_SEE_YOU."""
    unechoed: int = 0
    """I_SEE_YOUs of the present form without an echo."""
    ever_echoed: bool = False
    patience_seconds: float = 30.0
    """While it is not usable: how long it may be silent, by the timers that it selects."""
    expected_ids: tuple[int, ...] = ()
    """Receive IDs that count as an echo, newest first: of the last I_SEE_YOU, and of a REMOVAL_QUERY sent since.
    A Squid never reads the query, so the older one must stay good; so must the one before an answer to somebody who
    spoke in its name, see `sent`."""
    aside_ids: dict[Place, int] = field(default_factory=dict)
    """The last Receive ID that went to each other place than `place`, oldest first; it counts as an echo too."""
    place: Place | None = None
    """From where it last echoed, or before that from where it is taken to speak. What somebody else sends in its
    name from another port must neither divert the answers nor make what the cache itself will echo stale."""
    not_adjacent: str = ""
    """Why it is not offered L2; empty when it is on a segment of ours (draft 4.12.2)."""
    multicast: bool = False
    """It speaks to the group address and is answered there."""
    limit: AnswerLimit = field(default_factory=AnswerLimit)
    aside_limit: AnswerLimit = field(default_factory=AnswerLimit)
    resumed_id: int | None = None
    """After a restart: the last Receive ID known to have been sent; see `is_echo`."""
    routers: tuple[IPAddress, ...] = ()
    """Router IDs in its Cache View."""
    local: IPv4Address | None = None
    """Our address that it talks to (Sent-To of the answers)."""
    port: int = 2048
    last_heard: float = 0.0
    """Any HERE_I_AM of its."""
    last_echo: float = 0.0
    """The last HERE_I_AM that counted."""
    usable_since: float | None = None
    query_sent: bool = False

    @property
    def weight(self) -> int:
        """Its own weight, 0 to 65535; 0 when its identity element carries none."""
        return self.identity.weight

    def is_echo(self, receive_id: int) -> bool:
        """Whether a HERE_I_AM with this Receive ID proves that the cache reads our answers.

        State is saved less often than I_SEE_YOUs are sent, so the first HERE_I_AM after a restart may
        carry an ID somewhat newer than the saved one; it is accepted once, within `RESUME_WINDOW`.
        """
        if receive_id == 0:
            return False
        if receive_id in self.expected_ids or receive_id in self.aside_ids.values():
            return True
        if self.resumed_id is None:
            return False
        return 0 <= receive_id - self.resumed_id <= RESUME_WINDOW

    def sent(self, receive_id: int, accepted: int = 1, *, beside: bool = False) -> None:
        """Note an I_SEE_YOU on its way to the cache.

        Args:
            receive_id: Its Receive ID.
            accepted: How many of the last ones count as an echo.
            beside: It answers a HERE_I_AM that echoed nothing. The cache may be unable to read such an answer, if it
                was not the cache that spoke: then it still echoes the one before.
        """
        kept = self.expected_ids[: accepted - 1]
        if beside and self.ever_echoed:
            kept = (*kept, *self.expected_ids[len(kept) :][-1:])
        self.expected_ids = (receive_id, *kept)
        self.resumed_id = None
        self.unechoed += 1

    def sent_aside(self, receive_id: int, place: Place) -> None:
        """Note an I_SEE_YOU to another place than the one that the cache echoes from."""
        self.aside_ids.pop(place, None)
        self.aside_ids[place] = receive_id
        others = [each for each in self.aside_ids if each[1] != WCCP_PORT]
        if len(others) > MAX_ASIDE:
            del self.aside_ids[others[0]]

    def may_speak_from(self, place: Place) -> bool:
        """Whether a HERE_I_AM from there that echoes nothing is taken for the cache's own.

        Before the first echo WCCP's own port is believed rather than any other, and the group address rather than
        one of ours, so that forgeries from other ports come to nothing.
        """
        if self.place is None or self.place == place:
            return True
        local, port = place
        return not self.ever_echoed and port == WCCP_PORT and (self.place[1] != port or local.is_multicast)

    def limit_at(self, place: Place) -> AnswerLimit:
        """What bounds the answers there: forgeries from elsewhere must not use up the cache's own."""
        own = place == self.place or (place[1] == WCCP_PORT and not self.ever_echoed)
        return self.limit if own else self.aside_limit

    def queried(self, receive_id: int) -> None:
        """Note a REMOVAL_QUERY on its way to the cache."""
        if receive_id not in self.expected_ids:
            self.expected_ids = (receive_id, *self.expected_ids)
        self.query_sent = True

    def echoed(self, now: float) -> None:
        """Note a HERE_I_AM that counts."""
        self.aside_ids.clear()
        self.unechoed = 0
        self.ever_echoed = True
        self.last_echo = now
        self.query_sent = False

    def choose_form(self) -> bool:
        """Switch the form of the next I_SEE_YOU if it is time to; tell whether it was switched."""
        if self.unechoed < ATTEMPTS_PER_FORM or self.ever_echoed:
            return False
        self.dual_valid = not self.dual_valid
        self.unechoed = 0
        return True

    def rung(self, router_assigns: bool) -> Rung:
        """Where the cache stands on the ladder."""
        if router_assigns and self.state is CacheState.USABLE:
            return Rung.ROUTER_ASSIGNS
        return Rung.DUAL_VALID if self.dual_valid else Rung.STANDARD


def by_address(member: Member) -> int:
    """A key to sort by."""
    return int(member.address)


MAX_ASIDE = 4
"""Answers to other ports that may still be echoed: a cache that was restarted on another port needs one. Those to
WCCP's own port, one for each address of ours, are beside them."""
RESUME_WINDOW = 4096
"""Receive IDs past the saved one that a resumed cache may echo: ten minutes of 32 caches at 5 a second."""
