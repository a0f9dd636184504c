"""The log takes another level and form while the daemon runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from config.model import Log, LogFormat, LogLevel
from wccpd.daemon.log import configure

_module_level = structlog.get_logger("test")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_logger_that_is_in_use_follows_another_level(capsys: pytest.CaptureFixture[str]) -> None:
    for level, said in (
        (LogLevel.INFO, ["quiet", "loud"]),
        (LogLevel.ERROR, ["loud"]),
        (LogLevel.DEBUG, ["quiet", "loud"]),
    ):
        configure(Log(level=level, format=LogFormat.JSON))
        _module_level.info("quiet")
        _module_level.error("loud")
        lines = capsys.readouterr().err.splitlines()
        assert [json.loads(line)["event"] for line in lines] == said
