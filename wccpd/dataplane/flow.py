"""What the kernel holds of one flow on the netlink plane: its routing, our nft table, the connection, neighbours.

Reads only, with sockets of its own, in the network namespace of the thread that asks. What should be held is
`wccpd.plan.held`'s to say.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Self

from pyroute2 import IPRoute, NetlinkError

import gre.link
from wccpd.dataplane import host
from wccpd.dataplane.conntrack import Conntrack
from wccpd.dataplane.nft import Nft
from wccpd.errors import KernelError
from wccpd.plan.compile import Facts
from wccpd.plan.held import Held, Way
from wccpd.plan.model import MarkRule
from wccpd.plan.redirect import PORT_PROTOCOLS
from wccpd.plan.slots import MAX_SLOT
from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wccpd.dataplane.conntrack import Connection
    from wccpd.plan.decide import Packet
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import Path, RedirectPlan

AF_INET = 2
_UNICAST, _LOCAL, _BROADCAST = 1, 2, 3
"""RTN_* (linux/rtnetlink.h)."""
ICMP = 1


@dataclass(frozen=True, slots=True)
class Ends:
    """What the host's routing knows of a packet's two ends."""

    reverse_device: str | None
    """By which the route to the source leads out; None: there is none."""
    unicast: bool
    """Whether the destination is somebody else's unicast address."""


class FlowReader:
    """Answers questions about flows; use as a context manager."""

    def __init__(self, settings: KernelSettings) -> None:
        """Open the sockets.

        Raises:
            KernelError: One of them is not to be had.
        """
        self._settings = settings
        self._stack = ExitStack()
        with host.kernel("netlink", "open"):
            self._ipr = self._stack.enter_context(IPRoute())
        with host.kernel("devices", "read"):
            self._links = {link.index: link for link in host.links(self._ipr)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ends(self, source: IPv4Address, destination: IPv4Address) -> Ends:
        """What the routing knows of both ends."""
        back = host.way_to(self._ipr, source)
        try:
            (route,) = self._ipr.route("get", dst=str(destination))
        except NetlinkError:
            ours = False  # without any way it is somebody else's, too
        else:
            ours = route["type"] in {_LOCAL, _BROADCAST}
        return Ends(
            reverse_device=self._name(back.device_index) if back is not None else None,
            unicast=not ours
            and not destination.is_multicast
            and destination != IPv4Address("255.255.255.255"),
        )

    def connection(self, packet: Packet) -> Connection | None:
        """The tracked connection of the packet, if there is one.

        Raises:
            KernelError: The kernel does not say, or the protocol is ICMP, whose connections need more than that.
        """
        if packet.protocol == ICMP:
            raise KernelError("connection", "look up", 0, "of ICMP it is known by more than the addresses")
        ports = (packet.source_port, packet.destination_port) if packet.protocol in PORT_PROTOCOLS else None
        conntrack = Conntrack()
        try:
            return conntrack.connection(packet.protocol, packet.source, packet.destination, ports)
        finally:
            conntrack.close()

    def leased_devices(self, lease_map: str) -> frozenset[str] | None:
        """Ingress devices whose lease is running; None without our table."""
        table = Nft(self._settings.nft_table).observe()
        return frozenset(table.maps.get(lease_map, {})) if table is not None else None

    def held(self, plan: RedirectPlan, packet: Packet, path: Path | None, mark: int) -> Held:
        """What there is for a packet with this mark.

        Raises:
            KernelError: It could not be read.
        """
        table = Nft(self._settings.nft_table).observe()
        with host.kernel("network state", "read"):
            way, no_way = self._way(packet, mark)
            rules = list(self._ipr.get_rules(family=AF_INET))
            near = host.neighbours(self._ipr).get(path.cache) if path is not None else None
            return Held(
                table=table,
                rules=frozenset(self._our_rules(rules)),
                devices=gre.link.observe(self._ipr, self._settings.device_prefix),
                way=way,
                no_way=no_way,
                neighbour=near.mac if near is not None else None,
                foreign_rules=tuple(self._foreign_rules(rules)),
                links=self._segments(plan),
            )

    def facts(self, plan: RedirectPlan, held: Held) -> Facts:
        """What the plan has to be compiled with, for the host as it is."""
        with host.kernel("neighbours", "read"):
            macs = {address: near.mac for address, near in host.neighbours(self._ipr).items()}
        return Facts(
            links=held.links,
            macs={cache: (device, macs[cache]) for cache, device in held.links.items() if cache in macs},
            mtu_bytes={name: device.mtu_bytes for name, device in held.devices.items()},
        )

    def mtu_of(self, device: str) -> int | None:
        """The MTU of a device."""
        return next((link.mtu_bytes for link in self._links.values() if link.name == device), None)

    # -- parts ---------------------------------------------------------------------------------------

    def _segments(self, plan: RedirectPlan) -> Mapping[IPv4Address, str]:
        found = {}
        for path in plan.slots:
            if path.forwarding is ForwardingMethod.L2:
                way = host.way_to(self._ipr, path.cache)
                if way is not None and way.gateway is None:
                    found[path.cache] = self._name(way.device_index) or ""
        return found

    def _way(self, packet: Packet, mark: int) -> tuple[Way | None, str]:
        """Where the kernel would send the packet, asked as for one that comes in by its device."""
        index = next((link.index for link in self._links.values() if link.name == packet.device), None)
        asked: dict[str, Any] = {"dst": str(packet.destination), "src": str(packet.source)}
        if index is not None:
            asked["iif"] = index
        if mark:
            asked["mark"] = mark
        try:
            (route,) = self._ipr.route("get", **asked)
        except NetlinkError as error:
            return None, str(error.args[-1])
        if route["type"] != _UNICAST:
            return None, "it is not sent on"
        gateway, metrics = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_METRICS")
        mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else None
        name = self._name(route.get_attr("RTA_OIF")) or "?"
        return Way(name, IPv4Address(gateway) if gateway else None, mtu), ""

    def _our_rules(self, rules: list[Any]) -> Iterator[MarkRule]:
        first = self._settings.rule_priority
        for message in rules:
            priority, mark = message.get_attr("FRA_PRIORITY") or 0, message.get_attr("FRA_FWMARK")
            if first < priority <= first + MAX_SLOT and mark is not None:
                yield MarkRule(priority, mark, message.get_attr("FRA_FWMASK"), message.get_attr("FRA_TABLE"))

    def _foreign_rules(self, rules: list[Any]) -> Iterator[str]:
        """Rules before ours, the kernel's own first one aside."""
        for message in rules:
            priority, table = message.get_attr("FRA_PRIORITY") or 0, message.get_attr("FRA_TABLE")
            if 0 < priority <= self._settings.rule_priority:
                yield f"ip rule {priority} lookup {table}"

    def _name(self, index: int | None) -> str | None:
        link = self._links.get(index) if index is not None else None
        return link.name if link is not None else None
