"""The types of single values in the configuration: what may be written, and the words in which it is refused.

A parser takes what YAML gave (text, whole number, true or false) or the finished object, and raises
`FieldError` with a sentence that begins "must …". It sees one value only; what values mean together is in
`validate`.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

INTERFACE_NAME_OCTETS = 15
"""IFNAMSIZ of linux/if.h without its terminating zero."""
CACHE_DEVICE_DIGITS = 8
"""What follows the prefix in the name of the device towards a cache: its IPv4 address in hexadecimal."""
DEVICE_PREFIX_OCTETS = INTERFACE_NAME_OCTETS - CACHE_DEVICE_DIGITS
UNIX_SOCKET_PATH_OCTETS = 107
"""sun_path of unix(7) without its terminating zero."""

AWS_RESERVED_INSIDE = tuple(
    IPv4Network(text)
    for text in (
        "169.254.0.0/29",
        "169.254.1.0/29",
        "169.254.2.0/29",
        "169.254.3.0/29",
        "169.254.4.0/29",
        "169.254.5.0/29",
        "169.254.169.248/29",
    )
)
"""Inside ranges AWS keeps for itself (Transit Gateway Connect, "Connect peers")."""

KNOWN_ROUTE_PROTOCOLS = {
    8: "gated", 9: "ra", 10: "mrt", 11: "zebra", 12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk",
    16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel", 84: "ovn", 99: "openr",
    186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip
"""Numbers other daemons mark their routes with (linux/rtnetlink.h): using one, we would remove theirs."""


class FieldError(ValueError):
    """One value is not acceptable. The message begins with "must"."""

    def __init__(self, message: str, *, allowed: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed
        self.hint = hint


def parse_address(value: object) -> IPv4Address:
    """Read one IPv4 address in dotted form.

    Raises:
        FieldError: it is not one.
    """
    if isinstance(value, IPv4Address):
        return value
    if isinstance(value, str):
        try:
            return IPv4Address(value)
        except AddressValueError:
            hint = "IPv6 is not supported here" if ":" in value else ""
            raise FieldError("must be an IPv4 address such as 10.100.1.10", hint=hint) from None
    raise FieldError("must be an IPv4 address such as 10.100.1.10")


def parse_unicast_address(value: object) -> IPv4Address:
    """Read the IPv4 address of a host: not multicast, loopback, broadcast, or of 0.0.0.0/8 or 240.0.0.0/4.

    Raises:
        FieldError: it is none of a host.
    """
    address = parse_address(value)
    if (
        address.is_multicast
        or address.is_loopback
        or address.is_reserved
        or address in IPv4Network("0.0.0.0/8")
    ):
        raise FieldError("must be an IPv4 unicast address that other hosts can reach")
    return address


def parse_outer_address(value: object) -> IPv4Address | IPv6Address:
    """Read the address of one end of a GRE tunnel: a host's, IPv4 or IPv6.

    Raises:
        FieldError: it is none of a host.
    """
    if isinstance(value, str) and ":" in value:
        try:
            value = IPv6Address(value)
        except AddressValueError:
            raise FieldError("must be an IPv4 or IPv6 address such as 10.99.0.1 or 2001:db8::1") from None
    if not isinstance(value, IPv6Address):
        return parse_unicast_address(value)
    if value.is_multicast or value.is_loopback or value.is_unspecified or value.is_link_local:
        raise FieldError("must be an IPv6 unicast address that other hosts can reach")
    return value


def parse_multicast_address(value: object) -> IPv4Address:
    """Read a group address of WCCP: 224.0.0.0 to 239.255.255.255.

    Raises:
        FieldError: it is not one.
    """
    address = parse_address(value)
    if not address.is_multicast:
        raise FieldError("must be an IPv4 multicast address", allowed="224.0.0.0 to 239.255.255.255")
    return address


def parse_network(value: object) -> IPv4Network:
    """Read an IPv4 network with its prefix length and no host bits; a bare address is its /32.

    Raises:
        FieldError: it is not one; where only host bits are in the way, the hint says the network meant.
    """
    if isinstance(value, IPv4Network):
        return value
    if not isinstance(value, str):
        raise FieldError("must be an IPv4 network such as 10.0.0.0/8")
    try:
        network = IPv4Network(value, strict=False)
    except ValueError:
        raise FieldError("must be an IPv4 network such as 10.0.0.0/8") from None
    if network.network_address != IPv4Address(value.partition("/")[0]):
        raise FieldError("must have no bits set after the prefix length", hint=f"did you mean '{network}'?")
    return network


def parse_any_network(value: object) -> IPv4Network | IPv6Network:
    """Read an IPv4 or IPv6 network with its prefix length and no host bits.

    Raises:
        FieldError: it is not one; where only host bits are in the way, the hint says the network meant.
    """
    if isinstance(value, IPv6Network):
        return value
    if not isinstance(value, str) or ":" not in value:
        return parse_network(value)
    try:
        network = IPv6Network(value, strict=False)
    except ValueError:
        raise FieldError("must be an IPv6 network such as 2001:db8::/32") from None
    if network.network_address != IPv6Address(value.partition("/")[0]):
        raise FieldError("must have no bits set after the prefix length", hint=f"did you mean '{network}'?")
    return network


def parse_inside_ipv6_network(value: object) -> IPv6Network:
    """Read the IPv6 inside CIDR of a Connect peer: a /125 of fd00::/8.

    Raises:
        FieldError: it is not one.
    """
    network = parse_any_network(value)
    allowed = "a /125 in fd00::/8, such as fd00:6::/125"
    if (
        not isinstance(network, IPv6Network)
        or network.prefixlen != 125
        or not network.subnet_of(IPv6Network("fd00::/8"))
    ):
        raise FieldError("must be the Connect peer's IPv6 inside CIDR block", allowed=allowed)
    return network


def parse_inside_network(value: object) -> IPv4Network:
    """Read the inside CIDR of a Connect peer: a /29 of 169.254.0.0/16 outside AWS's own ranges.

    Raises:
        FieldError: it is not one.
    """
    network = parse_network(value)
    allowed = "a /29 in 169.254.0.0/16, such as 169.254.6.0/29"
    if network.prefixlen != 29 or not network.subnet_of(IPv4Network("169.254.0.0/16")):
        raise FieldError("must be the Connect peer's inside CIDR block", allowed=allowed)
    if network in AWS_RESERVED_INSIDE:
        reserved = ", ".join(map(str, AWS_RESERVED_INSIDE))
        raise FieldError(f"must not be a range AWS reserves ({reserved})", allowed=allowed)
    return network


def parse_accepted_network(value: object) -> IPv4Network | IPv6Network:
    """Read a range of spoke prefixes; the default route is refused, it would send egress traffic back.

    Raises:
        FieldError: it is not one.
    """
    network = parse_any_network(value)
    if network.prefixlen == 0:
        raise FieldError(
            "must not be the default route: the Transit Gateway may send us our own default back, "
            "and egress traffic would go round in circles"
        )
    return network


def parse_service(value: object) -> Literal["web-cache"] | int:
    """Read a service group's name: the well-known `web-cache`, or the number of a dynamic service.

    Raises:
        FieldError: it is neither.
    """
    if value == "web-cache":
        return "web-cache"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    raise FieldError(
        "must name a service group", allowed="web-cache, or the number 0 to 255 of a dynamic service"
    )


def parse_tunnel_name(value: object) -> str:
    """Read a tunnel's name, which becomes the end of its device's name.

    Raises:
        FieldError: it holds other characters than a-z, 0-9 and the hyphen, or could be a cache's address.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", value):
        raise FieldError("must be a short name", allowed="a-z, 0-9 and '-', not beginning with '-'")
    if re.fullmatch(rf"[0-9a-f]{{{CACHE_DEVICE_DIGITS}}}", value):
        cache = IPv4Address(int(value, 16))
        raise FieldError(
            f"must not be {CACHE_DEVICE_DIGITS} hexadecimal digits: "
            f"the device towards the cache {cache} has that name"
        )
    return value


