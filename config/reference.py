"""Every setting as a person looks it up: what may be written, what counts otherwise, what it means, an example.

Read out of the models, where each setting is described once; the manual page, `wccpd explain-config` and the
words of a missing key all come from here. Pure: no file is read.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Annotated, get_args, get_origin

from pydantic import BaseModel

from config.kinds import LeftOut, Written
from config.model import Config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic.fields import FieldInfo

UNITS = {"_seconds": "seconds", "_bytes": "bytes"}
"""What a number counts, by the end of its key."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file."""

    path: tuple[str, ...]
    """Its key under those of the mappings around it."""
    in_lists: tuple[bool, ...]
    """For each step of the path: whether its value is a list of mappings."""
    is_section: bool
    """Whether it holds keys of its own."""
    accepts: str
    """What may be written, e.g. "whole number, 3 to 65535"; values and keys in backticks."""
    unit: str
    """What the number counts; empty where it counts nothing or the text says it."""
    required: bool
    default: str
    """What counts where the key is left out; empty for required keys and sections."""
    description: str
    example: str
    """A value that is accepted, as YAML on one line; empty for most sections."""

    @property
    def key(self) -> str:
        """The path as people write it: `services.mode`, without the place in lists."""
        return ".".join(self.path)

    @property
    def summary(self) -> str:
        """The description's first sentence."""
        return first_sentence(self.description)

    @property
    def example_lines(self) -> str:
        """The example with the keys around it, fit to be copied into a file."""
        lines, indent, dash = [], "", ""
        for step, in_list in zip(self.path[:-1], self.in_lists, strict=False):
            lines.append(f"{indent}{dash}{step}:")
            indent, dash = indent + " " * (len(dash) + 2), "- " if in_list else ""
        lines.append(f"{indent}{dash}{self.path[-1]}: {self.example}")
        return "\n".join(lines)


@cache
def settings() -> tuple[Setting, ...]:
    """All settings in the order of the file, a section before its keys."""
    return tuple(_walk(Config, (), ()))


def setting_at(path: Iterable[str | int]) -> Setting | None:
    """The setting at a key path, places in lists left aside; None if there is none."""
    return _by_path().get(tuple(step for step in path if isinstance(step, str)))


@cache
def _by_path() -> dict[tuple[str, ...], Setting]:
    return {each.path: each for each in settings()}


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a key that somebody typed may mean."""

    setting: Setting | None
    """The one that is meant, if there is no doubt."""
    related: tuple[Setting, ...]
    """The keys in that section; or, with doubt, those that the typed text begins or ends."""
    suggestions: tuple[str, ...]
    """Keys that look like it, where nothing was found."""


def look_up(typed: str) -> Lookup:
    """Find a key by its full name, by its beginning, or by its last part; `services[0].mode` counts too."""
    wanted = re.sub(r"\[\d*\]", "", typed).strip(".")
    everything = settings()
    exact = next((each for each in everything if each.key == wanted), None)
    if exact is not None:
        depth = len(exact.path) + 1
        inside = (
            each for each in everything if each.key.startswith(f"{wanted}.") and len(each.path) == depth
        )
        return Lookup(exact, tuple(inside), ())
    ending = tuple(each for each in everything if f".{each.key}".endswith(f".{wanted}"))
    if len(ending) == 1:
        return Lookup(ending[0], (), ())
    found = ending or tuple(each for each in everything if wanted and each.key.startswith(wanted))
    if found:
        return Lookup(None, found, ())
    return Lookup(None, (), _similar(wanted, everything))


def first_sentence(text: str) -> str:
    """The text up to its first full stop, without it; abbreviations do not end a sentence."""
    return re.split(r"\.(?= [A-Z`0-9(]|$)", text, maxsplit=1)[0]


def written(value: object) -> str:
    """A value as YAML on one line, as wccpd reads it."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{key}: {written(each)}" for key, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(written, value)) + "]"
        case Enum():
            return written(value.value)
        case int():
            return str(value)
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z0-9./][A-Za-z0-9./_-]*", text) and text not in {"true", "false", "null"}
    return text if plain and not text.isdecimal() else f"'{text}'"


