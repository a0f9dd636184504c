"""What the host's own network bears on a data plane: devices, routes to caches, neighbours, local addresses."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

from pyroute2 import NetlinkError

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyroute2 import IPRoute

AF_INET: Final = 2
ARPHRD_ETHER: Final = 1
_LOCAL_TABLE: Final = 255
_UNICAST, _LOCAL, _BROADCAST = 1, 2, 3
"""RTN_* (linux/rtnetlink.h)."""
_NEIGHBOUR_ANSWERED: Final = 0xDE
"""NUD_REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT (linux/neighbour.h): its link-layer address is known."""


@dataclass(frozen=True, slots=True)
class Link:
    """A device."""

    index: int
    name: str
    mtu_bytes: int
    is_ethernet: bool


@dataclass(frozen=True, slots=True)
class Way:
    """A route to an address."""

    device_index: int
    gateway: IPv4Address | None
    """None: it is on the device's segment."""
    mtu_bytes: int | None
    """Of the path, where it is less than the device's."""


def links(ipr: IPRoute) -> tuple[Link, ...]:
    """All devices."""
    return tuple(
        Link(
            message["index"],
            str(message.get_attr("IFLA_IFNAME")),
            int(message.get_attr("IFLA_MTU") or 0),
            message["ifi_type"] == ARPHRD_ETHER,
        )
        for message in ipr.get_links()
    )


def way_to(ipr: IPRoute, address: IPv4Address) -> Way | None:
    """How packets go to an address; None if there is no way, or it is our own."""
    try:
        (route,) = ipr.route("get", dst=str(address))
    except NetlinkError:
        return None
    if route["type"] != _UNICAST:
        return None
    gateway, metrics = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_METRICS")
    mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else None
    return Way(route.get_attr("RTA_OIF"), IPv4Address(gateway) if gateway else None, mtu)


def neighbours(ipr: IPRoute) -> dict[IPv4Address, str]:
    """Link-layer addresses of neighbours that answered."""
    found = {}
    for message in ipr.get_neighbours(family=AF_INET):
        address, mac = message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")
        if mac is not None and message["state"] & _NEIGHBOUR_ANSWERED:
            found[IPv4Address(address)] = str(mac)
    return found


def local_networks(ipr: IPRoute) -> tuple[IPv4Network, ...]:
    """Addresses and networks that are the host's own, and broadcast ones."""
    found = {
        IPv4Network((message.get_attr("RTA_DST"), message["dst_len"]))
        for message in ipr.get_routes(family=AF_INET, table=_LOCAL_TABLE)
        if message["type"] in {_LOCAL, _BROADCAST} and message.get_attr("RTA_DST") is not None
    }
    return tuple(sorted(found))


@contextmanager
def kernel(obj: str, verb: str) -> Iterator[None]:
    """Translate what pyroute2 and /proc raise."""
    try:
        yield
    except NetlinkError as error:
        raise KernelError(obj, verb, error.code, str(error.args[-1])) from error
    except OSError as error:
        raise KernelError(obj, verb, error.errno or 0, error.strerror or str(error)) from error
