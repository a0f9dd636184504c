"""From observed and desired state to ordered operations.

Order on the way in: devices, table routes, rules, and last the classification, so that no packet is marked
before its path exists. On the way out the reverse. The nft part is one transaction; it touches only what
differs, so counters of unchanged paths go on counting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wccpd.plan.model import LAYOUT, LAYOUT_PREFIX, DesiredState, MarkRule, NftTable, TableRoute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.plan.model import NftChain, NftMap, NftSet
    from wccpd.plan.verdict import Count


@dataclass(frozen=True, slots=True)
class ObservedTable:
    """Our nft table as the kernel has it; rules by their comments only."""

    name: str = "wccpd"
    counters: Mapping[str, Count] = field(default_factory=dict)
    """By name."""
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    element_counters: Mapping[str, Mapping[str, Count]] = field(default_factory=dict)
    """By map and key, of maps whose elements count."""
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether wccpd made it, in whatever version."""
        return any(name.startswith(LAYOUT_PREFIX) for name in self.chains)

    @property
    def is_current(self) -> bool:
        """Whether its sets and maps are declared as this version does."""
        return LAYOUT in self.chains


@dataclass(frozen=True, slots=True)
class Observed:
    """What is really there of ours."""

    devices: Mapping[str, ObservedGre] = field(default_factory=dict)
    rules: frozenset[MarkRule] = frozenset()
    routes: frozenset[TableRoute] = frozenset()
    nft: ObservedTable | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """What to do, in the order of the fields. Empty fields mean nothing to do."""

    ensure_devices: tuple[GreDevice, ...] = ()
    add_routes: tuple[TableRoute, ...] = ()
    add_rules: tuple[MarkRule, ...] = ()
    nft: str = ""
    """One nft transaction."""
    remove_rules: tuple[MarkRule, ...] = ()
    remove_routes: tuple[TableRoute, ...] = ()
    remove_devices: tuple[ObservedGre, ...] = ()

    def paths(self) -> Operations:
        """Only what makes paths: devices, routes, rules."""
        return Operations(self.ensure_devices, self.add_routes, self.add_rules)

    def rest(self) -> Operations:
        """All but the paths: classification and removals."""
        return replace(self, ensure_devices=(), add_routes=(), add_rules=())

    def words(self) -> tuple[str, ...]:
        """What is to be done, one line each."""
        return (
            *(f"make device {device.name}" for device in self.ensure_devices),
            *(
                f"add route of table {route.table} to {route.gateway or route.device}"
                for route in self.add_routes
            ),
            *(f"add rule {rule.priority}" for rule in self.add_rules),
            *self.nft.splitlines(),
            *(f"remove rule {rule.priority}" for rule in self.remove_rules),
            *(f"remove route of table {route.table}" for route in self.remove_routes),
            *(f"remove device {device.name}" for device in self.remove_devices),
        )

    def __bool__(self) -> bool:
        return any(
            (
                self.ensure_devices,
                self.add_routes,
                self.add_rules,
                self.nft,
                self.remove_rules,
                self.remove_routes,
                self.remove_devices,
            )
        )


def diff(desired: DesiredState, observed: Observed) -> Operations:
    """Operations that turn `observed` into `desired`; false when there is nothing to do."""
    wanted_devices = {device.name for device in desired.devices}
    ensure = tuple(
        device
        for device in desired.devices
        if device.name not in observed.devices or not observed.devices[device.name].is_like(device)
    )
    # Routes die with their device and while it is down: what goes through a device that is made anew is added too.
    renewed = {device.name for device in ensure}
    # A table has one route, and writing it replaces what was there: removing the old one would hit the new.
    rewritten = {route.table for route in desired.routes}
    return Operations(
        ensure_devices=ensure,
        add_routes=tuple(
            route for route in desired.routes if route not in observed.routes or route.device in renewed
        ),
        add_rules=tuple(rule for rule in desired.rules if rule not in observed.rules),
        nft=nft_transaction(desired.nft, observed.nft),
        remove_rules=tuple(sorted(observed.rules - set(desired.rules))),
        remove_routes=tuple(
            sorted(
                (route for route in observed.routes - set(desired.routes) if route.table not in rewritten),
                key=lambda route: (route.table, route.device),
            )
        ),
        remove_devices=tuple(
            device for name, device in sorted(observed.devices.items()) if name not in wanted_devices
        ),
    )


