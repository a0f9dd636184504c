"""Squid as an intercepting proxy: its lines, and the kernel's part below them. A POSIX shell script.

HTTPS is spliced, never decrypted. Passwords are not in the script: they are taken from the environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.plan.redirect import TCP, UDP
from wccpd.proxy_config import linux
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wccpd.proxy_config.side import ServiceSide, Side
    from wccpd.wire.components import ServiceInfo

CONFIGURATION = "/etc/squid/conf.d/wccp.conf"
"""Debian's squid.conf includes it, before its own http_access lines."""
CERTIFICATE = "/etc/squid/wccp-splice.pem"

_FLAGS = {
    ServiceFlags.SOURCE_IP_HASH: "src_ip_hash",
    ServiceFlags.DESTINATION_IP_HASH: "dst_ip_hash",
    ServiceFlags.SOURCE_PORT_HASH: "source_port_hash",
    ServiceFlags.DESTINATION_PORT_HASH: "dst_port_hash",
    ServiceFlags.PORTS_SOURCE: "ports_source",
    ServiceFlags.SOURCE_IP_ALTERNATE_HASH: "src_ip_alt_hash",
    ServiceFlags.DESTINATION_IP_ALTERNATE_HASH: "dst_ip_alt_hash",
    ServiceFlags.SOURCE_PORT_ALTERNATE_HASH: "src_port_alt_hash",
    ServiceFlags.DESTINATION_PORT_ALTERNATE_HASH: "dst_port_alt_hash",
}
"""As Squid spells them. It sets "ports defined" itself where ports are given."""


def script(side: Side) -> str:
    """The whole script."""
    secrets = [each.variable for each in side.services if each.has_password]
    environment = " ".join(f"{name}=…" for name in secrets)
    return "\n".join(
        (
            *linux.head(side, "squid", environment),
            "set -eu",
            *(f': "${{{name}:?the password of that service, as the router has it}}"' for name in secrets),
            f"SQUID_CONF=${{SQUID_CONF:-{CONFIGURATION}}}",
            *(_certificate() if side.tls_ports else ()),
            *linux.body(side),
            "",
            "# Squid's lines. Only root may read them: they hold the passwords.",
            "umask 077",
            'cat > "$SQUID_CONF" <<END',
            *_lines(side),
            "END",
            'echo "written: $SQUID_CONF; now restart Squid"',
            "",
        )
    )


def _certificate() -> Iterator[str]:
    yield f"SQUID_CERT=${{SQUID_CERT:-{CERTIFICATE}}}"
    yield ""
    yield "# Squid wants a certificate for a port of TLS, and never shows it: connections are spliced."
    yield '[ -e "$SQUID_CERT" ] || (umask 077 && openssl req -x509 -newkey rsa:2048 -nodes -days 3650 \\'
    yield '  -subj /CN=spliced -keyout "$SQUID_CERT" -out "$SQUID_CERT.new" 2>/dev/null &&'
    yield '  cat "$SQUID_CERT.new" >> "$SQUID_CERT" && rm "$SQUID_CERT.new")'
    yield ""


def _lines(side: Side) -> Iterator[str]:
    yield "http_port $HTTP_PORT intercept"
    if side.tls_ports:
        yield "https_port $TLS_PORT intercept ssl-bump generate-host-certificates=off tls-cert=$SQUID_CERT"
        yield "ssl_bump splice all"
    yield f"acl wccp_clients src {' '.join(map(str, side.clients))}"
    yield "http_access allow wccp_clients"
    yield from (f"wccp2_router {router}" for router in side.routers)
    yield f"wccp2_address {side.cache}"
    yield f"wccp2_forwarding_method {'gre' if side.forwarding is ForwardingMethod.GRE else 'l2'}"
    yield f"wccp2_return_method {'gre' if side.packet_return is PacketReturnMethod.GRE else 'l2'}"
    yield f"wccp2_assignment_method {'hash' if side.assignment is AssignmentMethod.HASH else 'mask'}"
    for service in side.services:
        yield from _service(service)


def _service(service: ServiceSide) -> Iterator[str]:
    info = service.info
    assert info is not None
    password = f" password=${{{service.variable}}}" if service.has_password else ""
    kind = "standard" if info.is_standard else "dynamic"
    yield f"wccp2_service {kind} {info.service_id}{password}"
    if not info.is_standard:
        yield f"wccp2_service_info {info.service_id} {_definition(info)}"


def _definition(info: ServiceInfo) -> str:
    """A service's definition in Squid's words."""
    flags = [word for flag, word in _FLAGS.items() if flag in info.flags]
    ports = info.effective_ports if ServiceFlags.PORTS_DEFINED in info.flags else ()
    protocol = {TCP: "tcp", UDP: "udp"}.get(info.protocol, str(info.protocol))
    return " ".join(
        (
            f"protocol={protocol}",
            *((f"flags={','.join(flags)}",) if flags else ()),
            f"priority={info.priority}",
            *((f"ports={','.join(map(str, ports))}",) if ports else ()),
        )
    )
