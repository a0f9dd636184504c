"""Netlink verbs for GRE devices: observe, ensure, remove. Idempotent: doing them twice is no error.

pyroute2's own exceptions pass through; `wccpd.dataplane.linux` turns them into the kernel's error.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2 import NetlinkError

from gre.header import GRE_FLAG_KEY
from gre.tunnel import ObservedGre

if TYPE_CHECKING:
    from pyroute2 import IPRoute

    from gre.tunnel import GreDevice, IPAddress, IPInterface

KINDS = {"gre": "GRE", "ip6gre": "IP6GRE"}
"""The kinds of device, and how pyroute2 spells their attributes."""
IP6_TNL_F_IGN_ENCAP_LIMIT = 1
"""Without it the kernel adds an 8-octet destination option to each packet, which nobody expects on plain GRE."""

Netlink = Any
"""A pyroute2 message or attribute; none of them leaves this module."""


def observe(ipr: IPRoute, prefix: str) -> dict[str, ObservedGre]:
    """All GRE devices whose name starts with `prefix`."""
    addresses: dict[int, list[IPInterface]] = {}
    for message in ipr.get_addr():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        interface = ip_interface(f"{text}/{message['prefixlen']}")
        if not (interface.version == 6 and interface.is_link_local):
            addresses.setdefault(message["index"], []).append(interface)
    found = {}
    links = {message["index"]: message for message in ipr.get_links()}
    for index, message in links.items():
        name = message.get_attr("IFLA_IFNAME")
        info = message.get_attr("IFLA_LINKINFO")
        if not name.startswith(prefix) or info is None or info.get_attr("IFLA_INFO_KIND") not in KINDS:
            continue
        device = _observed(message, info, tuple(addresses.get(index, ())))
        if device.output_key is None:
            device = replace(device, path_mtu_bytes=_path_mtu(ipr, device.remote, links))
        found[name] = device
    return found


def ensure(ipr: IPRoute, wanted: GreDevice, present: ObservedGre | None) -> None:
    """Make the device exist as specified, up and addressed."""
    if present is not None and not present.same_tunnel(wanted):
        remove(ipr, present)
        present = None
    if present is None:
        ipr.link("add", ifname=wanted.name, kind=wanted.kind, **_tunnel_attributes(wanted))
    found = ipr.link_lookup(ifname=wanted.name)
    if not found:
        raise OSError(errno.ENODEV, "the device vanished while it was made")
    index = found[0]
    for key, value in wanted.sysctls:
        _set_sysctl(wanted.name, key, value)
    if wanted.mtu_bytes is not None and (present is None or present.mtu_bytes != wanted.mtu_bytes):
        ipr.link("set", index=index, mtu=wanted.mtu_bytes)
    has = set(present.addresses) if present is not None else set()
    for interface in wanted.addresses:
        if interface not in has:
            ipr.addr("replace", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
    if present is None or not present.up:
        ipr.link("set", index=index, state="up")


def remove(ipr: IPRoute, present: ObservedGre) -> None:
    """Delete the device."""
    ipr.link("del", index=present.index)


def _tunnel_attributes(wanted: GreDevice) -> dict[str, Any]:
    kind = wanted.kind
    attributes: dict[str, Any] = {
        f"{kind}_local": str(wanted.local),
        f"{kind}_remote": str(wanted.remote),
        f"{kind}_ttl": wanted.ttl,
    }
    if kind == "gre":
        attributes["gre_pmtudisc"] = 1
    else:
        attributes["ip6gre_flags"] = IP6_TNL_F_IGN_ENCAP_LIMIT
    if wanted.output_key is not None:
        attributes[f"{kind}_oflags"] = GRE_FLAG_KEY
        attributes[f"{kind}_okey"] = wanted.output_key
    return attributes


def _observed(message: Netlink, info: Netlink, addresses: tuple[IPInterface, ...]) -> ObservedGre:
    data = info.get_attr("IFLA_INFO_DATA")
    spelling = f"IFLA_{KINDS[info.get_attr('IFLA_INFO_KIND')]}"
    stats = message.get_attr("IFLA_STATS64") or {}
    keyed = (data.get_attr(f"{spelling}_OFLAGS") or 0) & GRE_FLAG_KEY
    return ObservedGre(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        local=ip_address(data.get_attr(f"{spelling}_LOCAL")),
        remote=ip_address(data.get_attr(f"{spelling}_REMOTE")),
        ttl=data.get_attr(f"{spelling}_TTL"),
        output_key=data.get_attr(f"{spelling}_OKEY") if keyed else None,
        mtu_bytes=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & 1),
        addresses=addresses,
        sysctls=(("rp_filter", _sysctl(message.get_attr("IFLA_IFNAME"), "rp_filter").read_text().strip()),),
        received_packets=stats.get("rx_packets", 0),
        received_bytes=stats.get("rx_bytes", 0),
        sent_packets=stats.get("tx_packets", 0),
        sent_bytes=stats.get("tx_bytes", 0),
        errors=stats.get("rx_errors", 0) + stats.get("tx_errors", 0),
        dropped=stats.get("rx_dropped", 0) + stats.get("tx_dropped", 0),
    )


def _path_mtu(ipr: IPRoute, remote: IPAddress, links: dict[int, Netlink]) -> int | None:
    """What the kernel knows of the path: the MTU of the device it uses, or less where a router said so."""
    try:
        (route,) = ipr.route("get", dst=str(remote), family=2 if remote.version == 4 else 10)
    except (NetlinkError, ValueError):
        return None
    device = links.get(route.get_attr("RTA_OIF"))
    metrics = route.get_attr("RTA_METRICS")
    found = (
        metrics.get_attr("RTAX_MTU") if metrics is not None else None,
        device.get_attr("IFLA_MTU") if device is not None else None,
    )
    return min((mtu for mtu in found if mtu), default=None)


def _sysctl(device: str, key: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf") / device / key


def _set_sysctl(device: str, key: str, value: str) -> None:
    path = _sysctl(device, key)
    if path.read_text().strip() != value:
        path.write_text(value)
