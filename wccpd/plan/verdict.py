"""What can become of a packet, and why: the words in which planes count, `decide` answers and status speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address


class Verdict(StrEnum):
    """What is done with a packet."""

    REDIRECTED = "redirected"
    FORWARDED = "forwarded"
    """Routed on as if there were no redirect."""
    DROPPED = "dropped"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Why a packet that a service takes is not redirected."""

    UNASSIGNED = "unassigned"
    """No cache owns its bucket, or it equals no value of a mask."""
    DENIED = "denied"
    """The service's redirect list denies it."""
    ESTABLISHED = "established"
    """A TCP connection that began before any cache could have it: redirecting it now would break it."""
    LAPSED = "lapsed"
    """The lease has run out: the daemon is gone or hangs."""
    LOST = "lost"
    """Its cache is gone, and such connections are to be reset."""


class Exemption(StrEnum):
    """Why a packet is none that any service could take (protocol.md 4.4)."""

    NOT_UNICAST = "not-unicast"
    """To the router itself, to a broadcast or multicast address."""
    FROM_CACHE = "from-cache"
    TO_CACHE = "to-cache"
    NEVER = "never"
    """To a network of `redirect.never`."""
    NO_HOP_LEFT = "no-hop-left"
    """Its TTL is 1 or less."""
    WCCP = "wccp"
    """WCCP to or from another router that caches report."""


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and octets."""

    packets: int = 0
    octets: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.octets + other.octets)


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """What became of packets of one service: the key by which a plane counts."""

    service: str
    verdict: Verdict
    reason: Reason | None = None
    """None for redirected packets."""
    cache: IPv4Address | None = None
    """Where redirected packets went."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Everything that a plane counts. What it has not seen is absent."""

    outcomes: Mapping[Outcome, Count] = field(default_factory=dict)
    acl_lines: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    """By service, in the order of its redirect list: packets whose first matching line it was."""
    exempt: Mapping[Exemption, Count] = field(default_factory=dict)
    returned: Mapping[IPv4Address, Count] = field(default_factory=dict)
    """By cache: packets that it gave back, by GRE or L2, over all services."""
    dropped: Mapping[str, Count] = field(default_factory=dict)
    """By reason: what the plane itself had to drop, beside what services say."""

    def total(self, service: str, verdict: Verdict, reason: Reason | None = None) -> Count:
        """The sum over caches, and over reasons if none is asked for."""
        found = (
            count
            for outcome, count in self.outcomes.items()
            if outcome.service == service
            and outcome.verdict is verdict
            and (reason is None or outcome.reason is reason)
        )
        return sum(found, Count())
