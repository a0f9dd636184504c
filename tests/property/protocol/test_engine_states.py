"""The engine under any order of messages, time and restarts: the invariants hold after each step.

WCCPD_PROPERTY_EXAMPLES asks for more examples than the suite has time for, then drawn at random.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.scenario.invariants import Watch, is_full, usable
from wccpd.protocol.outputs import Output, Refused, Send
from wccpd.protocol.reconfigure import changes
from wccpd.protocol.record import dump
from wccpd.protocol.resume import restore
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, EngineSettings, OnLoss, ServiceSettings
from wccpd.protocol.view import GroupView
from wccpd.wire.assignments import AlternateAssignment, AssignmentInfo, AssignmentMap, HashBuckets
from wccpd.wire.components import CacheView, Capabilities, CommandExtension, ServiceInfo
from wccpd.wire.elements import AssignmentKey, Command, RouterAssignment, RouterIdReceiveId, TransmitT
from wccpd.wire.enums import (
    AssignmentMethod,
    CommandType,
    ForwardingMethod,
    PacketReturnMethod,
    ServiceFlags,
)
from wccpd.wire.identity import HashAssignment, MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import Mask, MaskValueSet, Value
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, decode_message, encode_message

ROUTER = IPv4Address("10.0.0.1")
ASKED = IPv4Address("10.0.0.2")
CACHES = tuple(IPv4Address("10.0.1.1") + number for number in range(4))
STRANGER = IPv4Address("10.9.9.9")
PASSWORD = b"property"
ANY = IPv4Address(0)
FLAGS = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED
BOTH = AssignmentMethod.HASH | AssignmentMethod.MASK
SERVICES = (
    ServiceInfo.web_cache(),
    ServiceInfo.dynamic(70, 100, 6, FLAGS, (443,)),
    ServiceInfo.dynamic(80, 100, 17, FLAGS, (53,)),
)
GROUPS = (
    ServiceSettings(SERVICES[0].key, (PASSWORD, b"former"), assignment=BOTH),
    ServiceSettings(SERVICES[1].key, policy=AssignmentPolicy.ROUTER, assignment=BOTH),
    ServiceSettings(SERVICES[2].key, (PASSWORD,), policy=AssignmentPolicy.CACHE),
)
HASH = Capabilities(
    forwarding=ForwardingMethod.GRE, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.GRE
)
MASK = replace(HASH, assignment=AssignmentMethod.MASK)
L2 = replace(HASH, forwarding=ForwardingMethod.L2)
SELECTIONS = (
    HASH,
    None,
    MASK,
    L2,
    replace(HASH, assignment=BOTH),
    replace(HASH, transmit_t=TransmitT(0, 2000)),
)
VARIANTS: tuple[dict[str, object], ...] = (
    {"policy": AssignmentPolicy.AUTO},
    {"policy": AssignmentPolicy.CACHE},
    {"policy": AssignmentPolicy.ROUTER},
    {"on_loss": OnLoss.LEAVE},
    {"on_loss": OnLoss.COVER},
    {"passwords": (b"another", PASSWORD)},
    {"passwords": ()},
    {"assignment": AssignmentMethod.HASH},
    {"assignment": BOTH, "forwarding": ForwardingMethod.GRE | ForwardingMethod.L2},
    {"forwarding": ForwardingMethod.GRE},
)
"""Settings that may be changed, one group at a time."""
WEIGHTS = (0, 1, 100, 10000, 65535)
ECHOES = ("last", "last", "zero", "old", "future", "absent", "another's")
FARMS = (CACHES, CACHES, CACHES[:2], CACHES[1:3], CACHES[:1])
PAUSES = (0.0, 0.1, 5.0, 5.0, 10.0, 16.0, 26.0, 31.0, 60.0)

services = st.integers(0, len(SERVICES) - 1)
caches = st.sampled_from(CACHES)


@dataclass
class Heard:
    """What a cache knows from the last answer to it."""

    receive_id: int = 0
    change_number: int = 0
    capabilities: Capabilities | None = HASH
    weight: int = 100


EXTRA_SEED = int(os.environ.get("WCCPD_WALK_SEED", "0"))
"""Where the seeds of the long walks begin."""


class EngineMachine(RuleBasedStateMachine):
    @initialize(first_number=st.sampled_from([1, 70000, 0xFFFFFFF0, 0xFFFFFFFF]))
    def start(self, first_number: int) -> None:
        self.settings = EngineSettings(ROUTER, (ROUTER, ASKED), GROUPS, first_number)
        self.router = Router(self.settings)
        self.watch = Watch(self.router)
        self.now = 1000.0
        self.heard: dict[tuple[int, IPv4Address], Heard] = {}
        self.history: list[tuple[bytes, IPv4Address]] = []

    # What caches do

    @rule(
        service=services,
        cache=caches,
        echo=st.sampled_from(ECHOES),
        selection=st.sampled_from(SELECTIONS),
        weight=st.sampled_from(WEIGHTS),
        shutdown=st.sampled_from([False, False, False, True]),
        minor_version=st.integers(0, 1),
    )
    def here_i_am(
        self,
        service: int,
        cache: IPv4Address,
        echo: str,
        selection: Capabilities | None,
        weight: int,
        shutdown: bool,
        minor_version: int,
    ) -> None:
        known = self.heard.setdefault((service, cache), Heard())
        known.capabilities, known.weight = selection, weight
        self.hello(service, cache, self.echoed(service, cache, echo), shutdown, minor_version)

    @rule(service=services, rounds=st.integers(2, 4), known=st.sampled_from(FARMS))
    def live(self, service: int, rounds: int, known: tuple[IPv4Address, ...]) -> None:
        """Some caches behave, 10 s after 10 s."""
        for _ in range(rounds):
            self.pause(9.0)
            for cache in known:
                self.heard.setdefault((service, cache), Heard())
                self.hello(service, cache, self.echoed(service, cache, "last"))

    @precondition(lambda self: any(usable(group) for group in self.router.view().groups))
    @rule(
        pick=st.integers(0, 2),
        turn=st.integers(0, 5),
        sharers=st.sets(caches),
        mask=st.sampled_from([False, False, True]),
        stale=st.sampled_from(["", "", "number", "id"]),
        fresh=st.booleans(),
    )
    def redirect_assign(
        self, pick: int, turn: int, sharers: set[IPv4Address], mask: bool, stale: str, fresh: bool
    ) -> None:
        """An assignment that gives everything away, to usable caches if the sender is up to date."""
        choice = [each for each in range(3) if usable(self.group(each))]
        service = choice[pick % len(choice)]
        members = usable(self.group(service))
        cache = members[turn % len(members)] if turn < 5 else CACHES[0]
        if fresh:
            self.heard.setdefault((service, cache), Heard())
            self.hello(service, cache, self.echoed(service, cache, "last"))
        known = self.heard.get((service, cache), Heard())
        change_number = known.change_number + (stale == "number")
        receive_id = known.receive_id - (stale == "id" and known.receive_id > 0)
        listed = sorted(sharers & set(usable(self.group(service)))) or [cache]
        message = assignment(service, cache, listed, receive_id, change_number, mask=mask)
        before = self.group(service)
        outputs = self.give(self.datagram(service, message), cache)
        refused = [output for output in outputs if isinstance(output, Refused)]
        if stale:
            assert refused
        if refused:
            assert self.group(service) == before, "a refused assignment changed something"

    # What strangers do

    @rule(octets=st.binary(max_size=64), source=st.sampled_from([*CACHES, STRANGER]))
    def garbage(self, octets: bytes, source: IPv4Address) -> None:
        before = self.router.view()
        outputs = self.give(octets, source)
        assert all(isinstance(output, Refused) for output in outputs)
        assert self.router.view() == before

    @precondition(lambda self: self.history)
    @rule(
        pick=st.integers(0, 49),
        cut=st.integers(0, 60),
        flip=st.integers(0, 2000),
        bit=st.integers(0, 7),
        stolen=st.booleans(),
    )
    def damaged(self, pick: int, cut: int, flip: int, bit: int, stolen: bool) -> None:
        """Something like a message, from somebody."""
        datagram, source = self.history[pick % len(self.history)]
        octets = bytearray(datagram)
        octets[flip % len(octets)] ^= 1 << bit
        self.give(bytes(octets[: len(octets) - cut]), STRANGER if stolen else source)

    @precondition(lambda self: self.history)
    @rule(pick=st.integers(0, 49))
    def replayed(self, pick: int) -> None:
        self.give(*self.history[pick % len(self.history)])

    @precondition(lambda self: self.history)
    @rule(pick=st.integers(0, 49))
    def stolen(self, pick: int) -> None:
        """A cache's own message from another address changes nothing."""
        datagram, _ = self.history[pick % len(self.history)]
        before = self.router.view()
        outputs = self.give(datagram, STRANGER)
        assert all(isinstance(output, Refused) for output in outputs)
        assert self.router.view() == before

    # What time and the operator do

    @rule(seconds=st.sampled_from(PAUSES))
    def pause(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.router.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            before = deadline
            self.take(self.router.tick(self.now))
            assert self.router.next_deadline() != before, "a deadline that ticking does not move"
        self.now = until

    @rule(seconds=st.sampled_from(PAUSES))
    def oversleep(self, seconds: float) -> None:
        """The shell comes late, or for nothing."""
        self.now += seconds
        self.take(self.router.tick(self.now))

    @rule()
    def restart(self) -> None:
        state = json.loads(json.dumps(dump(self.router)))
        shares = [usable(group) for group in self.router.view().groups]
        self.router = Router(self.settings)
        restore(self.router, state, self.now)
        self.watch.router = self.router
        assert [usable(group) for group in self.router.view().groups] == shares
        self.watch.shows()

    @rule(service=services, variant=st.integers(0, 9))
    def reconfigure(self, service: int, variant: int) -> None:
        """Other settings of one group; every cache of ours may go on speaking to it."""
        key = self.settings.services[service].key
        before = self.group(service)
        changed = replace(self.settings.services[service], **VARIANTS[variant % len(VARIANTS)])
        services = tuple(changed if each.key == key else each for each in self.settings.services)
        self.configure(services)
        after = self.group(service)
        foretold = {address for address, _ in self.foretold.get(key, {}).items()}
        assert {cache.address for cache in before.caches} - foretold == {
            cache.address for cache in after.caches
        }
        assert set(usable(before)) - foretold == set(usable(after))

    @rule(service=services)
    def remove_and_add(self, service: int) -> None:
        """A group that comes again has nobody, and goes on with its numbers."""
        services = self.settings.services
        before = self.group(service)
        self.configure((*services[:service], *services[service + 1 :]))
        self.configure(services)
        after = self.group(service)
        assert after.caches == ()
        assert after.change_number != before.change_number

    def configure(self, services: tuple[ServiceSettings, ...]) -> None:
        wanted = replace(self.settings, services=services)
        self.foretold = {
            each.service: each.leaving for each in changes(self.router.groups, self.settings, wanted)
        }
        self.settings = wanted
        self.take(self.router.reconfigure(wanted, self.now))
        assert changes(self.router.groups, self.settings, wanted) == ()

    def teardown(self) -> None:
        """With policy auto or router, a minute of caches that behave ends with everything assigned."""
        if not hasattr(self, "watch"):
            return
        self.configure(GROUPS)
        for service in (0, 1):
            members = usable(self.group(service))
            for _ in range(6):
                self.pause(10.0 - 0.25 * len(members))
                for cache in members:
                    self.hello(service, cache, self.echoed(service, cache, "last"))
            if usable(self.group(service)):
                assert is_full(self.group(service)), f"{SERVICES[service].key} is not assigned"

    # How

    def group(self, service: int) -> GroupView:
        return self.router.view().groups[service]

    def echoed(self, service: int, cache: IPv4Address, echo: str) -> int | None:
        known = self.heard.get((service, cache), Heard())
        match echo:
            case "last":
                return known.receive_id
            case "zero":
                return 0
            case "old":
                return max(known.receive_id - 1, 0)
            case "future":
                return min(known.receive_id + 1000, 0xFFFFFFFF)
            case "another's":
                ids = [each.receive_id for (group, _), each in self.heard.items() if group == service]
                return max(ids, default=0)
            case _:
                return None

    def hello(
        self,
        service: int,
        cache: IPv4Address,
        receive_id: int | None,
        shutdown: bool = False,
        minor_version: int = 0,
    ) -> None:
        """A sound HERE_I_AM: whatever it says and whatever came before, it is answered once, to the sender."""
        self.now += 0.25  # no more than the limit for answers to one cache
        known = self.heard[service, cache]
        masks = known.capabilities is not None and known.capabilities.assignment == AssignmentMethod.MASK
        data = MaskAssignment((), known.weight) if masks else HashAssignment(weight=known.weight)
        rows = () if receive_id is None else (RouterIdReceiveId(ROUTER, receive_id),)
        command = CommandExtension((Command(CommandType.SHUTDOWN, cache),)) if shutdown else None
        message = HereIAm(
            service=SERVICES[service],
            minor_version=minor_version,
            identity=WebCacheIdentity(cache, data),
            view=CacheView.of(1, (RouterIdReceiveId(STRANGER, 7), *rows), ()),
            capabilities=known.capabilities,
            commands=command,
        )
        outputs = self.give(self.datagram(service, message), cache)
        answers = [output for output in outputs if isinstance(output, Send)]
        assert len(answers) == 1, f"{len(answers)} answers: {outputs}"
        assert not any(isinstance(output, Refused) for output in outputs)
        (answer,) = answers
        assert (answer.local, answer.remote, answer.remote_port) == (ASKED, cache, 2048)
        seen = decode_message(answer.datagram)
        assert isinstance(seen, ISeeYou)
        assert seen.identity.caches == (cache,)
        assert seen.identity.sent_to == ASKED
        known.receive_id, known.change_number = seen.identity.receive_id, seen.view.change_number

    def datagram(self, service: int, message: HereIAm | RedirectAssign) -> bytes:
        passwords = self.settings.services[service].passwords
        return encode_message(message, password=passwords[0] if passwords else None)

    def give(self, datagram: bytes, source: IPv4Address) -> tuple[Output, ...]:
        if datagram and source != STRANGER and len(self.history) < 50:
            self.history.append((datagram, source))
        return self.take(self.router.receive(datagram, source, 2048, ASKED, self.now))

    def take(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Every step ends here: what was said and what is shown must hold."""
        self.watch.said(outputs)
        self.watch.shows()
        return outputs


def assignment(
    service: int,
    cache: IPv4Address,
    listed: list[IPv4Address],
    receive_id: int,
    change_number: int,
    *,
    mask: bool,
) -> RedirectAssign:
    rows = (RouterAssignment(ROUTER, receive_id, change_number % 2**32),)
    key = AssignmentKey(cache, 1)
    if mask:
        values = tuple(Value(ANY, IPv4Address(i), 0, 0, listed[i % len(listed)]) for i in range(8))
        sets = AssignmentMap((MaskValueSet(Mask(ANY, IPv4Address(7), 0, 0), values),))
        return RedirectAssign(
            service=SERVICES[service], alternate_assignment=AlternateAssignment(key, rows, sets)
        )
    octets = bytes(bucket % len(listed) for bucket in range(256))
    if len(listed) == 3:  # the other component that may carry buckets
        body = HashBuckets(tuple(listed), octets)
        return RedirectAssign(
            service=SERVICES[service], alternate_assignment=AlternateAssignment(key, rows, body)
        )
    return RedirectAssign(
        service=SERVICES[service], assignment=AssignmentInfo(key, rows, tuple(listed), octets)
    )


class Walk:
    """A machine driven by plain chance, which gets further into a group's life than drawn examples do."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machine = EngineMachine()
        self.machine.start(first_number=self.chance.choice([1, 70000, 0xFFFFFFF0]))

    def step(self) -> None:
        chance, machine = self.chance, self.machine
        service = chance.randrange(3)
        match chance.choices(range(8), (6, 6, 3, 3, 3, 2, 1, 1))[0]:
            case 0:
                machine.live(service=service, rounds=2, known=chance.choice(FARMS))
            case 1 if any(usable(group) for group in machine.router.view().groups):
                machine.redirect_assign(
                    pick=chance.randrange(3),
                    turn=chance.randrange(6),
                    sharers=set(chance.sample(CACHES, 2)),
                    mask=chance.random() < 0.1,
                    stale=chance.choice(["", "", "number", "id"]),
                    fresh=True,
                )
            case 2:
                machine.here_i_am(
                    service=service,
                    cache=chance.choice(CACHES),
                    echo=chance.choice(ECHOES),
                    selection=chance.choice((HASH, HASH, None, L2)),
                    weight=chance.choice(WEIGHTS),
                    shutdown=chance.random() < 0.1,
                    minor_version=chance.randrange(2),
                )
            case 3:
                machine.pause(seconds=chance.choice(PAUSES))
            case 4 if machine.history:
                act = chance.choice((machine.replayed, machine.stolen))
                act(pick=chance.randrange(50))
            case 5 if machine.history:
                machine.damaged(
                    pick=chance.randrange(50),
                    cut=chance.choice([0, 0, chance.randrange(60)]),
                    flip=chance.randrange(500),
                    bit=chance.randrange(8),
                    stolen=chance.random() < 0.5,
                )
            case 6:
                machine.restart()
            case _ if chance.random() < 0.8:
                machine.reconfigure(service=service, variant=chance.randrange(10))
            case _:
                machine.remove_and_add(service=service)


@pytest.mark.parametrize("seed", range(EXTRA_SEED, EXTRA_SEED + 8))
def test_the_invariants_hold_on_a_long_walk(seed: int) -> None:
    walk = Walk(seed)
    for step in range(150):
        try:
            walk.step()
        except Exception as error:
            error.add_note(f"seed {seed}, step {step}")
            raise


GATE_EXAMPLES = 100
"""In the suite: always the same ones, and a failure is shown as it was found, for shrinking takes minutes."""
EXAMPLES = int(os.environ.get("WCCPD_PROPERTY_EXAMPLES", GATE_EXAMPLES))
TestEngineStates = EngineMachine.TestCase
TestEngineStates.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    derandomize=EXAMPLES == GATE_EXAMPLES,
    phases=set(Phase) - {Phase.shrink} if EXAMPLES == GATE_EXAMPLES else tuple(Phase),
    suppress_health_check=list(HealthCheck),
)
