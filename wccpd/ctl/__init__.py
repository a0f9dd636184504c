"""The `wccpctl` command: asks a running daemon over its control socket and shows the answer.

Knows nothing of the daemon but the control API. Standard output holds the answer alone, fit for a pipe.
`simulate` needs no daemon of ours: it speaks WCCP to any router. Where none answers, `doctor` looks at the host itself.

Each module holds commands of one kind and says on import that they are there.
"""

from wccpd.ctl import (
    capture,
    completion,
    decode,
    diagnose,
    follow,
    operate,
    play,
    settings,
    show,
    support,
)
from wccpd.ctl.application import app

__all__ = [
    "app",
    "capture",
    "completion",
    "decode",
    "diagnose",
    "follow",
    "main",
    "operate",
    "play",
    "settings",
    "show",
    "support",
]


def main() -> None:
    """Entry point of the `wccpctl` command."""
    completion.prepare()
    app()
