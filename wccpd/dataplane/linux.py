"""The netlink data plane: GRE devices, policy routing and nftables of the network namespace we run in.

pyroute2 for links, addresses, rules, neighbours and the handful of table routes; libnftables for the rest.
Foreign exceptions are translated here, once.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute, NetlinkError

import gre.link
from gre.tunnel import redirect_device_name
from wccpd.dataplane.conntrack import Conntrack
from wccpd.dataplane.nft import Nft
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.dataplane.rtnetlink import RouteSocket
from wccpd.errors import KernelError
from wccpd.plan import names
from wccpd.plan.build import MAX_SLOT
from wccpd.plan.compile import Compiled, Facts, compile_state, without_paths
from wccpd.plan.counter_names import read_counters
from wccpd.plan.diff import Observed, Operations, diff
from wccpd.plan.model import DesiredState, MarkRule, TableRoute
from wccpd.plan.redirect import Mode, Path, RedirectPlan
from wccpd.plan.verdict import Count, Counters
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from ipaddress import IPv4Network

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.plan.diff import ObservedTable
    from wccpd.plan.policy import KernelSettings

AF_INET = 2
ARPHRD_ETHER = 1
IPV4_CONF = FilePath("/proc/sys/net/ipv4/conf")
IP_FORWARD = FilePath("/proc/sys/net/ipv4/ip_forward")
NEIGHBOUR_ANSWERED = 0xDE
"""NUD_REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT (linux/neighbour.h): its link-layer address is known."""


class LinuxDataPlane:
    """See the module. What is ours is known by the settings' prefix, priorities, tables, protocol and table name."""

    hash_function = "jhash"

    def __init__(self, settings: KernelSettings) -> None:
        """Open the sockets.

        Raises:
            KernelError: There is no netlink socket, or no libnftables, to be had.
        """
        self._settings = settings
        self._priorities = range(settings.rule_priority + 1, settings.rule_priority + MAX_SLOT + 1)
        self._tables = range(settings.table_base + 1, settings.table_base + MAX_SLOT + 1)
        self._compiled: Compiled | None = None
        self._ingress: tuple[str, ...] = ()
        self._links: dict[int, str] = {}
        """Devices by index, as last observed."""
        self._segments: frozenset[str] = frozenset()
        """Devices by which caches return frames."""
        self._macs: dict[IPv4Address, tuple[str, str]] = {}
        self._lease_seconds = 0.0
        with _kernel("netlink", "open"):
            self._ipr = IPRoute()
            self._nft = Nft(settings.nft_table)
        self._has_tproxy = self._nft.takes_rule("meta l4proto tcp tproxy to :1")
        self._route_socket = RouteSocket()
        self._conntrack = Conntrack()

    # -- the port ------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """See `DataPlane.observe`."""
        observed = self._observe()
        with _kernel("net.ipv4.ip_forward", "read"):
            forwards = IP_FORWARD.read_text().strip() == "1"
        return Observation(
            devices=observed.devices,
            slots=self._slots(observed),
            counters=self._counters(observed),
            forwards=forwards,
            hindrances=(
                *map(_strict_words, filter(is_strict, sorted(self._segments))),
                *(_no_ingress(device) for device in self._ingress if not (IPV4_CONF / device).exists()),
            ),
            leased=observed.nft is not None and bool(observed.nft.maps.get(names.LEASE)),
        )

    def bring_to(self, wish: Wish) -> Applied:
        """See `DataPlane.bring_to`: guard, paths, classification, removals."""
        self._ingress = wish.plan.ingress
        observed = self._observe()
        failures: list[_Failure] = []
        guard = self._guard(wish, observed)
        if guard:
            # What must not pass uninspected does not, from before the first device is there.
            failures += self._apply(guard)
            observed = self._observe()
        compiled, unlinked = self._compile(wish, observed)
        operations = diff(compiled.state, observed)
        if operations.paths():
            failures += self._apply(operations.paths())
            observed = self._observe()
        refused = self._without_way(wish.plan, failures) | unlinked
        rest = operations.rest()
        if operations.paths():
            # New devices have an MTU, refused ones must not be sent anything.
            compiled, _ = self._compile(wish, observed, refused)
            rest = diff(compiled.state, observed).rest()
        failures += self._apply(self._with_lease(rest))
        self._compiled = compiled
        tunnels = {tunnel.name for tunnel in wish.tunnels}
        return Applied(
            changes=(*guard.words(), *operations.paths().words(), *rest.words()),
            devices_changed=any(device.name in tunnels for device in operations.ensure_devices),
            faults=(*(failure.error for failure in failures), *map(_no_link, sorted(unlinked, key=str))),
            refused=refused,
        )

    def preview(self, wish: Wish, settings: KernelSettings) -> tuple[str, ...]:
        """See `DataPlane.preview`. Of a device that is not there yet the MTU is taken for the usual one."""
        kept = self._settings, self._segments, self._macs
        self._settings = settings
        try:
            observed = self._observe()
            compiled, _ = self._compile(wish, observed)
        finally:
            self._settings, self._segments, self._macs = kept
        return diff(compiled.state, observed).words()

    def reconfigure(self, settings: KernelSettings) -> None:
        """See `DataPlane.reconfigure`."""
        self._settings = settings

    def renew_lease(self, seconds: float) -> None:
        """See `DataPlane.renew_lease`."""
        self._lease_seconds = seconds
        if self._compiled is not None:
            self._nft.run(self._lease_lines())

    def live_flows(self) -> Mapping[Path, int]:
        """See `DataPlane.live_flows`."""
        marks = self._settings.marks
        by_slot = self._conntrack.count(marks.slot_mask, any_of=marks.slot_mask)
        paths = {marks.mark(slot=slot): path for path, slot in self._slots(self._observe()).items()}
        return {paths[mark]: flows for mark, flows in by_slot.items() if mark in paths}

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied:
        """See `DataPlane.remove`."""
        observed = self._observe()
        state = DesiredState()
        guarded = _closed(keep_closed) if keep_closed is not None else None
        if guarded is not None and guarded.services:
            nft = compile_state(guarded, (), self._settings, Facts()).state.nft
            state = DesiredState(nft=nft)
        operations = diff(state, observed)
        if state.nft is not None:
            ends = f"flush map ip {self._settings.nft_table} {names.LEASE}\n"
            operations = Operations(
                nft=operations.nft + ends,
                remove_rules=operations.remove_rules,
                remove_routes=operations.remove_routes,
                remove_devices=operations.remove_devices,
            )
        failures = self._apply(operations)
        self._compiled = None
        return Applied(changes=operations.words(), faults=tuple(failure.error for failure in failures))

    def withdraw(self, tunnels: tuple[GreDevice, ...]) -> None:
        """Take away the redirect, but none of these tunnels: another plane takes over.

        Raises:
            KernelError: The kernel refused.
        """
        operations = diff(DesiredState(), self._observe())
        kept = {tunnel.name for tunnel in tunnels}
        failures = self._apply(
            replace(
                operations,
                remove_devices=tuple(each for each in operations.remove_devices if each.name not in kept),
            )
        )
        for failure in failures:
            raise failure.error

    def close(self) -> None:
        """Close the netlink sockets."""
        self._ipr.close()
        self._route_socket.close()
        self._conntrack.close()

    # -- compiling -----------------------------------------------------------------------------------

    def _guard(self, wish: Wish, observed: Observed) -> Operations:
        """What keeps devices that are not looked at yet from letting packets pass: every service in its mode.

        A table of another layout goes on working until the one transaction that replaces it.
        """
        table = observed.nft
        present = {} if table is None else table.maps.get(names.INGRESS, {})
        missing = [device for device in wish.plan.ingress if device not in present]
        if not missing:
            return Operations()
        if table is not None and table.is_current:
            elements = ", ".join(f"{device} : goto {names.LAPSED}" for device in missing)
            return Operations(nft=f"add element ip {table.name} {names.INGRESS} {{ {elements} }}\n")
        plan = without_paths(wish.plan, wish.plan.slots.keys())
        state = compile_state(plan, (), self._settings, Facts()).state
        return Operations(nft=diff(DesiredState(nft=state.nft), observed).nft)

    def _compile(
        self, wish: Wish, observed: Observed, refused: frozenset[Path] = frozenset()
    ) -> tuple[Compiled, frozenset[Path]]:
        """The desired state for the host as it is, and the L2 paths whose cache is on no segment of ours."""
        facts = self._facts(wish.plan, observed)
        unlinked = frozenset(
            path
            for path in wish.plan.slots
            if path.forwarding is ForwardingMethod.L2 and path.cache not in facts.links
        )
        plan = without_paths(wish.plan, unlinked | refused)
        return compile_state(plan, wish.tunnels, self._settings, facts), unlinked

    def _facts(self, plan: RedirectPlan, observed: Observed) -> Facts:
        by_l2 = {path.cache for path in plan.slots if path.forwarding is ForwardingMethod.L2}
        with _kernel("route to caches", "look up"):
            links = {cache: link for cache in by_l2 if (link := self._link_to(cache)) is not None}
        self._segments = frozenset(
            link for cache, link in links.items() if PacketReturnMethod.L2 in plan.returns.get(cache, ())
        )
        with _kernel("neighbours", "read"):
            macs = self._neighbours() if by_l2 or any(plan.returns.values()) else {}
        # One that is just being asked again is still known by its last address: its frames must not go back to it.
        macs = self._macs | macs
        self._macs = {cache: macs[cache] for cache in plan.returns if cache in macs}
        return Facts(
            links=links,
            macs=self._macs,
            mtu_bytes={name: device.mtu_bytes for name, device in observed.devices.items()},
            has_tproxy=self._has_tproxy,
        )

    def _link_to(self, cache: IPv4Address) -> str | None:
        """The device on whose segment an address is; None when a router is in between, or there is no way."""
        try:
            (route,) = self._ipr.route("get", dst=str(cache))
        except NetlinkError:
            return None
        if route.get_attr("RTA_GATEWAY") is not None or route["type"] != 1:
            return None
        return self._links.get(route.get_attr("RTA_OIF"))

    def _neighbours(self) -> dict[IPv4Address, tuple[str, str]]:
        """Device and link-layer address of neighbours that answered."""
        found = {}
        for message in self._ipr.get_neighbours(family=AF_INET):
            address, mac = message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")
            device = self._links.get(message["ifindex"])
            if mac is not None and device is not None and message["state"] & NEIGHBOUR_ANSWERED:
                found[IPv4Address(address)] = device, str(mac)
        return found

    def _without_way(self, plan: RedirectPlan, failures: list[_Failure]) -> frozenset[Path]:
        """Paths whose device, route or rule was refused."""
        devices = {failure.device for failure in failures if failure.device}
        tables = {failure.table for failure in failures if failure.table}
        return frozenset(
            path
            for path, slot in plan.slots.items()
            if self._settings.table_base + slot in tables
            or (path.forwarding is ForwardingMethod.GRE and self._device(path.cache) in devices)
        )

    def _device(self, cache: IPv4Address) -> str:
        return redirect_device_name(self._settings.device_prefix, cache)

    def _with_lease(self, operations: Operations) -> Operations:
        """Renew the lease with the change: a new table or device must not wait for the next renewal."""
        if not operations.nft or not self._lease_seconds:
            return operations
        return Operations(
            nft=operations.nft + self._lease_lines(),
            remove_rules=operations.remove_rules,
            remove_routes=operations.remove_routes,
            remove_devices=operations.remove_devices,
        )

    def _lease_lines(self) -> str:
        table, milliseconds = self._settings.nft_table, max(1, round(self._lease_seconds * 1000))
        lines = f"flush map ip {table} {names.LEASE}\n"
        elements = ", ".join(
            f"{device} timeout {milliseconds}ms : goto {names.FRESH}" for device in self._ingress
        )
        return lines + (f"add element ip {table} {names.LEASE} {{ {elements} }}\n" if elements else "")

    # -- observing -----------------------------------------------------------------------------------

    def _observe(self) -> Observed:
        with _kernel("network state", "read"):
            devices = gre.link.observe(self._ipr, self._settings.device_prefix)
            links = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in self._ipr.get_links()}
            self._links = links
            rules = frozenset(self._rules())
            return Observed(
                devices=devices,
                rules=rules,
                routes=frozenset(self._routes(links, {rule.table for rule in rules})),
                nft=self._nft.observe(),
            )

    def _slots(self, observed: Observed) -> dict[Path, int]:
        found = {}
        for route in observed.routes:
            slot = route.table - self._settings.table_base
            if route.gateway is not None:
                found[Path(route.gateway, ForwardingMethod.L2)] = slot
            elif (cache := self._cache_of(observed, route.device)) is not None:
                found[Path(cache, ForwardingMethod.GRE)] = slot
        return found

    def _cache_of(self, observed: Observed, device: str) -> IPv4Address | None:
        """The cache that a redirect device leads to; None for other devices."""
        present = observed.devices.get(device)
        if present is None or not isinstance(present.remote, IPv4Address):
            return None
        return present.remote if device == self._device(present.remote) else None

    def _counters(self, observed: Observed) -> Counters:
        if observed.nft is None:
            return Counters()
        counted = read_counters(observed.nft.counters)
        returned = dict(counted.returned)
        for device in observed.devices.values():
            cache = self._cache_of(observed, device.name)
            if cache is not None:
                by_gre = Count(device.received_packets, device.received_bytes)
                returned[cache] = returned.get(cache, Count()) + by_gre
        return Counters(counted.outcomes, self._acl_lines(observed.nft), counted.exempt, returned)

    def _acl_lines(self, table: ObservedTable) -> dict[str, tuple[Count, ...]]:
        if self._compiled is None:
            return {}
        return {
            service: tuple(
                Count()
                if line is None
                else table.counters.get(line.counter, Count())
                if line.counter
                else table.element_counters.get(line.map, {}).get(line.key, Count())
                for line in lines
            )
            for service, lines in self._compiled.acl_lines.items()
        }

    def _rules(self) -> Iterator[MarkRule]:
        for message in self._ipr.get_rules(family=AF_INET):
            priority = message.get_attr("FRA_PRIORITY") or 0
            mark = message.get_attr("FRA_FWMARK")
            table = message.get_attr("FRA_TABLE")
            if priority in self._priorities and mark is not None and table in self._tables:
                yield MarkRule(priority, mark, message.get_attr("FRA_FWMASK"), table)

    def _routes(self, links: dict[int, str], tables: set[int]) -> Iterator[TableRoute]:
        """The default routes of our tables; table by table, since the main one may hold thousands of our protocol."""
        protocol = self._settings.route_protocol
        for table in tables:
            for route in self._route_socket.routes(4, table, protocol):
                if route.prefix.prefixlen == 0 and route.device_index in links:
                    gateway = route.gateway if isinstance(route.gateway, IPv4Address) else None
                    yield TableRoute(table, links[route.device_index], protocol, gateway)

    # -- applying ------------------------------------------------------------------------------------

    def _apply(self, operations: Operations) -> list[_Failure]:
        """Devices, routes, rules, classification; then removals in the reverse order.

        One that the kernel refuses keeps none of the others back; the nft part is all or nothing. If that is
        refused nothing is removed: packets are still marked for paths that would be missing, and a marked packet
        without a path is forwarded uninspected.
        """
        failures = self._tried(self._additions(operations))
        if any(not failure.device and not failure.table for failure in failures):
            return failures
        return failures + self._tried(self._removals(operations))

    def _tried(self, steps: Iterator[_Step]) -> list[_Failure]:
        failures = []
        for step in steps:
            try:
                step.work()
            except KernelError as error:
                failures.append(_Failure(error, step.device, step.table))
        return failures

    def _additions(self, operations: Operations) -> Iterator[_Step]:
        for device in operations.ensure_devices:
            yield _Step(partial(self._ensure_device, device), device=device.name)
        for route in operations.add_routes:
            yield _Step(partial(self._add_route, route), table=route.table)
        for rule in operations.add_rules:
            yield _Step(partial(self._add_rule, rule), table=rule.table)
        if operations.nft:
            yield _Step(partial(self._nft.run, operations.nft))

    def _removals(self, operations: Operations) -> Iterator[_Step]:
        for rule in operations.remove_rules:
            yield _Step(partial(self._remove_rule, rule))
        for route in operations.remove_routes:
            yield _Step(partial(self._remove_route, route))
        for gone in operations.remove_devices:
            yield _Step(partial(self._remove_device, gone))

    def _ensure_device(self, device: GreDevice) -> None:
        with _kernel(f"GRE device {device.name}", "configure", hints=_DEVICE_HINTS):
            present = gre.link.observe(self._ipr, device.name)
            gre.link.ensure(self._ipr, device, present.get(device.name))

    def _add_route(self, route: TableRoute) -> None:
        with _kernel(f"route {_route_words(route)}", "add"):
            self._ipr.route("replace", oif=self._index(route.device), **_route_attributes(route))

    def _add_rule(self, rule: MarkRule) -> None:
        with _kernel(f"rule priority {rule.priority}", "add", tolerate=errno.EEXIST):
            self._ipr.rule("add", **_rule_attributes(rule))

    def _remove_rule(self, rule: MarkRule) -> None:
        with _kernel(f"rule priority {rule.priority}", "delete", tolerate=errno.ENOENT):
            self._ipr.rule("del", **_rule_attributes(rule))

    def _remove_route(self, route: TableRoute) -> None:
        with _kernel(f"route {_route_words(route)}", "delete", tolerate=errno.ESRCH):
            self._ipr.route("del", oif=self._index(route.device), **_route_attributes(route))

    def _remove_device(self, device: ObservedGre) -> None:
        with _kernel(f"device {device.name}", "delete", tolerate=errno.ENODEV):
            gre.link.remove(self._ipr, device)

    def _index(self, device: str) -> int:
        found = self._ipr.link_lookup(ifname=device)
        if not found:
            raise KernelError(f"device {device}", "find", errno.ENODEV)
        return int(found[0])


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation, and what cannot be used if it is refused."""

    work: Callable[[], None]
    device: str = ""
    table: int = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    """One operation that the kernel refused, and the device or routing table that cannot be used for it."""

    error: KernelError
    device: str = ""
    table: int = 0


def adjacent_networks() -> tuple[IPv4Network, ...]:
    """The networks on Ethernet segments of this host, where L2 can reach a cache.

    Raises:
        KernelError: The kernel does not say.
    """
    with _kernel("addresses", "read"), IPRoute() as ipr:
        ethernet = {link["index"] for link in ipr.get_links() if link["ifi_type"] == ARPHRD_ETHER}
        return tuple(
            IPv4Interface(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}").network
            for message in ipr.get_addr(family=AF_INET)
            if message["index"] in ethernet
        )


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


def _strict_words(device: str) -> str:
    key = f"net.ipv4.conf.{device}.rp_filter"
    return f"{key} is strict: it drops what caches return by L2 (remedy: sysctl -w {key}=2)"


def _no_ingress(device: str) -> str:
    return (
        f"there is no device {device}: what should come in by it passes uninspected if it comes in elsewhere"
    )


def _closed(plan: RedirectPlan) -> RedirectPlan:
    """The plan's services that must not pass uninspected, and those that are asked before them, without caches."""
    last = max((place for place, each in enumerate(plan.services) if each.mode is not Mode.OPEN), default=-1)
    emptied = RedirectPlan(plan.router_id, plan.ingress, plan.services[: last + 1], never=plan.never)
    return without_paths(emptied, plan.slots.keys())


