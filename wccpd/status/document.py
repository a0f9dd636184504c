"""The status tree as a JSON document and back: the keys are the field names of `wccpd.status.view`.

Reading ignores keys it does not know, because fields may be added while the schema version stays.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from wccpd.status.view import SCHEMA_VERSION, Status


class DocumentError(ValueError):
    """The document is no status this version can read."""


def to_document(value: object) -> object:
    """A frozen view as plain JSON values: mappings, lists, text, numbers, true, false and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_document(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_document(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value


def from_document(data: object) -> Status:
    """The status tree that a daemon sent.

    Raises:
        DocumentError: another schema version, or not a status at all.
    """
    version = data.get("version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DocumentError(f"the daemon's status has version {version}, this command reads {SCHEMA_VERSION}")
    status = _read(Status, data, "status")
    assert isinstance(status, Status)
    return status


def _read(kind: Any, data: object, where: str) -> object:  # noqa: ANN401 - an annotation, of any form
    """A value of the type a field is annotated with."""
    if get_origin(kind) is UnionType:
        (member,) = (each for each in get_args(kind) if each is not NoneType)
        return None if data is None else _read(member, data, where)
    if get_origin(kind) is tuple and isinstance(data, list):
        return tuple(_read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if dataclasses.is_dataclass(kind) and isinstance(data, dict):
        return _read_dataclass(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, Enum) and data in [each.value for each in kind]:
        return kind(data)
    accepted = (int, float) if kind is float else kind
    if (
        kind in {str, int, float, bool}
        and isinstance(data, accepted)
        and isinstance(data, bool) is (kind is bool)
    ):
        return data
    raise DocumentError(f"the daemon's answer cannot be read: {where} is {data!a:.60}")


def _read_dataclass(kind: Any, data: dict[str, object], where: str) -> object:  # noqa: ANN401
    types = get_type_hints(kind)
    missing = [each.name for each in dataclasses.fields(kind) if each.name not in data]
    if missing:
        raise DocumentError(f"the daemon's answer cannot be read: {where} has no {missing[0]}")
    return kind(
        **{
            each.name: _read(types[each.name], data[each.name], f"{where}.{each.name}")
            for each in dataclasses.fields(kind)
        }
    )
