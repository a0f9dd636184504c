"""A web-cache in one service group: what it hears, what it says, and when.

Contract, the same as the router engine's: `receive(datagram, source, now)` and `tick(now)` return outputs,
`next_deadline()` is the only timer, nothing raises on what a peer sends. To be driven by a virtual network or by a
socket, it knows neither. How caches of the field deviate from the drafts is in `profiles`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wccpd.simulator import speech
from wccpd.simulator.assigners import Assigner, make_assigner
from wccpd.simulator.nexus import Nexus
from wccpd.simulator.octets import ReadError, message_type
from wccpd.simulator.profiles import AssignmentHabit, Profile
from wccpd.simulator.readers import ISeeYouReader, make_reader
from wccpd.simulator.timers import CacheTimers, select
from wccpd.wire.enums import AssignmentMethod, MessageType
from wccpd.wire.errors import WireError
from wccpd.wire.messages import RemovalQuery, decode_message
from wccpd.wire.security import check_digest, peek_security

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.simulator.heard import Heard
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.messages import HereIAm, RedirectAssign

GOODBYE_SECONDS = 1.0
GOODBYES = 3
"""HERE_I_AMs with SHUTDOWN, 1 s apart, until every router has acknowledged it."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram to send to UDP port 2048 of a router."""

    datagram: bytes
    destination: IPv4Address
    source_port: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A datagram that the cache made nothing of."""

    reason: str
    source: IPv4Address


@dataclass(frozen=True, slots=True)
class Stopped:
    """The cache will say nothing more."""

    reason: str


CacheOutput = Transmit | Ignored | Stopped


@dataclass(slots=True)
class SimulatedCache:
    """One cache in one group."""

    profile: Profile
    address: IPv4Address
    service: ServiceInfo
    routers: tuple[IPv4Address, ...]
    """Addresses of the routers, as an operator configures them."""
    password: bytes | None = None
    """1 to 8 octets."""
    weight: int = 10000
    """0 to 65535."""
    group_address: IPv4Address | None = None
    """Multicast address at which it meets the routers instead of speaking to each of them."""
    starts_at: float = 0.0
    """When it says its first HERE_I_AM."""
    stopped: str = ""
    """Why it is silent for good; empty while it lives."""
    timers: CacheTimers = field(init=False, default=CacheTimers())
    nexuses: list[Nexus] = field(init=False)
    _reader: ISeeYouReader = field(init=False)
    _assigner: Assigner = field(init=False)
    _next_hello: float = field(init=False)
    _last_hello: float = field(init=False)
    _answers: list[tuple[float, Transmit]] = field(init=False, default_factory=list)
    """Later answers to REMOVAL_QUERYs."""
    _view_number: int = field(init=False, default=1)
    _goodbyes: int | None = field(init=False, default=None)
    """Goodbyes left to say; None while it does not leave."""

    def __post_init__(self) -> None:
        self.nexuses = [Nexus(router) for router in self.routers]
        self._reader = make_reader(self.profile.reader, self.service, self.address, self.assignment)
        self._assigner = make_assigner(self.profile, self.address)
        self._next_hello = self._last_hello = self.starts_at

    @property
    def assignment(self) -> AssignmentMethod:
        """Its method: hash unless its profile selects another."""
        return self.profile.selects.assignment or AssignmentMethod.HASH

    def receive(self, datagram: bytes, source: IPv4Address, now: float) -> tuple[CacheOutput, ...]:
        """Take a datagram from a router.

        Args:
            datagram: What arrived.
            source: Its source address.
            now: Seconds, never going back.
        """
        if self.stopped:
            return ()
        try:
            match message_type(datagram):
                case MessageType.I_SEE_YOU:
                    return self._i_see_you(datagram, source, now)
                case MessageType.REMOVAL_QUERY if self.profile.query_answers:
                    return self._removal_query(datagram, now)
                case number:
                    return (Ignored(f"message type {number}", source),)
        except ReadError as error:
            return (Ignored(str(error), source),)

    def tick(self, now: float) -> tuple[CacheOutput, ...]:
        """Do what is due."""
        if self.stopped:
            return ()
        outputs: list[CacheOutput] = [transmit for due, transmit in self._answers if due <= now]
        self._answers = [(due, transmit) for due, transmit in self._answers if due > now]
        if self._assigner.due_at is not None and self._assigner.due_at <= now:
            self._forget_silent(now)
            if self._assigner.due():
                everybody = self.nexuses if self.profile.lists_unheard_routers else self._live()
                # At a group address one message, which lists all routers, reaches all of them.
                one = everybody[:1] if self.group_address is not None else everybody
                outputs += [self._assign(nexus, now) for nexus in one]
        if self._next_hello <= now:
            self._forget_silent(now)
            outputs += self._hello(now) if self._goodbyes is None else self._goodbye(now)
        return tuple(outputs)

    def next_deadline(self) -> float | None:
        """When `tick` next has something to do; None once it stopped."""
        if self.stopped:
            return None
        deadlines = [self._next_hello, *(due for due, _ in self._answers)]
        if self._assigner.due_at is not None:
            deadlines.append(self._assigner.due_at)
        return min(deadlines)

    def leave(self, now: float) -> tuple[CacheOutput, ...]:
        """Stop: with SHUTDOWN where the profile says so, else without a word."""
        if self.stopped:
            return ()
        if not self.profile.says_goodbye:
            return self._stop("left")
        self._answers.clear()
        self._assigner.due_at = None
        self._goodbyes = GOODBYES
        return tuple(self._goodbye(now))

    # -- hearing -------------------------------------------------------------------------------------

    def _i_see_you(self, datagram: bytes, source: IPv4Address, now: float) -> tuple[CacheOutput, ...]:
        heard = self._reader.read(datagram)
        self._authenticate(datagram)
        nexus = self._nexus(heard, source)
        self._forget_silent(now)
        nexus.router_id, nexus.receive_id, nexus.last_heard = heard.router_id, heard.receive_id, now
        nexus.offer = heard.offer
        if self.profile.minor_version:
            self._select_timers(heard)
        if self._refused(heard):
            return self._stop("the router does not offer what it selected")
        if heard.view is None:
            return (Ignored(heard.fault, source),)
        if nexus.view is None or nexus.view.caches != heard.view.caches:
            self._view_number += 1
        nexus.view = heard.view
        if heard.shutdown_acknowledged and self._goodbyes is not None:
            nexus.goodbye_acknowledged = True
            if all(each.goodbye_acknowledged for each in self._live()):
                return self._stop("left, acknowledged")
        if self._goodbyes is None and self._assigner.heard(nexus, self._live(), now):
            return (self._assign(nexus, now),)
        return ()

    def _removal_query(self, datagram: bytes, now: float) -> tuple[CacheOutput, ...]:
        """Answer with identical HERE_I_AMs 1 s apart; the Receive ID of the query is the one to echo."""
        try:
            message = decode_message(datagram)
        except WireError as error:
            raise ReadError(str(error)) from None
        assert isinstance(message, RemovalQuery)
        self._authenticate(datagram)
        if message.query.cache != self.address or message.service.key != self.service.key:
            raise ReadError("a REMOVAL_QUERY for another cache")
        nexus = next((each for each in self.nexuses if each.router_id == message.query.router_id), None)
        if nexus is None:
            raise ReadError("a REMOVAL_QUERY of an unknown router")
        nexus.receive_id = message.query.receive_id
        answer = self._transmit(self._here_i_am(), nexus)
        self._answers += [
            (now + self.timers.query_answer_seconds * turn, answer)
            for turn in range(1, self.profile.query_answers)
        ]
        return (answer,)

    def _authenticate(self, datagram: bytes) -> None:
        if self.password is None:
            if peek_security(datagram):
                raise ReadError("a digest that it does not expect")
        elif not check_digest(datagram, self.password, self.profile.key_variant):
            raise ReadError("failed authentication")

    def _nexus(self, heard: Heard, source: IPv4Address) -> Nexus:
        """Which router speaks: by source address, for Traffic Server by what it says of itself."""
        if self.profile.follows_router_id or self.group_address is not None:
            return self._nexus_by_router_id(heard.router_id, source)
        for nexus in self.nexuses:
            if nexus.configured == source:
                return nexus
        raise ReadError("packet received from unknown router")

    def _select_timers(self, heard: Heard) -> None:
        """Run at what was agreed; a shorter interval counts from now on."""
        before = self.timers
        self.timers = self._assigner.timers = select(self.profile, heard, before)
        if self.timers != before and self._goodbyes is None:
            sooner = self._last_hello + self.timers.here_i_am_seconds
            self._next_hello = min(self._next_hello, sooner)

    def _nexus_by_router_id(self, router_id: IPv4Address, source: IPv4Address) -> Nexus:
        for nexus in self.nexuses:
            if nexus.router_id == router_id or (nexus.router_id is None and nexus.configured == source):
                return nexus
        # Traffic Server learns further routers from I_SEE_YOUs.
        learnt = Nexus(router_id)
        self.nexuses.append(learnt)
        return learnt

    def _refused(self, heard: Heard) -> bool:
        """Squid: whether the offer lacks a bit that it selected."""
        if not self.profile.quits_without_offer or heard.offer is None:
            return False
        return any(
            not offered & speech.selected(self.profile.selects, kind) for kind, offered in heard.offer.items()
        )

    def _live(self) -> list[Nexus]:
        """Routers whose view is known."""
        return [nexus for nexus in self.nexuses if nexus.view is not None]

    def _forget_silent(self, now: float) -> None:
        if self.profile.forgets_silent_routers:
            for nexus in self.nexuses:
                if nexus.last_heard is not None and now >= nexus.last_heard + self.timers.silence_seconds:
                    nexus.forget()

    # -- speaking ------------------------------------------------------------------------------------

    def _hello(self, now: float) -> list[CacheOutput]:
        self._last_hello = now
        self._next_hello = now + self.timers.here_i_am_seconds
        outputs: list[CacheOutput] = []
        message = self._here_i_am()
        if self.group_address is not None:
            return [self._to_group(message)]
        for nexus in self.nexuses:
            outputs.append(self._transmit(message, nexus))
            if self.profile.assigns is AssignmentHabit.OPENNOP and nexus.view is not None:
                outputs.append(self._assign(nexus, now))
        return outputs

    def _goodbye(self, now: float) -> list[CacheOutput]:
        if not self._goodbyes or not self._live():
            return list(self._stop("left"))
        self._goodbyes -= 1
        self._next_hello = now + GOODBYE_SECONDS
        message = self._here_i_am(shutdown=True)
        if self.group_address is not None:
            return [self._to_group(message)]
        return [self._transmit(message, each) for each in self._live() if not each.goodbye_acknowledged]

    def _stop(self, reason: str) -> tuple[Stopped]:
        self.stopped = reason
        return (Stopped(reason),)

    def _here_i_am(self, *, shutdown: bool = False) -> HereIAm:
        return speech.here_i_am(self, view_number=self._view_number, shutdown=shutdown)

    def _assign(self, nexus: Nexus, now: float) -> Transmit:
        """A REDIRECT_ASSIGN to one router, listing all of them."""
        if self.profile.assigns is AssignmentHabit.OPENNOP:
            self._assigner.key_number += 1
        nexus.assigned_at = now
        parties = self._assigner.parties(nexus.view, self._live()) if nexus.view is not None else ()
        return self._transmit(
            speech.redirect_assign(self, self._assigner.key_number, parties, self._assigner.buckets(parties)),
            nexus,
        )

    def _to_group(self, message: HereIAm | RedirectAssign) -> Transmit:
        assert self.group_address is not None
        datagram = speech.signed(message, self.password, self.profile.key_variant)
        return Transmit(datagram, self.group_address, self.profile.source_port)

    def _transmit(self, message: HereIAm | RedirectAssign, nexus: Nexus) -> Transmit:
        if self.group_address is not None:
            return self._to_group(message)
        follows = self.profile.follows_router_id and nexus.router_id is not None
        destination = nexus.router_id if follows and nexus.router_id is not None else nexus.configured
        datagram = speech.signed(message, self.password, self.profile.key_variant)
        return Transmit(datagram, destination, self.profile.source_port)