def parse_interface_name(value: object) -> str:
    """Read the name of a network interface, which becomes part of our nftables rules.

    Raises:
        FieldError: the kernel would not accept it, or nft would read more in it than a name: a wildcard, a
            number, the end of a quotation.
    """
    more = INTERFACE_NAME_OCTETS - 1
    if isinstance(value, str) and re.fullmatch(rf"[A-Za-z][A-Za-z0-9._-]{{0,{more}}}", value):
        return value
    raise FieldError(
        "must be the name of a network interface",
        allowed=f"a letter, then up to {more} letters, digits, '.', '_' or '-'",
    )


def parse_device_prefix(value: object) -> str:
    """Read the first part of our devices' names; it leaves room for the address of a cache after it.

    Raises:
        FieldError: too long, or characters that would need quoting somewhere.
    """
    more = DEVICE_PREFIX_OCTETS - 1
    if isinstance(value, str) and re.fullmatch(rf"[a-z][a-z0-9-]{{1,{more}}}", value):
        return value
    raise FieldError(
        "must be the beginning of a device name",
        allowed=f"2 to {DEVICE_PREFIX_OCTETS} of a-z, 0-9 and '-', beginning with a letter",
        hint=f"the device of a cache adds {CACHE_DEVICE_DIGITS} digits, "
        f"and a name has at most {INTERFACE_NAME_OCTETS} octets",
    )


