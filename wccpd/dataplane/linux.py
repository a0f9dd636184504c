"""The netlink data plane: GRE devices, policy routing and nftables of the network namespace we run in.

    netlink_reader   what of ours is there, what of the host's matters
    known_table      our nftables table, listed whole only when somebody else may have touched it
    plan.compile     the desired state for the host as it is
    plan.diff        what to do about it
    netlink_writer   does it

Foreign exceptions are translated below, once.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from gre.tunnel import redirect_device_name
from wccpd.dataplane import host
from wccpd.dataplane.conntrack import Conntrack
from wccpd.dataplane.host import kernel
from wccpd.dataplane.known_table import NO_PAUSE, KnownTable
from wccpd.dataplane.netlink_reader import NetlinkReader
from wccpd.dataplane.netlink_writer import Failure, NetlinkWriter
from wccpd.dataplane.nfnetlink import LeaseSocket
from wccpd.dataplane.nft import Nft
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.dataplane.rtnetlink import RouteSocket
from wccpd.dataplane.watch import TableWatch
from wccpd.errors import KernelError
from wccpd.plan import names
from wccpd.plan.compile import Compiled, Facts, compile_state, without_paths
from wccpd.plan.counter_names import read_counters
from wccpd.plan.diff import Observed, Operations, diff
from wccpd.plan.model import DesiredState, NftTable
from wccpd.plan.redirect import Mode, Path, RedirectPlan
from wccpd.plan.slots import MAX_SLOT
from wccpd.plan.verdict import Count, Counters
from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from ipaddress import IPv4Address

    from gre.tunnel import GreDevice
    from wccpd.plan.acl import LineCounter
    from wccpd.plan.diff import ObservedTable
    from wccpd.plan.policy import KernelSettings


class LinuxDataPlane:
    """See the module. What is ours is known by the settings' prefix, priorities, tables, protocol and table name."""

    hash_function = "jhash"

    def __init__(self, settings: KernelSettings) -> None:
        """Open the sockets.

        Raises:
            KernelError: There is no netlink socket, or no libnftables, to be had.
        """
        self._settings = settings
        self._compilation: _Compilation | None = None
        """The last one that was made for a wish, whatever came of it."""
        self._compiled: Compiled | None = None
        """What was last brought to the kernel; None before, and when it was removed."""
        self._ingress: tuple[str, ...] = ()
        self._lease_seconds = 0.0
        self._leased: tuple[str, ...] | None = None
        """Devices whose lease is renewed; None while there is nothing to lease."""
        self.on_progress: Callable[[], None] = lambda: None
        self._meant: dict[int, IPv4Address | None] | None = None
        """The cache that connections mean by a slot; None for a slot: nobody knows."""
        with kernel("netlink", "open"):
            self._ipr = IPRoute()
            nft = Nft(settings.nft_table)
        self._has_tproxy = nft.takes_rule("meta l4proto tcp tproxy to :1")
        self._lease = LeaseSocket(settings.nft_table)
        self._own_ports = nft.sender(), self._lease.port
        self._table = KnownTable(nft, self.watch())
        self._route_socket = RouteSocket()
        self._conntrack = Conntrack()
        self._reader = NetlinkReader(self._ipr, self._route_socket, settings)
        self._writer = NetlinkWriter(self._ipr, self._progressed)

    # -- the port ------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """See `DataPlane.observe`."""
        counting = {line.map for line in self._acl_counters() if line.map}
        observed = self._reader.observe(self._table.count(sorted(counting)))
        return Observation(
            devices=observed.devices,
            slots=self._reader.slots(observed),
            former=self._reader.former(observed),
            counters=self._counters(observed),
            forwards=host.forwards(),
            hindrances=(
                *self._reader.hindrances(self._ingress),
                *([NO_PAUSE] if self._table.in_doubt else []),
            ),
            leased=observed.nft is not None and names.LEASE in observed.nft.maps and self._table.is_leased(),
        )

    def bring_to(self, wish: Wish) -> Applied:
        """See `DataPlane.bring_to`: guard, paths, classification, removals."""
        self._ingress = wish.plan.ingress
        observed = self._observe()
        if self._leased is None and observed.nft is not None and observed.nft.is_current:
            # Of an earlier run: its redirect is valid while we bring it to the wish.
            self._leased = tuple(observed.nft.maps.get(names.INGRESS, ()))
        failures: list[Failure] = []
        record = observed
        guard, guarded = self._guard(wish, observed)
        if guard:
            # What must not pass uninspected does not, from before the first device is there.
            failures += self._apply(guard, guarded)
            observed = self._observe()
        failures += self._unpin_strangers(wish.plan, record)
        compiled, unlinked = self._compile(wish, observed, self._without_way(wish.plan, failures))
        operations = self._diff(compiled.state, observed)
        if operations.paths():
            failures += self._apply(operations.paths(), None)
            observed = self._observe()
        refused = self._without_way(wish.plan, failures) | unlinked
        rest = operations.rest()
        if operations.paths():
            # New devices have an MTU, refused ones must not be sent anything.
            compiled, _ = self._compile(wish, observed, refused)
            rest = self._diff(compiled.state, observed).rest()
        failures += self._apply(self._with_lease(rest, needed=bool(guard)), compiled.state.nft)
        self._compiled, self._leased = compiled, wish.plan.ingress
        tunnels = {tunnel.name for tunnel in wish.tunnels}
        return Applied(
            changes=(*guard.words(), *operations.paths().words(), *rest.words()),
            devices_changed=any(device.name in tunnels for device in operations.ensure_devices),
            faults=(
                *dict.fromkeys(failure.error for failure in failures),
                *map(_no_link, sorted(unlinked, key=str)),
            ),
            refused=refused,
        )

    def preview(self, wish: Wish, settings: KernelSettings) -> tuple[str, ...]:
        """See `DataPlane.preview`. Of a device that is not there yet the MTU is taken for the usual one."""
        kept = self._settings, self._compilation
        self._settings, self._compilation = settings, None
        try:
            with self._reader.looking_ahead():
                observed = self._observe()
                compiled, _ = self._compile(wish, observed)
        finally:
            self._settings, self._compilation = kept
        return diff(compiled.state, observed).words()

    def reconfigure(self, settings: KernelSettings) -> None:
        """See `DataPlane.reconfigure`."""
        self._settings, self._compilation = settings, None

    def renew_lease(self, seconds: float) -> None:
        """See `DataPlane.renew_lease`."""
        self._lease_seconds = seconds
        if self._leased is not None:
            self._lease.renew(self._leased, seconds)

    def live_flows(self) -> Mapping[IPv4Address, int]:
        """See `DataPlane.live_flows`."""
        marks = self._settings.marks
        by_mark = self._conntrack.count(marks.slot_mask, any_of=marks.slot_mask)
        observed = self._observe()
        there = {path.cache for path in self._reader.slots(observed)}
        found: dict[IPv4Address, int] = {}
        for slot, cache in self._reader.meanings(observed).items():
            flows = by_mark.get(marks.mark(slot=slot), 0)
            if flows and cache in there:
                found[cache] = found.get(cache, 0) + flows
        return found

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
            operations = replace(operations, nft=operations.nft + ends)
        self._compiled = self._leased = None
        failures = self._apply(operations, state.nft)
        return Applied(changes=operations.words(), faults=tuple(failure.error for failure in failures))

    def guard(self, plan: RedirectPlan) -> Applied:
        """Have services of this plan whose mode is not open refuse what they take, until there is a wish.

        Where our table is already nothing is done: it goes on as it was left.

        Raises:
            KernelError: What is there could not be read; nothing was changed.
        """
        closed = _closed(plan)
        observed = self._observe()
        if observed.nft is not None or not closed.services:
            return Applied()
        operations, made = self._guard(Wish(closed), observed)
        failures = self._apply(operations, made)
        return Applied(changes=operations.words(), faults=tuple(failure.error for failure in failures))

    def withdraw(self, tunnels: tuple[GreDevice, ...]) -> None:
        """Take away the redirect, but none of these tunnels: another plane takes over.

        Raises:
            KernelError: The kernel refused.
        """
        operations = diff(DesiredState(), self._observe())
        kept = {tunnel.name for tunnel in tunnels}
        removed = tuple(each for each in operations.remove_devices if each.name not in kept)
        for failure in self._apply(replace(operations, remove_devices=removed), None):
            raise failure.error

    def disown(self, current: KernelSettings) -> list[KernelError]:
        """Remove devices, routes and rules that our settings recognise and those in force now do not.

        Args:
            current: The settings in force.

        Returns:
            What the kernel refused.

        Raises:
            KernelError: What is there cannot be read.
        """
        operations = diff(DesiredState(), self._reader.observe(None))
        theirs = NetlinkReader(self._ipr, self._route_socket, current).observe(None)
        removals = replace(
            operations,
            remove_rules=tuple(each for each in operations.remove_rules if each not in theirs.rules),
            remove_routes=tuple(each for each in operations.remove_routes if each not in theirs.routes),
            remove_devices=tuple(
                each for each in operations.remove_devices if each.name not in theirs.devices
            ),
        )
        return [failure.error for failure in self._apply(removals, None)]

    def disown_table(self) -> list[KernelError]:
        """Remove the nft table, if it is ours.

        Returns:
            What the kernel refused.

        Raises:
            KernelError: The tables cannot be listed.
        """
        try:
            table = self._table.look()
        except KernelError as error:
            if error.errno == errno.EEXIST:
                return []  # not ours by now
            raise
        operations = diff(DesiredState(), Observed(nft=table))
        return [failure.error for failure in self._apply(operations, None)]

    def watch(self) -> TableWatch:
        """See `DataPlane.watch`."""
        return TableWatch(self._settings.nft_table, self._own_ports)

    def forget(self) -> None:
        """See `DataPlane.forget`."""
        self._table.forget()
        self._compilation = None

    def close(self) -> None:
        """Close the netlink sockets."""
        self._ipr.close()
        self._route_socket.close()
        self._conntrack.close()
        self._table.close()
        self._lease.close()

    def _progressed(self) -> None:
        self.on_progress()

    # -- connections ---------------------------------------------------------------------------------

    def _unpin_strangers(self, plan: RedirectPlan, observed: Observed) -> Iterator[Failure]:
        """Take from connections the slots that are about to mean another cache than when they were marked.

        What a slot meant is known from the kernel's record and from what we wished since. Where there is no record,
        after a removal or an upgrade, that holds for every slot without a path.
        """
        if not any(service.affinity for service in plan.services):
            return
        marks, wanted = self._settings.marks, plan.meanings
        if self._meant is None:
            has_record = observed.nft is not None and observed.nft.is_current
            unknown = {} if has_record else dict.fromkeys(range(1, MAX_SLOT + 1))
            self._meant = {**unknown, **self._reader.meanings(observed)}
        strange = {
            slot for slot, cache in self._meant.items() if cache is None or cache != wanted.get(slot, cache)
        }
        if strange:
            try:
                strangers = {marks.mark(slot=slot) for slot in strange}
                self._conntrack.unmark(marks.mask, strangers, of=marks.slot_mask)
            except KernelError as error:
                yield Failure(error)
                taken = {slot for slot in strange if self._meant[slot] is not None} & set(plan.slots.values())
                yield from (Failure(error, table=self._settings.table_base + slot) for slot in taken)
                return
        self._meant = {slot: cache for slot, cache in self._meant.items() if cache is not None}
        self._meant |= wanted

    # -- observing -----------------------------------------------------------------------------------

    def _observe(self) -> Observed:
        """All of ours; counters as they were last read."""
        table = self._table.look()
        self.on_progress()
        return self._reader.observe(table)

    def _counters(self, observed: Observed) -> Counters:
        if observed.nft is None:
            return Counters()
        counted = read_counters(observed.nft.counters)
        returned = dict(counted.returned)
        for device in observed.devices.values():
            cache = self._reader.cache_of(observed, device.name)
            if cache is not None:
                by_gre = Count(device.received_packets, device.received_bytes)
                returned[cache] = returned.get(cache, Count()) + by_gre
        return Counters(counted.outcomes, self._acl_lines(observed.nft), counted.exempt, returned)

    def _acl_lines(self, table: ObservedTable) -> dict[str, tuple[Count, ...]]:
        if self._compiled is None:
            return {}
        return {
            service: tuple(sum((_counted(place, table) for place in places), Count()) for places in lines)
            for service, lines in self._compiled.acl_lines.items()
        }

    def _acl_counters(self) -> Iterator[LineCounter]:
        if self._compiled is not None:
            for lines in self._compiled.acl_lines.values():
                for places in lines:
                    yield from places

    # -- compiling -----------------------------------------------------------------------------------

    def _guard(self, wish: Wish, observed: Observed) -> tuple[Operations, NftTable | None]:
        """What keeps devices that are not looked at yet from letting packets pass: every service in its mode.

        A table of another layout goes on working until the one transaction that replaces it.

        Returns:
            What to do, and the table that it makes; None for part of one.
        """
        table = observed.nft
        present = {} if table is None else table.maps.get(names.INGRESS, {})
        missing = [device for device in wish.plan.ingress if device not in present]
        if not missing:
            return Operations(), None
        if table is not None and table.is_current:
            elements = ", ".join(f"{device} : goto {names.LAPSED}" for device in missing)
            text = f"add element ip {table.name} {names.INGRESS} {{ {elements} }}\n"
            return Operations(nft=text), None
        plan = without_paths(wish.plan, wish.plan.slots.keys())
        made = compile_state(plan, (), self._settings, Facts()).state.nft
        return Operations(nft=diff(DesiredState(nft=made), observed).nft), made

    def _compile(
        self, wish: Wish, observed: Observed, refused: frozenset[Path] = frozenset()
    ) -> tuple[Compiled, frozenset[Path]]:
        """The desired state for the host as it is, and the L2 paths whose cache is on no segment of ours."""
        facts = self._reader.facts(wish.plan, observed, has_tproxy=self._has_tproxy)
        unlinked = frozenset(
            path
            for path in wish.plan.slots
            if path.forwarding is ForwardingMethod.L2 and path.cache not in facts.links
        )
        plan = without_paths(wish.plan, unlinked | refused)
        last = self._compilation
        if last is None or (last.plan, last.tunnels, last.facts) != (plan, wish.tunnels, facts):
            compiled = compile_state(plan, wish.tunnels, self._settings, facts)
            self._compilation = _Compilation(plan, wish.tunnels, facts, compiled)
            return compiled, unlinked
        return last.compiled, unlinked

    def _diff(self, state: DesiredState, observed: Observed) -> Operations:
        """What differs. A table that is known to be as it should be is not compared again."""
        if self._table.is_as(state.nft):
            return diff(replace(state, nft=None), replace(observed, nft=None))
        operations = diff(state, observed)
        if not operations.nft:
            self._table.confirm(state.nft)
        return operations

    def _without_way(self, plan: RedirectPlan, failures: list[Failure]) -> frozenset[Path]:
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

    # -- applying ------------------------------------------------------------------------------------

    def _apply(self, operations: Operations, made: NftTable | None) -> list[Failure]:
        """See `NetlinkWriter.apply`.

        Args:
            operations: What to do.
            made: The table that their nft part makes; None if it makes a part of one, or removes it.
        """
        return self._writer.apply(operations, partial(self._table.change, made=made))

    def _with_lease(self, operations: Operations, *, needed: bool) -> Operations:
        """Renew the lease with the change: a new table or device must not wait for the next renewal.

        Args:
            operations: What is to be done.
            needed: Renew it even if the table is not to be changed: it was, just before.
        """
        if not self._lease_seconds or not (operations.nft or needed):
            return operations
        return replace(operations, nft=operations.nft + self._lease_lines())

    def _lease_lines(self) -> str:
        table, milliseconds = self._settings.nft_table, max(1, round(self._lease_seconds * 1000))
        lines = f"flush map ip {table} {names.LEASE}\n"
        elements = ", ".join(
            f"{device} timeout {milliseconds}ms : goto {names.FRESH}" for device in self._ingress
        )
        return lines + (f"add element ip {table} {names.LEASE} {{ {elements} }}\n" if elements else "")


@dataclass(frozen=True, slots=True)
class _Compilation:
    """A compiled state and all that it was made from."""

    plan: RedirectPlan
    tunnels: tuple[GreDevice, ...]
    facts: Facts
    compiled: Compiled


def _closed(plan: RedirectPlan) -> RedirectPlan:
    """The plan's services that must not pass uninspected, and those that are asked before them, without caches."""
    last = max((place for place, each in enumerate(plan.services) if each.mode is not Mode.OPEN), default=-1)
    emptied = RedirectPlan(plan.router_id, plan.ingress, plan.services[: last + 1], never=plan.never)
    return without_paths(emptied, plan.slots.keys())


def _counted(place: LineCounter, table: ObservedTable) -> Count:
    """What was counted there for a line of a redirect list."""
    if place.counter:
        return table.counters.get(place.counter, Count())
    return table.element_counters.get(place.map, {}).get(place.key, Count())


def _no_link(path: Path) -> KernelError:
    return KernelError(
        f"path to {path.cache}",
        "find",
        errno.EHOSTUNREACH,
        "it asked for L2 and is on no segment of this host",
    )