def nft_transaction(desired: NftTable | None, observed: ObservedTable | None) -> str:
    """The nft text that replaces what differs, or an empty string."""
    if desired is None:
        return f"delete table ip {observed.name}\n" if observed is not None and observed.is_ours else ""
    lines: list[str] = []
    if observed is not None and not observed.is_current:
        lines.append(f"delete table ip {desired.name}")
        observed = None
    if observed is None:
        lines.append(f"add table ip {desired.name}")
        observed = ObservedTable(desired.name)
    changes = _Changes(desired.name, lines)
    changes.declare(desired, observed)
    for wanted_set in desired.sets:
        changes.set_elements(wanted_set, observed.sets.get(wanted_set.name, frozenset()))
    for wanted_map in desired.maps:
        changes.map_elements(wanted_map, observed.maps.get(wanted_map.name, {}))
    for chain in desired.chains:
        changes.rules(chain, observed.chains.get(chain.name, ()))
    changes.delete_stale(desired, observed)
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class _Changes:
    """Collects the lines of one transaction."""

    table: str
    lines: list[str]

    def declare(self, desired: NftTable, observed: ObservedTable) -> None:
        """Add what is missing, in an order in which nothing refers to what comes later."""
        for counter in sorted(desired.counters - observed.counters.keys()):
            self._add("counter", counter)
        for wanted_set in desired.sets:
            if wanted_set.name not in observed.sets:
                self._add("set", wanted_set.name, wanted_set.declaration)
        for wanted_map in desired.maps:
            if wanted_map.name not in observed.maps:
                self._add("map", wanted_map.name, wanted_map.declaration)
        for chain in desired.chains:
            if chain.name not in observed.chains:
                self._add("chain", chain.name, chain.hook)

    def set_elements(self, wanted: NftSet, present: frozenset[str]) -> None:
        self._elements("delete", wanted.name, sorted(present - wanted.elements))
        self._elements("add", wanted.name, sorted(wanted.elements - present))

    def map_elements(self, wanted: NftMap, present: Mapping[str, str]) -> None:
        if wanted.elements is None:
            return
        stale = [key for key, value in present.items() if wanted.elements.get(key) != value]
        fresh = [f"{key} : {value}" for key, value in wanted.elements.items() if present.get(key) != value]
        self._elements("delete", wanted.name, stale)
        self._elements("add", wanted.name, fresh)

    def rules(self, chain: NftChain, present: tuple[str, ...]) -> None:
        if tuple(rule.comment for rule in chain.rules) == present:
            return
        if present:
            self.lines.append(f"flush chain ip {self.table} {chain.name}")
        for rule in chain.rules:
            self.lines.append(f'add rule ip {self.table} {chain.name} {rule.text} comment "{rule.comment}"')

    def delete_stale(self, desired: NftTable, observed: ObservedTable) -> None:
        """Remove what nobody refers to any more; chains first, flushed, since rules refer to the others."""
        stale_chains = sorted(observed.chains.keys() - {chain.name for chain in desired.chains})
        for chain in stale_chains:
            self.lines.append(f"flush chain ip {self.table} {chain}")
        stale_maps = sorted(observed.maps.keys() - {wanted.name for wanted in desired.maps})
        for name in stale_maps:
            self.lines.append(f"delete map ip {self.table} {name}")
        for chain in stale_chains:
            self.lines.append(f"delete chain ip {self.table} {chain}")
        for name in sorted(observed.sets.keys() - {wanted.name for wanted in desired.sets}):
            self.lines.append(f"delete set ip {self.table} {name}")
        for counter in sorted(observed.counters.keys() - desired.counters):
            self.lines.append(f"delete counter ip {self.table} {counter}")

    def _add(self, kind: str, name: str, body: str = "") -> None:
        self.lines.append(f"add {kind} ip {self.table} {name}" + (f" {{ {body} }}" if body else ""))

    def _elements(self, verb: str, name: str, elements: Iterable[str]) -> None:
        joined = ", ".join(elements)
        if joined:
            self.lines.append(f"{verb} element ip {self.table} {name} {{ {joined} }}")
