"""Answers `wccpctl explain`: a flow's decision by the plan in force, beside what the kernel holds of it.

`Examiner` asks `plan.decide` with what the host knows of the flow (routing, lease, connection), and compares.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

from wccpd import assemble
from wccpd.dataplane.choose import PlaneKind
from wccpd.dataplane.flow import FlowReader
from wccpd.errors import KernelError
from wccpd.plan import names
from wccpd.plan.build import redirect_plan
from wccpd.plan.compile import compile_state, without_paths
from wccpd.plan.decide import Packet, decide
from wccpd.plan.explain import Known, document, explain
from wccpd.plan.hashes import HASH_FUNCTIONS
from wccpd.plan.held import differences, flow_mark, pin_of
from wccpd.plan.redirect import PORT_PROTOCOLS, TCP, UDP
from wccpd.plan.slots import Slots
from wccpd.plan.verdict import Verdict
from wccpd.status.control import VerbError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from config import Config
    from wccpd.dataplane.choose import PlaneChoice
    from wccpd.dataplane.reconciler import Reconciler
    from wccpd.plan.decide import Decision, Pin
    from wccpd.plan.held import Difference, Held
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import RedirectPlan
    from wccpd.protocol.view import RouterView
    from wccpd.status.control import Answer, Asked

PROTOCOLS = {"icmp": 1, "tcp": TCP, "udp": UDP, "gre": 47, "esp": 50}
ASSUMED_SOURCE_PORT = 49152
"""The first ephemeral one (RFC 6335, 6), where a question names none."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_port: int | None
    destination_port: int
    device: str
    """Empty: the one that the route back to the source leads out of."""
    sender: IPv4Address | None


def parse_question(query: Mapping[str, str]) -> Question:
    """Read a question.

    Raises:
        VerbError: A value is missing or wrong; the text says which and what is allowed.
    """
    return Question(
        source=_address(query, "source"),
        destination=_address(query, "destination"),
        protocol=_protocol(query.get("protocol", "tcp")),
        source_port=_number(query, "source_port", 0xFFFF) if query.get("source_port") else None,
        destination_port=_number(query, "destination_port", 0xFFFF) if query.get("destination_port") else 0,
        device=query.get("device", ""),
        sender=_address(query, "sender") if query.get("sender") else None,
    )


def _address(query: Mapping[str, str], key: str) -> IPv4Address:
    try:
        return IPv4Address(query.get(key, ""))
    except AddressValueError:
        raise VerbError(f"{key}: {query.get(key, '')!a} is no IPv4 address") from None


def _protocol(text: str) -> int:
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    if text.isdecimal() and int(text) <= 0xFF:
        return int(text)
    raise VerbError(f"protocol: {text!a} is none of {', '.join(PROTOCOLS)}, nor a number from 0 to 255")


