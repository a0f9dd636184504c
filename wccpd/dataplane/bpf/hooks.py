"""Where programs are attached: tc clsact with direct action, and XDP.

Devices are named by index, in the network namespace of the calling thread. Attaching again replaces the program
without a packet in between.
"""

from __future__ import annotations

import errno
from ctypes import byref, c_uint32
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from wccpd.dataplane.bpf.libbpf import LibBpf, TcHook, TcOptions, sized

if TYPE_CHECKING:
    from wccpd.dataplane.bpf.programs import BpfProgram

_REPLACE: Final = 1
"""BPF_TC_F_REPLACE."""
_CLSACT: Final = 3
"""BPF_TC_INGRESS | BPF_TC_EGRESS: to destroy both is to delete the qdisc."""
_ABSENT: Final = frozenset({-errno.ENOENT, -errno.EINVAL})
"""No such filter, no such qdisc."""


class Direction(IntEnum):
    """Side of a device (enum bpf_tc_attach_point)."""

    INGRESS = 1
    EGRESS = 2


class XdpMode(IntEnum):
    """How XDP runs (XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE)."""

    GENERIC = 2
    NATIVE = 4


def attach_tc(
    library: LibBpf,
    device_index: int,
    direction: Direction,
    program: BpfProgram,
    *,
    priority: int = 1,
    handle: int = 1,
) -> None:
    """Attach a program, or replace the one with this priority and handle; makes the clsact qdisc if need be.

    Raises:
        KernelError: There is no such device (ENODEV), or the kernel cannot.
    """
    hook = _hook(device_index, direction)
    code = library.code("bpf_tc_hook_create", byref(hook))
    if code < 0 and code != -errno.EEXIST:
        raise library.error(-code, f"clsact of device {device_index}", "add")
    options = sized(TcOptions, program_fd=program.fd, flags=_REPLACE, handle=handle, priority=priority)
    library.call(
        "bpf_tc_attach",
        byref(hook),
        byref(options),
        obj=f"program {program.name} at {_place(device_index, direction)}",
        verb="attach",
    )


def attached_tc(
    library: LibBpf, device_index: int, direction: Direction, *, priority: int = 1, handle: int = 1
) -> int | None:
    """Id of the program with this priority and handle, None if there is none.

    Raises:
        KernelError: There is no such device (ENODEV).
    """
    options = sized(TcOptions, handle=handle, priority=priority)
    code = library.code("bpf_tc_query", byref(_hook(device_index, direction)), byref(options))
    if code in _ABSENT:
        return None
    if code < 0:
        raise library.error(-code, _place(device_index, direction), "read")
    return int(options.program_id)


def detach_tc(
    library: LibBpf, device_index: int, direction: Direction, *, priority: int = 1, handle: int = 1
) -> None:
    """Detach the program with this priority and handle; none there is no error. The qdisc stays.

    Raises:
        KernelError: There is no such device (ENODEV).
    """
    options = sized(TcOptions, handle=handle, priority=priority)
    code = library.code("bpf_tc_detach", byref(_hook(device_index, direction)), byref(options))
    if code < 0 and code not in _ABSENT:
        raise library.error(-code, _place(device_index, direction), "detach from")


def remove_clsact(library: LibBpf, device_index: int) -> None:
    """Delete a device's clsact qdisc with all filters on it, whosever they are; none there is no error.

    Raises:
        KernelError: There is no such device (ENODEV).
    """
    code = library.code("bpf_tc_hook_destroy", byref(_hook(device_index, _CLSACT)))
    if code < 0 and code not in _ABSENT:
        raise library.error(-code, f"clsact of device {device_index}", "delete")


def attach_xdp(library: LibBpf, device_index: int, program: BpfProgram, mode: XdpMode) -> None:
    """Attach an XDP program, or replace the one that is there.

    Raises:
        KernelError: There is no such device (ENODEV), or its driver cannot.
    """
    place = f"program {program.name} at XDP of device {device_index}"
    library.call("bpf_xdp_attach", device_index, program.fd, int(mode), None, obj=place, verb="attach")


def attached_xdp(library: LibBpf, device_index: int, mode: XdpMode) -> int | None:
    """Id of a device's XDP program, None if there is none.

    Raises:
        KernelError: There is no such device (ENODEV).
    """
    found = c_uint32()
    place = f"XDP of device {device_index}"
    library.call("bpf_xdp_query_id", device_index, int(mode), byref(found), obj=place, verb="read")
    return found.value or None


def detach_xdp(library: LibBpf, device_index: int, mode: XdpMode) -> None:
    """Detach a device's XDP program; none there is no error.

    Raises:
        KernelError: There is no such device (ENODEV).
    """
    place = f"XDP of device {device_index}"
    library.call("bpf_xdp_attach", device_index, -1, int(mode), None, obj=place, verb="detach from")


def _hook(device_index: int, direction: int) -> TcHook:
    hook: TcHook = sized(TcHook, device_index=device_index, attach_point=int(direction))
    return hook


def _place(device_index: int, direction: Direction) -> str:
    return f"tc {direction.name.lower()} of device {device_index}"
