"""The parsers of values that are numbers, or may be: ports, protocols, services, autonomous systems.

With the same rules as those in `fields`: one value each, refused by a sentence that begins "must …".
"""

import re
from typing import Literal

from config.fields import FieldError

KNOWN_ROUTE_PROTOCOLS = {
    8: "gated", 9: "ra", 10: "mrt", 11: "zebra", 12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk",
    16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel", 84: "ovn", 99: "openr",
    186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip
"""Numbers other daemons mark their routes with (linux/rtnetlink.h): using one, we would remove theirs."""


def parse_service(value: object) -> Literal["web-cache"] | int:
    """Read a service group's name: the well-known `web-cache`, or the number of a dynamic service.

    Raises:
        FieldError: it is neither.
    """
    if value == "web-cache":
        return "web-cache"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    like = isinstance(value, str) and re.sub("[^a-z]", "", value.lower()) in {
        "webcache",
        "web",
        "http",
        "cache",
    }
    raise FieldError(
        "must name a service group",
        allowed="web-cache, or the number 0 to 255 of a dynamic service",
        hint="did you mean 'web-cache'?" if like else "",
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


def parse_asn(value: object) -> int:
    """Read an autonomous system number, 1 to 4294967294 without the reserved ones (RFC 7300, RFC 6793).

    Raises:
        FieldError: it is none that a router may use.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 0xFFFFFFFF:
        raise FieldError(
            "must be an autonomous system number", allowed="1 to 4294967294", hint=_asn_hint(value)
        )
    if value in {23456, 65535}:
        raise FieldError("must not be a reserved autonomous system number")
    return value


def _asn_hint(value: object) -> str:
    """The number in `AS65010`, or that of the dotted form of RFC 5396."""
    if not isinstance(value, str):
        return ""
    if named := re.fullmatch(r"[Aa][Ss][Nn]? ?([1-9][0-9]{0,9})", value):
        return f"did you mean {named[1]}?"
    dotted = re.fullmatch(r"([0-9]{1,5})\.([0-9]{1,5})", value)
    return f"did you mean {int(dotted[1]) << 16 | int(dotted[2])}?" if dotted else ""


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
