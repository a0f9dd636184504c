"""The netlink data plane: GRE devices, policy routing and nftables of the network namespace we run in.

pyroute2 for links, addresses, rules and the handful of table routes; libnftables for the rest. Foreign
exceptions are translated here, once.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute, NetlinkError

import gre.link
from wccpd.dataplane.nft import Nft
from wccpd.errors import KernelError
from wccpd.plan.diff import Observed, Operations
from wccpd.plan.marks import MAX_SLOT
from wccpd.plan.model import MarkRule, TableRoute

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wccpd.plan.compile import Policy

AF_INET = 2
DEFAULT_DESTINATION_LENGTH = 0


class LinuxDataPlane:
    """See the module. What is ours is known by the policy's prefix, priorities, tables and protocol."""

    def __init__(self, policy: Policy) -> None:
        self._prefix = policy.device_prefix
        self._priorities = range(policy.rule_priority + 1, policy.rule_priority + MAX_SLOT + 1)
        self._tables = range(policy.table_base + 1, policy.table_base + MAX_SLOT + 1)
        self._protocol = policy.route_protocol
        self._ipr = IPRoute()
        self._nft = Nft(policy.nft_table)

    def observe(self) -> Observed:
        """Read links, addresses, rules, table routes and the nft table."""
        with _kernel("network state", "read"):
            devices = gre.link.observe(self._ipr, self._prefix)
            names = {device.index: name for name, device in devices.items()}
            return Observed(
                devices=devices,
                rules=frozenset(self._rules()),
                routes=frozenset(self._routes(names)),
                nft=self._nft.observe(),
            )

    def apply(self, operations: Operations) -> None:
        """Devices, routes, rules, classification; then removals in the reverse order."""
        if operations.ensure_devices:
            with _kernel("GRE devices", "list"):
                present = gre.link.observe(self._ipr, self._prefix)
            for device in operations.ensure_devices:
                with _kernel(f"GRE device {device.name}", "configure", hints=_DEVICE_HINTS):
                    gre.link.ensure(self._ipr, device, present.get(device.name))
        for route in operations.add_routes:
            with _kernel(f"route default dev {route.device} table {route.table}", "add"):
                self._ipr.route("replace", oif=self._index(route.device), **_route_attributes(route))
        for rule in operations.add_rules:
            with _kernel(f"rule priority {rule.priority}", "add", tolerate=errno.EEXIST):
                self._ipr.rule("add", **_rule_attributes(rule))
        if operations.nft:
            self._nft.run(operations.nft)
        self._remove(operations)

    def _remove(self, operations: Operations) -> None:
        for rule in operations.remove_rules:
            with _kernel(f"rule priority {rule.priority}", "delete", tolerate=errno.ENOENT):
                self._ipr.rule("del", **_rule_attributes(rule))
        for route in operations.remove_routes:
            with _kernel(f"route table {route.table}", "delete", tolerate=errno.ESRCH):
                self._ipr.route("del", **_route_attributes(route))
        for gone in operations.remove_devices:
            with _kernel(f"device {gone.name}", "delete", tolerate=errno.ENODEV):
                gre.link.remove(self._ipr, gone)

    def close(self) -> None:
        """Close the netlink socket."""
        self._ipr.close()

    def _rules(self) -> Iterator[MarkRule]:
        for message in self._ipr.get_rules(family=AF_INET):
            priority = message.get_attr("FRA_PRIORITY") or 0
            mark = message.get_attr("FRA_FWMARK")
            table = message.get_attr("FRA_TABLE")
            if priority in self._priorities and mark is not None and table in self._tables:
                yield MarkRule(priority, mark, message.get_attr("FRA_FWMASK"), table)

    def _routes(self, names: dict[int, str]) -> Iterator[TableRoute]:
        for message in self._ipr.get_routes(family=AF_INET):
            table = message.get_attr("RTA_TABLE")
            if message["proto"] == self._protocol and table in self._tables:
                device = message.get_attr("RTA_OIF")
                yield TableRoute(table, names.get(device, f"ifindex {device}"), self._protocol)

    def _index(self, device: str) -> int:
        found = self._ipr.link_lookup(ifname=device)
        if not found:
            raise KernelError(f"device {device}", "find", errno.ENODEV)
        return int(found[0])


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
        raise KernelError(obj, verb, error.errno or 0, error.strerror or "") from error