def _similar(wanted: str, everything: Iterable[Setting]) -> tuple[str, ...]:
    """Keys that look like it as a whole, or else those whose last part does."""
    keys = [each.key for each in everything]
    close = difflib.get_close_matches(wanted, keys, n=3, cutoff=0.8)
    if not close:
        last = difflib.get_close_matches(
            wanted.rpartition(".")[2], [key.rpartition(".")[2] for key in keys], n=1
        )
        close = [key for key in keys if last and key.rpartition(".")[2] == last[0]]
    return tuple(close)


def _walk(model: type[BaseModel], path: tuple[str, ...], in_lists: tuple[bool, ...]) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        here = (*path, name)
        nested, is_list = section_of(field.annotation)
        yield _setting(here, (*in_lists, is_list), field, is_section=nested is not None)
        if nested is not None:
            yield from _walk(nested, here, (*in_lists, is_list))


def _setting(
    path: tuple[str, ...], in_lists: tuple[bool, ...], field: FieldInfo, *, is_section: bool
) -> Setting:
    left_out = next((each.words for each in field.metadata if isinstance(each, LeftOut)), "")
    required = field.is_required() and not left_out
    return Setting(
        path,
        in_lists,
        is_section,
        _accepts(field.annotation, field.metadata),
        next((unit for end, unit in UNITS.items() if path[-1].endswith(end)), ""),
        required,
        left_out or ("" if required or is_section else _default(field)),
        field.description or "",
        "" if is_section and not field.examples else _example(field),
    )


def section_of(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """The model that a field's value is made of, and whether it is a list of such; None for single values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        model, _ = section_of(part)
        if model is not None:
            return model, get_origin(annotation) is tuple
    return None, False


def _default(field: FieldInfo) -> str:
    return "empty" if field.default == () else written(field.default)


def _example(field: FieldInfo) -> str:
    """One that was given, or the opposite of a default, or the default, or the type's."""
    if field.examples:
        return written(field.examples[0])
    if isinstance(field.default, bool):
        return written(not field.default)
    said = tuple(_metadata_of(field.annotation, field.metadata))
    of_type = next((each.example for each in said if isinstance(each, Written)), "")
    says_nothing = (
        field.is_required() or field.default in {None, ()} or any(isinstance(each, LeftOut) for each in said)
    )
    if not of_type or not says_nothing:
        return written(field.default)
    return f"[{of_type}]" if get_origin(field.annotation) is tuple else of_type


def _metadata_of(annotation: object, metadata: Iterable[object]) -> Iterator[object]:
    """All that is said about a type, from the outside inwards."""
    yield from metadata
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from _metadata_of(inner, more)
    else:
        for part in get_args(annotation):
            yield from _metadata_of(part, ())


def _accepts(annotation: object, metadata: Iterable[object], *, many: bool = False) -> str:
    """What may be written, in words."""
    metadata = tuple(metadata)
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _accepts(inner, (*metadata, *more), many=many)
    said = next((each for each in metadata if isinstance(each, Written)), None)
    if said is not None:
        return said.many if many else said.words
    if get_origin(annotation) is tuple:
        return f"list of {_accepts(get_args(annotation)[0], (), many=True)}{_length(metadata)}"
    if parts := [part for part in get_args(annotation) if part is not type(None)]:
        return _accepts(parts[0], metadata, many=many)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        words = ", ".join(f"`{each.value}`" for each in annotation)
        return words if many else f"one of {words}"
    if annotation is bool:
        return "`true` or `false`"
    if annotation is int:
        least, most = (_limit(metadata, name) for name in ("ge", "le"))
        return f"whole number, {least} to {most}"
    return "mappings" if many else "mapping"


def _length(metadata: tuple[object, ...]) -> str:
    least, most = _limit(metadata, "min_length"), _limit(metadata, "max_length")
    if most is not None:
        return f", {least} to {most} of them" if least else f", at most {most} of them"
    return ", not empty" if least else ""


def _limit(metadata: tuple[object, ...], name: str) -> object:
    return next((getattr(each, name) for each in metadata if hasattr(each, name)), None)
