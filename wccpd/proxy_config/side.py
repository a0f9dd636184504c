"""What a proxy must agree with its routers in. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from wccpd.plan.redirect import TCP
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

    from wccpd.wire.components import ServiceInfo

_Method = TypeVar("_Method", ForwardingMethod, PacketReturnMethod, AssignmentMethod)

TLS_PORTS = frozenset({443, 465, 636, 853, 990, 993, 995, 8443})
"""Ports whose connections begin with TLS; an interception port for HTTP cannot read them."""


class CannotError(Exception):
    """There is no such set-up; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class ServiceSide:
    """One service group that the proxy may join."""

    name: str
    info: ServiceInfo | None
    """What it redirects; None: nobody has said so yet."""
    has_password: bool
    forwarding: ForwardingMethod
    """Methods that the router offers, those of the two fields below too."""
    packet_return: PacketReturnMethod
    assignment: AssignmentMethod

    @property
    def variable(self) -> str:
        """The shell variable that holds its password."""
        return f"WCCP_PASSWORD_{self.name.upper().replace('-', '_')}"

    @property
    def ports(self) -> tuple[int, ...]:
        """TCP destination ports that are to be intercepted; empty if it has none, or takes answers of servers."""
        if self.info is None or self.info.effective_protocol not in {0, TCP}:
            return ()
        if self.info.is_standard:
            return (80,)
        if ServiceFlags.PORTS_SOURCE in self.info.flags:
            return ()
        return self.info.effective_ports if ServiceFlags.PORTS_DEFINED in self.info.flags else (80, 443)


@dataclass(frozen=True, slots=True)
class Side:
    """One proxy."""

    cache: IPv4Address
    routers: tuple[IPv4Address, ...]
    """By Router ID; the one that was asked first."""
    services: tuple[ServiceSide, ...]
    forwarding: ForwardingMethod
    packet_return: PacketReturnMethod
    assignment: AssignmentMethod
    clients: tuple[IPv4Network, ...]
    """Networks whose hosts may use the proxy."""
    remarks: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports to be intercepted."""
        return tuple(sorted({port for service in self.services for port in service.ports}))

    @property
    def clear_ports(self) -> tuple[int, ...]:
        """Those of HTTP."""
        return tuple(port for port in self.ports if port not in TLS_PORTS)

    @property
    def tls_ports(self) -> tuple[int, ...]:
        """Those of TLS."""
        return tuple(port for port in self.ports if port in TLS_PORTS)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a cache that has joined has selected; the router knows it works with that."""

    forwarding: ForwardingMethod
    packet_return: PacketReturnMethod


def side_of(
    cache: IPv4Address,
    routers: tuple[IPv4Address, ...],
    services: tuple[ServiceSide, ...],
    clients: tuple[IPv4Network, ...],
    chosen: Chosen | None = None,
    remarks: tuple[str, ...] = (),
) -> Side:
    """Settle the methods, which most proxies have once for all services.

    Args:
        cache: The proxy's address.
        routers: Router IDs, the one that was asked first.
        services: Those that it may join.
        clients: Networks whose hosts may use the proxy.
        chosen: What it has selected already, if it has joined.
        remarks: What was left out, and why.

    Raises:
        CannotError: There is no service for it, or no method that all of them offer.
    """
    if not services:
        raise CannotError(f"no service takes {cache}: {'; '.join(remarks) or 'none is configured'}")
    forwarding = _common(ForwardingMethod, "forwarding", [each.forwarding for each in services])
    packet_return = _common(PacketReturnMethod, "packet_return", [each.packet_return for each in services])
    assignment = _common(AssignmentMethod, "assignment_method", [each.assignment for each in services])
    if chosen is not None and chosen.forwarding in forwarding and chosen.packet_return in packet_return:
        forwarding, packet_return = chosen.forwarding, chosen.packet_return
    way = _first(forwarding)
    # Mixed ways work with few proxies: the same one there and back if it can be had.
    back = PacketReturnMethod(way.value)
    return Side(
        cache=cache,
        routers=routers,
        services=services,
        forwarding=way,
        packet_return=back if back in packet_return else _first(packet_return),
        assignment=_first(assignment),
        clients=clients,
        remarks=remarks,
    )


def _common(kind: type[_Method], key: str, offers: list[_Method]) -> _Method:
    common = offers[0].value
    for each in offers[1:]:
        common &= each.value
    if not common:
        raise CannotError(f"the services have no {key} in common, and a proxy uses one for all")
    return kind(common)


def _first(methods: _Method) -> _Method:
    """The drafts' default if it is among them: the lowest bit."""
    return type(methods)(methods.value & -methods.value)
