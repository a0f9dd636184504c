"""What a cache knows of one router in one service group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.simulator.heard import HeardView
    from wccpd.wire.enums import CapabilityType


@dataclass(slots=True)
class Nexus:
    """One router, by the address that the cache was configured with."""

    configured: IPv4Address
    router_id: IPv4Address | None = None
    """As the router says; None until it was heard."""
    receive_id: int = 0
    """The last Receive ID from it; 0 for none."""
    offer: dict[CapabilityType, int] | None = None
    view: HeardView | None = None
    last_heard: float | None = None
    change_number: int = 0
    """Its Member Change Number for which an assignment was last considered."""
    assigned_at: float | None = None
    """When it was last sent a REDIRECT_ASSIGN."""
    goodbye_acknowledged: bool = False

    def forget(self) -> None:
        """Take it for gone; what it says next is news."""
        self.router_id = self.offer = self.view = self.last_heard = self.assigned_at = None
        self.receive_id = self.change_number = 0