def _no_link(path: Path) -> KernelError:
    return KernelError(
        f"path to {path.cache}",
        "find",
        errno.EHOSTUNREACH,
        "it asked for L2 and is on no segment of this host",
    )


def _rule_attributes(rule: MarkRule) -> dict[str, Any]:
    return {
        "family": AF_INET,
        "priority": rule.priority,
        "fwmark": rule.mark,
        "fwmask": rule.mask,
        "table": rule.table,
    }


def _route_words(route: TableRoute) -> str:
    via = "" if route.gateway is None else f"via {route.gateway} "
    return f"default {via}dev {route.device} table {route.table}"


def _route_attributes(route: TableRoute) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "family": AF_INET,
        "dst": "default",
        "table": route.table,
        "proto": route.protocol,
    }
    if route.gateway is not None:
        attributes |= {"gateway": str(route.gateway), "flags": ["onlink"]}
    return attributes


_DEVICE_HINTS = {
    errno.EOPNOTSUPP: "this kernel has no GRE devices: load or build the module ip_gre",
    errno.EEXIST: "another device has this name, or another GRE device the same two addresses",
}


@contextmanager
def _kernel(
    obj: str, verb: str, *, tolerate: int | None = None, hints: Mapping[int, str] | None = None
) -> Iterator[None]:
    """Translate what pyroute2 and /proc raise; an errno that means "already so" is no error."""
    try:
        yield
    except NetlinkError as error:
        if error.code != tolerate:
            detail = (hints or {}).get(error.code, str(error.args[-1]))
            raise KernelError(obj, verb, error.code, detail) from error
    except OSError as error:
        raise KernelError(obj, verb, error.errno or 0, error.strerror or str(error)) from error
