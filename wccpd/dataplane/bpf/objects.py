"""An object file made by clang, loaded into the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import byref, create_string_buffer
from typing import TYPE_CHECKING, Final, Self

from wccpd.dataplane.bpf.libbpf import LibBpf, OpenOptions, VerifierError, sized
from wccpd.dataplane.bpf.maps import BpfMap
from wccpd.dataplane.bpf.programs import BpfProgram
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LOG_OCTETS: Final = 4 << 20
"""Older kernels fail with ENOSPC instead of the reason if the verifier's log does not fit."""
_LOG_LINES: Final = 12


class BpfObject:
    """Programs and maps of one file: opened, adjusted, loaded, used.

    Args:
        library: The library.
        path: The object file.

    Raises:
        KernelError: There is no such file, or it is no BPF object.
    """

    def __init__(self, library: LibBpf, path: Path) -> None:
        self._library = library
        self._obj = f"BPF object {path.name}"
        self._log = create_string_buffer(_LOG_OCTETS)
        options = sized(OpenOptions, kernel_log=ctypes.addressof(self._log), kernel_log_size=_LOG_OCTETS)
        handle = library.pointer("bpf_object__open_file", os.fsencode(path), byref(options))
        if handle is None:
            raise library.error(ctypes.get_errno(), self._obj, "open")
        self._handle: int | None = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors; programs and maps that are attached, pinned or in use stay in the kernel."""
        if self._handle is not None:
            self._library.close_object(self._handle)
            self._handle = None

    def resize(self, name: str, max_entries: int) -> None:
        """Give a map another size than the file says; before `load`.

        Raises:
            KernelError: There is no such map, or it is too late.
        """
        handle = self._map_handle(name)
        self._library.call(
            "bpf_map__set_max_entries", handle, max_entries, obj=f"{self._obj}: map {name}", verb="resize"
        )

    def reuse(self, name: str, existing: BpfMap) -> None:
        """Let the file's map be one that is in the kernel already, e.g. a pinned one; before `load`.

        Raises:
            KernelError: There is no such map, or the existing one is of another kind or layout (EINVAL). Its
                size may differ, and stays.
        """
        handle = self._map_handle(name)
        declared = tuple(
            self._library.code(f"bpf_map__{each}", handle) for each in ("type", "key_size", "value_size")
        )
        if declared != (existing.kind, existing.key_octets, existing.value_octets):
            raise KernelError(f"{self._obj}: map {name}", "reuse", errno.EINVAL, "of another kind or layout")
        self._library.call(
            "bpf_map__reuse_fd", handle, existing.fd, obj=f"{self._obj}: map {name}", verb="reuse"
        )

    def load_only(self, names: Iterable[str]) -> None:
        """Leave all other programs of the file out; before `load`.

        Raises:
            KernelError: There is no such program.
        """
        wanted = {self._program_handle(name) for name in names}
        program = self._library.pointer("bpf_object__next_program", self._open_handle, None)
        while program is not None:
            self._library.call(
                "bpf_program__set_autoload", program, program in wanted, obj=self._obj, verb="select from"
            )
            program = self._library.pointer("bpf_object__next_program", self._open_handle, program)

    def load(self) -> None:
        """Make the maps and give the programs to the verifier, once.

        Raises:
            VerifierError: The verifier refused a program.
            KernelError: A map could not be made, or we may not (EPERM); nothing is loaded.
        """
        code = self._library.code("bpf_object__load", self._open_handle)
        if code >= 0:
            return
        said = tuple(line for line in self._log.value.decode(errors="replace").splitlines() if line.strip())
        if said:
            raise VerifierError(self._obj, -code, said[-_LOG_LINES:])
        raise self._library.error(-code, self._obj, "load")

    def map(self, name: str) -> BpfMap:
        """A map by its name in C; after `load`.

        Raises:
            KernelError: There is no such map, or nothing is loaded.
        """
        fd = self._library.call(
            "bpf_map__fd", self._map_handle(name), obj=f"{self._obj}: map {name}", verb="open"
        )
        return BpfMap(self._library, fd, owns_fd=False)

    def program(self, name: str) -> BpfProgram:
        """A program by the name of its function; after `load`.

        Raises:
            KernelError: There is no such program, or nothing is loaded.
        """
        handle = self._program_handle(name)
        fd = self._library.call("bpf_program__fd", handle, obj=f"{self._obj}: program {name}", verb="open")
        return BpfProgram(self._library, fd, owns_fd=False)

    @property
    def _open_handle(self) -> int:
        if self._handle is None:
            raise ValueError(f"{self._obj} is closed")  # libbpf would follow the null pointer
        return self._handle

    def _map_handle(self, name: str) -> int:
        handle = self._library.pointer("bpf_object__find_map_by_name", self._open_handle, name.encode())
        return self._found(handle, f"map {name}")

    def _program_handle(self, name: str) -> int:
        handle = self._library.pointer("bpf_object__find_program_by_name", self._open_handle, name.encode())
        return self._found(handle, f"program {name}")

    def _found(self, handle: int | None, what: str) -> int:
        if handle is None:
            raise self._missing(what)
        return handle

    def _missing(self, what: str) -> KernelError:
        return self._library.error(ctypes.get_errno(), f"{self._obj}: {what}", "find")
