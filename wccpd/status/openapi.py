"""The description of the control API (OpenAPI 3.1), made from the dataclasses that its answers are made of.

Every schema's and every field's text is its docstring, so that there is one text for readers of the code, of
the API and of the manual.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from enum import Enum
from functools import cache, partial
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from wccpd import __version__
from wccpd.status.events import NAMES, Event
from wccpd.status.view import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENAPI_VERSION = "3.1.0"
_SIMPLE: Mapping[object, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    NoneType: {"type": "null"},
}
_OBJECT = {"type": "object"}


def describe(
    verbs: Mapping[str, object], reads: Mapping[str, object], *, events: bool = True
) -> dict[str, Any]:
    """The whole description as plain JSON values.

    Args:
        verbs: path below `/v1/` -> what carries it out; the first paragraph of its docstring is the summary.
        reads: the same for GET.
        events: whether there is an event stream.
    """
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {
        "/v1/status": {"get": _operation("status", "The status tree.", _schema(Status, schemas))},
        "/v1/version": {"get": _operation("version", "The daemon's versions.", _VERSION)},
        "/v1/openapi.json": {"get": _operation("openapi", "This description.", _OBJECT)},
    }
    if events:
        recent = _object({"events": {"type": "array", "items": _schema(Event, schemas)}})
        paths["/v1/events/recent"] = {"get": _operation("recent_events", "The events that are kept.", recent)}
        paths["/v1/events"] = {"get": _STREAM}
    for path, work in reads.items():
        paths[f"/v1/{path}"] = {"get": _described(path, work, "get")}
    for path, work in verbs.items():
        paths[f"/v1/{path}"] = paths.get(f"/v1/{path}", {}) | {"post": _described(path, work, "post")}
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "wccpd control API",
            "version": __version__,
            "description": "HTTP and JSON on wccpd's unix socket. Keys are added, never renamed or removed, "
            "while the path begins with /v1. Whoever may open the socket may GET; POST is for root, the "
            "daemon's own user and the members of control.command_group.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _described(path: str, work: object, method: str) -> dict[str, Any]:
    """One path of the daemon's own."""
    target = work.func if isinstance(work, partial) else work
    told = (inspect.getdoc(target) or path).split("\n\n")[0].replace("\n", " ")
    name = re.sub(r"\W+", "_", path).strip("_")
    operation = _operation(f"{method}_{name}", told, _OBJECT)
    names = re.findall(r"\{(\w+)\}", path)
    if names:
        operation["parameters"] = [
            {"name": each, "in": "path", "required": True, "schema": {"type": "string"}} for each in names
        ]
    refusals = {"409": "It cannot be done as things are."} | (
        {"403": "Whoever asks may not do this."} if method == "post" else {}
    )
    operation["responses"] |= {code: _failure(words) for code, words in refusals.items()}
    return operation


def _operation(name: str, summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": schema}}},
            "400": _failure("The request cannot be read."),
            "404": _failure("There is no such thing."),
        },
    }


def _failure(words: str) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/Error"}
    return {"description": words, "content": {"application/json": {"schema": reference}}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_ERROR = _object({"error": {"type": "string", "description": "Why not, for people."}})
_VERSION = _object({"software_version": {"type": "string"}, "status_version": {"type": "integer"}})
_STREAM = {
    "operationId": "events",
    "summary": "The events from now on, as server-sent events, until the reader goes.",
    "description": "`id` is the event's id, `event` its name, `data` an Event as JSON. After Last-Event-ID the stream "
    "goes on where the reader left it; a `missed` event says how many are not kept any more. An id that is none "
    "of this run of the daemon, or empty, stands for the beginning. A reader that falls too far behind gets one "
    "`reader_dropped` event that says how many it missed, and the stream ends. Every few "
    "seconds without news there is a comment. Names:\n\n"
    + "\n".join(f"- `{name}`: {meaning}" for name, meaning in NAMES.items()),
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The id of the last event that the reader has; without it, only new events come.",
            "schema": {"type": "string", "pattern": "^[!-~]*$"},
        }
    ],
    "responses": {
        "200": {"description": "A stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        "503": _failure("There are too many readers already."),
    },
}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - an annotation, of any form
    """The JSON Schema of a field's type; dataclasses and enumerations are put into `schemas` once."""
    if kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    origin = get_origin(kind)
    if origin is UnionType:
        return {"anyOf": [_schema(each, schemas) for each in get_args(kind)]}
    if origin in {tuple, list}:
        return {"type": "array", "items": _schema(get_args(kind)[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1], schemas)}
    if kind.__name__ not in schemas:
        schemas[kind.__name__] = {}  # a type that holds itself finds its name taken
        schemas[kind.__name__] = _enumeration(kind) if issubclass(kind, Enum) else _record(kind, schemas)
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _enumeration(kind: type[Enum]) -> dict[str, Any]:
    return {"type": "string", "enum": [each.value for each in kind], "description": inspect.getdoc(kind)}


def _record(kind: type, schemas: dict[str, Any]) -> dict[str, Any]:
    types, words = get_type_hints(kind), _field_words(kind)
    properties = {}
    for each in dataclasses.fields(kind):
        schema = _schema(types[each.name], schemas)
        properties[each.name] = schema | ({"description": words[each.name]} if each.name in words else {})
    return _object(properties) | {"description": inspect.getdoc(kind)}


@cache
def _field_words(kind: type) -> dict[str, str]:
    """The text that stands under each field of a dataclass."""
    (node,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    words = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            words[field.target.id] = inspect.cleandoc(str(after.value.value)).replace("\n", " ")
    return words
