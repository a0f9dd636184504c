"""The JSON Schema: current, valid, as strict as it can be, and never stricter than wccpd itself."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

import config
from config.reference import Setting, settings
from config.schema import FILE, schema, schema_text
from config.source import SourceError, parse
from tests.support.broken_config import BROKEN, GOOD

EXAMPLES = sorted((Path(config.__file__).parent / "examples").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads(FILE.read_text()))

BEYOND_A_SCHEMA = {"host bits"}
"""Broken values that are refused by what they mean, not by how they are written."""


def test_the_schema_in_the_package_is_the_one_that_the_settings_make() -> None:
    assert FILE.read_text() == schema_text(), "run `make manual`"


def test_the_schema_is_valid_and_knows_every_key_with_its_description() -> None:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    definitions = made["$defs"]
    assert isinstance(definitions, dict)
    described = set()
    for section in (made, *definitions.values()):
        for name, entry in section.get("properties", {}).items():
            described_there = definitions.get(entry.get("$ref", "").removeprefix("#/$defs/"), {})
            described.add((name, entry.get("description") or described_there["description"]))
    assert described == {(each.path[-1], each.description) for each in settings()}


def test_the_schema_has_no_place_for_a_password() -> None:
    assert '"password"' not in schema_text()
    data = parse(GOOD + "    password: hunter22\n", "x").data
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid_by_the_schema(path: Path) -> None:
    VALIDATOR.validate(parse(path.read_text(), path.name).data)


def broken_values() -> dict[str, object]:
    """The data of those files that are YAML and have a wrong value or key in them."""
    found: dict[str, object] = {}
    for name, content in BROKEN.items():
        try:
            document = parse(content if isinstance(content, str) else content.decode(), name)
        except (SourceError, UnicodeDecodeError):
            continue
        try:
            config.Config.model_validate(document.data)
        except ValidationError:
            if not document.problems:
                found[name] = document.data
    return found


def test_the_schema_refuses_every_value_and_key_that_is_wrong_by_itself() -> None:
    wrong = broken_values()
    assert len(wrong) > 60
    accepted = {name for name, data in wrong.items() if VALIDATOR.is_valid(data)}
    assert accepted == BEYOND_A_SCHEMA


VALUES: list[object] = [
    0, 1, 2, 3, 5, 8, 10, 22, 28, 32, 50, 64, 100, 118, 179, 188, 200, 255, 256, 576, 1280, 1400, 8476,
    8500, 9000, 18800, 23456, 32510, 64512, 65010, 65535, 65536, 4200000000, 4294967294, 4294967295, 2**40,
    -1, True, False, "", "0", "a", "A", "tgw-a", "TGW", "0a640115", "a.b", "a_b", "a b", "-a", "ens6",
    "x" * 13, "x" * 14, "x" * 15, "x" * 16, "x" * 63, "x" * 64, "10.100.1.10", "10.100.1", "010.1.1.1",
    "127.0.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255", "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/08",
    "10.0.0.0/255.0.0.0", "10.0.0.1/8", "169.254.6.0/29", "169.254.5.0/29", "::", "::/0", "2001:db8::1",
    "2001:DB8::/32", "::ffff:10.0.0.1", "fe80::1%eth0", "2001:db8::1%1", "fd00:6::/125", "FD00:6:0::/125",
    "fd00:6::/64", "/", "/run/x", "run/x", "/" + "x" * 107, "web-cache", "any", "tcp", "ftp", "443",
    "80-90", "90-80", "0-1", "1-65536", "080-090", "open", "closed", "cover", "gre", "l2", "hash", "mask",
    "auto", "router", "source_ip", "json", "info", "debug", "ebpf", "netlink", "always", "source", "permit",
    "move", "leave", "eu-west-1a", "é", "a\n", "10.0.0.0/8\n", "WCCP_PASSWORD", "_", "9A", "w.p", "..",
    "a:b", "a/b", "wccp-", "w", [], {}, [[]], None,
]  # fmt: skip


def with_value(setting: Setting, value: object) -> object:
    """A file of nothing but one setting."""
    for step, in_list in reversed(tuple(zip(setting.path, setting.in_lists, strict=True))):
        value = {step: [value] if in_list else value}
    return value


@pytest.mark.parametrize(
    "setting", [each for each in settings() if not each.is_section], ids=lambda each: each.key
)
def test_what_wccpd_takes_for_a_key_the_schema_takes_too(setting: Setting) -> None:
    taken = 0
    for value in [*VALUES, *([value] for value in VALUES)]:
        data = with_value(setting, value)
        if value is None or value == [None] or faults_at(setting, data):
            continue
        taken += 1
        errors = [error for error in VALIDATOR.iter_errors(data) if error.validator != "required"]
        assert errors == [], (setting.key, value)
    assert taken, "none of the values is one for this key"


def faults_at(setting: Setting, data: object) -> bool:
    """Whether wccpd refuses this very value; what else is missing does not count."""
    try:
        config.Config.model_validate(data)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            place = tuple(step for step in each["loc"] if isinstance(step, str))
            if each["type"] != "missing" and place[: len(setting.path)] == setting.path:
                return True
            if each["type"] == "value_error" and place == setting.path[: len(place)]:
                return True
    return False
