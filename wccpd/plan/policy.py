"""What the operator decided about the redirect, in the plan's own vocabulary; `wccpd.assemble` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wccpd.plan.marks import MarkLayout
from wccpd.plan.redirect import LostFlows, Mode

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from gre.tunnel import GreDevice
    from wccpd.plan.probe import ProbePolicy
    from wccpd.plan.redirect import AclLine
    from wccpd.wire.elements import ServiceKey


@dataclass(frozen=True, slots=True)
class RedirectList:
    """A service's redirect list; a line of the configuration that enumerates networks or ports is several here."""

    lines: tuple[AclLine, ...] = ()
    origins: tuple[int, ...] = ()
    """For each line, which one of the configuration it comes from."""
    words: tuple[str, ...] = ()
    """The lines of the configuration."""


NO_LIST = RedirectList()


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """One service group."""

    key: ServiceKey
    mode: Mode = Mode.OPEN
    redirect_list: RedirectList = NO_LIST
    fallthrough: bool = False
    affinity: bool = True
    lost_flows: LostFlows = LostFlows.MOVE
    prefer_zone: bool = False
    """New flows go to caches of the router's own zone only, as long as these make a quorum."""
    zone_quorum: int = 1
    """Caches of the own zone that must be there for that, 1 to 32."""
    probe: ProbePolicy | None = None
    """How caches are tried through the redirect."""


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it."""

    router_id: IPv4Address
    services: tuple[ServicePolicy, ...]
    """In the order of the configuration, which decides among equal priorities."""
    tunnels: tuple[GreDevice, ...] = ()
    ingress: tuple[str, ...] = ()
    """Devices whose packets are redirected."""
    never: tuple[IPv4Network, ...] = ()
    """Destinations that are never redirected."""
    zone: str = ""
    """The router's own; empty: none."""
    zones: tuple[tuple[IPv4Network, str], ...] = ()
    """Which caches are in which zone; the longest prefix counts."""
    clamp_mss: bool = True
    clear_df: bool = False

    def zone_of(self, cache: IPv4Address) -> str:
        """The zone of a cache; empty when no prefix holds it."""
        holding = [(network.prefixlen, zone) for network, zone in self.zones if cache in network]
        return max(holding)[1] if holding else ""


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """By what the netlink plane recognises its objects; whatever carries these marks is ours."""

    services: tuple[str, ...] = ()
    """Names of all configured services, in their order: a service's place is its page in the mark."""
    device_prefix: str = "wccp-"
    marks: MarkLayout = field(default_factory=MarkLayout)
    table_base: int = 18800
    """The path in slot s routes by table `table_base + s`."""
    rule_priority: int = 18800
    """The path in slot s has rule priority `rule_priority + s`."""
    route_protocol: int = 118
    nft_table: str = "wccpd"
