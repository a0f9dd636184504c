"""What a service group takes, in which order groups are asked, and what they hash (draft 4.10, 5.6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.plan.redirect import NO_FIELDS, PORT_PROTOCOLS, TCP, UDP, HashFields, PacketMatch
from wccpd.wire.enums import STANDARD_SERVICE_PRIORITY, ServiceFlags, ServiceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wccpd.protocol.view import GroupView
    from wccpd.wire.components import ServiceInfo
    from wccpd.wire.elements import ServiceKey

WEB_CACHE_PORT = 80


def is_standard(key: ServiceKey) -> bool:
    """Whether a group is one of the well-known services."""
    return key.service_type is ServiceType.STANDARD


def service_name(key: ServiceKey) -> str:
    """A group as the configuration names it, also good as part of an nft name: `web-cache`, `70`, `standard-5`."""
    if is_standard(key):
        return "web-cache" if key.service_id == 0 else f"standard-{key.service_id}"
    return str(key.service_id)


def service_match(group: GroupView) -> PacketMatch | None:
    """What the group redirects; None for a dynamic service that nobody has defined, or an unknown standard one."""
    if is_standard(group.key):
        return PacketMatch(TCP, (WEB_CACHE_PORT,)) if group.key.service_id == 0 else None
    info = group.definition
    if info is None:
        return None
    every = info.protocol == 0 and ServiceFlags.REDIRECT_ONLY_PROTOCOL_0 not in info.flags
    return PacketMatch(
        None if every else info.protocol,
        tuple(sorted(set(_ports(info)))),
        ServiceFlags.PORTS_SOURCE in info.flags,
    )


def priority(group: GroupView) -> int:
    """0 to 255; standard services count as 240."""
    if is_standard(group.key) or group.definition is None:
        return STANDARD_SERVICE_PRIORITY
    return group.definition.priority


def by_priority(groups: Iterable[GroupView], configured: Sequence[ServiceKey]) -> tuple[GroupView, ...]:
    """Groups that take anything, highest priority first; equal ones in the order of the configuration."""
    place = {key: index for index, key in enumerate(configured)}
    defined = [group for group in groups if service_match(group) is not None]
    return tuple(sorted(defined, key=lambda group: (-priority(group), place.get(group.key, len(place)))))


def hash_fields(info: ServiceInfo | None) -> tuple[HashFields, HashFields]:
    """What the primary and the alternate hash are made of.

    The drafts name no key for standard services; destination IP is WCCPv1's and Squid's reading. It also serves
    for a dynamic service that asks for none. A service without alternate flags has key 0 (protocol.md 4.2).
    """
    if info is None or is_standard(info.key):
        return HashFields(destination_address=True), NO_FIELDS
    flags = info.flags
    primary = HashFields(
        ServiceFlags.SOURCE_IP_HASH in flags,
        ServiceFlags.DESTINATION_IP_HASH in flags,
        ServiceFlags.SOURCE_PORT_HASH in flags,
        ServiceFlags.DESTINATION_PORT_HASH in flags,
    )
    alternate = HashFields(
        ServiceFlags.SOURCE_IP_ALTERNATE_HASH in flags,
        ServiceFlags.DESTINATION_IP_ALTERNATE_HASH in flags,
        ServiceFlags.SOURCE_PORT_ALTERNATE_HASH in flags,
        ServiceFlags.DESTINATION_PORT_ALTERNATE_HASH in flags,
    )
    return primary if any(primary) else HashFields(destination_address=True), alternate


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
    if ServiceFlags.PORTS_DEFINED not in info.flags or info.protocol not in PORT_PROTOCOLS:
        return ()
    return info.effective_ports
