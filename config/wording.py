"""pydantic's complaints about single values in the operator's words, with place, allowed values and a hint.

Knows the models only to name their keys and descriptions. A value is repeated in a problem only where it
cannot be a password.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from config.errors import KeyPath, Problem
from config.fields import FieldError
from config.model import Config

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from config.source import Document

_SHOWN_CHARACTERS = 60
_REQUIREMENTS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "enum": "must be one of the words allowed",
    "literal_error": "must be one of the words allowed",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "model_type": "must be a mapping of 'key: value' lines",
    "model_attributes_type": "must be a mapping of 'key: value' lines",
    "dict_type": "must be a mapping of 'key: value' lines",
}
"""What a value must be, by pydantic's kind of error, with names out of its context."""


def translate(document: Document, error: ErrorDetails) -> Problem | None:
    """One of pydantic's errors as a problem; None if it only follows from another one."""
    path: KeyPath = error["loc"]
    context = error.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, FieldError):
        return _value_problem(document, path, str(cause), error["input"], cause.allowed, cause.hint)
    if error["type"] == "extra_forbidden":
        return _unknown_key(document, path)
    if error["type"] == "missing":
        if path[0] == "tunnels" and path[-1] == "local":
            return None  # derived from router.id, whose own problem is reported
        if _is_misspelt(document, path):
            return None
        mark = document.locate_key(path[:-1])
        return Problem(document.file, mark.line, mark.column, path, "is missing", hint=_description(path))
    if error["type"] == "too_short" and error["input"]:
        return None  # its items are refused one by one, none is left
    allowed = hint = ""
    if error["type"] in {"enum", "literal_error"}:
        choices = [text.strip("'") for text in context["expected"].replace(" or ", ", ").split(", ")]
        allowed = ", ".join(choices)
        hint = _did_you_mean(error["input"], choices)
    return _value_problem(document, path, _requirement(error), error["input"], allowed, hint)


def _requirement(error: ErrorDetails) -> str:
    """What the value must be, by pydantic's kind of error."""
    kind = error["type"]
    words = _REQUIREMENTS.get(kind, f"is not acceptable ({kind.replace('_', ' ')})")
    return words.format(**error.get("ctx", {}))


def _value_problem(
    document: Document, path: KeyPath, message: str, value: object, allowed: str, hint: str
) -> Problem:
    mark = document.locate(path)
    found = "" if _may_be_secret(path) else shown(value)
    return Problem(document.file, mark.line, mark.column, path, message, found, allowed, hint)


def _is_misspelt(document: Document, path: KeyPath) -> bool:
    """Whether a missing key is there in another spelling, which is a problem of its own."""
    known = _known_keys(path[:-1])
    siblings = [key[-1] for key in document.keys if key[:-1] == path[:-1] and key[-1] not in known]
    return any(difflib.get_close_matches(str(each), known, n=1) == [path[-1]] for each in siblings)


def _unknown_key(document: Document, path: KeyPath) -> Problem:
    mark = document.locate_key(path)
    known = _known_keys(path[:-1])
    hint = _did_you_mean(path[-1], known)
    return Problem(
        document.file, mark.line, mark.column, path, "is not a known key", "", ", ".join(known), hint
    )


def _known_keys(path: KeyPath) -> list[str]:
    model = model_at(path)
    return [name for name, field in model.model_fields.items() if not field.exclude] if model else []


def _may_be_secret(path: KeyPath) -> bool:
    last = str(path[-1]).lower() if path else ""
    return "password" in last and last != "password_file"


def _did_you_mean(found: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(found), known, n=1)
    return f"did you mean '{close[0]}'?" if close else ""


def shown(value: object) -> str:
    """A value as it may stand in a message: one line, ASCII, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def model_at(path: KeyPath) -> type[BaseModel] | None:
    """The model of the mapping at `path`; None where there is none."""
    model: type[BaseModel] = Config
    for step in path:
        if isinstance(step, int):
            continue
        field = model.model_fields.get(step)
        nested = _nested_model(field.annotation) if field else None
        if nested is None:
            return None
        model = nested
    return model


def _description(path: KeyPath) -> str:
    model = model_at(path[:-1])
    field = model.model_fields.get(str(path[-1])) if model else None
    return (field.description or "").split(". ")[0].rstrip(".") if field else ""


def _nested_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_nested_model, get_args(annotation))), None)
