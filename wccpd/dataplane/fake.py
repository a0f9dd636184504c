"""A data plane in memory: what a well-behaved kernel would hold. For tests that need no kernel.

It understands devices, rules and routes; of the nft part it keeps the transactions, which a test may read.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from gre.tunnel import ObservedGre
from wccpd.dataplane.port import Failure
from wccpd.errors import KernelError
from wccpd.plan.diff import Observed, ObservedTable, Operations

if TYPE_CHECKING:
    from wccpd.plan.model import NftTable


class FakeDataPlane:
    """Applies operations to an `Observed` value."""

    def __init__(self) -> None:
        self.state = Observed()
        self.transactions: list[str] = []
        self.applied: list[Operations] = []
        self.refused_devices: set[str] = set()
        """Devices that cannot be made, and so neither routes through them."""

    def observe(self) -> Observed:
        """What has been applied so far."""
        return self.state

    def apply(self, operations: Operations) -> tuple[Failure, ...]:
        """Take the operations over into the state, but for devices that are refused."""
        self.applied.append(operations)
        refused = {device.name for device in operations.ensure_devices} & self.refused_devices
        devices = dict(self.state.devices)
        for wanted in operations.ensure_devices:
            if wanted.name in refused:
                continue
            devices[wanted.name] = ObservedGre(
                wanted.name, len(devices) + 2, wanted.local, wanted.remote, wanted.ttl, wanted.output_key,
                wanted.mtu_bytes or 1476, True, wanted.addresses, wanted.sysctls, 0, 0, 0, 0,
            )  # fmt: skip
        for gone in operations.remove_devices:
            devices.pop(gone.name, None)
        routes = {route.table: route for route in self.state.routes}
        routes |= {route.table: route for route in operations.add_routes if route.device in devices}
        for gone_route in operations.remove_routes:
            routes.pop(gone_route.table, None)
        rules = (self.state.rules | set(operations.add_rules)) - set(operations.remove_rules)
        kept = frozenset(route for route in routes.values() if route.device in devices)
        if operations.nft:
            self.transactions.append(operations.nft)
        self.state = Observed(devices, rules, kept, self.state.nft)
        return tuple(
            Failure(KernelError(f"GRE device {name}", "configure", errno.EEXIST), device=name)
            for name in sorted(refused)
        )

    def show_table(self, table: NftTable) -> None:
        """Pretend that the kernel now lists `table`."""
        nft = ObservedTable(
            table.name,
            dict.fromkeys(table.counters, (0, 0)),
            {item.name: item.elements for item in table.sets},
            {item.name: dict(item.elements) for item in table.maps},
            {chain.name: tuple(rule.comment for rule in chain.rules) for chain in table.chains},
        )
        self.state = Observed(self.state.devices, self.state.rules, self.state.routes, nft)

    def close(self) -> None:
        """Nothing to release."""
