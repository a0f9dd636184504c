"""Exit codes of `wccpd` and `wccpctl`: part of their interface, for scripts and for systemd."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILURE = 1
    """Something else went wrong; standard error says what."""
    CONFIG = 2
    """The configuration file or the command line is wrong; nothing was touched, systemd does not restart."""
    UNREACHABLE = 3
    """`wccpctl` could not ask the daemon."""
    WARNING = 4
    """`wccpctl doctor` found nothing that is broken, but something to look at."""