def _number(query: Mapping[str, str], key: str, most: int) -> int:
    text = query[key]
    if not text.isdecimal() or int(text) > most:
        raise VerbError(f"{key}: {text!a} is no number from 0 to {most}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Examined:
    """A flow as the plan decides about it and as the kernel holds it."""

    packet: Packet
    decision: Decision
    leased: bool
    pinned: Pin | None
    pin_words: str
    """Why the pin is not known; empty if it is, or if there is none."""
    held: Held
    mtu_bytes: int | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Examiner:
    """Looks at flows, in the network namespace of the thread that asks.

    Attributes:
        plan: The one in force, without the paths that the kernel refused.
        settings: By what our objects are recognised.
        hash_function: Of the plane.
        leased: Whether the lease runs, where it cannot be read for each device.
        is_netlink: Whether the netlink plane carries the plan; what another holds is not read back.
    """

    plan: RedirectPlan
    settings: KernelSettings
    hash_function: str
    leased: bool
    is_netlink: bool = True

    def examine(self, question: Question) -> Examined:
        """Look at one flow.

        Raises:
            KernelError: The kernel could not be read.
        """
        with FlowReader(self.settings) as reader:
            ends = reader.ends(question.source, question.destination)
            packet = Packet(
                device=question.device or ends.reverse_device or "",
                source=question.source,
                destination=question.destination,
                protocol=question.protocol,
                source_port=ASSUMED_SOURCE_PORT if question.source_port is None else question.source_port,
                destination_port=question.destination_port,
                unicast=ends.unicast,
                reverse_device=ends.reverse_device or "",
                sender=question.sender,
            )
            leased, pin, unknown = self.leased, None, _EBPF_PINS
            if self.is_netlink:
                leased = packet.device in (reader.leased_devices(names.LEASE) or ())
                pin, unknown = self._pin(reader, packet, question)
            decision = decide(
                self.plan,
                packet,
                hash_function=HASH_FUNCTIONS[self.hash_function],
                leased=leased,
                pinned=pin,
            )
            mark = flow_mark(self.plan, decision, self.settings) if self.is_netlink else 0
            held = reader.held(self.plan, packet, decision.path, mark)
            found: tuple[Difference, ...] = ()
            if self.is_netlink:
                compiled = compile_state(self.plan, (), self.settings, reader.facts(self.plan, held))
                found = differences(self.plan, packet, decision, compiled, self.settings, held)
            mtu = _mtu(reader, decision, held) if self.is_netlink else None
            return Examined(packet, decision, leased, pin, unknown, held, mtu, found)

    def _pin(self, reader: FlowReader, packet: Packet, question: Question) -> tuple[Pin | None, str]:
        """What the flow is held to; or why that is not known."""
        if packet.protocol in PORT_PROTOCOLS and question.source_port is None:
            return None, "counts as a new flow: whether an existing one is pinned needs its source port"
        try:
            connection = reader.connection(packet)
        except KernelError as error:
            return None, f"not looked up: {error}"
        return (pin_of(connection.mark, self.plan, self.settings) if connection is not None else None), ""


_EBPF_PINS = "flows are pinned in a table of the eBPF plane, which is not read here"


def _mtu(reader: FlowReader, decision: Decision, held: Held) -> int | None:
    """What fits through the way that the packet takes."""
    if held.way is None or decision.verdict not in {Verdict.REDIRECTED, Verdict.FORWARDED}:
        return None
    of_device = reader.mtu_of(held.way.device)
    return min(filter(None, (of_device, held.way.mtu_bytes)), default=None)


@dataclass(frozen=True, slots=True)
class Explainer:
    """Answers questions about flows for the control API."""

    read_config: Callable[[], Config]
    """The configuration in force."""
    choice: PlaneChoice
    reconciler: Reconciler

    async def answer(self, asked: Asked, view: RouterView, drained: Collection[IPv4Address]) -> Answer:
        """Answer one question.

        Raises:
            VerbError: It is not well put, or the kernel does not answer.
        """
        question = parse_question(asked.query)
        if not self.choice.hash_function:
            raise VerbError("the data plane is not open yet")
        config = self.read_config()
        policy = assemble.policy(config)
        refused = self.reconciler.last.applied.refused
        plan = without_paths(self.reconciler.plan or redirect_plan(view, policy, Slots()), refused)
        examiner = Examiner(
            plan,
            self.reconciler.settings,
            self.choice.hash_function,
            self.reconciler.last.observation.leased,
            is_netlink=self.choice.name == PlaneKind.NETLINK,
        )
        try:
            found = await asyncio.to_thread(examiner.examine, question)
        except KernelError as error:
            raise VerbError(str(error)) from error
        routed = examiner.is_netlink or found.decision.verdict is not Verdict.REDIRECTED
        known = Known(
            policy=policy,
            view=view,
            leased=found.leased,
            pinned=found.pinned,
            pin_words=found.pin_words,
            drained=drained,
            refused=frozenset(path.cache for path in refused),
            device_assumed=not question.device,
            source_port_assumed=question.source_port is None,
            way=found.held.way if routed else None,
            mtu_bytes=found.mtu_bytes,
        )
        has_ports = question.protocol in PORT_PROTOCOLS
        extra = {
            "dataplane": self.choice.name,
            "device_assumed": known.device_assumed,
            "source_port_assumed": known.source_port_assumed and has_ports,
            "compared": _COMPARED if examiner.is_netlink else "nothing: eBPF maps are not read back",
        }
        return document(explain(plan, found.packet, found.decision, known, found.differences), extra)


_COMPARED = "nft table, rules, routes, devices, neighbours"
