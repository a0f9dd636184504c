"""The engine: every service group of one router.

Contract. `receive(datagram, source, source_port, local, now)` and `tick(now)` return tuples of outputs;
`next_deadline()` is the only timer; `view()` is frozen. Datagrams must be given in the order in which they
arrived, and what `receive` says must be sent before the next one is given: a cache may use the Receive ID of
an answer that is still on its way. Remote bytes never make it raise: a refusal is an output with a reason.

The order of checks is cheap and harmless first: framing, service, group list, digest, then the rest of the
message, and only then the state of the group.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple, assert_never

from wccpd.protocol import answers
from wccpd.protocol.group import Group, next_number
from wccpd.protocol.outputs import CacheLost, Fault, Output, Refusal, Refused, Send
from wccpd.protocol.readout import group_view
from wccpd.protocol.reconfigure import changes
from wccpd.protocol.repeats import Repeats, receive_id, signers
from wccpd.protocol.view import CacheState, RouterView
from wccpd.wire.enums import WCCP_PORT
from wccpd.wire.errors import WireError
from wccpd.wire.identity import MAX_IDENTITY_OCTETS
from wccpd.wire.messages import (
    HereIAm,
    ISeeYou,
    RedirectAssign,
    RemovalQuery,
    decode_message,
    encode_message,
    peek_service,
)
from wccpd.wire.security import check_digest, matching_key_variant, peek_security
from wccpd.wire.template import AnswerTemplate

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.protocol.membership import Member, Voice
    from wccpd.protocol.settings import EngineSettings, ServiceSettings
    from wccpd.wire.elements import ServiceKey


_Form = tuple["ServiceKey", bool, int, bool, bool, int, bytes | None]
"""Group, dual-valid or not, minor version, with timers or not, with L2 or not, the cache's own priority, password."""


class _Origin(NamedTuple):
    """Where a datagram came from and which of our addresses it was sent to."""

    address: IPv4Address
    port: int
    local: IPv4Address


