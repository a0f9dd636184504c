"""pydantic's complaints about single values in the operator's words, with place, allowed values and a hint.

Knows the models only to name their keys and descriptions. A value is repeated in a problem only where it
cannot be a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from config import hints
from config.errors import KeyPath, Problem
from config.fields import FieldError
from config.model import Config
from config.reference import section_of, setting_at

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from config.reference import Setting
    from config.source import Document

_SHOWN_CHARACTERS = 60
_LISTED_KEYS = 12
"""A section with more keys is not listed whole in one line of an error."""
_LIST = "must be a list"
MAPPING = "must be a mapping of 'key: value' lines"
_REQUIREMENTS = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "enum": "must be one of the words allowed",
    "literal_error": "must be one of the words allowed",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "dict_type": MAPPING,
}
"""What a value must be, by pydantic's kind of error, with names out of its context."""
_NUMBERS = {"int_type", "int_parsing", "int_from_float", "greater_than_equal", "less_than_equal"}


def translate(document: Document, error: ErrorDetails) -> Problem | None:
    """One of pydantic's errors as a problem; None if it only follows from another one."""
    path: KeyPath = error["loc"]
    if error["type"] == "extra_forbidden":
        return _unknown_key(document, path)
    if error["type"] == "missing":
        return _missing(document, path)
    if error["type"] == "too_short" and error["input"]:
        return None  # its items are refused one by one, none is left
    message, allowed, hint = _words(error, setting_at(path))
    mark = document.locate(path)
    found = "" if _may_be_secret(path) else shown(error["input"])
    return Problem(document.file, mark.line, mark.column, path, message, found, allowed, hint)


def is_of_shape(problem: Problem) -> bool:
    """Whether something of another shape stands there, so that what is inside it means nothing."""
    return problem.message in {_LIST, MAPPING}


def _words(error: ErrorDetails, setting: Setting | None) -> tuple[str, str, str]:
    """What the value must be, what is allowed, and what was probably meant."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    cause = context.get("error")
    unit = setting.unit if setting is not None else ""
    if isinstance(cause, FieldError):
        guess = hints.for_number(value, unit) if setting is not None and hints.takes_numbers(setting) else ""
        return str(cause), cause.allowed, cause.hint or guess
    message = _REQUIREMENTS.get(kind, f"is not acceptable ({kind.replace('_', ' ')})").format(**context)
    if kind in {"enum", "literal_error"}:
        choices = [text.strip("'") for text in context["expected"].replace(" or ", ", ").split(", ")]
        return message, ", ".join(choices), hints.did_you_mean(value, choices)
    if kind in _NUMBERS and setting is not None:
        unit_words = f" {unit}" if unit else ""
        return (
            message,
            setting.accepts.removeprefix("whole number, ") + unit_words,
            hints.for_number(value, unit),
        )
    if kind == "bool_type":
        return message, "", hints.for_truth(value)
    if kind in {"tuple_type", "list_type"} and setting is not None:
        return message, "", hints.for_list(value, of_mappings=setting.is_section)
    return message, "", ""


def _missing(document: Document, path: KeyPath) -> Problem | None:
    if path[0] == "tunnels" and path[-1] == "local":
        return None  # derived from router.id, whose own problem is reported
    if _is_misspelt(document, path):
        return None
    setting = setting_at(path)
    allowed = hint = ""
    if setting is not None:
        allowed = setting.accepts.replace("`", "")
        example = f"for example '{path[-1]}: {setting.example}': " if setting.example else ""
        hint = example + setting.summary
    mark = document.locate_key(path[:-1])
    return Problem(document.file, mark.line, mark.column, path, "is missing", allowed=allowed, hint=hint)


def _is_misspelt(document: Document, path: KeyPath) -> bool:
    """Whether a missing key is there in another spelling, or may be hidden by a merge key: problems of their own."""
    known = _known_keys(path[:-1])
    strangers = [key for key in document.keys_in(path[:-1]) if key not in known]
    return "<<" in strangers or any(hints.closest(each, known) == path[-1] for each in strangers)


def _unknown_key(document: Document, path: KeyPath) -> Problem:
    mark = document.locate_key(path)
    known = _known_keys(path[:-1])
    section = ".".join(step for step in path[:-1] if isinstance(step, str))
    allowed = (
        ", ".join(known)
        if len(known) <= _LISTED_KEYS
        else f"the keys that 'wccpd explain-config {section}' lists"
    )
    hint = hints.for_key(str(path[-1]), known)
    return Problem(
        document.file, mark.line, mark.column, path, "is not a known key", allowed=allowed, hint=hint
    )


def _known_keys(path: KeyPath) -> list[str]:
    model = model_at(path)
    return [name for name, field in model.model_fields.items() if not field.exclude] if model else []


def _may_be_secret(path: KeyPath) -> bool:
    """Whether somebody could have written a password there, be it in place of a file's name."""
    last = next((step.lower() for step in reversed(path) if isinstance(step, str)), "")
    return "pass" in last


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
        nested = section_of(field.annotation)[0] if field else None
        if nested is None:
            return None
        model = nested
    return model
