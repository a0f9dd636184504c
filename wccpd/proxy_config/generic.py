"""The same facts in words, for proxies that are set up by hand or by a vendor's dialogues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.plan.match import words
from wccpd.protocol.capability import method_name
from wccpd.wire.enums import ForwardingMethod, ServiceFlags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wccpd.proxy_config.side import ServiceSide, Side

_HASHES = {
    ServiceFlags.SOURCE_IP_HASH: "source address",
    ServiceFlags.DESTINATION_IP_HASH: "destination address",
    ServiceFlags.SOURCE_PORT_HASH: "source port",
    ServiceFlags.DESTINATION_PORT_HASH: "destination port",
}


def text(side: Side) -> str:
    """Everything to be agreed on."""
    return "\n".join((*_lines(side), ""))


def _lines(side: Side) -> Iterator[str]:
    gre = side.forwarding is ForwardingMethod.GRE
    yield f"Proxy {side.cache}"
    yield f"  WCCP version      2, to UDP port 2048 of {', '.join(map(str, side.routers))} (Router IDs)"
    yield f"  source address    {side.cache}, the one that it names as its own; no NAT between"
    yield f"  forwarding        {method_name(side.forwarding)}"
    yield f"  packet return     {method_name(side.packet_return)}"
    yield f"  assignment        {method_name(side.assignment)}"
    yield f"  clients           {', '.join(map(str, side.clients))}"
    for service in side.services:
        yield from _service(service)
    for remark in side.remarks:
        yield f"Left out: {remark}"
    yield "On the proxy"
    if gre:
        yield f"  - a GRE tunnel without key from {side.cache} to each router, which takes protocol type 0x883E in"
        yield f"    (outer source of what it gets: {', '.join(map(str, side.routers))})"
    else:
        yield "  - an address on the routers' own segment; packets come with its hardware address, and the server's IP"
    yield "  - interception of these ports: " + (", ".join(map(str, side.ports)) or "none of TCP")
    yield f"  - answers to clients leave {'through that tunnel' if gre else f'by way of {side.routers[0]}'}"
    yield "  - reverse-path filtering loose or off where packets come in"
    yield "In security groups and firewalls between"
    yield f"  - UDP port 2048 both ways{', protocol 47 both ways' if gre else ''}"


def _service(service: ServiceSide) -> Iterator[str]:
    info = service.info
    assert info is not None
    yield f"Service {service.name}"
    yield f"  kind              {'standard' if info.is_standard else 'dynamic'}, number {info.service_id}"
    yield f"  redirects         {words(info)}"
    if not info.is_standard:
        hashed = (
            ", ".join(name for flag, name in _HASHES.items() if flag in info.flags) or "destination address"
        )
        yield f"  priority          {info.priority}"
        yield f"  hash              {hashed}"
        yield f"  flags             {int(info.flags):#06x}"
    yield f"  password          {'as in its password_file: MD5' if service.has_password else 'none'}"
