"""The parsers of single values in the configuration, and the words in which they refuse.

A parser takes what YAML gave (text, whole number, true or false) or the finished object, and raises
`FieldError` with a sentence that begins "must …". It sees one value only; what values mean together is in
`validate`.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

INTERFACE_NAME_OCTETS = 15
"""IFNAMSIZ of linux/if.h without its terminating zero."""
CACHE_DEVICE_DIGITS = 8
"""What follows the prefix in the name of the device towards a cache: its IPv4 address in hexadecimal."""
DEVICE_PREFIX_LEAST_OCTETS = 2
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
            raise FieldError(
                "must be an IPv4 address such as 10.100.1.10", hint=_address_hint(value)
            ) from None
    raise FieldError("must be an IPv4 address such as 10.100.1.10")


def _address_hint(text: str) -> str:
    if ":" in text:
        return "IPv6 is not supported here"
    if re.fullmatch(r"[0-9.]+/[0-9]{1,2}", text):
        return "remove the '/' and what follows"
    if re.fullmatch(r"([0-9]+\.){3}[0-9]+", text) and re.search(r"\b0[0-9]", text):
        return "write the numbers without leading zeros"
    return "names are not looked up" if re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", text) else ""


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
    unreachable = value.is_multicast or value.is_loopback or value.is_unspecified or value.is_link_local
    if unreachable or value.scope_id is not None:
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
        hint = "separate the entries of a list by ','" if " " in value else ""
        raise FieldError("must be an IPv4 network such as 10.0.0.0/8", hint=hint) from None
    _require_prefix_length(value, network)
    if network.network_address != IPv4Address(value.partition("/")[0]):
        raise FieldError("must have no bits set after the prefix length", hint=f"did you mean '{network}'?")
    return network


def _require_prefix_length(text: str, network: IPv4Network | IPv6Network) -> None:
    """Pass `10.0.0.0/8`, refuse what ipaddress takes beside it: netmasks, and Cisco's wildcards."""
    _, slash, length = text.partition("/")
    if slash and length != str(network.prefixlen):
        raise FieldError("must have a prefix length after the '/'", hint=f"did you mean '{network}'?")


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
        network = IPv6Network(value.replace("%", "no scope"), strict=False)
    except ValueError:
        raise FieldError("must be an IPv6 network such as 2001:db8::/32") from None
    _require_prefix_length(value, network)
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


def parse_tunnel_name(value: object) -> str:
    """Read a tunnel's name, which becomes the end of its device's name.

    Raises:
        FieldError: it holds other characters than a-z, 0-9 and the hyphen, or could be a cache's address.
    """
    most = INTERFACE_NAME_OCTETS - DEVICE_PREFIX_LEAST_OCTETS
    if not isinstance(value, str) or not re.fullmatch(rf"[a-z0-9][a-z0-9-]{{0,{most - 1}}}", value):
        raise FieldError(
            "must be a short name", allowed=f"up to {most} of a-z, 0-9 and '-', not beginning with '-'"
        )
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


def parse_group_name(value: object) -> str:
    """Read the name of a Unix group.

    Raises:
        FieldError: groupadd(8) would not take it.
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", value):
        return value
    raise FieldError(
        "must be the name of a Unix group",
        allowed="a letter or '_', then up to 31 letters, digits, '.', '_' or '-'",
    )


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


def parse_environment_name(value: object) -> str:
    """Read the name of an environment variable.

    Raises:
        FieldError: no shell could set it.
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        return value
    raise FieldError(
        "must be the name of an environment variable, not its value",
        allowed="letters, digits and '_', not beginning with a digit",
    )


def parse_credential_name(value: object) -> str:
    """Read the name of a systemd credential, which is a file's name too.

    Raises:
        FieldError: systemd would not take it.
    """
    if isinstance(value, str) and re.fullmatch(r"[!-.0-9;-~]{1,255}", value) and value not in {".", ".."}:
        return value
    raise FieldError(
        "must be the name of a systemd credential",
        allowed="up to 255 ASCII characters without blank, '/' and ':'",
    )


def refuse_open_password(value: object) -> object:
    """Let only the loader set a password: one written in the configuration file itself is refused.

    Raises:
        FieldError: there is one. The message does not repeat it.
    """
    if isinstance(value, str | int | float | list | dict):
        raise FieldError(
            "must not be written in this file",
            hint="put it in a file of its own and name that in password_file, "
            "or use password_environment or password_credential",
        )
    return value
