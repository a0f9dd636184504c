"""What a cache makes of an I_SEE_YOU, whichever way it reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.wire.elements import AssignmentKey, TimerScale, TransmitT
    from wccpd.wire.enums import CapabilityType


@dataclass(frozen=True, slots=True)
class ListedCache:
    """A usable cache of a Router View."""

    address: IPv4Address
    weight: int


@dataclass(frozen=True, slots=True)
class HeardView:
    """A Router View."""

    change_number: int
    key: AssignmentKey
    caches: tuple[ListedCache, ...]
    addresses: frozenset[IPv4Address] = field(init=False)
    """Of `caches`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "addresses", frozenset(each.address for each in self.caches))


@dataclass(frozen=True, slots=True)
class Heard:
    """What could be read; a reader that breaks off half-way has still learnt the first part."""

    router_id: IPv4Address
    receive_id: int
    offer: dict[CapabilityType, int] | None = None
    """Methods offered, as bit masks; None without a Capabilities Info."""
    view: HeardView | None = None
    """None when the reader broke off before it."""
    transmit_t: TransmitT | None = None
    """2.01: the range of TRANSMIT_T offered, or the value that the group runs at."""
    timer_scale: TimerScale | None = None
    """Likewise."""
    shutdown_acknowledged: bool = False
    fault: str = ""
    """Why the reader broke off; empty when it read everything."""