def parse_nft_name(value: object) -> str:
    """Read the name of an nftables table.

    Raises:
        FieldError: nft would not take it unquoted.
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", value):
        return value
    raise FieldError(
        "must be the name of an nftables table", allowed="a letter, then up to 30 letters, digits or '_'"
    )


PROTOCOLS = {"any": None, "icmp": 1, "tcp": 6, "udp": 17}
"""Protocols that have a name here."""


def parse_protocol(value: object) -> int | None:
    """Read an IP protocol: a name, `any` (None), or its number.

    Raises:
        FieldError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, str) and value in PROTOCOLS:
        return PROTOCOLS[value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    raise FieldError("must be an IP protocol", allowed=f"{', '.join(PROTOCOLS)}, or a number 0 to 255")


def parse_port(value: object) -> int:
    """Read a TCP or UDP port.

    Raises:
        FieldError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    raise FieldError("must be a port", allowed="1 to 65535")


def parse_port_range(value: object) -> tuple[int, int]:
    """Read a port, or a range of ports as first and last: 443, 8000-8099.

    Raises:
        FieldError: it is neither.
    """
    if isinstance(value, tuple) and len(value) == 2:
        return value
    if not isinstance(value, str):
        port = parse_port(value)
        return port, port
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value)
    if found is None:
        raise FieldError("must be a port or a range of ports", allowed="such as 443 or 8000-8099")
    first, last = (parse_port(int(part)) for part in found.groups())
    if first > last:
        raise FieldError("must begin with the lower port", hint=f"did you mean {last}-{first}?")
    return first, last


def parse_http_path(value: object) -> str:
    """Read the path of an HTTP request, as it stands in the request's first line (RFC 9112, 3.2.1).

    Raises:
        FieldError: it does not begin with a slash, or holds what has no place there.
    """
    if not isinstance(value, str) or not value.startswith("/"):
        raise FieldError("must begin with '/'")
    if not all("!" <= letter <= "~" for letter in value):
        raise FieldError("must consist of printable ASCII characters without spaces; write others as %XX")
    return value


def parse_zone_name(value: object) -> str:
    """Read the name of a zone.

    Raises:
        FieldError: it is empty, long, or not printable.
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,63}", value):
        return value
    raise FieldError("must be the name of a zone", allowed="up to 63 letters, digits, '.', '_' or '-'")


