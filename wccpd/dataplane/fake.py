"""A data plane in memory: what a well-behaved kernel would hold. For tests that need no kernel.

It understands devices, rules and routes; of the nft part it keeps the transactions, which a test may read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gre.tunnel import ObservedGre
from wccpd.plan.diff import Observed, ObservedTable, Operations

if TYPE_CHECKING:
    from wccpd.errors import KernelError
    from wccpd.plan.model import NftTable


class FakeDataPlane:
    """Applies operations to an `Observed` value."""

    def __init__(self) -> None:
        self.state = Observed()
        self.transactions: list[str] = []
        self.applied: list[Operations] = []
        self.refuse: KernelError | None = None
        """Raised by the next `apply`, once."""

    def observe(self) -> Observed:
        """What has been applied so far."""
        return self.state

    def apply(self, operations: Operations) -> None:
        """Take the operations over into the state."""
        if self.refuse is not None:
            refusal, self.refuse = self.refuse, None
            raise refusal
        self.applied.append(operations)
        devices = dict(self.state.devices)
        for wanted in operations.ensure_devices:
            devices[wanted.name] = ObservedGre(
                wanted.name, len(devices) + 2, wanted.local, wanted.remote, wanted.ttl, wanted.output_key,
                wanted.mtu_bytes or 1476, True, wanted.addresses, 0, 0, 0, 0,
            )  # fmt: skip
        for gone in operations.remove_devices:
            devices.pop(gone.name, None)
        rules = (self.state.rules | set(operations.add_rules)) - set(operations.remove_rules)
        routes = (self.state.routes | set(operations.add_routes)) - set(operations.remove_routes)
        if operations.nft:
            self.transactions.append(operations.nft)
        self.state = Observed(devices, rules, routes, self.state.nft)

    def show_table(self, table: NftTable) -> None:
        """Pretend that the kernel now lists `table`."""
        nft = ObservedTable(
            dict.fromkeys(table.counters, (0, 0)),
            {item.name: item.elements for item in table.sets},
            {item.name: dict(item.elements) for item in table.maps},
            {chain.name: tuple(rule.comment for rule in chain.rules) for chain in table.chains},
        )
        self.state = Observed(self.state.devices, self.state.rules, self.state.routes, nft)

    def close(self) -> None:
        """Nothing to release."""