class Router:
    """All service groups; see the module's contract."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._addresses = frozenset((settings.router_id, *settings.addresses))
        self._ended: dict[ServiceKey, tuple[int, int]] = {}
        """Change number and Receive ID of groups that were configured once: they must not begin anew."""
        self.groups: dict[ServiceKey, Group] = {
            service.key: self._new_group(service) for service in settings.services
        }
        self._repeats = Repeats()
        self._templates: dict[_Form, tuple[tuple[object, ...], AnswerTemplate]] = {}
        """The last answer of each group and form, with what it showed."""

    def reconfigure(self, settings: EngineSettings, now: float) -> tuple[Output, ...]:
        """Take new settings; who has to leave because of them is said (`reconfigure.changes`), all else stays.

        Args:
            settings: All of them. `first_number` counts for groups that were never configured before.
            now: Monotonic time in seconds.
        """
        events: list[Output] = []
        leaving = {each.service: each.leaving for each in changes(self.groups, self.settings, settings)}
        before, self.groups = self.groups, {}
        self.settings, self._addresses = settings, frozenset((settings.router_id, *settings.addresses))
        for service in settings.services:
            group = before.pop(service.key, None)
            if group is None:
                group = self._new_group(service)
            else:
                events += group.reconfigure(service, settings, leaving.get(service.key, {}), now)
            self.groups[service.key] = group
        for key, group in before.items():
            events += (CacheLost(key, address, reason) for address, reason in leaving[key].items())
            self._ended[key] = group.change_number, group.receive_id
        # Both hold what was read or written under the old settings.
        self._repeats = Repeats()
        self._templates.clear()
        return tuple(events)

    def prospect(self, settings: EngineSettings, now: float) -> RouterView:
        """The picture that `reconfigure` would make; nothing is changed."""
        trial = copy.copy(self)
        trial.groups = {key: group.twin() for key, group in self.groups.items()}
        trial._ended, trial._templates = dict(self._ended), {}
        trial.reconfigure(settings, now)
        return trial.view()

    def _new_group(self, service: ServiceSettings) -> Group:
        settings = self.settings
        made = Group(service, settings.router_id, self._addresses, settings.first_number, settings.adjacent)
        if service.key in self._ended:
            made.change_number, made.receive_id = map(next_number, self._ended.pop(service.key))
        return made

    def receive(
        self, datagram: bytes, source: IPv4Address, source_port: int, local: IPv4Address, now: float
    ) -> tuple[Output, ...]:
        """Take one datagram from UDP port 2048.

        Args:
            datagram: What arrived.
            source: Its source address, to which the answer goes.
            source_port: Its source port, 1 to 65535.
            local: The address of ours that it was sent to, from which the answer goes.
            now: Monotonic time in seconds.
        """
        origin = _Origin(source, source_port, local)
        repeated = self._repeats.find(datagram, source)
        if repeated is not None:
            group = self.groups[repeated.service]
            for password in signers(datagram, repeated.places, group.settings.passwords):
                echoed = receive_id(datagram, repeated.places)
                return self._here_i_am(repeated.message, echoed, password, group, origin, now)
        return self._receive_new(datagram, origin, now)

    def _receive_new(self, datagram: bytes, origin: _Origin, now: float) -> tuple[Output, ...]:
        """Take a datagram that has to be read."""
        source = origin.address
        try:
            service = peek_service(datagram)
        except WireError as error:
            return (Refused(error.reason, source, None, str(error)),)
        group = self.groups.get(service.key)
        if group is None:
            unknown = Fault(Refusal.UNKNOWN_SERVICE, "the service is not configured")
            return _refused(unknown, origin, service.key)
        password = _password(datagram, source, group.settings)
        if isinstance(password, Fault):
            return _refused(password, origin, service.key)
        try:
            message = decode_message(datagram)
        except WireError as error:
            return (Refused(error.reason, source, service.key, str(error)),)
        if isinstance(message, HereIAm):
            return self._take_here_i_am(datagram, message, password, group, origin, now)
        return self._take(message, group, origin, now)

    def tick(self, now: float) -> tuple[Output, ...]:
        """Do what is due; call it at `next_deadline()` or later."""
        outputs: list[Output] = []
        for group in self.groups.values():
            deadline = group.next_deadline()
            if deadline is None or now < deadline:
                continue
            outputs += group.expire(now)
            for member, query in group.queries(now):
                if member.local is not None:
                    datagram = encode_message(query, password=member.voice.password)
                    outputs.append(Send(datagram, member.local, member.address, member.port))
            for batch in group.multicast(now):
                outputs.append(self._answer_all(group, batch))
        return tuple(outputs)

    def next_deadline(self) -> float | None:
        """When `tick` next has something to do; None when nothing is pending."""
        deadlines = [group.next_deadline() for group in self.groups.values()]
        return min([deadline for deadline in deadlines if deadline is not None], default=None)

    def view(self) -> RouterView:
        """A frozen picture of everything."""
        return RouterView(tuple(group_view(group) for group in self.groups.values()))

    def _answer_all(self, group: Group, members: tuple[Member, ...]) -> Send:
        """One I_SEE_YOU to the group address for all who meet there (draft 4.1)."""
        assert group.settings.group_address is not None
        group.sends(*members)
        voice = members[0].voice
        oldest = min(member.voice.minor_version for member in members)
        datagram = encode_message(
            answers.i_see_you(group, members, voice._replace(minor_version=oldest)),
            password=voice.password,
            dual_valid=members[0].dual_valid,
        )
        return Send(datagram, self.settings.router_id, group.settings.group_address, WCCP_PORT)

    def _take(
        self, message: RedirectAssign | ISeeYou | RemovalQuery, group: Group, origin: _Origin, now: float
    ) -> tuple[Output, ...]:
        match message:
            case RedirectAssign():
                taken = group.redirect_assign(message, origin.address, now)
                return _refused(taken, origin, group.settings.key) if isinstance(taken, Fault) else taken
            case ISeeYou() | RemovalQuery():
                fault = Fault(Refusal.UNEXPECTED_MESSAGE, f"a router does not take {message}")
                return _refused(fault, origin, group.settings.key)
            case _:
                assert_never(message)

    def _take_here_i_am(
        self,
        datagram: bytes,
        message: HereIAm,
        password: bytes | None,
        group: Group,
        origin: _Origin,
        now: float,
    ) -> tuple[Output, ...]:
        fault = self._identity_fault(message, origin)
        if fault is not None:
            return _refused(fault, origin, group.settings.key)
        rows = group.own_rows(message)
        if len(rows) == 1:
            self._repeats.remember(datagram, origin.address, message, rows[0])
        echoed = group.echoed(message, rows, origin.address)
        return self._here_i_am(message, echoed, password, group, origin, now)

    def _here_i_am(
        self,
        message: HereIAm,
        echoed: int,
        password: bytes | None,
        group: Group,
        origin: _Origin,
        now: float,
    ) -> tuple[Output, ...]:
        admitted = group.admit(message, password, origin.address, now)
        if isinstance(admitted, Fault):
            return _refused(admitted, origin, group.settings.key)
        member, voice, seen = admitted
        place = origin.local, origin.port
        group_address = group.settings.group_address
        at_group_address = group_address is not None and origin.local == group_address
        echoes = member.is_echo(echoed)
        aside = not echoes and not member.may_speak_from(place)
        if not aside:
            member.place = place
            member.multicast = at_group_address
            member.local = self.settings.router_id if member.multicast else origin.local
            member.port = origin.port
        events = group.here_i_am(message, member, voice, now, echoes=echoes, aside=aside)
        if at_group_address:
            return (*seen, *events)
        withheld = group.withheld_answer(member, place, now)
        if withheld is not None:
            return (*seen, *events, *_refused(withheld, origin, group.settings.key))
        if aside:
            group.sends_aside(member, place)
        else:
            group.sends(member, beside=not echoes)
        return (*seen, *events, self._answer(group, member, voice, origin))

    def _answer(self, group: Group, member: Member, voice: Voice, origin: _Origin) -> Send:
        """The I_SEE_YOU, to the exact source and from the very address that was asked."""
        if member.state is CacheState.SHUTDOWN:
            message = answers.i_see_you(group, (member,), voice)
            datagram = encode_message(message, password=voice.password, dual_valid=member.dual_valid)
            return Send(datagram, origin.local, origin.address, origin.port)
        form = (
            group.settings.key,
            member.dual_valid,
            voice.minor_version,
            voice.negotiates_timers,
            not member.not_adjacent,
            voice.service.priority,
            voice.password,
        )
        shown = group.shown(voice)
        cached = self._templates.get(form)
        if cached is None or cached[0] != shown:
            message = answers.i_see_you(group, (member,), voice)
            template = AnswerTemplate(message, password=voice.password, dual_valid=member.dual_valid)
            cached = self._templates[form] = shown, template
        datagram = cached[1].fill(group.receive_id, origin.local, member.address)
        return Send(datagram, origin.local, origin.address, origin.port)

    def _identity_fault(self, message: HereIAm, origin: _Origin) -> Fault | None:
        address = message.identity.address
        if (
            address in self._addresses
            or address.is_multicast
            or address.is_unspecified
            or address.is_reserved
            or (address.is_loopback and not origin.local.is_loopback)
        ):
            return Fault(Refusal.BAD_CACHE_ADDRESS, f"{address} cannot be a cache")
        if address != origin.address:
            return Fault(Refusal.SOURCE_MISMATCH, f"it says it is {address}: NAT or a forged identity")
        if message.shutdown is not None and message.shutdown != address:
            return Fault(Refusal.COMMAND_ADDRESS_MISMATCH, f"its SHUTDOWN names {message.shutdown}")
        if (octets := message.identity.octets) > MAX_IDENTITY_OCTETS:
            detail = (
                f"its identity element has {octets} octets, others are shown at most {MAX_IDENTITY_OCTETS}"
            )
            return Fault(Refusal.IDENTITY_TOO_LONG, detail)
        return None


def _refused(fault: Fault, origin: _Origin, service: ServiceKey) -> tuple[Output, ...]:
    return (Refused(fault.reason, origin.address, service, fault.detail),)


def _password(datagram: bytes, source: IPv4Address, settings: ServiceSettings) -> Fault | bytes | None:
    """The password that a datagram is signed with, or why the sender may not speak to this group at all."""
    if settings.group_list and not any(source in network for network in settings.group_list):
        return Fault(Refusal.NOT_IN_GROUP_LIST, f"{source} is not in the group list")
    for password in settings.passwords:
        if check_digest(datagram, password):
            return password
    signed = peek_security(datagram)
    if not settings.passwords:
        unexpected = Fault(
            Refusal.AUTHENTICATION_UNEXPECTED, "it sends an MD5 digest, the service has no password here"
        )
        return unexpected if signed else None
    if not signed:
        return Fault(
            Refusal.AUTHENTICATION_MISSING, "it sends no MD5 digest, the service has a password here"
        )
    return _digest_fault(datagram, settings.passwords)


def _digest_fault(datagram: bytes, passwords: tuple[bytes, ...]) -> Fault:
    """What is wrong with a digest that does not match: Squids of some versions make the key differently."""
    for password in passwords:
        variant = matching_key_variant(datagram, password)
        if variant is not None:
            detail = f"the password is right, its MD5 key is not: {variant.explanation}"
            return Fault(Refusal.AUTHENTICATION_WRONG, detail)
    return Fault(Refusal.AUTHENTICATION_WRONG, "wrong password")
