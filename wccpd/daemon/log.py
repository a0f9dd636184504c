"""structlog set up for the journal: text on a terminal, JSON lines elsewhere. Level by blame.

The peer's faults are warnings at most and rate-limited (`daemon.refusals`), ours are errors with a trace,
a change of state is one line at info.

What is said at info or above is also an event of the control API, whatever the level of the log is.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from config.model import Log
    from wccpd.status.events import EventLog


def configure(settings: Log, events: EventLog | None = None) -> None:
    """Set the process's logging up from the configuration; a reload does so again, for all loggers that there are.

    Args:
        settings: Level and format.
        events: Takes down everything that is said.
    """
    level = logging.getLevelName(settings.level.value.upper())
    text = settings.format.value == "text" or (settings.format.value == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if text
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _Recorder(events, level),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(min(level, logging.INFO)),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        # What a logger kept would be the level and the format of before a reload.
        cache_logger_on_first_use=False,
    )


class _Recorder:
    """Takes each line down as an event; what is below the log's level ends here."""

    def __init__(self, events: EventLog | None, level: int) -> None:
        self._events = events
        self._level = level

    def __call__(
        self, _: object, method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        number = logging.getLevelName(str(line["level"]).upper())
        if self._events is not None and number >= logging.INFO:
            fields = {key: value for key, value in line.items() if key not in _ENVELOPE}
            self._events.add(str(line["event"]), str(line["level"]), str(line["timestamp"]), fields)
        if number < self._level:
            raise structlog.DropEvent
        return line


_ENVELOPE = frozenset({"event", "level", "timestamp", "exc_info", "stack_info"})
