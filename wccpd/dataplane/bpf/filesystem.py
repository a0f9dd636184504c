"""The BPF file system, where pins are."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from wccpd.errors import KernelError

BPF_FILESYSTEM: Final = Path("/sys/fs/bpf")


def ensure_mounted() -> Path:
    """Mount the BPF file system at its usual place if nobody has; systemd does.

    Raises:
        KernelError: It is not there and cannot be mounted.
    """
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    if any(fields[1] == str(BPF_FILESYSTEM) and fields[2] == "bpf" for fields in mounts):
        return BPF_FILESYSTEM
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(BPF_FILESYSTEM), b"bpf", ctypes.c_ulong(0), b"mode=0700") != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY:
            raise KernelError(f"BPF file system {BPF_FILESYSTEM}", "mount", number)
    return BPF_FILESYSTEM
