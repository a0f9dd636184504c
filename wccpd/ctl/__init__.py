"""The `wccpctl` command: asks a running daemon over its control socket and shows the answer.

Knows nothing of the daemon but the control API. Standard output holds the answer alone, fit for a pipe.
`simulate` needs no daemon of ours: it speaks WCCP to any router. Where none answers, `doctor` looks at the host itself.

Each module holds commands of one kind and says on import that they are there.
"""

from wccpd.ctl import decode, diagnose, operate, play, settings, show
from wccpd.ctl.application import app

__all__ = ["app", "decode", "diagnose", "main", "operate", "play", "settings", "show"]


def main() -> None:
    """Entry point of the `wccpctl` command."""
    app()
