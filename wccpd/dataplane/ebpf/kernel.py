"""Our programs and maps in the kernel: loaded, pinned, found again by the next run, taken away.

Pins are in /sys/fs/bpf/wccpd-N, N the number of the network namespace. What is pinned there counts as ours only if
a device of this namespace runs it; anything else is what a namespace with the same number left behind.
"""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wccpd.dataplane.bpf.filesystem import BPF_FILESYSTEM, ensure_mounted
from wccpd.dataplane.bpf.hooks import Direction, attach_tc, attached_tc, detach_tc
from wccpd.dataplane.bpf.maps import BpfMap, MapKind
from wccpd.dataplane.bpf.objects import BpfObject
from wccpd.dataplane.bpf.programs import BpfProgram
from wccpd.errors import KernelError
from wccpd.plan.redirect import TCP
from wccpd.plan.verdict import Count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wccpd.dataplane.bpf.libbpf import LibBpf

OBJECT: Final = Path(__file__).parent / "redirect.bpf.o"
PROGRAMS: Final = ("wccp_ethernet", "wccp_ip", "wccp_back", "wccp_back_ip")
MAPS: Final = ("plans", "lease", "flows", "fragments", "counters", "labels")
PRIORITY: Final = 0x5743
"""Of our tc filters."""
_KEY: Final = struct.Struct("=I")
_COUNT: Final = struct.Struct("=QQ")
_DEADLINE: Final = struct.Struct("=Q")
_PIN: Final = struct.Struct("=BB6xIB3x")
TCP_SECONDS: Final = 432000
OTHER_SECONDS: Final = 180
"""For how long a silent flow stays pinned (classify.h)."""
_LABEL_OCTETS: Final = 128
_ZERO: Final = _KEY.pack(0)


def pins_of_this_namespace() -> Path:
    """The folder of our pins; it is there only if there are any."""
    return BPF_FILESYSTEM / f"wccpd-{Path('/proc/thread-self/ns/net').stat().st_ino}"


