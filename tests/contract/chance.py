"""Plans and packets by chance, for comparing one stage with another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from tests.contract.stage import FARM, OUT, answer_to, fresh
from tests.support.plans import (
    CACHES,
    EVERYTHING,
    FROM_WEB,
    INGRESS,
    SERVER,
    SPOKE,
    TO_WEB,
    network,
    paths_to,
    plan,
    service,
)
from wccpd.plan.decide import Packet
from wccpd.plan.redirect import (
    EVERY_ADDRESS,
    EVERY_PORT,
    PORT_PROTOCOLS,
    TCP,
    UDP,
    AclLine,
    Action,
    Assignment,
    HashAssignment,
    HashFields,
    LostFlows,
    MaskAssignment,
    MaskFields,
    MaskSet,
    Mode,
    PacketMatch,
    RedirectPlan,
    ServicePlan,
)
from wccpd.wire.enums import ForwardingMethod

ICMP, ESP = 1, 50
NAMES = ("web-cache", "60", "70", "80", "90")
PORTS = (53, 80, 443, 2048, 8080)
MATCHES = (
    TO_WEB,
    FROM_WEB,
    EVERYTHING,
    PacketMatch(TCP),
    PacketMatch(UDP, (53, 443)),
    PacketMatch(TCP, (80, 443, 8080)),
    PacketMatch(ICMP),
)
SPOKE_NETWORK = IPv4Network("10.64.0.0/24")
SERVER_NETWORK = IPv4Network("203.0.113.0/24")
NEVER_NETWORK = IPv4Network("198.51.100.0/24")


@dataclass
class PlansByChance:
    """A plan that changes in one respect at a time."""

    chance: random.Random
    forwarding: ForwardingMethod
    caches: list[IPv4Address] = field(default_factory=list)
    services: list[ServicePlan] = field(default_factory=list)
    ingress: tuple[str, ...] = (INGRESS,)
    never: tuple[IPv4Network, ...] = ()
    routers: frozenset[IPv4Address] = frozenset()

    def plan(self) -> RedirectPlan:
        return plan(*self.services, ingress=self.ingress, never=self.never, routers=self.routers)

    def put_all_into(self, mode: Mode) -> None:
        """Every service has this mode."""
        self.services = [replace(each, mode=mode) for each in self.services]

    def change(self) -> str:
        """Change something, and say what."""
        steps: list[Callable[[], str]] = [
            self._change_membership, self._change_membership, self._change_services,
            self._change_assignment, self._change_assignment, self._change_list, self._change_list,
            self._change_mode, self._change_policy, self._change_surroundings,
        ]  # fmt: skip
        return self.chance.choice(steps)()

    def _change_membership(self) -> str:
        cache = self.chance.choice(CACHES)
        if cache in self.caches:
            self.caches.remove(cache)
        else:
            self.caches.append(cache)
        self.services = [self._with_paths(each) for each in self.services]
        return f"cache {cache} {'joins' if cache in self.caches else 'leaves'}"

    def _change_services(self) -> str:
        if self.services and self.chance.random() < 0.4:
            gone = self.services.pop(self.chance.randrange(len(self.services)))
            return f"service {gone.name} goes"
        free = [name for name in NAMES if name not in {each.name for each in self.services}]
        if not free:
            self.chance.shuffle(self.services)
            return "services in another order"
        made = service(self.chance.choice(free), match=self.chance.choice(MATCHES))
        made = self._with_paths(replace(made, assignment=self._assignment()))
        self.services.insert(self.chance.randint(0, len(self.services)), made)
        return f"service {made.name} comes"

    def _change_assignment(self) -> str:
        return self._change_one("assignment", lambda _: {"assignment": self._assignment()})

    def _change_list(self) -> str:
        count = self.chance.choice((0, 1, 2, 5, 20))
        return self._change_one("list", lambda _: {"acl": tuple(self._line() for _ in range(count))})

    def _change_mode(self) -> str:
        return self._change_one("mode", lambda _: {"mode": self.chance.choice(list(Mode))})

    def _change_policy(self) -> str:
        def policy(_: ServicePlan) -> dict[str, object]:
            return {
                "fallthrough": self.chance.random() < 0.3,
                "affinity": self.chance.random() < 0.8,
                "lost_flows": self.chance.choice(list(LostFlows)),
                "match": self.chance.choice(MATCHES),
            }

        return self._change_one("policy", policy)

    def _change_surroundings(self) -> str:
        self.ingress = self.chance.choice(((INGRESS,), (INGRESS, FARM), (INGRESS, OUT), (INGRESS, FARM, OUT)))
        some = (NEVER_NETWORK, network("203.0.113.64/26"), network("203.0.113.9/32"))
        self.never = tuple(self.chance.sample(some, self.chance.randint(0, 3)))
        self.routers = self.chance.choice((frozenset(), frozenset({SERVER})))
        return f"ingress {' '.join(self.ingress)}, never {self.never}, routers {self.routers}"

    def _change_one(self, what: str, change: Callable[[ServicePlan], dict[str, object]]) -> str:
        if not self.services:
            return self._change_services()
        index = self.chance.randrange(len(self.services))
        changed = replace(self.services[index], **change(self.services[index]))  # type: ignore[arg-type]
        self.services[index] = changed
        return f"service {changed.name} has another {what}"

    def _with_paths(self, made: ServicePlan) -> ServicePlan:
        having = [cache for cache in self.caches if self.chance.random() < 0.9]
        return replace(made, paths=paths_to(having, self.forwarding))

    def _assignment(self) -> Assignment:
        owners = [*self.caches, *self.caches, *CACHES, None]
        if self.chance.random() < 0.4:
            sets = (self._mask_set(owners) for _ in range(self.chance.randint(0, 3)))
            return MaskAssignment(tuple(sets))
        flagged: frozenset[int] = frozenset()
        if self.chance.random() < 0.3:
            flagged = frozenset(self.chance.sample(range(256), self.chance.choice((1, 10))))
        return HashAssignment(
            self._fields(), tuple(self.chance.choice(owners) for _ in range(256)), self._fields(), flagged
        )

    def _fields(self) -> HashFields:
        return HashFields(*(self.chance.random() < 0.5 for _ in HashFields._fields))

    def _mask_set(self, owners: list[IPv4Address | None]) -> MaskSet:
        widths = (0x3, 0x0300, 0x1, 0x2)
        mask = MaskFields(*(width if self.chance.random() < 0.5 else 0 for width in widths))
        values = {
            MaskFields(*(self.chance.randrange(width + 1) & width for width in mask)) for _ in range(12)
        }
        return MaskSet(mask, {value: self.chance.choice(owners) for value in sorted(values)})

    def _line(self) -> AclLine:
        chance = self.chance
        protocol = chance.choice((None, TCP, UDP, ICMP))
        ports = chance.choice((EVERY_PORT, (80, 80), (0, 1023), (443, 8080)))
        has_ports = protocol in PORT_PROTOCOLS
        return AclLine(
            chance.choice((Action.PERMIT, Action.PERMIT, Action.DENY)),
            chance.choice((EVERY_ADDRESS, EVERY_ADDRESS, SPOKE_NETWORK, *SPOKE_NETWORK.subnets(2))),
            chance.choice((EVERY_ADDRESS, EVERY_ADDRESS, SERVER_NETWORK, *SERVER_NETWORK.subnets(3))),
            protocol,
            EVERY_PORT if not has_ports else chance.choice((EVERY_PORT, (0, 0x7FFF))),
            EVERY_PORT if not has_ports else ports,
        )


@dataclass
class PacketsByChance:
    """Packets of flows that there have and have not been; those of one bunch are all of different flows."""

    chance: random.Random
    recent: list[list[Packet]] = field(default_factory=list)
    ended: set[object] = field(default_factory=set)

    def bunch(self, count: int) -> list[Packet]:
        again = [
            each
            for bunch in self.recent[-2:]
            for each in bunch
            if _flow(each) not in self.ended and self.chance.random() < 0.3
        ]
        packets = [*again, *(self._new() for _ in range(count))]
        packets = [answer_to(each) if self._turns(each) else each for each in packets]
        flows = {
            frozenset(((each.source, each.fields[2]), (each.destination, each.fields[3]))): each
            for each in packets
        }
        found = list(flows.values())
        self.chance.shuffle(found)
        self.recent.append(found)
        return found

    def end(self, packets: Iterable[Packet]) -> None:
        """These flows have been reset: the kernel keeps such a connection for a while, and pins nothing to it."""
        self.ended.update(map(_flow, packets))

    def _turns(self, packet: Packet) -> bool:
        """Whether an answer is sent in its stead, which only makes sense for what the far side has seen.

        Not of ICMP: the wires carry echo requests only, and one that comes back is a flow of its own to the kernel.
        """
        return (
            packet.device == INGRESS
            and packet.protocol != ICMP
            and packet.destination in SERVER_NETWORK
            and self.chance.random() < 0.1
        )

    def _new(self) -> Packet:
        chance = self.chance
        device = chance.choice((INGRESS, INGRESS, INGRESS, INGRESS, FARM))
        at_home = [SPOKE, *CACHES] if device == INGRESS else [*CACHES, IPv4Address("10.2.0.99")]
        source = SPOKE_NETWORK[chance.randrange(256)] if device == INGRESS else SPOKE
        if chance.random() < 0.15:
            source = chance.choice(at_home)
        destination = SERVER_NETWORK[chance.randrange(256)]
        if chance.random() < 0.1:
            destination = chance.choice((NEVER_NETWORK[chance.randrange(1, 255)], *CACHES, SERVER))
        protocol = chance.choice((TCP, TCP, TCP, TCP, UDP, UDP, ICMP, ESP))
        made = fresh(destination, device=device, source=source, protocol=protocol)
        if protocol in PORT_PROTOCOLS:
            port = chance.choice(PORTS) if chance.random() < 0.9 else chance.randrange(1, 65536)
            made = replace(made, destination_port=port)
            if chance.random() < 0.1:
                made = replace(made, source_port=port, destination_port=made.source_port)
        if protocol in {TCP, ESP} and chance.random() < 0.05:
            made = replace(made, transport_octets=chance.choice((0, 3, 8)))
        sender = chance.choice(CACHES) if device == FARM and chance.random() < 0.5 else None
        return replace(made, ttl=chance.choice((64, 64, 64, 64, 2, 1)), sender=sender)


def _flow(packet: Packet) -> object:
    """The same for both directions."""
    fields = packet.fields
    ends = (
        (fields.source_address, fields.source_port),
        (fields.destination_address, fields.destination_port),
    )
    return packet.protocol, frozenset(ends)
