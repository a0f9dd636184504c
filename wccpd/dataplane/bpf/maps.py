"""BPF maps: keys and values are octets, packed as the C side declares them."""

from __future__ import annotations

import errno
from ctypes import byref, c_uint32, create_string_buffer
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from wccpd.dataplane.bpf.descriptor import BpfDescriptor
from wccpd.dataplane.bpf.libbpf import BatchOptions, LibBpf, MapInfo, sized

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BATCH_ENTRIES: Final = 4096


class MapKind(IntEnum):
    """The kinds of map that hold plain values (enum bpf_map_type)."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11


_PER_CPU_KINDS: Final = frozenset({MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY, MapKind.LRU_PERCPU_HASH})
_HASH_KINDS: Final = frozenset({MapKind.HASH, MapKind.PERCPU_HASH, MapKind.LRU_HASH, MapKind.LRU_PERCPU_HASH})
"""In these the position of a batch is 4 octets, in others a key."""


class Write(IntEnum):
    """What an update may do (BPF_ANY, BPF_NOEXIST, BPF_EXIST)."""

    ANY = 0
    CREATE = 1
    REPLACE = 2


class BpfMap(BpfDescriptor[MapInfo]):
    """A map in the kernel."""

    kind_name = "map"
    info_type = MapInfo

    def __init__(self, library: LibBpf, fd: int, *, owns_fd: bool) -> None:
        super().__init__(library, fd, owns_fd=owns_fd)
        info = self._info
        self.key_octets: int = info.key_octets
        self.value_octets: int = info.value_octets
        self.max_entries: int = info.max_entries
        self.kind: int = info.kind
        """Of enum bpf_map_type; `MapKind` names those that hold plain values."""
        self.per_cpu = info.kind in _PER_CPU_KINDS
        self._is_hash = info.kind in _HASH_KINDS
        self._slot_octets = -(-info.value_octets // 8) * 8 if self.per_cpu else info.value_octets
        self._read_octets = self._slot_octets * (library.cpus if self.per_cpu else 1)

    @classmethod
    def create(
        cls, library: LibBpf, kind: MapKind, name: str, key_octets: int, value_octets: int, max_entries: int
    ) -> Self:
        """Make a map that belongs to no object: the new inner map of a map in map, whose outer value is its `fd`.

        Raises:
            KernelError: The kernel refused it.
        """
        fd = library.call(
            "bpf_map_create",
            int(kind),
            name.encode(),
            key_octets,
            value_octets,
            max_entries,
            None,
            obj=f"map {name}",
            verb="make",
        )
        return cls._owning(library, fd)

    def get(self, key: bytes) -> bytes | None:
        """The value under a key, None if there is none; of a per-CPU map, the values of all CPUs in a row.

        Raises:
            KernelError: The kernel cannot read it.
        """
        value = create_string_buffer(self._read_octets)
        code = self._library.code("bpf_map_lookup_elem", self.fd, self._key(key), value)
        if code == -errno.ENOENT:
            return None
        if code < 0:
            raise self._library.error(-code, self._obj, "read")
        return value.raw

    def get_per_cpu(self, key: bytes) -> tuple[bytes, ...]:
        """The value under a key for each possible CPU, empty if there is none.

        Raises:
            KernelError: The kernel cannot read it.
        """
        return tuple(self._split(self.get(key) or b""))

    def update(self, key: bytes, value: bytes, write: Write = Write.ANY) -> None:
        """Write one value; into a per-CPU map, the same for every CPU.

        Raises:
            KernelError: The map is full (E2BIG), or the key is there or not there against `write`.
        """
        self._library.call(
            "bpf_map_update_elem",
            self.fd,
            self._key(key),
            self._value(value),
            int(write),
            obj=self._obj,
            verb="write",
        )

    def update_batch(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Write many values with one call; not atomic as a set.

        Raises:
            KernelError: One was refused; those before it are in.
        """
        pairs = list(entries)
        if not pairs:
            return
        keys = b"".join(self._key(key) for key, _ in pairs)
        values = b"".join(self._value(value) for _, value in pairs)
        count = c_uint32(len(pairs))
        self._library.call(
            "bpf_map_update_batch",
            self.fd,
            keys,
            values,
            byref(count),
            byref(sized(BatchOptions)),
            obj=self._obj,
            verb="write",
        )

    def delete(self, key: bytes) -> bool:
        """Delete an entry; False if there was none.

        Raises:
            KernelError: The kernel refused it: an array has no absent entries (EINVAL).
        """
        code = self._library.code("bpf_map_delete_elem", self.fd, self._key(key))
        if code < 0 and code != -errno.ENOENT:
            raise self._library.error(-code, self._obj, "delete from")
        return code == 0

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, in batches. One that changes meanwhile may be missed or come twice.

        Values of per-CPU maps are those of all CPUs in a row (`split`).

        Raises:
            KernelError: The kernel cannot list this kind of map.
        """
        keys = create_string_buffer(_BATCH_ENTRIES * self.key_octets)
        values = create_string_buffer(_BATCH_ENTRIES * self._read_octets)
        position = create_string_buffer(4 if self._is_hash else max(4, self.key_octets))
        started, more = False, True
        while more:
            count = c_uint32(_BATCH_ENTRIES)
            code = self._library.code(
                "bpf_map_lookup_batch",
                self.fd,
                position if started else None,
                position,
                keys,
                values,
                byref(count),
                byref(sized(BatchOptions)),
            )
            if code < 0 and code != -errno.ENOENT:
                raise self._library.error(-code, self._obj, "list")
            started, more = True, code == 0
            found, listed = keys.raw, values.raw
            for index in range(count.value):
                key = found[index * self.key_octets : (index + 1) * self.key_octets]
                yield key, listed[index * self._read_octets : (index + 1) * self._read_octets]

    def _split(self, value: bytes) -> Iterator[bytes]:
        for offset in range(0, len(value), self._slot_octets):
            yield value[offset : offset + self.value_octets]

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_octets:
            raise ValueError(f"a key of {self.name} has {self.key_octets} octets, not {len(key)}")
        return key

    def _value(self, value: bytes) -> bytes:
        """The octets that the kernel reads: it would read beyond a value that is too short."""
        if len(value) != self.value_octets:
            raise ValueError(f"a value of {self.name} has {self.value_octets} octets, not {len(value)}")
        return value.ljust(self._slot_octets, b"\0") * self._library.cpus if self.per_cpu else value
