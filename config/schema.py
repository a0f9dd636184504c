"""The JSON Schema of the configuration, for editors: the models' own, without what only Python needs.

It knows single values; what values mean together only `validate` knows. `wccpd.schema.json` beside this file is
what `make manual` wrote of it.
"""

from __future__ import annotations

import json
from pathlib import Path

from config.kinds import LeftOut
from config.model import Config, Tunnel

FILE = Path(__file__).parent / "wccpd.schema.json"


def schema() -> dict[str, object]:
    """The schema, as plain values."""
    made = Config.model_json_schema()
    for section in (made, *made["$defs"].values()):
        section.pop("title", None)
        for entry in section.get("properties", {}).values():
            _simplify(entry)
    derived = {
        name
        for name, field in Tunnel.model_fields.items()
        if any(isinstance(each, LeftOut) for each in field.metadata)
    }
    tunnel = made["$defs"]["Tunnel"]
    tunnel["required"] = [name for name in tunnel["required"] if name not in derived]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wccpd.yaml",
        **made,
    }


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(schema(), indent=1) + "\n"


def _simplify(entry: dict[str, object]) -> None:
    """Take away titles, defaults that are sections, and null, which no key of the file can have."""
    entry.pop("title", None)
    if entry.get("default", ()) is None or isinstance(entry.get("default"), dict):
        del entry["default"]
    choices = entry.get("anyOf")
    if not isinstance(choices, list):
        return
    choices = [each for each in choices if each != {"type": "null"}]
    if len(choices) == 1:
        del entry["anyOf"]
        entry |= choices[0]
    else:
        entry["anyOf"] = choices
