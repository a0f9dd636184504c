"""What the host's own network bears on a data plane: devices, routes to caches, neighbours, addresses, settings.

Foreign exceptions are translated here, once.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute, NetlinkError

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

AF_INET: Final = 2
ARPHRD_ETHER: Final = 1
IPV4_CONF: Final = Path("/proc/sys/net/ipv4/conf")
IP_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
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


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address on a segment of the host that answered."""

    device_index: int
    mac: str


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


def neighbours(ipr: IPRoute) -> dict[IPv4Address, Neighbour]:
    """Neighbours that answered, by address."""
    found = {}
    for message in ipr.get_neighbours(family=AF_INET):
        address, mac = message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")
        if mac is not None and message["state"] & _NEIGHBOUR_ANSWERED:
            found[IPv4Address(address)] = Neighbour(message["ifindex"], str(mac))
    return found


def local_networks(ipr: IPRoute) -> tuple[IPv4Network, ...]:
    """Addresses and networks that are the host's own, and broadcast ones."""
    found = {
        IPv4Network((message.get_attr("RTA_DST"), message["dst_len"]))
        for message in ipr.get_routes(family=AF_INET, table=_LOCAL_TABLE)
        if message["type"] in {_LOCAL, _BROADCAST} and message.get_attr("RTA_DST") is not None
    }
    return tuple(sorted(found))


def adjacent_networks() -> tuple[IPv4Network, ...]:
    """The networks on Ethernet segments of this host, where L2 can reach a cache.

    Raises:
        KernelError: The kernel does not say.
    """
    with kernel("addresses", "read"), IPRoute() as ipr:
        ethernet = {link.index for link in links(ipr) if link.is_ethernet}
        return tuple(
            IPv4Interface(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}").network
            for message in ipr.get_addr(family=AF_INET)
            if message["index"] in ethernet
        )


def forwards() -> bool:
    """net.ipv4.ip_forward: whether the host forwards at all.

    Raises:
        KernelError: The kernel does not say.
    """
    with kernel("net.ipv4.ip_forward", "read"):
        return IP_FORWARD.read_text().strip() == "1"


def is_strict(device: str) -> bool:
    """Whether reverse-path filtering drops what a cache returns by L2, under addresses that are elsewhere.

    The kernel takes the greater of the device's and all's setting: 0 off, 1 strict, 2 loose (ip-sysctl).
    """
    settings = []
    for name in ("all", device):
        try:
            settings.append(int((IPV4_CONF / name / "rp_filter").read_text()))
        except OSError:
            return False  # the device has just gone
    return max(settings) == 1


def strict_words(device: str, dropped: str) -> str:
    """What to tell of a device that is strict: what it drops, and the remedy."""
    key = f"net.ipv4.conf.{device}.rp_filter"
    return f"{key} is strict: it drops {dropped} (remedy: sysctl -w {key}=2)"


@contextmanager
def kernel(
    obj: str, verb: str, *, tolerate: int | None = None, hints: Mapping[int, str] | None = None
) -> Iterator[None]:
    """Translate what pyroute2 and /proc raise.

    Args:
        obj: What it is done to.
        verb: What is done.
        tolerate: An errno that means "already so", which is no error.
        hints: What to tell the operator, by errno.

    Raises:
        KernelError: The kernel refused.
    """
    try:
        yield
    except NetlinkError as error:
        if error.code != tolerate:
            detail = (hints or {}).get(error.code, str(error.args[-1]))
            raise KernelError(obj, verb, error.code, detail) from error
    except OSError as error:
        raise KernelError(obj, verb, error.errno or 0, error.strerror or str(error)) from error
