"""A plan as the octets that the program reads: `struct plan` of program/layout.h.

One block holds everything, so that a plan is replaced by one write. Tables of any size lie in its heap of 64-bit
words: hash tables with open addressing, and ranges sorted by their beginning.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final, TypeVar

from wccpd.dataplane.ebpf.cells import line_labels, outcome_label, returned_label
from wccpd.plan.layers import EVERYTHING, acl_box
from wccpd.plan.redirect import (
    PORT_PROTOCOLS,
    UDP,
    Action,
    HashAssignment,
    LostFlows,
    MaskAssignment,
    Mode,
    Path,
)
from wccpd.plan.verdict import Outcome, Reason, Verdict
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from wccpd.plan.layers import Box
    from wccpd.plan.redirect import AclLine, HashFields, MaskSet, RedirectPlan, ServicePlan

SERVICES: Final = 256
SLOTS: Final = 256
HEAP_WORDS: Final = 1 << 18
PROBES: Final = 16
MAX_LINES: Final = 64 * 64
MAX_MASK_SETS: Final = 64
OUTER_OCTETS: Final = 28
"""Outer IP header, GRE, redirect header."""
TCP_AND_IP_OCTETS: Final = 40

_Key = TypeVar("_Key", int, tuple[int, int])
_HEAD: Final = struct.Struct("=4s9IH6x")
_TAKEN: Final = struct.Struct("=4Q")
_PATH: Final = struct.Struct("=4s4sIHHBB2x")
_SERVICE: Final = struct.Struct("=6BH2I5I4x4Q256s256s256H")
_FULL: Final = 0xFFFFFFFF
_MULTIPLIER: Final = 0x9E3779B1
_HOST_LOCAL, _HOST_CACHE, _HOST_RETURNS_GRE, _HOST_THERE, _HOST_ROUTER = 1, 2, 4, 8, 16
_RANGE_LOCAL, _RANGE_NEVER = 1, 2
_DYNAMIC, _AFFINITY, _FALLTHROUGH, _RESET_LOST, _BY_MASK = 1, 2, 4, 8, 16
_SOURCE_PORTS, _DESTINATION_PORTS = 1, 2
_PERMIT, _LINE_THERE = 1 << 16, 1 << 17
_MODES: Final = {Mode.OPEN: 0, Mode.CLOSED: 1, Mode.REJECT: 2}
_VERDICTS: Final = {
    Mode.OPEN: Verdict.FORWARDED,
    Mode.CLOSED: Verdict.DROPPED,
    Mode.REJECT: Verdict.REJECTED,
}


class TooBigError(Exception):
    """A plan that does not fit; the text says what of it."""


@dataclass(frozen=True, slots=True)
class Hop:
    """How a path leaves the router."""

    device_index: int
    next_hop: IPv4Address
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the host says that the plan has to go by."""

    hops: Mapping[Path, Hop] = field(default_factory=dict)
    local: tuple[IPv4Network, ...] = ()
    """Addresses of the host, and broadcast ones."""
    macs: Mapping[IPv4Address, str] = field(default_factory=dict)
    """Neighbours that answered."""
    epochs: Mapping[int, int] = field(default_factory=dict)
    """By slot: which of those caches that it meant one after another this is, modulo 256."""


def image(
    plan: RedirectPlan, configured: Sequence[str], facts: HostFacts, cell: Callable[[str], int]
) -> bytes:
    """Compile a plan; paths without a hop must be left out of its services already.

    Args:
        plan: What is wished.
        configured: Names of all configured services: a service's place there is its number.
        facts: About the host.
        cell: Gives out counters by label.

    Raises:
        TooBigError: See there.
        CellsFullError: There are not enough counters.
    """
    if len(plan.services) > SERVICES:
        raise TooBigError(f"{len(plan.services)} services")
    return _Image(plan, configured, facts, cell).pack()


