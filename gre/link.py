"""Netlink verbs for GRE devices: observe, ensure, remove. Idempotent: doing them twice is no error.

pyroute2's own exceptions pass through; `wccpd.dataplane.linux` turns them into the kernel's error.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gre.header import GRE_FLAG_KEY
from gre.tunnel import ObservedGre

if TYPE_CHECKING:
    from pyroute2 import IPRoute

    from gre.tunnel import GreDevice

Netlink = Any
"""A pyroute2 message or attribute; none of them leaves this module."""


def observe(ipr: IPRoute, prefix: str) -> dict[str, ObservedGre]:
    """All GRE devices whose name starts with `prefix`."""
    addresses: dict[int, list[IPv4Interface]] = {}
    for message in ipr.get_addr(family=2):
        text = message.get_attr("IFA_LOCAL")
        interface = IPv4Interface(f"{text}/{message['prefixlen']}")
        addresses.setdefault(message["index"], []).append(interface)
    found = {}
    for message in ipr.get_links():
        name = message.get_attr("IFLA_IFNAME")
        info = message.get_attr("IFLA_LINKINFO")
        if not name.startswith(prefix) or info is None or info.get_attr("IFLA_INFO_KIND") != "gre":
            continue
        found[name] = _observed(message, info, tuple(addresses.get(message["index"], ())))
    return found


def ensure(ipr: IPRoute, wanted: GreDevice, present: ObservedGre | None) -> None:
    """Make the device exist as specified, up and addressed."""
    if present is not None and not present.same_tunnel(wanted):
        remove(ipr, present)
        present = None
    if present is None:
        ipr.link("add", ifname=wanted.name, kind="gre", **_tunnel_attributes(wanted))
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
    attributes: dict[str, Any] = {
        "gre_local": str(wanted.local),
        "gre_remote": str(wanted.remote),
        "gre_ttl": wanted.ttl,
        "gre_pmtudisc": 1,
    }
    if wanted.output_key is not None:
        attributes["gre_oflags"] = GRE_FLAG_KEY
        attributes["gre_okey"] = wanted.output_key
    return attributes


def _observed(message: Netlink, info: Netlink, addresses: tuple[IPv4Interface, ...]) -> ObservedGre:
    data = info.get_attr("IFLA_INFO_DATA")
    stats = message.get_attr("IFLA_STATS64") or {}
    keyed = (data.get_attr("IFLA_GRE_OFLAGS") or 0) & GRE_FLAG_KEY
    return ObservedGre(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        local=IPv4Address(data.get_attr("IFLA_GRE_LOCAL")),
        remote=IPv4Address(data.get_attr("IFLA_GRE_REMOTE")),
        ttl=data.get_attr("IFLA_GRE_TTL"),
        output_key=data.get_attr("IFLA_GRE_OKEY") if keyed else None,
        mtu_bytes=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & 1),
        addresses=addresses,
        sysctls=(("rp_filter", _sysctl(message.get_attr("IFLA_IFNAME"), "rp_filter").read_text().strip()),),
        received_packets=stats.get("rx_packets", 0),
        received_bytes=stats.get("rx_bytes", 0),
        sent_packets=stats.get("tx_packets", 0),
        sent_bytes=stats.get("tx_bytes", 0),
    )


def _sysctl(device: str, key: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf") / device / key


def _set_sysctl(device: str, key: str, value: str) -> None:
    path = _sysctl(device, key)
    if path.read_text().strip() != value:
        path.write_text(value)
