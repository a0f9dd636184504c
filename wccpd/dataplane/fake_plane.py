"""A data plane in memory, which carries packets as `plan.decide` says. For tests that need no kernel.

`FakeKernel` is what lasts: objects, pins of flows, counters, the lease. Any number of `FakeDataPlane`s may be opened
on it one after the other, as restarted daemons do. What is there is a dictionary of named objects, so that it can be
compared with a wish piece by piece, refused piece by piece and damaged piece by piece.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gre.tunnel import GreDevice, ObservedGre, redirect_device
from wccpd.dataplane.port import Applied, Observation
from wccpd.errors import KernelError
from wccpd.plan.decide import Decision, decide
from wccpd.plan.hashes import HASH_FUNCTIONS
from wccpd.plan.redirect import PORT_PROTOCOLS, Mode, Path, RedirectPlan, ServicePlan
from wccpd.plan.verdict import Count, Counters
from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from ipaddress import IPv4Address

    from wccpd.dataplane.port import Wish
    from wccpd.plan.decide import Packet, Pin
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.verdict import Exemption, Outcome

_USUAL_MTU_BYTES = 1476


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """What an object of ours is called."""

    kind: str
    """`tunnel`, `path`, `policy` (all that services share), or `service`."""
    what: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.what}".strip()


POLICY = Name("policy")


@dataclass(frozen=True, slots=True)
class Way:
    """A path that was made."""

    path: Path
    slot: int
    device: GreDevice | None
    """None for L2."""


Object = GreDevice | Way | RedirectPlan | ServicePlan
"""In the order of `Name.kind`; the plan is without services and slots, which are objects of their own."""


class FakeKernel:
    """A host with one router on it."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        """Gives monotonic seconds."""
        self.objects: dict[Name, Object] = {}
        """Everything of ours; a test may take away or replace any of it."""
        self.refused_devices: set[str] = set()
        """GRE devices that cannot be made."""
        self.refused_paths: set[Path] = set()
        """Paths that cannot be made, whatever their method."""
        self.occupied = False
        """Something that is not ours has our name."""
        self.forwards = True
        self.leased_until = 0.0
        self._pins: dict[Hashable, Pin] = {}
        self._outcomes: dict[Outcome, Count] = {}
        self._lines: dict[tuple[str, int], Count] = {}
        self._exempt: dict[Exemption, Count] = {}
        self._returned: dict[IPv4Address, Count] = {}

    @property
    def leased(self) -> bool:
        """Whether the lease is running."""
        return self.clock() < self.leased_until

    @property
    def slots(self) -> dict[Path, int]:
        """The number of each path that is there."""
        return {each.path: each.slot for each in self.objects.values() if isinstance(each, Way)}

    @property
    def plan(self) -> RedirectPlan | None:
        """The redirect as the objects that are there make it; None if there is none."""
        policy = self.objects.get(POLICY)
        if not isinstance(policy, RedirectPlan):
            return None
        slots = self.slots
        services = (each for each in self.objects.values() if isinstance(each, ServicePlan))
        return replace(policy, services=tuple(only_with(each, slots) for each in services), slots=slots)

    def carry(
        self, packet: Packet, hash_function: str, octets: int = 40, about: Packet | None = None
    ) -> Decision:
        """Take a packet in and say what becomes of it; its flow is pinned and it is counted.

        Args:
            packet: The packet.
            hash_function: A name of `plan.hashes.HASH_FUNCTIONS`.
            octets: Its length.
            about: Of an ICMP error, the packet that it is about, whose flow counts.
        """
        plan = self.plan
        if plan is None:
            return Decision()
        flow = _flow(about or packet)
        decision = decide(
            plan,
            packet,
            hash_function=HASH_FUNCTIONS[hash_function],
            leased=self.leased,
            pinned=self._pins.get(flow),
        )
        if decision.pin is not None:
            self._pins[flow] = decision.pin
        self._count(decision, Count(1, octets))
        return decision

    def take_back(self, cache: IPv4Address, octets: int = 40) -> bool:
        """Take a packet that a cache gives back; False if nothing is taken back from there."""
        plan = self.plan
        if plan is None or cache not in plan.returns:
            return False
        self._returned[cache] = self._returned.get(cache, Count()) + Count(1, octets)
        return True

    def counters(self) -> Counters:
        """What was counted of what is there."""
        plan = self.plan
        if plan is None:
            return Counters()
        return Counters(
            outcomes=dict(self._outcomes),
            acl_lines={
                service.name: tuple(
                    self._lines.get((service.name, line), Count()) for line in range(len(service.acl))
                )
                for service in plan.services
            },
            exempt=dict(self._exempt),
            returned=dict(self._returned),
        )

    def live_flows(self) -> dict[IPv4Address, int]:
        """How many flows are pinned to each cache that has a path."""
        pinned = Counter(pin.cache for pin in self._pins.values())
        return {path.cache: pinned[path.cache] for path in self.slots if pinned[path.cache]}

    def forget_counts(self, before: Mapping[Name, Object]) -> None:
        """Let counters go with what they count: services and their caches, redirect lists, and everything else."""
        services = {name.what: each for name, each in self.objects.items() if isinstance(each, ServicePlan)}
        self._outcomes = {
            key: count
            for key, count in self._outcomes.items()
            if key.service in services and key.cache in {None, *services[key.service].paths}
        }
        unchanged = {name.what for name in self.objects if _list(before, name) == _list(self.objects, name)}
        self._lines = {
            key: count for key, count in self._lines.items() if key[0] in services.keys() & unchanged
        }
        if POLICY not in self.objects:
            self._exempt.clear()
            self._returned.clear()

    def _count(self, decision: Decision, count: Count) -> None:
        for asked in decision.asked:
            if asked.acl_line is not None:
                line = (asked.service, asked.acl_line)
                self._lines[line] = self._lines.get(line, Count()) + count
        for outcome in decision.outcomes:
            self._outcomes[outcome] = self._outcomes.get(outcome, Count()) + count
        if decision.exemption is not None:
            self._exempt[decision.exemption] = self._exempt.get(decision.exemption, Count()) + count


class FakeDataPlane:
    """The port on a `FakeKernel`."""

    def __init__(
        self, kernel: FakeKernel | None = None, hash_function: str = "jhash", device_prefix: str = "wccp-"
    ) -> None:
        self.kernel = kernel or FakeKernel()
        self.hash_function = hash_function
        self.on_progress: Callable[[], None] = lambda: None
        self._prefix = device_prefix

    def observe(self) -> Observation:
        """What is there."""
        self._refuse_what_is_not_ours()
        kernel = self.kernel
        devices = [each.device for each in kernel.objects.values() if isinstance(each, Way) and each.device]
        devices += [each for each in kernel.objects.values() if isinstance(each, GreDevice)]
        return Observation(
            devices={each.name: _observed(each, index) for index, each in enumerate(devices, 2)},
            slots=kernel.slots,
            former=policy.former if isinstance(policy := kernel.objects.get(POLICY), RedirectPlan) else {},
            counters=kernel.counters(),
            forwards=kernel.forwards,
            leased=kernel.leased,
        )

    def bring_to(self, wish: Wish) -> Applied:
        """Take the wish over, but for what is refused."""
        self._refuse_what_is_not_ours()
        wished = dict(self._objects(wish))
        refusals = {name: error for name in wished if (error := self._refusal(wished[name]))}
        refused = frozenset(each.path for name in refusals if isinstance(each := wished.pop(name), Way))
        return replace(self._replace(wished, tuple(refusals.values())), refused=refused)

    def preview(self, wish: Wish, settings: KernelSettings) -> tuple[str, ...]:
        """How the wish differs from what is there."""
        del settings
        self._refuse_what_is_not_ours()
        return tuple(_changes(self.kernel.objects, dict(self._objects(wish))))

    def reconfigure(self, settings: KernelSettings) -> None:
        """Nothing here goes by them."""

    def renew_lease(self, seconds: float) -> None:
        """Let the redirect be valid for so long from now."""
        self.kernel.leased_until = self.kernel.clock() + seconds

    def live_flows(self) -> Mapping[IPv4Address, int]:
        """Pins to caches that have a path."""
        return self.kernel.live_flows()

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied:
        """Take everything away, but for services of `keep_closed` whose mode is not open.

        What is asked before such a service stays too, since it would else get their packets.
        """
        self._refuse_what_is_not_ours()
        self.kernel.leased_until = 0.0
        kept: dict[Name, Object] = {}
        if keep_closed is not None:
            closed = [place for place, each in enumerate(keep_closed.services) if each.mode is not Mode.OPEN]
            for service in keep_closed.services[: max(closed, default=-1) + 1]:
                kept[POLICY] = replace(keep_closed, services=(), slots={}, returns={}, caches=frozenset())
                kept[Name("service", service.name)] = replace(service, paths={})
        return self._replace(kept, ())

    def watch(self) -> None:
        """Nobody else is there."""

    def forget(self) -> None:
        """It remembers nothing."""

    def close(self) -> None:
        """Nothing to release."""

    def _replace(self, wished: dict[Name, Object], faults: tuple[KernelError, ...]) -> Applied:
        before, self.kernel.objects = self.kernel.objects, wished
        self.kernel.forget_counts(before)
        changes = tuple(_changes(before, wished))
        if not changes and list(before) != list(wished):
            changes = ("order services",)
        tunnels = any(name.kind == "tunnel" and before.get(name) != each for name, each in wished.items())
        return Applied(changes, tunnels, faults)

    def _objects(self, wish: Wish) -> Iterator[tuple[Name, Object]]:
        plan = wish.plan
        for device in wish.tunnels:
            yield Name("tunnel", device.name), device
        for path, slot in sorted(plan.slots.items(), key=lambda item: item[1]):
            by_gre = path.forwarding is ForwardingMethod.GRE
            device_made = redirect_device(self._prefix, plan.router_id, path.cache) if by_gre else None
            method = "gre" if by_gre else "l2"
            yield Name("path", f"{path.cache} {method}"), Way(path, slot, device_made)
        yield POLICY, replace(plan, services=(), slots={})
        for service in plan.services:
            yield Name("service", service.name), service

    def _refusal(self, made: Object) -> KernelError | None:
        """Why an object cannot be made."""
        device = made.device if isinstance(made, Way) else made if isinstance(made, GreDevice) else None
        if device is not None and device.name in self.kernel.refused_devices:
            return KernelError(f"GRE device {device.name}", "configure", errno.EEXIST)
        if isinstance(made, Way) and made.path in self.kernel.refused_paths:
            return KernelError(f"path to {made.path.cache}", "add", errno.EHOSTUNREACH)
        return None

    def _refuse_what_is_not_ours(self) -> None:
        if self.kernel.occupied:
            raise KernelError("nft table wccpd", "adopt", errno.EEXIST, "somebody else's")


def only_with(service: ServicePlan, slots: Mapping[Path, int]) -> ServicePlan:
    """The service with those of its paths that are there."""
    return replace(service, paths={cache: path for cache, path in service.paths.items() if path in slots})


def _flow(packet: Packet) -> Hashable:
    """The same for both directions of a connection."""
    has_ports = packet.protocol in PORT_PROTOCOLS
    ports = (packet.source_port, packet.destination_port) if has_ports else (0, 0)
    ends = zip((packet.source, packet.destination), ports, strict=True)
    return packet.protocol, frozenset(ends)


def _changes(before: Mapping[Name, Object], after: Mapping[Name, Object]) -> Iterator[str]:
    for name, wanted in after.items():
        if name not in before:
            yield f"add {name}"
        elif before[name] != wanted:
            yield f"change {name}"
    for name in before:
        if name not in after:
            yield f"remove {name}"


def _list(objects: Mapping[Name, Object], name: Name) -> object:
    """The redirect list of a service, None if there is no such service."""
    found = objects.get(name)
    return found.acl if isinstance(found, ServicePlan) else None


def _observed(device: GreDevice, index: int) -> ObservedGre:
    return ObservedGre(
        device.name, index, device.local, device.remote, device.ttl, device.output_key,
        device.mtu_bytes or _USUAL_MTU_BYTES, True, device.addresses, device.sysctls, 0, 0, 0, 0,
    )  # fmt: skip
