"""When a tunnel came up, went down or is no longer as it should be. Pure: states in, changes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wccpd.status.view import Health, TunnelStatus


@dataclass(frozen=True, slots=True)
class TunnelChange:
    """A tunnel's state is another than at the last look."""

    tunnel: str
    state: Health
    reason: str

    @property
    def event(self) -> str:
        """Name of the event: tunnel_up, tunnel_degraded or tunnel_down."""
        return f"tunnel_{self.state.value}"


class TunnelLedger:
    """The states of all tunnels at the last look."""

    def __init__(self) -> None:
        self._states: dict[str, Health] = {}

    def update(self, tunnels: Iterable[TunnelStatus]) -> tuple[TunnelChange, ...]:
        """Take the tunnels as they are now; one seen for the first time is a change too."""
        changes = []
        for each in tunnels:
            if self._states.get(each.name) is not each.state:
                self._states[each.name] = each.state
                changes.append(TunnelChange(each.name, each.state, each.reason))
        return tuple(changes)
