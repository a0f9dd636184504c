"""The netlink data plane: GRE devices, policy routing and nftables of the network namespace we run in.

pyroute2 for links, addresses, rules and the handful of table routes; libnftables for the rest. Foreign
exceptions are translated here, once.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute, NetlinkError

import gre.link
from wccpd.dataplane.nft import Nft
from wccpd.dataplane.port import Failure
from wccpd.dataplane.rtnetlink import RouteSocket
from wccpd.errors import KernelError
from wccpd.plan.diff import Observed, Operations
from wccpd.plan.marks import MAX_SLOT
from wccpd.plan.model import MarkRule, TableRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.plan.compile import Policy

AF_INET = 2
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class LinuxDataPlane:
    """See the module. What is ours is known by the policy's prefix, priorities, tables and protocol."""

    def __init__(self, policy: Policy) -> None:
        """Open the sockets.

        Raises:
            KernelError: There is no netlink socket, or no libnftables, to be had.
        """
        self._prefix = policy.device_prefix
        self._priorities = range(policy.rule_priority + 1, policy.rule_priority + MAX_SLOT + 1)
        self._tables = range(policy.table_base + 1, policy.table_base + MAX_SLOT + 1)
        self._protocol = policy.route_protocol
        with _kernel("netlink", "open"):
            self._ipr = IPRoute()
            self._nft = Nft(policy.nft_table)
        self._route_socket = RouteSocket()

    def observe(self) -> Observed:
        """Read links, addresses, rules, table routes and the nft table."""
        with _kernel("network state", "read"):
            devices = gre.link.observe(self._ipr, self._prefix)
            names = {device.index: name for name, device in devices.items()}
            rules = frozenset(self._rules())
            return Observed(
                devices=devices,
                rules=rules,
                routes=frozenset(self._routes(names, {rule.table for rule in rules})),
                nft=self._nft.observe(),
                forwards=IP_FORWARD.read_text().strip() == "1",
            )

    def apply(self, operations: Operations) -> tuple[Failure, ...]:
        """Devices, routes, rules, classification; then removals in the reverse order."""
        failures: list[Failure] = []
        for step in (*self._additions(operations), *self._removals(operations)):
            try:
                step.work()
            except KernelError as error:
                failures.append(Failure(error, step.device, step.table))
        return tuple(failures)

    def close(self) -> None:
        """Close the netlink sockets."""
        self._ipr.close()
        self._route_socket.close()

    def _additions(self, operations: Operations) -> Iterator[_Step]:
        for device in operations.ensure_devices:
            yield _Step(partial(self._ensure_device, device), device=device.name)
        for route in operations.add_routes:
            yield _Step(partial(self._add_route, route), device=route.device, table=route.table)
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
        with _kernel(f"route default dev {route.device} table {route.table}", "add"):
            self._ipr.route("replace", oif=self._index(route.device), **_route_attributes(route))

    def _add_rule(self, rule: MarkRule) -> None:
        with _kernel(f"rule priority {rule.priority}", "add", tolerate=errno.EEXIST):
            self._ipr.rule("add", **_rule_attributes(rule))

    def _remove_rule(self, rule: MarkRule) -> None:
        with _kernel(f"rule priority {rule.priority}", "delete", tolerate=errno.ENOENT):
            self._ipr.rule("del", **_rule_attributes(rule))

    def _remove_route(self, route: TableRoute) -> None:
        with _kernel(f"route table {route.table}", "delete", tolerate=errno.ESRCH):
            self._ipr.route("del", oif=self._index(route.device), **_route_attributes(route))

    def _remove_device(self, device: ObservedGre) -> None:
        with _kernel(f"device {device.name}", "delete", tolerate=errno.ENODEV):
            gre.link.remove(self._ipr, device)

    def _rules(self) -> Iterator[MarkRule]:
        for message in self._ipr.get_rules(family=AF_INET):
            priority = message.get_attr("FRA_PRIORITY") or 0
            mark = message.get_attr("FRA_FWMARK")
            table = message.get_attr("FRA_TABLE")
            if priority in self._priorities and mark is not None and table in self._tables:
                yield MarkRule(priority, mark, message.get_attr("FRA_FWMASK"), table)

    def _routes(self, names: dict[int, str], tables: set[int]) -> Iterator[TableRoute]:
        """The default routes of our tables; table by table, since the main one may hold thousands of our protocol."""
        for table in tables:
            for route in self._route_socket.routes(4, table, self._protocol):
                if route.prefix.prefixlen == 0 and route.device_index in names:
                    yield TableRoute(table, names[route.device_index], self._protocol)

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


def _rule_attributes(rule: MarkRule) -> dict[str, Any]:
    return {
        "family": AF_INET,
        "priority": rule.priority,
        "fwmark": rule.mark,
        "fwmask": rule.mask,
        "table": rule.table,
    }


def _route_attributes(route: TableRoute) -> dict[str, Any]:
    return {"family": AF_INET, "dst": "default", "table": route.table, "proto": route.protocol}


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