class _Image:
    def __init__(
        self, plan: RedirectPlan, configured: Sequence[str], facts: HostFacts, cell: Callable[[str], int]
    ) -> None:
        self._plan, self._facts, self._cell = plan, facts, cell
        self._numbers = {name: number for number, name in enumerate(configured)}
        self._heap = array("Q", bytes(32))
        """Its first words are no table's: index 0 means none."""
        self._vectors: dict[tuple[int, int], int] = {}

    def pack(self) -> bytes:
        plan = self._plan
        services = b"".join(map(self._service, plan.services))
        places = [0] * SERVICES
        for place, service in enumerate(plan.services):
            places[self._numbers[service.name]] = place + 1
        ports = self._ports()
        head = self._head()
        parts = [
            head,
            _TAKEN.pack(*_words(self._protocols_taken(), 4)),
            struct.pack(f"={SERVICES}H", *places),
            self._by_protocol(),
            b"".join(map(self._path, range(SLOTS))),
            services.ljust(SERVICES * _SERVICE.size, b"\0"),
            ports,
        ]
        if len(self._heap) > HEAP_WORDS:
            raise TooBigError(f"redirect lists and masks need {len(self._heap)} words of {HEAP_WORDS}")
        return b"".join(parts) + self._heap.tobytes().ljust(HEAP_WORDS * 8, b"\0")

    # -- common --------------------------------------------------------------------------------------

    def _head(self) -> bytes:
        plan = self._plan
        network = _common(plan.caches)
        hosts, hosts_mask = self._table({int(host): flags for host, flags in self._hosts().items()}, 32)
        macs = {
            int(self._facts.macs[cache].replace(":", ""), 16): self._cell(returned_label(cache))
            if plan.counts_frames_of(cache)
            else 0
            for cache in sorted(plan.returns)
            if cache in self._facts.macs
        }
        mac_table, macs_mask = self._table(macs, 16) if macs else (0, 0)
        ranges, ranges_count = self._address_ranges()
        flags = 0
        for service in plan.services:
            if service.match.ports:
                flags |= _SOURCE_PORTS if service.match.source_ports else _DESTINATION_PORTS
        unpinned = [
            self._mss(path)
            for service in plan.services
            if not service.affinity
            for path in service.paths.values()
            if path.forwarding is ForwardingMethod.GRE
        ]
        return _HEAD.pack(
            plan.router_id.packed, flags, int(network.network_address) if network else 0xFFFFFFFF,
            int(network.netmask) if network else 0, hosts, hosts_mask, mac_table, macs_mask, ranges, ranges_count,
            min(unpinned, default=0),
        )  # fmt: skip

    def _hosts(self) -> dict[IPv4Address, int]:
        found: dict[IPv4Address, int] = {}
        for network in self._facts.local:
            if network.prefixlen == network.max_prefixlen:
                found[network.network_address] = _HOST_THERE | _HOST_LOCAL
        # In an order that does not depend on the run: the same plan must have the same octets.
        for cache in sorted(self._plan.caches | self._plan.returns.keys()):
            flags = found.get(cache, _HOST_THERE)
            if cache in self._plan.caches:
                flags |= _HOST_CACHE
            if PacketReturnMethod.GRE in self._plan.returns.get(cache, ()):
                flags |= _HOST_RETURNS_GRE | self._cell(returned_label(cache)) << 16
            found[cache] = flags
        for router in sorted(self._plan.routers):
            found[router] = found.get(router, _HOST_THERE) | _HOST_ROUTER
        return found

    def _address_ranges(self) -> tuple[int, int]:
        """Networks of the host and those that are never redirected, as ranges with flags."""
        marks: dict[int, int] = {0: 0}
        networks = [(each, _RANGE_LOCAL) for each in self._facts.local if each.prefixlen < 32]
        networks += [(each, _RANGE_NEVER) for each in self._plan.never]
        edges = {0}
        for network, _ in networks:
            edges |= {int(network.network_address), int(network.broadcast_address) + 1}
        marks = dict.fromkeys(sorted(edge for edge in edges if edge <= _FULL), 0)
        starts = list(marks)
        for network, flag in networks:
            for start in starts:
                if int(network.network_address) <= start <= int(network.broadcast_address):
                    marks[start] |= flag
        return self._append(start << 32 | flags for start, flags in marks.items()), len(marks)

    def _path(self, slot: int) -> bytes:
        path = next((each for each, number in self._plan.slots.items() if number == slot), None)
        hop = self._facts.hops.get(path) if path is not None else None
        epoch = self._facts.epochs.get(slot, 0)
        if path is None or hop is None:
            return _PATH.pack(bytes(4), bytes(4), 0, 0, 0, False, epoch)
        return _PATH.pack(
            path.cache.packed, hop.next_hop.packed, hop.device_index, min(hop.mtu_bytes, 0xFFFF), self._mss(path),
            path.forwarding is ForwardingMethod.GRE, epoch,
        )  # fmt: skip

    def _mss(self, path: Path) -> int:
        hop = self._facts.hops.get(path)
        if hop is None or not self._plan.clamp_mss:
            return 0
        outer = OUTER_OCTETS if path.forwarding is ForwardingMethod.GRE else 0
        return max(0, min(hop.mtu_bytes, 0xFFFF) - outer - TCP_AND_IP_OCTETS)

    # -- which service ---------------------------------------------------------------------------------

    def _protocols_taken(self) -> int:
        bits = 0
        for service in self._plan.services:
            protocol = service.match.protocol
            bits |= (1 << 256) - 1 if protocol is None else 1 << protocol
        return bits

    def _by_protocol(self) -> bytes:
        vectors = [0] * 256
        for place, service in enumerate(self._plan.services):
            if service.match.ports:
                continue
            protocol = service.match.protocol
            for number in range(256) if protocol is None else (protocol,):
                vectors[number] |= 1 << place
        return b"".join(_TAKEN.pack(*_words(vector, 4)) for vector in vectors)

    def _ports(self) -> bytes:
        """Port to vector of services, for TCP and UDP, for destination and source ports."""
        vectors: dict[tuple[int, int, int], int] = {}
        for place, service in enumerate(self._plan.services):
            match = service.match
            protocols = PORT_PROTOCOLS if match.protocol is None else PORT_PROTOCOLS & {match.protocol}
            for protocol in protocols:
                for port in match.ports:
                    key = (protocol == UDP, match.source_ports, port)
                    vectors[key] = vectors.get(key, 0) | 1 << place
        table = array("H", bytes(4 * 65536 * 2))
        for (udp, source, port), vector in vectors.items():
            table[(udp * 2 + source) * 65536 + port] = self._vector(vector, 4, align=4) // 4
        return table.tobytes()

    # -- services ----------------------------------------------------------------------------------------

    def _service(self, service: ServicePlan) -> bytes:
        flags = _DYNAMIC * service.dynamic | _AFFINITY * service.affinity | _FALLTHROUGH * service.fallthrough
        flags |= _RESET_LOST * (service.lost_flows is LostFlows.RESET)
        primary = alternate = flagged = masks = mask_sets = 0
        owners = bytes(256)
        match service.assignment:
            case HashAssignment() as table:
                primary, alternate = _fields(table.primary), _fields(table.alternate)
                owners = bytes(self._slot(service, owner) for owner in table.owners)
                flagged = sum(1 << bucket for bucket in table.alternate_buckets)
            case MaskAssignment() as table:
                flags |= _BY_MASK
                masks, mask_sets = self._masks(service, table)
        return _SERVICE.pack(
            self._numbers[service.name], service.service_id, _MODES[service.mode], flags, primary, alternate,
            mask_sets, masks, self._list(service), *self._cells(service), *_words(flagged, 4), owners,
            self._own(service), *self._redirected(service),
        )  # fmt: skip

    def _slot(self, service: ServicePlan, owner: IPv4Address | None) -> int:
        path = service.paths.get(owner) if owner is not None else None
        return self._plan.slots[path] if path is not None else 0

    def _cells(self, service: ServicePlan) -> tuple[int, ...]:
        verdict = _VERDICTS[service.mode]
        outcomes = (
            Outcome(service.name, verdict, Reason.UNASSIGNED),
            Outcome(service.name, Verdict.FORWARDED, Reason.DENIED),
            Outcome(service.name, Verdict.FORWARDED, Reason.ESTABLISHED),
            Outcome(service.name, verdict, Reason.LAPSED),
            Outcome(service.name, Verdict.REJECTED, Reason.LOST),
        )
        return tuple(self._cell(outcome_label(outcome)) for outcome in outcomes)

    def _own(self, service: ServicePlan) -> bytes:
        own = bytearray(SLOTS)
        for slot, cache in self._plan.meanings.items():
            own[slot] = self._slot(service, cache)
        return bytes(own)

    def _redirected(self, service: ServicePlan) -> list[int]:
        cells = [0] * SLOTS
        for cache, path in service.paths.items():
            outcome = Outcome(service.name, Verdict.REDIRECTED, None, cache)
            cells[self._plan.slots[path]] = self._cell(outcome_label(outcome))
        return cells

    def _masks(self, service: ServicePlan, table: MaskAssignment) -> tuple[int, int]:
        if len(table.sets) > MAX_MASK_SETS:
            raise TooBigError(f"service {service.name} has {len(table.sets)} mask sets, {MAX_MASK_SETS} fit")
        words: list[int] = []
        for each in table.sets:
            mask = each.mask
            first, size_less_1 = self._values(service, each)
            words += [
                mask.source_address << 32 | mask.destination_address,
                mask.source_port << 48 | mask.destination_port << 32,
                first << 32 | size_less_1,
                0,
            ]
        return self._append(words), len(table.sets)

    def _values(self, service: ServicePlan, each: MaskSet) -> tuple[int, int]:
        entries = {}
        for value, owner in each.owners.items():
            addresses = value.source_address << 32 | value.destination_address
            ports = value.source_port << 16 | value.destination_port
            entries[addresses, ports] = self._slot(service, owner) << 8 | 1
        size = 8
        while (slots := _hashed(entries, size, _mask_place)) is None:
            size = _doubled(size)
        words = []
        for found in slots:
            if found is None:
                words += [0, 0]
            else:
                (addresses, ports), entry = found
                words += [addresses, ports << 32 | entry]
        return self._append(words), size - 1

    # -- redirect lists ------------------------------------------------------------------------------------

    def _list(self, service: ServicePlan) -> int:
        lines = service.acl
        if not lines:
            return 0
        if len(lines) > MAX_LINES:
            raise TooBigError(f"the list of service {service.name} has {len(lines)} lines, {MAX_LINES} fit")
        words = -(-len(lines) // 64)
        boxes = [acl_box(line) for line in lines]
        fields = [self._field(boxes, index, words) for index in range(len(EVERYTHING))]
        return self._append((words, *fields, *self._line_words(service.name, lines)))

    def _field(self, boxes: Sequence[Box], index: int, words: int) -> int:
        """The ranges of one field, each with the vector of the lines that it is within."""
        if all(box[index] == EVERYTHING[index] for box in boxes):
            return 0
        changes: dict[int, int] = {0: 0}
        for number, box in enumerate(boxes):
            first, last = box[index]
            changes[first] = changes.get(first, 0) ^ 1 << number
            changes[last + 1] = changes.get(last + 1, 0) ^ 1 << number
        ranges, lines = [], 0
        for start in sorted(changes):
            lines ^= changes[start]
            if start <= _FULL:
                ranges.append(start << 32 | self._vector(lines, words))
        return self._append(ranges) << 32 | len(ranges)

    def _line_words(self, service: str, lines: tuple[AclLine, ...]) -> Iterable[int]:
        for line, label in zip(lines, line_labels(service, lines), strict=True):
            permit = _PERMIT if line.action is Action.PERMIT else 0
            yield self._cell(label) | permit | _LINE_THERE

    # -- heap ----------------------------------------------------------------------------------------------

    def _append(self, words: Iterable[int], align: int = 1) -> int:
        self._heap.extend([0] * (-len(self._heap) % align))
        first = len(self._heap)
        self._heap.extend(words)
        return first

    def _vector(self, bits: int, words: int, align: int = 1) -> int:
        key = (bits, words)
        if key not in self._vectors:
            self._vectors[key] = self._append(_words(bits, words), align)
        return self._vectors[key]

    def _table(self, values: Mapping[int, int], value_bits: int) -> tuple[int, int]:
        """A hash table of words: key above, value below."""
        size = 8
        while (slots := _hashed(values, size, _place)) is None:
            size = _doubled(size)
        words = (0 if found is None else found[0] << value_bits | found[1] for found in slots)
        return self._append(words), size - 1


def _hashed(
    values: Mapping[_Key, int], size: int, place: Callable[[_Key], int]
) -> list[tuple[_Key, int] | None] | None:
    """Open addressing, no key further than the program looks; None if the table is too small."""
    if 2 * len(values) > size:
        return None
    slots: list[tuple[_Key, int] | None] = [None] * size
    for key, value in values.items():
        first = place(key)
        free = next((n for n in range(min(PROBES, size)) if slots[(first + n) % size] is None), None)
        if free is None:
            return None
        slots[(first + free) % size] = (key, value)
    return slots


def _doubled(size: int) -> int:
    if size >= HEAP_WORDS // 4:
        raise TooBigError("a table of caches or mask values")
    return size * 2


def _place(key: int) -> int:
    return (key * _MULTIPLIER & _FULL) >> 12


def _mask_place(key: tuple[int, int]) -> int:
    addresses, ports = key
    factors = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
    parts = (addresses >> 32, addresses & _FULL, ports)
    return (sum(part * factor for part, factor in zip(parts, factors, strict=True)) & _FULL) >> 12


def _words(bits: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", bits.to_bytes(count * 8, "little"))


def _fields(fields: HashFields) -> int:
    return sum(1 << index for index, wanted in enumerate(fields) if wanted)


def _common(addresses: Iterable[IPv4Address]) -> IPv4Network | None:
    """The smallest network that holds all addresses."""
    numbers = [int(address) for address in addresses]
    if not numbers:
        return None
    length = 32 - (min(numbers) ^ max(numbers)).bit_length()
    return IPv4Network((min(numbers), length), strict=False)
