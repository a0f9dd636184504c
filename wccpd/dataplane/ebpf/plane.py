"""The eBPF data plane: brings the kernel's programs, maps and tunnels to a wished state. See `port.DataPlane`.

A round looks up routes to the caches, the host's addresses and its neighbours, compiles the plan with them, and
writes it if it differs from what is in force. What changes on the host between two rounds is seen with the next.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import replace
from hashlib import blake2s
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute

import gre.link
from wccpd.dataplane import host
from wccpd.dataplane.bpf.hooks import remove_clsact
from wccpd.dataplane.bpf.libbpf import LibBpf
from wccpd.dataplane.ebpf.cells import CELLS, Cells, CellsFullError
from wccpd.dataplane.ebpf.image import Hop, HostFacts, TooBigError, image
from wccpd.dataplane.ebpf.kernel import PRIORITY, Loaded
from wccpd.dataplane.port import Applied, Observation, Wish
from wccpd.errors import KernelError
from wccpd.plan.compile import without_paths
from wccpd.plan.redirect import Mode, Path, RedirectPlan
from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.dataplane.host import Link
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import AclLine

_SLOT_NOTE: Final = 1 << 20
"""Notes about slots: the path and its epoch."""
_PLAN_NOTE: Final = 1 << 21
"""Note: digest of the plan in force."""
_QDISC_NOTE: Final = 1 << 24
"""Notes about devices whose clsact qdisc we made."""
_CLSACT_SIDES: Final = (0xFFFFFFF2, 0xFFFFFFF3)
"""Ingress and egress as parents of filters."""
_DEVICE_HINTS: Final = {
    errno.EOPNOTSUPP: "this kernel has no GRE devices: load or build the module ip_gre",
}


NO_CLEAR_DF: Final = "redirect.clear_df needs the kernel to fragment, which the eBPF plane cannot ask for"


class EbpfDataPlane:
    """See the module."""

    hash_function = "xor"

    def __init__(self, settings: KernelSettings) -> None:
        """Load the programs, or adopt those of an earlier run.

        Raises:
            VerifierError: The kernel's verifier refused a program.
            KernelError: There is no netlink socket, no libbpf, or the kernel cannot.
        """
        self._settings = settings
        with host.kernel("netlink", "open"):
            self._ipr = IPRoute()
        self._lists: dict[str, tuple[AclLine, ...]] = {}
        self._lease_seconds = 0.0
        self._in_force = False
        self.on_progress: Callable[[], None] = lambda: None
        self._plan: RedirectPlan | None = None
        """The plan in force; None while it is that of an earlier run."""
        self._segments: frozenset[str] = frozenset()
        """Devices by which caches return packets."""
        self._loaded: Loaded | None = None
        try:
            self._library = LibBpf()
            self._load()
        except BaseException:
            self._ipr.close()
            raise

    # -- the port ------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """See `DataPlane.observe`."""
        with host.kernel("network state", "read"):
            devices = gre.link.observe(self._ipr, self._settings.device_prefix)
        forwards = host.forwards()
        loaded = self._loaded
        if loaded is None or not loaded.is_pinned:
            return Observation(devices=devices, forwards=forwards)
        return Observation(
            devices=devices,
            slots={path: slot for slot, (path, _, live) in self._slot_notes.items() if live},
            former={slot: path.cache for slot, (path, _, live) in self._slot_notes.items() if not live},
            counters=self._cells.counters(loaded.read_count, self._lists),
            forwards=forwards,
            hindrances=tuple(
                host.strict_words(device, "what caches return")
                for device in sorted(self._segments)
                if host.is_strict(device)
            ),
            leased=loaded.is_leased,
        )

    def bring_to(self, wish: Wish) -> Applied:
        """See `DataPlane.bring_to`: tunnels, plan, programs, removals."""
        _refuse_clear_df(wish.plan)
        loaded = self._load()
        changes: list[str] = []
        faults: list[KernelError] = []
        with host.kernel("network state", "read"):
            present = gre.link.observe(self._ipr, self._settings.device_prefix)
        made = self._ensure_tunnels(wish.tunnels, present, changes, faults)
        with host.kernel("network state", "read"):
            links = host.links(self._ipr)
            facts, wayless = self._facts(wish.plan, links)
        changes += self._install(loaded, wish.plan, facts, frozenset(wayless))
        loaded.pin()
        self._attach(loaded, self._hooks(wish.plan, facts, links), links, changes, faults)
        self._remove_tunnels(wish.tunnels, present, changes, faults)
        self._in_force, self._plan = True, wish.plan
        return Applied(tuple(changes), made, (*faults, *wayless.values()), frozenset(wayless))

    def preview(self, wish: Wish, settings: KernelSettings) -> tuple[str, ...]:
        """See `DataPlane.preview`. The redirect is one image, of which only services are told apart."""
        _refuse_clear_df(wish.plan)
        with host.kernel("network state", "read"):
            present = gre.link.observe(self._ipr, self._settings.device_prefix)
        wanted = {tunnel.name for tunnel in wish.tunnels}
        before = {} if self._plan is None else {each.name: each for each in self._plan.services}
        after = {each.name: each for each in wish.plan.services}
        shared = self._plan is None or replace(self._plan, services=()) != replace(wish.plan, services=())
        places = settings.services != self._settings.services
        return (
            *(
                f"make device {tunnel.name}"
                for tunnel in wish.tunnels
                if tunnel.name not in present or not present[tunnel.name].is_like(tunnel)
            ),
            *(f"remove device {name}" for name in sorted(present.keys() - wanted)),
            *(f"add service {name} to the plan" for name in after if name not in before),
            *(
                f"change service {name} in the plan"
                for name in after
                if before.get(name, after[name]) != after[name]
            ),
            *(f"remove service {name} from the plan" for name in before if name not in after),
            *(("change what services of the plan share",) if shared or places else ()),
        )

    def reconfigure(self, settings: KernelSettings) -> None:
        """See `DataPlane.reconfigure`."""
        self._settings = settings

    def renew_lease(self, seconds: float) -> None:
        """See `DataPlane.renew_lease`."""
        if self._loaded is not None and self._in_force:
            self._loaded.set_lease(seconds)

    def live_flows(self) -> dict[IPv4Address, int]:
        """See `DataPlane.live_flows`."""
        if self._loaded is None:
            return {}
        there = {path.cache for path, _, live in self._slot_notes.values() if live}
        meant = {(slot, epoch): path.cache for slot, (path, epoch, _) in self._slot_notes.items()}
        pinned = (meant[pin] for pin in self._loaded.live_pins() if pin in meant)
        return dict(Counter(cache for cache in pinned if cache in there))

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied:
        """See `DataPlane.remove`."""
        changes: list[str] = []
        faults: list[KernelError] = []
        loaded = self._load()
        with host.kernel("network state", "read"):
            links = host.links(self._ipr)
            present = gre.link.observe(self._ipr, self._settings.device_prefix)
        closed = _closed(keep_closed) if keep_closed is not None else None
        if closed is not None and closed.services:
            facts, _ = self._facts(closed, links)
            changes += self._install(loaded, closed, facts, frozenset())
            loaded.set_lease(0)
            loaded.pin()
            self._attach(loaded, self._hooks(closed, facts, links), links, changes, faults)
            self._remove_tunnels((), present, changes, faults)
            self._lists, self._in_force = {}, False
        else:
            self._remove_tunnels((), present, changes, faults)
            self._unload(loaded, links, changes, faults)
        return Applied(tuple(changes), faults=tuple(faults))

    def withdraw(self) -> None:
        """Take away the redirect, but no tunnel: another plane takes over.

        Raises:
            KernelError: The kernel refused.
        """
        with host.kernel("network state", "read"):
            links = host.links(self._ipr)
        faults: list[KernelError] = []
        self._unload(self._load(), links, [], faults)
        for fault in faults:
            raise fault

    def watch(self) -> None:
        """See `DataPlane.watch`: there are no notices of maps and programs."""

    def forget(self) -> None:
        """See `DataPlane.forget`: all that it remembers is what it wrote into maps that nobody else writes."""

    def close(self) -> None:
        """Close sockets and descriptors."""
        if self._loaded is not None:
            self._loaded.close()
        self._ipr.close()

    def _unload(
        self, loaded: Loaded, links: tuple[Link, ...], changes: list[str], faults: list[KernelError]
    ) -> None:
        self._attach(loaded, {}, links, changes, faults)
        loaded.unpin()
        loaded.close()
        self._loaded = None
        self._lists, self._in_force = {}, False

    # -- plan ------------------------------------------------------------------------------------------

    def _load(self) -> Loaded:
        if self._loaded is None:
            with host.kernel("devices", "read"):
                indexes = [link.index for link in host.links(self._ipr)]
            self._loaded = Loaded(self._library, indexes)
            notes = dict(self._loaded.notes())
            self._cells = Cells({key: text for key, text in notes.items() if key < CELLS})
            self._slot_notes = {
                key - _SLOT_NOTE: _read_slot(text)
                for key, text in notes.items()
                if _SLOT_NOTE <= key < _PLAN_NOTE
            }
            self._digest = notes.get(_PLAN_NOTE, "")
            self._qdiscs = {key - _QDISC_NOTE for key in notes if key >= _QDISC_NOTE}
        return self._loaded

    def _facts(
        self, plan: RedirectPlan, links: tuple[Link, ...]
    ) -> tuple[HostFacts, dict[Path, KernelError]]:
        """The host as it is, and the paths that lead nowhere."""
        mtus = {link.index: link.mtu_bytes for link in links}
        hops: dict[Path, Hop] = {}
        wayless: dict[Path, KernelError] = {}
        for path in plan.slots:
            way = host.way_to(self._ipr, path.cache)
            if way is None:
                wayless[path] = KernelError(f"path to {path.cache}", "find", errno.ENETUNREACH)
            elif path.forwarding is ForwardingMethod.L2 and way.gateway is not None:
                wayless[path] = KernelError(
                    f"path to {path.cache}",
                    "find",
                    errno.EHOSTUNREACH,
                    "it asked for L2 and is on no segment of this host",
                )
            else:
                mtu = min(mtus.get(way.device_index, 0xFFFF), way.mtu_bytes or 0xFFFF)
                hops[path] = Hop(way.device_index, way.gateway or path.cache, mtu)
        near = host.neighbours(self._ipr) if plan.returns else {}
        macs = {address: neighbour.mac for address, neighbour in near.items()}
        return HostFacts(hops, host.local_networks(self._ipr), macs), wayless

    def _install(
        self, loaded: Loaded, plan: RedirectPlan, facts: HostFacts, missing: frozenset[Path]
    ) -> list[str]:
        """Put the plan in force if it is another one; flows, counters and slots go on."""
        slots = self._slots_after(plan, missing)
        facts = replace(facts, epochs={slot: epoch for slot, (_, epoch, _) in slots.items()})
        self._cells.begin()
        try:
            octets = image(without_paths(plan, missing), self._settings.services, facts, self._cells.cell)
        except (TooBigError, CellsFullError) as error:
            raise KernelError("plan", "compile", errno.E2BIG, str(error) or "too many counters") from error
        self._lists = {service.name: service.acl for service in plan.services if service.acl}
        for cell, label in self._cells.new.items():
            loaded.clear_count(cell)
            loaded.note(cell, label)
        for slot in slots:
            if self._slot_notes.get(slot) != slots[slot]:
                loaded.note(_SLOT_NOTE + slot, _slot_text(slots[slot]))
        self._slot_notes = slots
        digest = blake2s(octets).hexdigest()
        changed = digest != self._digest
        if changed:
            loaded.install(octets)
            loaded.note(_PLAN_NOTE, digest)
            self._digest = digest
        for cell in self._cells.finish():
            loaded.strike(cell)
        return [f"plan of {len(plan.services)} services"] if changed else []

    def _slots_after(self, plan: RedirectPlan, missing: frozenset[Path]) -> dict[int, tuple[Path, int, bool]]:
        """Slots with their paths and epochs; one that means another cache from now on begins a new epoch.

        A number without a path is noted with any path of its cache.
        """
        slots = {slot: (path, epoch, False) for slot, (path, epoch, _) in self._slot_notes.items()}
        wanted = {slot: (Path(cache, ForwardingMethod.GRE), False) for slot, cache in plan.former.items()}
        wanted |= {slot: (path, True) for path, slot in plan.slots.items() if path not in missing}
        for slot, (path, live) in wanted.items():
            before, epoch, _ = slots.get(slot, (path, 0, False))
            slots[slot] = (path, epoch if before.cache == path.cache else (epoch + 1) % 256, live)
        return slots

    # -- programs ------------------------------------------------------------------------------------------

    def _hooks(self, plan: RedirectPlan, facts: HostFacts, links: tuple[Link, ...]) -> dict[int, str]:
        """Which program runs at which device."""
        by_index = {link.index: link for link in links}
        found: dict[int, str] = {}
        back = {hop.device_index for hop in facts.hops.values()}
        for cache in plan.returns:
            way = host.way_to(self._ipr, cache)
            if way is not None:
                back.add(way.device_index)
        self._segments = frozenset(by_index[index].name for index in back & by_index.keys())
        for index in back & by_index.keys():
            found[index] = "wccp_back" if by_index[index].is_ethernet else "wccp_back_ip"
        for link in links:
            if link.name in plan.ingress:
                found[link.index] = "wccp_ethernet" if link.is_ethernet else "wccp_ip"
        return found

    def _attach(
        self,
        loaded: Loaded,
        hooks: dict[int, str],
        links: Iterable[Link],
        changes: list[str],
        faults: list[KernelError],
    ) -> None:
        """Run these programs, and none elsewhere."""
        with host.kernel("queueing disciplines", "read"):
            having = {
                message["index"]
                for message in self._ipr.get_qdiscs()
                if message.get_attr("TCA_KIND") == "clsact"
            }
        for link in links:
            try:
                name = hooks.get(link.index)
                if name is None:
                    if loaded.detach(link.index):
                        changes.append(f"no program at {link.name}")
                    self._drop_qdisc(loaded, link)
                    continue
                if loaded.runs(link.index, name):
                    continue
                if link.index not in having:
                    self._qdiscs.add(link.index)
                    loaded.note(_QDISC_NOTE + link.index, link.name)
                elif not loaded.runs_any(link.index) and self._is_taken(link):
                    place = f"tc filter priority {PRIORITY} at {link.name}"
                    raise KernelError(place, "add", errno.EEXIST, "somebody else's is there")
                loaded.attach(link.index, name)
                changes.append(f"program {name} at {link.name}")
            except KernelError as error:
                faults.append(error)

    def _is_taken(self, link: Link) -> bool:
        """Whether a filter has our priority."""
        with host.kernel(f"tc filters of {link.name}", "read"):
            filters = self._ipr.get_filters(index=link.index, parent=_CLSACT_SIDES[0])
        return any(each["info"] >> 16 == PRIORITY for each in filters)

    def _drop_qdisc(self, loaded: Loaded, link: Link) -> None:
        """Remove the clsact qdisc that we made, unless somebody else uses it by now."""
        if link.index not in self._qdiscs:
            return
        with host.kernel(f"tc filters of {link.name}", "read"):
            others = [
                each
                for side in _CLSACT_SIDES
                for each in self._ipr.get_filters(index=link.index, parent=side)
            ]
        if not others:
            remove_clsact(self._library, link.index)
        self._qdiscs.discard(link.index)
        loaded.strike(_QDISC_NOTE + link.index)

    # -- tunnels -----------------------------------------------------------------------------------------

    def _ensure_tunnels(
        self,
        wanted: tuple[GreDevice, ...],
        present: dict[str, ObservedGre],
        changes: list[str],
        faults: list[KernelError],
    ) -> bool:
        """Make the tunnels; whether one was made, remade or set up."""
        made = False
        for tunnel in wanted:
            before = present.get(tunnel.name)
            if before is not None and before.is_like(tunnel):
                continue
            try:
                with host.kernel(f"GRE device {tunnel.name}", "configure"):
                    gre.link.ensure(self._ipr, tunnel, before)
            except KernelError as error:
                hint = _DEVICE_HINTS.get(error.errno, error.detail)
                faults.append(KernelError(error.obj, error.verb, error.errno, hint))
                continue
            made = True
            changes.append(f"device {tunnel.name}")
        return made

    def _remove_tunnels(
        self,
        wanted: tuple[GreDevice, ...],
        present: dict[str, ObservedGre],
        changes: list[str],
        faults: list[KernelError],
    ) -> None:
        names = {tunnel.name for tunnel in wanted}
        for name, device in present.items():
            if name in names:
                continue
            try:
                with host.kernel(f"device {name}", "delete"):
                    gre.link.remove(self._ipr, device)
                changes.append(f"no device {name}")
            except KernelError as error:
                faults.append(error)


def _refuse_clear_df(plan: RedirectPlan) -> None:
    if plan.clear_df:
        raise KernelError("eBPF data plane", "take the plan", 0, NO_CLEAR_DF)


def _closed(plan: RedirectPlan) -> RedirectPlan:
    """The plan's services that must not pass uninspected, and those that are asked before them, without caches."""
    last = max((place for place, each in enumerate(plan.services) if each.mode is not Mode.OPEN), default=-1)
    emptied = RedirectPlan(plan.router_id, plan.ingress, plan.services[: last + 1], never=plan.never)
    return without_paths(emptied, plan.slots.keys())


def _slot_text(note: tuple[Path, int, bool]) -> str:
    path, epoch, live = note
    return f"{path.cache} {path.forwarding.name} {epoch} {int(live)}"


def _read_slot(text: str) -> tuple[Path, int, bool]:
    cache, forwarding, epoch, live = text.split()
    return Path(IPv4Address(cache), ForwardingMethod[forwarding]), int(epoch), live == "1"
