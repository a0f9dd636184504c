"""The types of single values: each with its parser, and with how it is written, for people and for editors.

`Written` is what the manual, `wccpd explain-config` and the JSON Schema know of a type. The schema is never
stricter than the parser: an editor must not mark what wccpd takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from config import fields, numbers
from config.fields import DEVICE_PREFIX_LEAST_OCTETS, DEVICE_PREFIX_OCTETS, INTERFACE_NAME_OCTETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Written:
    """How a value is written."""

    words: str
    """What it is, in the singular."""
    many: str
    """The same in the plural, for lists."""
    schema: Mapping[str, object] = field(hash=False)
    """As JSON Schema."""
    example: str
    """One that is accepted, as YAML."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: object) -> dict[str, object]:
        """Stand in for the schema of the Python type, which does not know what the file holds."""
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What counts where a key is left out, if no single value says it: words that follow "default: "."""

    words: str


_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}"
_IPV4_NETWORK = rf"{_IPV4}(/([0-9]|[12][0-9]|3[0-2]))?"
_IPV6 = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"
_IPV6_NETWORK = rf"{_IPV6}(/([0-9]{{1,2}}|1[01][0-9]|12[0-8]))?"


def _text(pattern: str) -> dict[str, object]:
    return {"type": "string", "pattern": f"^({pattern})$"}


_NUMBER_0_TO_255 = {"type": "integer", "minimum": 0, "maximum": 255}

UnicastAddress = Annotated[
    IPv4Address,
    BeforeValidator(fields.parse_unicast_address),
    Written("IPv4 address of a host", "IPv4 addresses of hosts", _text(_IPV4), "10.100.1.10"),
]
MulticastAddress = Annotated[
    IPv4Address,
    BeforeValidator(fields.parse_multicast_address),
    Written(
        "IPv4 multicast address, 224.0.0.0 to 239.255.255.255",
        "IPv4 multicast addresses",
        _text(_IPV4),
        "239.1.1.1",
    ),
]
OuterAddress = Annotated[
    IPv4Address | IPv6Address,
    BeforeValidator(fields.parse_outer_address),
    Written("IPv4 or IPv6 address", "IPv4 or IPv6 addresses", _text(f"{_IPV4}|{_IPV6}"), "10.99.0.1"),
]
Network = Annotated[
    IPv4Network,
    BeforeValidator(fields.parse_network),
    Written("IPv4 network or address", "IPv4 networks or addresses", _text(_IPV4_NETWORK), "10.100.1.0/24"),
]
AnyNetwork = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(fields.parse_any_network),
    Written(
        "IPv4 or IPv6 network",
        "IPv4 or IPv6 networks",
        _text(f"{_IPV4_NETWORK}|{_IPV6_NETWORK}"),
        "0.0.0.0/0",
    ),
]
AcceptedNetwork = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(fields.parse_accepted_network),
    Written(
        "IPv4 or IPv6 network, not the default route",
        "IPv4 or IPv6 networks, not the default route",
        _text(f"{_IPV4_NETWORK}|{_IPV6_NETWORK}"),
        "10.0.0.0/8",
    ),
]
InsideIpv6Network = Annotated[
    IPv6Network,
    BeforeValidator(fields.parse_inside_ipv6_network),
    Written("/125 of fd00::/8", "/125s of fd00::/8", _text("[Ff][Dd][0-9A-Fa-f:.]+/125"), "fd00:6::/125"),
]
InsideNetwork = Annotated[
    IPv4Network,
    BeforeValidator(fields.parse_inside_network),
    Written(
        "/29 of 169.254.0.0/16",
        "/29s of 169.254.0.0/16",
        _text(rf"169\.254\.{_OCTET}\.{_OCTET}/29"),
        "169.254.6.0/29",
    ),
]
ServiceName = Annotated[
    Literal["web-cache"] | int,
    BeforeValidator(numbers.parse_service),
    Written(
        "`web-cache`, or a whole number, 0 to 255",
        "service groups",
        {"anyOf": [{"const": "web-cache"}, _NUMBER_0_TO_255]},
        "web-cache",
    ),
]
TunnelName = Annotated[
    str,
    BeforeValidator(fields.parse_tunnel_name),
    Written(
        "name of a-z, 0-9 and '-'",
        "names of a-z, 0-9 and '-'",
        _text("[a-z0-9][a-z0-9-]*") | {"maxLength": INTERFACE_NAME_OCTETS - DEVICE_PREFIX_LEAST_OCTETS},
        "tgw-a",
    ),
]
HttpPath = Annotated[
    str,
    BeforeValidator(fields.parse_http_path),
    Written("path of an HTTP request", "paths of HTTP requests", _text("/[!-~]*"), "/"),
]
InterfaceName = Annotated[
    str,
    BeforeValidator(fields.parse_interface_name),
    Written(
        "name of a network interface",
        "names of network interfaces",
        _text(rf"[A-Za-z][A-Za-z0-9._-]{{0,{INTERFACE_NAME_OCTETS - 1}}}"),
        "ens6",
    ),
]
DevicePrefix = Annotated[
    str,
    BeforeValidator(fields.parse_device_prefix),
    Written(
        f"2 to {DEVICE_PREFIX_OCTETS} of a-z, 0-9 and '-', a letter first",
        "beginnings of device names",
        _text(rf"[a-z][a-z0-9-]{{1,{DEVICE_PREFIX_OCTETS - 1}}}"),
        "wccp-",
    ),
]
NftName = Annotated[
    str,
    BeforeValidator(fields.parse_nft_name),
    Written(
        "up to 31 letters, digits and '_', a letter first",
        "names of nftables tables",
        _text("[A-Za-z][A-Za-z0-9_]{0,30}"),
        "wccpd",
    ),
]
Asn = Annotated[
    int,
    BeforeValidator(numbers.parse_asn),
    Written(
        "autonomous system number, 1 to 4294967294 without 23456 and 65535",
        "autonomous system numbers",
        {"type": "integer", "minimum": 1, "maximum": 4294967294, "not": {"enum": [23456, 65535]}},
        "65010",
    ),
]
TransitGatewayAsn = Annotated[
    int,
    BeforeValidator(numbers.parse_transit_gateway_asn),
    Written(
        "autonomous system number, 64512 to 65534 or 4200000000 to 4294967294",
        "autonomous system numbers",
        {
            "type": "integer",
            "anyOf": [
                {"minimum": 64512, "maximum": 65534},
                {"minimum": 4200000000, "maximum": 4294967294},
            ],
        },
        "64512",
    ),
]
IpProtocol = Annotated[
    int | None,
    BeforeValidator(numbers.parse_protocol),
    Written(
        f"one of {', '.join(f'`{name}`' for name in numbers.PROTOCOLS)}, or a whole number, 0 to 255",
        "IP protocols",
        {"anyOf": [{"enum": list(numbers.PROTOCOLS)}, _NUMBER_0_TO_255]},
        "tcp",
    ),
]
Port = Annotated[
    int,
    BeforeValidator(numbers.parse_port),
    Written(
        "port, 1 to 65535", "ports, 1 to 65535", {"type": "integer", "minimum": 1, "maximum": 65535}, "443"
    ),
]
PortRange = Annotated[
    tuple[int, int],
    BeforeValidator(numbers.parse_port_range),
    Written(
        "port or range of ports",
        "ports or ranges of ports",
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, _text("[0-9]{1,5}-[0-9]{1,5}")]},
        "8000-8099",
    ),
]
GroupName = Annotated[
    str,
    BeforeValidator(fields.parse_group_name),
    Written(
        "a letter or '_', then up to 31 letters, digits, '.', '_' or '-'",
        "names of groups",
        _text("[A-Za-z_][A-Za-z0-9_.-]{0,31}"),
        "adm",
    ),
]
ZoneName = Annotated[
    str,
    BeforeValidator(fields.parse_zone_name),
    Written(
        "up to 63 letters, digits, '.', '_' and '-'",
        "names of zones",
        _text("[A-Za-z0-9._-]{1,63}"),
        "eu-west-1a",
    ),
]
RouteProtocol = Annotated[
    int,
    BeforeValidator(numbers.parse_route_protocol),
    Written(
        "whole number, 5 to 255 without those of other routing daemons",
        "numbers of route protocols",
        {
            "type": "integer",
            "minimum": 5,
            "maximum": 255,
            "not": {"enum": list(numbers.KNOWN_ROUTE_PROTOCOLS)},
        },
        "118",
    ),
]
FilePath = Annotated[
    Path,
    BeforeValidator(fields.parse_path),
    Written("file name", "file names", {"type": "string", "minLength": 1}, "web-cache.password"),
]
AbsolutePath = Annotated[
    Path,
    BeforeValidator(fields.parse_path),
    AfterValidator(fields.require_absolute),
    Written("absolute path", "absolute paths", {"type": "string", "pattern": "^/"}, "/var/lib/wccpd"),
]
SocketPath = Annotated[
    Path,
    BeforeValidator(fields.parse_path),
    AfterValidator(fields.require_absolute),
    AfterValidator(fields.require_socket_length),
    Written(
        "absolute path of a Unix socket, at most 107 octets",
        "absolute paths of Unix sockets",
        {"type": "string", "pattern": "^/"},
        "/run/wccpd/control.sock",
    ),
]
EnvironmentName = Annotated[
    str,
    BeforeValidator(fields.parse_environment_name),
    Written(
        "name of an environment variable",
        "names of environment variables",
        _text("[A-Za-z_][A-Za-z0-9_]*"),
        "WCCP_PASSWORD",
    ),
]
CredentialName = Annotated[
    str,
    BeforeValidator(fields.parse_credential_name),
    Written(
        "name of a systemd credential",
        "names of systemd credentials",
        {"type": "string", "minLength": 1, "maxLength": 255, "not": {"pattern": "/"}},
        "web-cache-password",
    ),
]
