"""What maps and programs of the kernel have in common: a descriptor, a name, a pin."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_uint32
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from wccpd.dataplane.bpf.libbpf import MapInfo, ProgramInfo

if TYPE_CHECKING:
    from pathlib import Path

    from wccpd.dataplane.bpf.libbpf import LibBpf

_Info = TypeVar("_Info", MapInfo, ProgramInfo)


class BpfDescriptor(Generic[_Info]):
    """A map or a program in the kernel.

    What an object file brought ends with the `BpfObject`; what was opened by pin or id is closed by whoever opened it.

    Args:
        library: The library.
        fd: A descriptor of it.
        owns_fd: Whether `close` closes it.

    Raises:
        KernelError: It is of another kind.
    """

    kind_name: str
    """What it is called in errors."""
    info_type: type[_Info]

    def __init__(self, library: LibBpf, fd: int, *, owns_fd: bool) -> None:
        self._library = library
        self.fd = fd
        self._owns_fd = owns_fd
        info = self.info_type()
        size = c_uint32(ctypes.sizeof(info))
        library.call(
            "bpf_obj_get_info_by_fd", fd, byref(info), byref(size), obj=self.kind_name, verb="inspect"
        )
        self._info: _Info = info
        self.name: str = info.name.decode(errors="replace")
        """At most 15 octets of the name in C."""
        self.id: int = info.id

    @classmethod
    def pinned(cls, library: LibBpf, path: Path) -> Self:
        """Open it by its pin.

        Raises:
            KernelError: Nothing is pinned there (ENOENT), or something of another kind.
        """
        fd = library.call("bpf_obj_get", os.fsencode(path), obj=f"pin {path}", verb="open")
        return cls._owning(library, fd)

    @classmethod
    def _owning(cls, library: LibBpf, fd: int) -> Self:
        try:
            return cls(library, fd, owns_fd=True)
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor, if it is ours to close."""
        if self._owns_fd:
            os.close(self.fd)
            self._owns_fd = False

    def pin(self, path: Path) -> None:
        """Pin it below a BPF file system.

        Raises:
            KernelError: There is something already (EEXIST), or no such file system (EINVAL).
        """
        self._library.call("bpf_obj_pin", self.fd, os.fsencode(path), obj=self._obj, verb="pin")

    @property
    def _obj(self) -> str:
        return f"{self.kind_name} {self.name}"
