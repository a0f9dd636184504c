"""The kernel's opinion of its clock: adjtimex(2), which only reads when no mode is set."""

from __future__ import annotations

import ctypes
import errno
import os
from struct import Struct
from typing import Final

from wccpd.doctor.facts import ClockFact

_TIMEX: Final = Struct("@Ixxxx qqqq ixxxx")
"""struct timex up to `status`: modes, offset, freq, maxerror, esterror, status (linux/timex.h, 64 bits)."""
_TIMEX_BYTES: Final = 256
_STA_UNSYNC: Final = 0x40
_MICROSECONDS: Final = 1e6


def read_clock() -> ClockFact:
    """Ask the kernel.

    Raises:
        OSError: It does not say, e.g. since a sandbox forbids the call.
    """
    library = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if library.adjtimex(answer) < 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, os.strerror(number))
    _, _, _, most, _, status = _TIMEX.unpack_from(answer)
    return ClockFact(synchronised=not status & _STA_UNSYNC, error_seconds=most / _MICROSECONDS)
