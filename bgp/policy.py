"""gobgpd's import and export policy as values: which statements, under which names.

gobgpd's global import policy also judges the paths that we originate ourselves, so its first statement lets
local routes in; without it a default of *reject* swallows them in silence. Then come the accepted ranges with
their length bounds; none of them admits 0/0. The export policy lets out exactly what we advertise. All else is
rejected, both ways.

IPv6 prefixes go out in sessions over IPv4, whose own address cannot be their next hop. The export policy gives them
our IPv6 address of the tunnel, with a statement for each neighbour.

The names carry a digest of the content. That makes the configuration idempotent without comparing rules: the
right name assigned means the right content, and a change is a new policy assigned in one step, never an edit
of the one in force. Knows neither protobuf nor gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv6Address

    from bgp.events import IPAddress, IPNetwork, SpeakerSpec

NAME_PREFIX = "wccpd-"
"""What our policies and sets begin with, and the only thing by which we recognise them."""


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Prefixes with length bounds, all of one IP version, as gobgpd demands."""

    name: str
    version: int
    entries: tuple[tuple[IPNetwork, int, int], ...]


@dataclass(frozen=True, slots=True)
class NextHopRule:
    """The next hop with which one neighbour is told our IPv6 prefixes."""

    set_name: str
    """Name of the set that holds the neighbour alone."""
    neighbour: IPAddress
    next_hop: IPv6Address


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """One direction's policy."""

    name: str
    accept_local: bool
    """Whether the first statement accepts routes that we originate."""
    sets: tuple[PrefixSet, ...]
    """Accepted, one statement each, in this order."""
    next_hops: tuple[NextHopRule, ...] = ()
    """IPv6 prefixes have a statement for each of these instead."""


def import_policy(spec: SpeakerSpec) -> PolicyPlan:
    """What may come in: our own paths, and the accepted ranges."""
    entries = ((rule.prefix, rule.min_length, rule.max_length) for rule in spec.accepted)
    return _plan("import", True, tuple(entries))


def export_policy(spec: SpeakerSpec) -> PolicyPlan:
    """What may go out: exactly the advertised prefixes."""
    prefixes = (each.prefix for each in spec.advertisements)
    entries = tuple((prefix, prefix.prefixlen, prefix.prefixlen) for prefix in prefixes)
    next_hops = tuple((peer.address, peer.local_ipv6) for peer in spec.peers if peer.local_ipv6 is not None)
    return _plan("export", False, entries, next_hops)


def _plan(
    direction: str,
    accept_local: bool,
    entries: tuple[tuple[IPNetwork, int, int], ...],
    next_hops: tuple[tuple[IPAddress, IPv6Address], ...] = (),
) -> PolicyPlan:
    digest = sha256(repr(sorted(map(str, (*entries, *next_hops)))).encode()).hexdigest()[:12]
    name = f"{NAME_PREFIX}{direction}-{digest}"
    by_version = {
        version: tuple(each for each in entries if each[0].version == version) for version in (4, 6)
    }
    sets = tuple(
        PrefixSet(f"{name}-v{version}", version, chosen) for version, chosen in by_version.items() if chosen
    )
    rules = tuple(
        NextHopRule(f"{name}-n{number}", neighbour, address)
        for number, (neighbour, address) in enumerate(next_hops)
    )
    return PolicyPlan(name, accept_local, sets, rules)
