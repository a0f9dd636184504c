"""Carries out operations on devices, routes, rules and our nftables table, in an order in which nothing leaks."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gre.link
from wccpd.dataplane.host import AF_INET, kernel
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyroute2 import IPRoute

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.plan.diff import Operations
    from wccpd.plan.model import MarkRule, TableRoute

_DEVICE_HINTS: Final = {
    errno.EOPNOTSUPP: "this kernel has no GRE devices: load or build the module ip_gre",
    errno.EEXIST: "another device has this name, or another GRE device the same two addresses",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One operation that the kernel refused, and the device or routing table that cannot be used for it."""

    error: KernelError
    device: str = ""
    table: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation, and what cannot be used if it is refused."""

    work: Callable[[], None]
    device: str = ""
    table: int = 0


class NetlinkWriter:
    """Writes through one pyroute2 socket.

    Args:
        ipr: The socket.
        on_step: Called after each operation: many of them take long, and somebody waits for a sign of life.
    """

    def __init__(self, ipr: IPRoute, on_step: Callable[[], None]) -> None:
        self._ipr = ipr
        self._on_step = on_step

    def apply(self, operations: Operations, change_table: Callable[[str], None]) -> list[Failure]:
        """Devices, routes, rules, classification; then removals in the reverse order.

        One that the kernel refuses keeps none of the others back; the nft part is all or nothing. If that is
        refused nothing is removed: packets are still marked for paths that would be missing, and a marked packet
        without a path is forwarded uninspected.

        Args:
            operations: What to do.
            change_table: Commits the nft part.
        """
        failures = self._tried(self._additions(operations, change_table))
        if any(not failure.device and not failure.table for failure in failures):
            return failures
        return failures + self._tried(self._removals(operations))

    def _tried(self, steps: Iterator[_Step]) -> list[Failure]:
        failures = []
        for step in steps:
            try:
                step.work()
            except KernelError as error:
                failures.append(Failure(error, step.device, step.table))
            self._on_step()
        return failures

    def _additions(self, operations: Operations, change_table: Callable[[str], None]) -> Iterator[_Step]:
        for device in operations.ensure_devices:
            yield _Step(partial(self._ensure_device, device), device=device.name)
        for route in operations.add_routes:
            yield _Step(partial(self._add_route, route), table=route.table)
        for rule in operations.add_rules:
            yield _Step(partial(self._add_rule, rule), table=rule.table)
        if operations.nft:
            yield _Step(partial(change_table, operations.nft))

    def _removals(self, operations: Operations) -> Iterator[_Step]:
        for rule in operations.remove_rules:
            yield _Step(partial(self._remove_rule, rule))
        for route in operations.remove_routes:
            yield _Step(partial(self._remove_route, route))
        for gone in operations.remove_devices:
            yield _Step(partial(self._remove_device, gone))

    def _ensure_device(self, device: GreDevice) -> None:
        with kernel(f"GRE device {device.name}", "configure", hints=_DEVICE_HINTS):
            present = gre.link.observe(self._ipr, device.name)
            gre.link.ensure(self._ipr, device, present.get(device.name))

    def _add_route(self, route: TableRoute) -> None:
        with kernel(f"route {_route_words(route)}", "add"):
            self._ipr.route("replace", oif=self._index(route.device), **_route_attributes(route))

    def _add_rule(self, rule: MarkRule) -> None:
        with kernel(f"rule priority {rule.priority}", "add", tolerate=errno.EEXIST):
            self._ipr.rule("add", **_rule_attributes(rule))

    def _remove_rule(self, rule: MarkRule) -> None:
        with kernel(f"rule priority {rule.priority}", "delete", tolerate=errno.ENOENT):
            self._ipr.rule("del", **_rule_attributes(rule))

    def _remove_route(self, route: TableRoute) -> None:
        with kernel(f"route {_route_words(route)}", "delete", tolerate=errno.ESRCH):
            self._ipr.route("del", oif=self._index(route.device), **_route_attributes(route))

    def _remove_device(self, device: ObservedGre) -> None:
        with kernel(f"device {device.name}", "delete", tolerate=errno.ENODEV):
            gre.link.remove(self._ipr, device)

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
