"""Which packets a service group takes, as nft conditions (draft 4.10, 5.6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.wire.enums import STANDARD_SERVICE_PRIORITY, ServiceFlags, ServiceType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wccpd.protocol.view import GroupView
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.elements import ServiceKey

TCP = 6
UDP = 17
WEB_CACHE_PORT = 80


@dataclass(frozen=True, slots=True)
class ServiceMatch:
    """A service's condition in nft text and in words."""

    condition: str
    words: str
    hash_key: str
    """nft expression whose jhash is the bucket."""
    priority: int
    """0 to 255, higher is asked first."""


def is_standard(key: ServiceKey) -> bool:
    """Whether a group is one of the well-known services."""
    return key.service_type is ServiceType.STANDARD


def service_name(key: ServiceKey) -> str:
    """A group as the configuration names it, also good as part of an nft name: `web-cache`, `70`, `standard-5`."""
    if is_standard(key):
        return "web-cache" if key.service_id == 0 else f"standard-{key.service_id}"
    return str(key.service_id)


def service_match(group: GroupView) -> ServiceMatch | None:
    """What the group redirects; None for a dynamic service that no cache has defined, or an unknown standard one."""
    info = group.definition
    if is_standard(group.key):
        if group.key.service_id != 0:
            return None
        # The drafts name no hash key for web-cache; destination IP is WCCPv1's and Squid's reading.
        return ServiceMatch(
            f"ip protocol tcp th dport {WEB_CACHE_PORT}",
            "tcp to port 80",
            "ip daddr",
            STANDARD_SERVICE_PRIORITY,
        )
    if info is None:
        return None
    return ServiceMatch(_condition(info), words(info), _hash_key(info), info.priority)


def by_priority(
    pairs: Iterable[tuple[GroupView, ServiceMatch | None]],
) -> tuple[tuple[GroupView, ServiceMatch], ...]:
    """Defined groups, highest priority first; equal ones in the order of the configuration."""
    defined = [(group, match) for group, match in pairs if match is not None]
    return tuple(sorted(defined, key=lambda pair: -pair[1].priority))


def words(info: ServiceInfo) -> str:
    """A definition for an operator, e.g. `tcp to port 80, 8080`."""
    if is_standard(info.key):
        return "tcp to port 80" if info.key.service_id == 0 else "an unknown standard service"
    protocol = {0: "every protocol", TCP: "tcp", UDP: "udp"}.get(info.protocol, f"protocol {info.protocol}")
    ports = _ports(info)
    if not ports:
        return protocol
    direction = "from" if ServiceFlags.PORTS_SOURCE in info.flags else "to"
    return f"{protocol} {direction} port {', '.join(str(port) for port in ports)}"


def _ports(info: ServiceInfo) -> tuple[int, ...]:
    """The port list is active for TCP and UDP with Ports Defined only (2.01, 5.1.2)."""
    if ServiceFlags.PORTS_DEFINED not in info.flags or info.protocol not in {TCP, UDP}:
        return ()
    return info.effective_ports


def _condition(info: ServiceInfo) -> str:
    every = info.protocol == 0 and ServiceFlags.REDIRECT_ONLY_PROTOCOL_0 not in info.flags
    parts = ["ip protocol >= 0" if every else f"ip protocol {info.protocol}"]
    ports = _ports(info)
    if ports:
        side = "sport" if ServiceFlags.PORTS_SOURCE in info.flags else "dport"
        parts.append(f"th {side} {{ {', '.join(str(port) for port in sorted(set(ports)))} }}")
    return " ".join(parts)


def _hash_key(info: ServiceInfo) -> str:
    fields = [
        text
        for flag, text, needs_ports in (
            (ServiceFlags.SOURCE_IP_HASH, "ip saddr", False),
            (ServiceFlags.DESTINATION_IP_HASH, "ip daddr", False),
            (ServiceFlags.SOURCE_PORT_HASH, "th sport", True),
            (ServiceFlags.DESTINATION_PORT_HASH, "th dport", True),
        )
        if flag in info.flags and (not needs_ports or info.protocol in {TCP, UDP})
    ]
    return " . ".join(fields) if fields else "ip daddr"