def parse_asn(value: object) -> int:
    """Read an autonomous system number, 1 to 4294967294 without the reserved ones (RFC 7300, RFC 6793).

    Raises:
        FieldError: it is none that a router may use.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 0xFFFFFFFF:
        raise FieldError("must be an autonomous system number", allowed="1 to 4294967294")
    if value in {23456, 65535}:
        raise FieldError("must not be a reserved autonomous system number")
    return value


def parse_transit_gateway_asn(value: object) -> int:
    """Read the ASN of a Transit Gateway, which AWS takes from the private ranges only.

    Raises:
        FieldError: no Transit Gateway can have it.
    """
    number = parse_asn(value)
    if 64512 <= number <= 65534 or 4200000000 <= number <= 4294967294:
        return number
    raise FieldError(
        "must be the Transit Gateway's ASN", allowed="64512 to 65534, or 4200000000 to 4294967294"
    )


def parse_route_protocol(value: object) -> int:
    """Read the number that marks our routes in the kernel, one that nobody else uses.

    Raises:
        FieldError: out of range, the kernel's own, or another routing daemon's.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 5 <= value <= 255:
        raise FieldError("must be a route protocol number", allowed="5 to 255 (0 to 4 are the kernel's)")
    if value in KNOWN_ROUTE_PROTOCOLS:
        raise FieldError(
            "must not be a number another routing daemon uses: we remove the routes that carry it",
            hint=f"{value} is {KNOWN_ROUTE_PROTOCOLS[value]}",
        )
    return value


def parse_path(value: object) -> Path:
    """Read a file name.

    Raises:
        FieldError: it is empty or not text.
    """
    if isinstance(value, Path):
        return value
    if isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    raise FieldError("must be a file name")


def require_absolute(path: Path) -> Path:
    """Pass an absolute path.

    Raises:
        FieldError: it would depend on the directory the daemon was started in.
    """
    if not path.is_absolute():
        raise FieldError("must be an absolute path, beginning with '/'")
    return path


def require_socket_length(path: Path) -> Path:
    """Pass a path the kernel can bind a socket to.

    Raises:
        FieldError: it is too long.
    """
    if len(str(path).encode()) > UNIX_SOCKET_PATH_OCTETS:
        raise FieldError(
            f"must be at most {UNIX_SOCKET_PATH_OCTETS} octets long, the kernel's limit for a socket"
        )
    return path


def refuse_open_password(value: object) -> object:
    """Let only the loader set a password: one written in the configuration file itself is refused.

    Raises:
        FieldError: there is one. The message does not repeat it.
    """
    if isinstance(value, str | int | float | list | dict):
        raise FieldError(
            "must not be written in this file",
            hint="put it in a file of its own and name that in password_file",
        )
    return value


UnicastAddress = Annotated[IPv4Address, BeforeValidator(parse_unicast_address)]
MulticastAddress = Annotated[IPv4Address, BeforeValidator(parse_multicast_address)]
Network = Annotated[IPv4Network, BeforeValidator(parse_network)]
OuterAddress = Annotated[IPv4Address | IPv6Address, BeforeValidator(parse_outer_address)]
AnyNetwork = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_any_network)]
AcceptedNetwork = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_accepted_network)]
InsideIpv6Network = Annotated[IPv6Network, BeforeValidator(parse_inside_ipv6_network)]
InsideNetwork = Annotated[IPv4Network, BeforeValidator(parse_inside_network)]
ServiceName = Annotated[Literal["web-cache"] | int, BeforeValidator(parse_service)]
TunnelName = Annotated[str, BeforeValidator(parse_tunnel_name)]
InterfaceName = Annotated[str, BeforeValidator(parse_interface_name)]
DevicePrefix = Annotated[str, BeforeValidator(parse_device_prefix)]
NftName = Annotated[str, BeforeValidator(parse_nft_name)]
Asn = Annotated[int, BeforeValidator(parse_asn)]
TransitGatewayAsn = Annotated[int, BeforeValidator(parse_transit_gateway_asn)]
IpProtocol = Annotated[int | None, BeforeValidator(parse_protocol)]
HttpPath = Annotated[str, BeforeValidator(parse_http_path)]
Port = Annotated[int, BeforeValidator(parse_port)]
PortRange = Annotated[tuple[int, int], BeforeValidator(parse_port_range)]
ZoneName = Annotated[str, BeforeValidator(parse_zone_name)]
RouteProtocol = Annotated[int, BeforeValidator(parse_route_protocol)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
AbsolutePath = Annotated[Path, BeforeValidator(parse_path), AfterValidator(require_absolute)]
SocketPath = Annotated[
    Path, BeforeValidator(parse_path), AfterValidator(require_absolute), AfterValidator(require_socket_length)
]
