"""The record of events: what it keeps, what it tells of, and that everything that is said has a meaning."""

from __future__ import annotations

import ast
import json
import re
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from wccpd.daemon import log as daemon_log
from wccpd.daemon.wccp import report
from wccpd.plan import probe
from wccpd.protocol import outputs
from wccpd.protocol.outputs import AssignmentChanged
from wccpd.protocol.view import AssignedBy
from wccpd.status import inspection
from wccpd.status.events import NAMES, EventLog
from wccpd.status.tunnels import TunnelLedger
from wccpd.status.view import Health, Status
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import ServiceType

ROOT = Path(__file__).parents[3]


def filled(count: int, capacity: int = 4) -> EventLog:
    events = EventLog("run", capacity)
    for number in range(1, count + 1):
        events.add(f"event{number}", "info", "2026-01-01T00:00:00Z", {})
    return events


@pytest.mark.parametrize(
    ("seen", "names", "missed"),
    [
        (0, [3, 4, 5, 6], 2),
        (1, [3, 4, 5, 6], 1),
        (2, [3, 4, 5, 6], 0),
        (4, [5, 6], 0),
        (6, [], 0),
    ],
)
def test_a_reader_gets_what_it_has_not_seen_and_how_many_are_forgotten(
    seen: int, names: list[int], missed: int
) -> None:
    batch = filled(6).after(seen)
    assert [each.event for each in batch.events] == [f"event{number}" for number in names]
    assert batch.missed == missed


@pytest.mark.parametrize(
    ("event_id", "number"),
    [("run-4", 4), ("run-99", 6), ("other-4", 0), ("", 0), ("run-", 0), ("run--1", 0), ("run-²", 0)],
)
def test_an_id_leads_back_to_its_place_and_one_of_another_run_to_the_beginning(
    event_id: str, number: int
) -> None:
    assert filled(6).number_of(event_id) == number


def test_fields_are_plain_values() -> None:
    events = EventLog("run")
    events.add("name", "info", "now", {"cache": IPv4Address("192.0.2.1"), "n": 3, "changes": ("a", "b")})
    (event,) = events.recent()
    assert event.fields == {"cache": "192.0.2.1", "n": 3, "changes": ["a", "b"]}
    assert event.id == "run-1"


def said_in_the_source() -> dict[str, str]:
    """Every name that a log call of the daemon can have -> where."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "wccpd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            is_log = isinstance(owner, ast.Name) and owner.id in {"log", "_log"}
            if is_log and node.func.attr in {"info", "warning", "error", "exception"} and node.args:
                name = node.args[0]
                for each in (name.body, name.orelse) if isinstance(name, ast.IfExp) else (name,):
                    if isinstance(each, ast.Constant) and isinstance(each.value, str):
                        found[each.value] = path.name
    return found


def test_everything_the_daemon_says_is_in_the_list_of_names() -> None:
    said = said_in_the_source()
    assert len(said) > 20
    assert said.keys() - NAMES.keys() == set()


def test_every_change_of_engine_inspection_and_probes_is_in_the_list_of_names() -> None:
    kinds = [
        *outputs.Event.__args__,
        *inspection.InspectionEvent.__args__,
        *probe.ProbeEvent.__args__,
    ]
    names = {re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).lower() for kind in kinds}
    assert names - NAMES.keys() == set()


@pytest.fixture
def _restored() -> object:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(("level", "lines"), [("warning", 1), ("info", 2), ("debug", 3)])
def test_what_the_log_is_too_quiet_for_is_an_event_nevertheless(
    level: str, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    events = EventLog("run")
    settings = SimpleNamespace(level=SimpleNamespace(value=level), format=SimpleNamespace(value="json"))
    daemon_log.configure(settings, events)
    log = structlog.get_logger("test")
    log.debug("detail")
    log.info("cache_seen", cache=IPv4Address("192.0.2.1"))
    log.warning("kernel_refused", reason="busy")
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(written) == lines
    assert [(each.event, each.level) for each in events.recent()] == [
        ("cache_seen", "info"),
        ("kernel_refused", "warning"),
    ]
    assert written[-1]["timestamp"] == events.recent()[-1].time


@pytest.mark.usefixtures("_restored")
def test_a_change_of_the_engine_has_the_service_as_status_calls_it_and_numbers_as_numbers() -> None:
    events = EventLog("run")
    settings = SimpleNamespace(level=SimpleNamespace(value="error"), format=SimpleNamespace(value="json"))
    daemon_log.configure(settings, events)
    structlog.configure(cache_logger_on_first_use=False)
    report(AssignmentChanged(ServiceKey(ServiceType.DYNAMIC, 70), AssignedBy.CACHE, 128, 256, "by 192.0.2.1"))
    (event,) = events.recent()
    assert event.event == "assignment_changed"
    assert event.fields == {
        "service": "70",
        "assigned_by": "cache",
        "moved_buckets": 128,
        "assigned_buckets": 256,
        "reason": "by 192.0.2.1",
    }


def test_a_tunnel_is_told_when_first_seen_and_at_each_change(healthy: Status) -> None:
    from dataclasses import replace

    ledger = TunnelLedger()
    up, other = healthy.tunnels
    down = replace(up, state=Health.DOWN, reason="device wccp-tgw-a is down")
    assert [each.event for each in ledger.update((up, other))] == ["tunnel_up", "tunnel_up"]
    assert ledger.update((up, other)) == ()
    (change,) = ledger.update((down, other))
    assert (change.event, change.tunnel, change.reason) == ("tunnel_down", "tgw-a", down.reason)
    assert [each.event for each in ledger.update((up, other))] == ["tunnel_up"]
