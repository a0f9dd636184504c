"""Reads from the kernel what of ours is there, and what of the host's the plan goes by."""

from __future__ import annotations

from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import gre.link
from gre.tunnel import redirect_device_name
from wccpd.dataplane import host
from wccpd.dataplane.host import AF_INET, IPV4_CONF, kernel
from wccpd.plan import names
from wccpd.plan.compile import Facts
from wccpd.plan.diff import Observed
from wccpd.plan.model import MarkRule, TableRoute
from wccpd.plan.redirect import Path
from wccpd.plan.slots import MAX_SLOT
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyroute2 import IPRoute

    from wccpd.dataplane.rtnetlink import RouteSocket
    from wccpd.plan.diff import ObservedTable
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import RedirectPlan


class NetlinkReader:
    """Reads through one pyroute2 socket, and routes, of which there may be thousands, through a quicker one.

    Attributes:
        segments: Devices by which caches return frames, by the last facts.
    """

    def __init__(self, ipr: IPRoute, routes: RouteSocket, settings: KernelSettings) -> None:
        self._ipr = ipr
        self._route_socket = routes
        self._settings = settings
        self._priorities = range(settings.rule_priority + 1, settings.rule_priority + MAX_SLOT + 1)
        self._tables = range(settings.table_base + 1, settings.table_base + MAX_SLOT + 1)
        self._links: dict[int, str] = {}
        self._macs: dict[IPv4Address, tuple[str, str]] = {}
        self.segments: frozenset[str] = frozenset()

    def observe(self, table: ObservedTable | None) -> Observed:
        """What is there of ours, beside the table.

        Raises:
            KernelError: It cannot be read.
        """
        with kernel("network state", "read"):
            devices = gre.link.observe(self._ipr, self._settings.device_prefix)
            self._links = {link.index: link.name for link in host.links(self._ipr)}
            rules = frozenset(self._rules())
            routes = frozenset(self._routes({rule.table for rule in rules}))
        return Observed(devices=devices, rules=rules, routes=routes, nft=table)

    def slots(self, observed: Observed) -> dict[Path, int]:
        """The number of each path that is there."""
        found = {}
        for route in observed.routes:
            slot = route.table - self._settings.table_base
            if route.gateway is not None:
                found[Path(route.gateway, ForwardingMethod.L2)] = slot
            elif (cache := self.cache_of(observed, route.device)) is not None:
                found[Path(cache, ForwardingMethod.GRE)] = slot
        return found

    def former(self, observed: Observed) -> dict[int, IPv4Address]:
        """Slots without a path, by the table's own record."""
        record = {} if observed.nft is None else observed.nft.maps.get(names.SLOTS, {})
        present = set(self.slots(observed).values())
        return {slot: IPv4Address(record[key]) for key in record if (slot := int(key)) not in present}

    def meanings(self, observed: Observed) -> dict[int, IPv4Address]:
        """The cache that connections marked with a slot are pinned to, as the kernel records it."""
        return {
            **self.former(observed),
            **{slot: path.cache for path, slot in self.slots(observed).items()},
        }

    def cache_of(self, observed: Observed, device: str) -> IPv4Address | None:
        """The cache that a redirect device leads to; None for other devices."""
        present = observed.devices.get(device)
        if present is None or not isinstance(present.remote, IPv4Address):
            return None
        expected = redirect_device_name(self._settings.device_prefix, present.remote)
        return present.remote if device == expected else None

    def facts(self, plan: RedirectPlan, observed: Observed, *, has_tproxy: bool) -> Facts:
        """What the host says that this plan has to go by.

        Raises:
            KernelError: It cannot be read.
        """
        by_l2 = {path.cache for path in plan.slots if path.forwarding is ForwardingMethod.L2}
        with kernel("route to caches", "look up"):
            links = {cache: link for cache in by_l2 if (link := self._link_to(cache)) is not None}
        self.segments = frozenset(
            link for cache, link in links.items() if PacketReturnMethod.L2 in plan.returns.get(cache, ())
        )
        with kernel("neighbours", "read"):
            macs = self._neighbours() if plan.returns else {}
        # One that is just being asked again is still known by its last address: its frames must not go back to it.
        macs = self._macs | macs
        self._macs = {cache: macs[cache] for cache in plan.returns if cache in macs}
        return Facts(
            links=links,
            macs=self._macs,
            mtu_bytes={name: device.mtu_bytes for name, device in observed.devices.items()},
            has_tproxy=has_tproxy,
        )

    @contextmanager
    def looking_ahead(self) -> Iterator[None]:
        """Facts of a plan that is not to be brought to the kernel: what is remembered stays as it was."""
        kept = self.segments, self._macs
        try:
            yield
        finally:
            self.segments, self._macs = kept

    def hindrances(self, ingress: tuple[str, ...]) -> tuple[str, ...]:
        """Settings of the host that keep the redirect from working, in words."""
        return (
            *(
                host.strict_words(device, "what caches return by L2")
                for device in sorted(self.segments)
                if host.is_strict(device)
            ),
            *(_no_ingress(device) for device in ingress if not (IPV4_CONF / device).exists()),
        )

    def _link_to(self, cache: IPv4Address) -> str | None:
        """The device on whose segment an address is; None when a router is in between, or there is no way."""
        way = host.way_to(self._ipr, cache)
        return None if way is None or way.gateway is not None else self._links.get(way.device_index)

    def _neighbours(self) -> dict[IPv4Address, tuple[str, str]]:
        """Device and link-layer address of neighbours that answered."""
        return {
            address: (self._links[neighbour.device_index], neighbour.mac)
            for address, neighbour in host.neighbours(self._ipr).items()
            if neighbour.device_index in self._links
        }

    def _rules(self) -> Iterator[MarkRule]:
        for message in self._ipr.get_rules(family=AF_INET):
            priority = message.get_attr("FRA_PRIORITY") or 0
            mark = message.get_attr("FRA_FWMARK")
            table = message.get_attr("FRA_TABLE")
            if priority in self._priorities and mark is not None and table in self._tables:
                yield MarkRule(priority, mark, message.get_attr("FRA_FWMASK"), table)

    def _routes(self, tables: set[int]) -> Iterator[TableRoute]:
        """The default routes of our tables; table by table, since the main one may hold thousands of our protocol."""
        protocol = self._settings.route_protocol
        for table in tables:
            for route in self._route_socket.routes(4, table, protocol):
                if route.prefix.prefixlen == 0 and route.device_index in self._links:
                    gateway = route.gateway if isinstance(route.gateway, IPv4Address) else None
                    yield TableRoute(table, self._links[route.device_index], protocol, gateway)


def _no_ingress(device: str) -> str:
    return (
        f"there is no device {device}: what should come in by it passes uninspected if it comes in elsewhere"
    )
