"""The functions and structures of libbpf.so.1 that we use (libbpf.h and bpf.h of libbpf 1.1), and its errors."""

from __future__ import annotations

import ctypes
import errno
from ctypes import c_bool, c_char, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

_SONAME = "libbpf.so.1"
_FIRST_OWN_ERRNO = 4000
"""libbpf's own error numbers begin here (enum libbpf_errno); the kernel's are below."""


class OpenOptions(ctypes.Structure):
    """`struct bpf_object_open_opts`."""

    _fields_ = (
        ("size", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("removed", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log", c_void_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
    )


class TestRunOptions(ctypes.Structure):
    """`struct bpf_test_run_opts`."""

    _fields_ = (
        ("size", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("context_in", c_void_p),
        ("context_out", c_void_p),
        ("context_size_in", c_uint32),
        ("context_size_out", c_uint32),
        ("return_value", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class BatchOptions(ctypes.Structure):
    """`struct bpf_map_batch_opts`."""

    _fields_ = (("size", c_size_t), ("element_flags", c_uint64), ("flags", c_uint64))


class TcHook(ctypes.Structure):
    """`struct bpf_tc_hook`."""

    _fields_ = (("size", c_size_t), ("device_index", c_int), ("attach_point", c_int), ("parent", c_uint32))


class TcOptions(ctypes.Structure):
    """`struct bpf_tc_opts`."""

    _fields_ = (
        ("size", c_size_t),
        ("program_fd", c_int),
        ("flags", c_uint32),
        ("program_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


class MapInfo(ctypes.Structure):
    """The beginning of `struct bpf_map_info` (linux/bpf.h)."""

    _fields_ = (
        ("kind", c_uint32),
        ("id", c_uint32),
        ("key_octets", c_uint32),
        ("value_octets", c_uint32),
        ("max_entries", c_uint32),
        ("flags", c_uint32),
        ("name", c_char * 16),
    )


class ProgramInfo(ctypes.Structure):
    """The beginning of `struct bpf_prog_info` (linux/bpf.h)."""

    _fields_ = (
        ("kind", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * 8),
        ("jited_octets", c_uint32),
        ("translated_octets", c_uint32),
        ("jited", c_uint64),
        ("translated", c_uint64),
        ("load_time", c_uint64),
        ("created_by", c_uint32),
        ("maps", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * 16),
    )


class VerifierError(KernelError):
    """The kernel's verifier refused a program.

    Attributes:
        verifier: The last lines of what it said, oldest first.
    """

    def __init__(self, obj: str, errno: int, verifier: tuple[str, ...]) -> None:
        self.verifier = verifier
        super().__init__(obj, "load", errno, "; ".join(verifier))


_POINTER_FUNCTIONS = {
    "bpf_object__open_file": (c_char_p, c_void_p),
    "bpf_object__find_program_by_name": (c_void_p, c_char_p),
    "bpf_object__find_map_by_name": (c_void_p, c_char_p),
    "bpf_object__next_program": (c_void_p, c_void_p),
    "bpf_object__next_map": (c_void_p, c_void_p),
    "bpf_program__name": (c_void_p,),
    "bpf_map__name": (c_void_p,),
}
"""Arguments by name; these return a pointer, NULL with errno when they fail."""

_CODE_FUNCTIONS = {
    "bpf_object__load": (c_void_p,),
    "bpf_program__fd": (c_void_p,),
    "bpf_program__set_autoload": (c_void_p, c_bool),
    "bpf_map__fd": (c_void_p,),
    "bpf_map__type": (c_void_p,),
    "bpf_map__key_size": (c_void_p,),
    "bpf_map__value_size": (c_void_p,),
    "bpf_map__reuse_fd": (c_void_p, c_int),
    "bpf_map__set_max_entries": (c_void_p, c_uint32),
    "bpf_map_create": (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
    "bpf_map_lookup_elem": (c_int, c_void_p, c_void_p),
    "bpf_map_update_elem": (c_int, c_void_p, c_void_p, c_uint64),
    "bpf_map_delete_elem": (c_int, c_void_p),
    "bpf_map_get_next_key": (c_int, c_void_p, c_void_p),
    "bpf_map_update_batch": (c_int, c_void_p, c_void_p, c_void_p, c_void_p),
    "bpf_map_lookup_batch": (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "bpf_obj_get_info_by_fd": (c_int, c_void_p, c_void_p),
    "bpf_obj_pin": (c_int, c_char_p),
    "bpf_obj_get": (c_char_p,),
    "bpf_prog_get_fd_by_id": (c_uint32,),
    "bpf_prog_test_run_opts": (c_int, c_void_p),
    "bpf_tc_hook_create": (c_void_p,),
    "bpf_tc_hook_destroy": (c_void_p,),
    "bpf_tc_attach": (c_void_p, c_void_p),
    "bpf_tc_detach": (c_void_p, c_void_p),
    "bpf_tc_query": (c_void_p, c_void_p),
    "bpf_xdp_attach": (c_int, c_int, c_uint32, c_void_p),
    "bpf_xdp_query_id": (c_int, c_int, c_void_p),
    "libbpf_num_possible_cpus": (),
}
"""Arguments by name; these return 0 or more, or a negative error number."""


class LibBpf:
    """The library, loaded. Make one and hand it on.

    Raises:
        KernelError: libbpf.so.1 is not installed (Debian: libbpf1), or lacks a function that we use.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_SONAME, use_errno=True)
            self._functions = {
                name: _prototype(library, name, arguments, c_void_p)
                for name, arguments in _POINTER_FUNCTIONS.items()
            } | {
                name: _prototype(library, name, arguments, c_int)
                for name, arguments in _CODE_FUNCTIONS.items()
            }
            self._close_object = _prototype(library, "bpf_object__close", (c_void_p,), None)
            self._strerror = _prototype(library, "libbpf_strerror", (c_int, c_char_p, c_size_t), c_int)
            # What libbpf would print to standard error comes to the caller as an exception.
            _prototype(library, "libbpf_set_print", (c_void_p,), c_void_p)(None)
        except (OSError, AttributeError) as error:
            raise KernelError(_SONAME, "load", errno.ELIBACC, str(error)) from error
        self.cpus = self.call("libbpf_num_possible_cpus", obj="possible CPUs", verb="count")

    def pointer(self, name: str, *arguments: object) -> int | None:
        """Call a function that returns a pointer; None for NULL."""
        found: int | None = self._functions[name](*arguments)
        return found

    def code(self, name: str, *arguments: object) -> int:
        """Call a function that returns a number: 0 or more, or a negative errno."""
        returned: int = self._functions[name](*arguments)
        return returned

    def call(self, name: str, *arguments: object, obj: str, verb: str) -> int:
        """The same, failures raised.

        Raises:
            KernelError: The function failed for `obj`.
        """
        returned = self.code(name, *arguments)
        if returned < 0:
            raise self.error(-returned, obj, verb)
        return returned

    def error(self, number: int, obj: str, verb: str) -> KernelError:
        """The error for an errno, libbpf's own ones put into words."""
        if number < _FIRST_OWN_ERRNO:
            return KernelError(obj, verb, number)
        text = ctypes.create_string_buffer(128)
        self._strerror(number, text, len(text))
        return KernelError(obj, verb, 0, text.value.decode(errors="replace"))

    def close_object(self, handle: int) -> None:
        """`bpf_object__close`: the descriptors go; what is attached or pinned stays."""
        self._close_object(handle)


def sized(structure: type[ctypes.Structure], **fields: object) -> Any:  # noqa: ANN401 - ctypes types no fields
    """A libbpf options structure with its size filled in."""
    return structure(size=ctypes.sizeof(structure), **fields)


def _prototype(
    library: ctypes.CDLL,
    name: str,
    arguments: tuple[Any, ...],
    returns: Any,  # noqa: ANN401 - a ctypes type
) -> Callable[..., Any]:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = returns
    return function  # type: ignore[no-any-return]