class Loaded:
    """The programs with their maps."""

    def __init__(self, library: LibBpf, devices: Iterable[int], *, flows: int | None = None) -> None:
        """Adopt what an earlier run left, or load anew; nothing new is pinned or attached yet.

        Args:
            library: The library.
            devices: Indexes of all devices of this namespace.
            flows: How many flows can be pinned to caches; None: as the program says.

        Raises:
            VerifierError: The verifier refused a program.
            KernelError: The programs are not built in, or the kernel cannot.
        """
        self._library = library
        ensure_mounted()
        self._folder = pins_of_this_namespace()
        self._object = BpfObject(library, OBJECT)
        self._kept: list[BpfMap | BpfProgram] = []
        self._former: set[int] = set()
        """Ids of an earlier version's programs."""
        try:
            self.adopted = self._adopt(devices)
            if flows is not None and not self.adopted:
                self._object.resize("flows", flows)
            self._object.load()
            self.maps = {name: self._object.map(name) for name in MAPS}
            self.programs = {name: self._object.program(name) for name in PROGRAMS}
            self._keep_same_programs()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all descriptors; what is pinned or attached stays."""
        for each in self._kept:
            each.close()
        self._object.close()

    # -- pins ------------------------------------------------------------------------------------------

    def pin(self) -> None:
        """Leave programs and maps to the next run."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for name, each in (self.maps | self.programs).items():
            pin = self._folder / name
            if not pin.exists():
                each.pin(pin)

    def unpin(self) -> None:
        """Take all pins away."""
        if self._folder.is_dir():
            for pin in self._folder.iterdir():
                pin.unlink()
            self._folder.rmdir()

    @property
    def is_pinned(self) -> bool:
        """Whether the next run would find it."""
        return self._folder.is_dir() and all((self._folder / name).exists() for name in (*MAPS, *PROGRAMS))

    def _adopt(self, devices: Iterable[int]) -> bool:
        """Have the object use the maps of an earlier run; anything incomplete or strange is cleared away."""
        if not self._folder.is_dir():
            return False
        ours = set()
        for name in PROGRAMS:
            with suppress(KernelError), BpfProgram.pinned(self._library, self._folder / name) as program:
                ours.add(program.id)
        attached = {
            attached_tc(self._library, each, Direction.INGRESS, priority=PRIORITY) for each in devices
        }
        if ours & attached:
            try:
                found = {name: BpfMap.pinned(self._library, self._folder / name) for name in MAPS}
                self._kept += found.values()
                for name, each in found.items():
                    self._object.reuse(name, each)
            except KernelError:
                # Another version's maps: its programs run on until ours take their place.
                self._former |= ours
                self._object.close()
                self._object = BpfObject(self._library, OBJECT)
            else:
                return True
        self.unpin()
        return False

    def _keep_same_programs(self) -> None:
        """Pinned programs that are the same as ours stay; others give way to ours."""
        for name, program in tuple(self.programs.items()):
            pin = self._folder / name
            if not pin.exists():
                continue
            pinned = BpfProgram.pinned(self._library, pin)
            if pinned.tag == program.tag:
                self._kept.append(pinned)
                self.programs[name] = pinned
            else:
                self._former.add(pinned.id)
                pinned.close()
                pin.unlink()
                program.pin(pin)

    # -- hooks -----------------------------------------------------------------------------------------

    def runs(self, device: int, name: str) -> bool:
        """Whether a program runs at a device."""
        present = attached_tc(self._library, device, Direction.INGRESS, priority=PRIORITY)
        return present == self.programs[name].id

    def runs_any(self, device: int) -> bool:
        """Whether one of ours does, be it an earlier version's."""
        present = attached_tc(self._library, device, Direction.INGRESS, priority=PRIORITY)
        return present is not None and self._is_ours(present)

    def attach(self, device: int, name: str) -> None:
        """Run a program at a device, in place of what is at our place there.

        Raises:
            KernelError: The kernel refused.
        """
        attach_tc(self._library, device, Direction.INGRESS, self.programs[name], priority=PRIORITY)

    def detach(self, device: int) -> bool:
        """Run none of ours at a device; False if none does."""
        if not self.runs_any(device):
            return False
        detach_tc(self._library, device, Direction.INGRESS, priority=PRIORITY)
        return True

    def _is_ours(self, program_id: int) -> bool:
        """Also an earlier version's. To open a program by its id is allowed to few; those pinned we know anyway."""
        if program_id in self._former | {program.id for program in self.programs.values()}:
            return True
        try:
            with BpfProgram.by_id(self._library, program_id) as program:
                return any(name[:15] == program.name for name in PROGRAMS)
        except KernelError:
            return False

    # -- contents --------------------------------------------------------------------------------------

    def install(self, image: bytes) -> None:
        """Put a plan in force, whole."""
        present = self.maps["plans"]
        with BpfMap.create(self._library, MapKind.ARRAY, "first_plan", _KEY.size, len(image), 1) as inner:
            inner.update(_ZERO, image)
            present.update(_ZERO, _KEY.pack(inner.fd))

    def set_lease(self, seconds: float) -> None:
        """Let it be valid from now for so long."""
        deadline = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + round(seconds * 1e9) if seconds > 0 else 0
        self.maps["lease"].update(_ZERO, _DEADLINE.pack(deadline))

    @property
    def is_leased(self) -> bool:
        """Whether the lease is running."""
        (deadline,) = _DEADLINE.unpack(self.maps["lease"].get(_ZERO) or bytes(8))
        return bool(deadline > time.clock_gettime_ns(time.CLOCK_MONOTONIC))

    def live_pins(self) -> Iterator[tuple[int, int]]:
        """Slot and epoch of every flow that is pinned to a path and goes on."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 10**9
        for key, value in self.maps["flows"].items():
            slot, epoch, seen_seconds, closing = _PIN.unpack(value)
            idle_seconds = TCP_SECONDS if key[12] == TCP else OTHER_SECONDS
            if slot and not closing and now - seen_seconds <= idle_seconds:
                yield slot, epoch

    def read_count(self, cell: int) -> Count:
        """A counter, over all CPUs."""
        pairs = [_COUNT.unpack(each) for each in self.maps["counters"].get_per_cpu(_KEY.pack(cell))]
        return Count(sum(packets for packets, _ in pairs), sum(octets for _, octets in pairs))

    def clear_count(self, cell: int) -> None:
        """Begin a counter anew."""
        self.maps["counters"].update(_KEY.pack(cell), bytes(_COUNT.size))

    def notes(self) -> Iterator[tuple[int, str]]:
        """Everything in the notebook."""
        for key, value in self.maps["labels"].items():
            yield _KEY.unpack(key)[0], value.rstrip(b"\0").decode()

    def note(self, key: int, text: str) -> None:
        """Write into the notebook."""
        octets = text.encode()
        assert len(octets) < _LABEL_OCTETS
        self.maps["labels"].update(_KEY.pack(key), octets.ljust(_LABEL_OCTETS, b"\0"))

    def strike(self, key: int) -> None:
        """Strike something out of the notebook."""
        self.maps["labels"].delete(_KEY.pack(key))
