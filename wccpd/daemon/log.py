"""structlog set up for the journal: text on a terminal, JSON lines elsewhere. Level by blame.

The peer's faults are warnings at most and rate-limited (`daemon.refusals`), ours are errors with a trace,
a change of state is one line at info. What is logged is also the event stream of the control API: one place, one name.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from wccpd.status.journal import Journal

if TYPE_CHECKING:
    from config.model import Log


journal = Journal()
"""What was logged lately."""


def _copy(_: object, __: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep what is logged, traces aside."""
    journal.append({key: value for key, value in fields.items() if key != "exc_info"})
    return fields


def configure(settings: Log) -> None:
    """Set the process's logging up from the configuration; a reload does so again, for all loggers that there are."""
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
            _copy,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelName(settings.level.value.upper())
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        # What a logger kept would be the level and the format of before a reload.
        cache_logger_on_first_use=False,
    )
