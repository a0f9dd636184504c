"""The status as JSON: its keys are a promise to scripts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wccpd.status.document import DocumentError, from_document, to_document
from wccpd.status.view import SCHEMA_VERSION, Status

KEYS = Path(__file__).parent / "goldens" / "status_keys_1.txt"


def key_set(value: object, where: str = "") -> set[str]:
    if isinstance(value, dict):
        here = {f"{where}.{key}".lstrip(".") for key in value}
        return here.union(*(key_set(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()))
    if isinstance(value, list):
        return set().union(*(key_set(item, f"{where}[]") for item in value))
    return set()


def test_the_keys_of_schema_version_1_stay(refused_messages: Status) -> None:
    assert SCHEMA_VERSION == 1
    promised = set(KEYS.read_text().split())
    assert promised - key_set(to_document(refused_messages)) == set()


def test_every_key_of_the_tree_is_promised(refused_messages: Status) -> None:
    assert sorted(key_set(to_document(refused_messages))) == KEYS.read_text().split()


def test_a_status_survives_json(healthy: Status, refused_messages: Status) -> None:
    for status in (healthy, refused_messages, replace(healthy, bgp=None)):
        assert from_document(json.loads(json.dumps(to_document(status)))) == status


def test_keys_that_a_newer_daemon_added_are_ignored(healthy: Status) -> None:
    data = to_document(healthy)
    assert isinstance(data, dict)
    data["new"] = data["router"]["new"] = {"x": 1}
    assert from_document(data) == healthy


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, "the daemon's status has version 2, this command reads 1"),
        ({"inspecting": "yes"}, "status.inspecting is 'yes'"),
        ({"router": []}, "status.router is []"),
        ({"router": {}}, "status.router has no id"),
        ({"reasons": [5]}, r"status.reasons\[0\] is 5"),
        ({"bgp": True}, "status.bgp is True"),
    ],
)
def test_an_answer_of_another_shape_is_refused_by_name(
    healthy: Status, change: dict[str, object], expected: str
) -> None:
    data = to_document(healthy)
    assert isinstance(data, dict)
    with pytest.raises(DocumentError, match=expected.replace("[]", r"\[\]")):
        from_document({**data, **change})


def test_something_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(DocumentError, match="version None"):
        from_document(["status"])


def test_true_is_not_taken_for_a_number_nor_a_number_for_true(healthy: Status) -> None:
    data = to_document(healthy)
    assert isinstance(data, dict)
    with pytest.raises(DocumentError, match=r"status\.router\.uptime_seconds is True"):
        from_document({**data, "router": {**data["router"], "uptime_seconds": True}})
    with pytest.raises(DocumentError, match=r"status\.inspecting is 1"):
        from_document({**data, "inspecting": 1})
