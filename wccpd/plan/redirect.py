"""What the redirect should be, before any data plane: services, who owns what, and the paths to the caches.

`build` makes a `RedirectPlan` from the engine's view and the operator's policy. Each data plane turns it into
its own objects (`compile` into rules and nftables, the eBPF plane into maps); `decide` says what any plane must
do with a packet, and is what `explain` and the tests hold a plane against. Frozen values, no kernel words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Mapping


TCP = 6
UDP = 17
PORT_PROTOCOLS = frozenset({TCP, UDP})
"""Protocols that have ports for WCCP (2.01, 5.1.2); of every other packet all ports count as 0."""
EVERY_ADDRESS = IPv4Network("0.0.0.0/0")
EVERY_PORT = (0, 0xFFFF)

PortRange = tuple[int, int]
"""First and last port, both included."""


class Mode(StrEnum):
    """What happens to a packet that a service takes while no cache can have it."""

    OPEN = "open"
    """Forwarded without inspection."""
    CLOSED = "closed"
    """Dropped."""
    REJECT = "reject"
    """Answered with a TCP reset, or ICMP "administratively prohibited" (RFC 1812, 5.2.7.1)."""


class LostFlows(StrEnum):
    """What happens to an established flow whose cache is gone."""

    MOVE = "move"
    """It is treated as a new flow; the next cache will most likely reset it."""
    RESET = "reset"
    """A TCP connection is reset at once, so that the client need not wait; other flows move."""


class Action(StrEnum):
    """What a line of a redirect list says about a packet."""

    PERMIT = "permit"
    """It may be redirected."""
    DENY = "deny"
    """It is forwarded without inspection, whatever the mode."""


@dataclass(frozen=True, slots=True)
class AclLine:
    """One line of a service's redirect list. The first line that matches decides; what none matches is denied."""

    action: Action
    source: IPv4Network = EVERY_ADDRESS
    destination: IPv4Network = EVERY_ADDRESS
    protocol: int | None = None
    """IP protocol number; None: every one. Lines with ports have TCP or UDP here."""
    source_ports: PortRange = EVERY_PORT
    destination_ports: PortRange = EVERY_PORT


@dataclass(frozen=True, slots=True)
class PacketMatch:
    """Which packets a service takes (draft 4.10, 5.6.2)."""

    protocol: int | None
    """None: every protocol."""
    ports: tuple[int, ...] = ()
    """Ascending, without repetition; empty: all ports. Only with TCP or UDP."""
    source_ports: bool = False
    """The list means source ports rather than destination ports."""


class HashFields(NamedTuple):
    """Which fields of a packet a hash is made of; none: the key is 0."""

    source_address: bool = False
    destination_address: bool = False
    source_port: bool = False
    destination_port: bool = False


NO_FIELDS = HashFields()


@dataclass(frozen=True, slots=True)
class HashAssignment:
    """256 buckets (draft 4.11.1)."""

    primary: HashFields
    owners: tuple[IPv4Address | None, ...] = field(repr=False)
    """256 entries: who is sent new flows; None: nobody, the mode decides."""
    alternate: HashFields = NO_FIELDS
    alternate_buckets: frozenset[int] = frozenset()
    """Buckets with the A flag: the owner is that of the bucket of the alternate hash, whose own flag is ignored."""


class MaskFields(NamedTuple):
    """A mask, or the value of one, as integers in host order (draft 5.7.7, 5.7.8)."""

    source_address: int
    destination_address: int
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class MaskSet:
    """One mask with its values; a packet that equals a value under the mask is that value's."""

    mask: MaskFields
    owners: Mapping[MaskFields, IPv4Address | None]
    """In the order of the assignment, each value once. None: nobody, the mode decides; later sets do not."""


@dataclass(frozen=True, slots=True)
class MaskAssignment:
    """Mask/value sets (draft 4.11.2): the first set with an equal value decides."""

    sets: tuple[MaskSet, ...] = ()


Assignment = HashAssignment | MaskAssignment


@dataclass(frozen=True, slots=True)
class Path:
    """One way to a cache: a cache that uses both methods in different services has two."""

    cache: IPv4Address
    forwarding: ForwardingMethod


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One service group that has a definition."""

    name: str
    """As the configuration has it: `web-cache`, `70`."""
    dynamic: bool
    service_id: int
    match: PacketMatch
    assignment: Assignment
    paths: Mapping[IPv4Address, Path]
    """Every usable cache of the service with a working path, draining ones included: flows pinned to it stay."""
    mode: Mode = Mode.OPEN
    acl: tuple[AclLine, ...] = ()
    """Empty: every packet of the service is permitted."""
    fallthrough: bool = False
    """A packet that is denied, or that nobody owns in mode open, is offered to the services further down."""
    affinity: bool = True
    """A flow stays with its cache while that lives, and a TCP connection that was forwarded stays forwarded."""
    lost_flows: LostFlows = LostFlows.MOVE
    probed: Mapping[IPv4Address, Path] = field(default_factory=dict)
    """Caches that the router sends probes of its own, with or without a path for flows."""


@dataclass(frozen=True, slots=True)
class RedirectPlan:
    """Everything that a data plane needs to know."""

    router_id: IPv4Address
    ingress: tuple[str, ...]
    """Devices whose packets are looked at."""
    services: tuple[ServicePlan, ...]
    """In the order in which they are asked: by priority, then as configured."""
    caches: frozenset[IPv4Address] = frozenset()
    """Every cache that is known in any state: what comes from it, or goes to it, is never redirected."""
    returns: Mapping[IPv4Address, frozenset[PacketReturnMethod]] = field(default_factory=dict)
    """Usable caches, each with the ways in which it may return packets."""
    slots: Mapping[Path, int] = field(default_factory=dict)
    """A number, 1 to 255, for each working path; a path keeps it as long as it is there."""
    former: Mapping[int, IPv4Address] = field(default_factory=dict)
    """Numbers that no path has now, each with the cache that it means: flows may still be pinned by it."""
    routers: frozenset[IPv4Address] = frozenset()
    """Other routers that usable caches report; what they speak by WCCP is never redirected."""
    alternate_pages: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By service and bucket: the page of the mark for one with the A flag (`plan.pages`), also of some that had it."""
    never: tuple[IPv4Network, ...] = ()
    """Destinations that are never redirected."""
    clamp_mss: bool = True
    """Lower the MSS of redirected TCP connections, both ways, to what fits through the redirect."""
    clear_df: bool = False
    """Let redirected packets that are too big be fragmented, whatever their DF bit says."""

    def counts_frames_of(self, cache: IPv4Address) -> bool:
        """Whether frames from a usable cache's hardware address count as returned: it does so, or is sent L2.

        The drafts say so in 2.01, 3.12.2 and 3.13.3.
        """
        methods = self.returns.get(cache, frozenset())
        return PacketReturnMethod.L2 in methods or Path(cache, ForwardingMethod.L2) in self.slots

    @property
    def meanings(self) -> dict[int, IPv4Address]:
        """The cache that each number means, be it one of a path or a former one."""
        return {**self.former, **{slot: path.cache for path, slot in self.slots.items()}}
