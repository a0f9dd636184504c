"""BPF programs, and trying them out by BPF_PROG_TEST_RUN (Documentation/bpf/bpf_prog_run.rst)."""

from __future__ import annotations

import ctypes
import struct
from ctypes import byref, create_string_buffer
from dataclasses import dataclass
from typing import Final, Self

from wccpd.dataplane.bpf.descriptor import BpfDescriptor
from wccpd.dataplane.bpf.libbpf import LibBpf, ProgramInfo, TestRunOptions, sized

_LIVE_FRAMES: Final = 1 << 1
"""BPF_F_TEST_XDP_LIVE_FRAMES."""
_GROWTH_OCTETS: Final = 256
"""By how much a program may make a packet longer in a trial run."""
_XDP_CONTEXT = struct.Struct("=6I")
"""`struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex."""
_CONTEXT_OCTETS: Final = 512
"""Room for any context; the kernel wants to write the whole of it."""
_MAX_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class TrialRun:
    """What a program did with a packet."""

    verdict: int
    """What it returned: TC_ACT_* or XDP_*."""
    packet: bytes
    """The packet afterwards."""
    context: bytes
    """The context afterwards, e.g. `struct __sk_buff`; empty if none was given."""
    nanoseconds: int
    """Mean time of a run; the kernel counts whole nanoseconds."""


class BpfProgram(BpfDescriptor[ProgramInfo]):
    """A program in the kernel."""

    kind_name = "program"
    info_type = ProgramInfo

    def __init__(self, library: LibBpf, fd: int, *, owns_fd: bool) -> None:
        super().__init__(library, fd, owns_fd=owns_fd)
        self.tag = bytes(self._info.tag)
        """Digest of the instructions: the same program has the same tag."""

    @classmethod
    def by_id(cls, library: LibBpf, program_id: int) -> Self:
        """Open a program by its id, e.g. one that `attached_tc` found.

        Raises:
            KernelError: There is none (ENOENT).
        """
        fd = library.call("bpf_prog_get_fd_by_id", program_id, obj=f"program {program_id}", verb="open")
        return cls._owning(library, fd)

    def run(self, packet: bytes, *, context: bytes = b"", repeat: int = 1) -> TrialRun:
        """Run it on one packet; the packet goes nowhere.

        Args:
            packet: From the Ethernet header on, at least 14 octets.
            context: The beginning of `struct __sk_buff` or `struct xdp_md`, or nothing.
            repeat: How often, to measure; what a run did to the packet stays for the next.

        Raises:
            KernelError: The kernel does not run such a program, packet or context.
        """
        data_out = create_string_buffer(len(packet) + _GROWTH_OCTETS)
        context_out = create_string_buffer(_CONTEXT_OCTETS)
        data_in, context_in = create_string_buffer(packet, len(packet)), create_string_buffer(context)
        options = sized(
            TestRunOptions,
            data_in=ctypes.addressof(data_in),
            data_size_in=len(packet),
            data_out=ctypes.addressof(data_out),
            data_size_out=len(data_out),
            repeat=repeat,
        )
        if context:
            options.context_in, options.context_size_in = ctypes.addressof(context_in), len(context)
            options.context_out, options.context_size_out = ctypes.addressof(context_out), _CONTEXT_OCTETS
        self._test_run(options)
        return TrialRun(
            options.return_value,
            data_out.raw[: options.data_size_out],
            context_out.raw[: options.context_size_out],
            options.duration,
        )

    def run_live(self, frame: bytes, *, device_index: int, count: int, batch: int = 64) -> None:
        """Run an XDP program on real frames: what it passes, sends back or redirects really goes that way.

        A passed frame enters the stack as if received by the device, in the calling thread and before this returns.
        The kernel makes the frames once and uses them again: the program must restore whatever the stack changes.

        Args:
            frame: What the frames begin as.
            device_index: In the thread's network namespace. A veth must have an XDP program of its own.
            count: How many frames.
            batch: How many of them the stack gets at a time, 1 to 256.

        Raises:
            KernelError: The kernel cannot (before 5.18), or there is no such device (ENODEV).
        """
        if not 1 <= batch <= _MAX_BATCH:
            raise ValueError(f"a batch has 1 to {_MAX_BATCH} frames, not {batch}")
        data_in = create_string_buffer(frame, len(frame))
        context = create_string_buffer(
            _XDP_CONTEXT.pack(0, len(frame), 0, device_index, 0, 0), _XDP_CONTEXT.size
        )
        self._test_run(
            sized(
                TestRunOptions,
                data_in=ctypes.addressof(data_in),
                data_size_in=len(frame),
                context_in=ctypes.addressof(context),
                context_size_in=_XDP_CONTEXT.size,
                repeat=count,
                flags=_LIVE_FRAMES,
                batch_size=batch,
            )
        )

    def _test_run(self, options: TestRunOptions) -> None:
        self._library.call("bpf_prog_test_run_opts", self.fd, byref(options), obj=self._obj, verb="run")
