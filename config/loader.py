"""From a file's name to frozen settings, or to a `ConfigError` that holds everything wrong with the file.

The order: YAML (`source`), single values (`model`), rules between values (`validate`), `passwords`; a fault in
one step hides none of the next wherever the next can still be judged. Then `advice` has its say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from config.advice import advise
from config.errors import ConfigError, Problem, in_order
from config.model import Bgp, Config, Control, Kernel, Router, Tunnel, with_derived_values
from config.passwords import with_passwords
from config.services import Redirect, Service
from config.source import Document, SourceError
from config.source import parse as parse_yaml
from config.validate import Fault, Parts, validate
from config.wording import MAPPING, is_of_shape, shown, translate

if TYPE_CHECKING:
    from collections.abc import Container
    from typing import TypeVar

    from config.errors import KeyPath

    _Model = TypeVar("_Model", bound=BaseModel)

MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used."""

    config: Config
    warnings: tuple[Problem, ...]
    """What is valid and yet seldom meant, in the file's order."""


def load(path: Path | str) -> Config:
    """Read, check and complete a configuration file, passwords included.

    Raises:
        ConfigError: with every problem of the file.
    """
    return load_with_warnings(path).config


def load_with_warnings(path: Path | str, *, passwords_needed: bool = True) -> Loaded:
    """The same, with what deserves a second look.

    Args:
        path: The file.
        passwords_needed: False to check only: a password that the running service alone can have (its environment,
            its credentials, a file that we may not read) is then missing with a warning.

    Raises:
        ConfigError: with every problem of the file.
    """
    return parse_with_warnings(
        read(path), file=str(path), directory=Path(path).parent, passwords_needed=passwords_needed
    )


def read(path: Path | str) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: It cannot be read, is too large, or no UTF-8.
    """
    name = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError((Problem(name, 0, 0, (), f"cannot be read: {_why(error)}"),)) from None
    return _decode(content, name)


def parse(text: str, *, file: str = "<text>", directory: Path | None = None) -> Config:
    """Check and complete a configuration that is already in memory.

    Args:
        text: the YAML.
        file: the name that problems carry.
        directory: where relative password files are looked for; the current one if left out.

    Raises:
        ConfigError: with every problem.
    """
    return parse_with_warnings(text, file=file, directory=directory or Path()).config


def parse_with_warnings(text: str, *, file: str, directory: Path, passwords_needed: bool = True) -> Loaded:
    """The same, with what deserves a second look; arguments as for `parse` and `load_with_warnings`.

    Raises:
        ConfigError: with every problem.
    """
    return _complete(text, file, directory, passwords_needed=passwords_needed)


def _complete(text: str, file: str, directory: Path, *, passwords_needed: bool) -> Loaded:
    try:
        document = parse_yaml(text, file)
    except SourceError as error:
        raise ConfigError((error.problem,)) from None
    config, field_problems = _check_fields(document)
    problems = _without_consequences(document, field_problems)
    parts = _sound_parts(document)
    passwords = with_passwords(parts.services, directory, os.environ, needed=passwords_needed)
    problems += (_positioned(document, fault) for fault in (*validate(parts), *passwords.faults))
    if config is None or problems:
        raise ConfigError(tuple(problems))
    warnings = (_positioned(document, fault) for fault in (*passwords.warnings, *advise(config)))
    return Loaded(config.with_services(passwords.services), in_order(warnings))


def _decode(content: bytes, name: str) -> str:
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError((Problem(name, 0, 0, (), f"is larger than {MAX_FILE_BYTES} bytes"),))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"octet 0x{content[error.start]:02x} is not UTF-8"
    raise ConfigError((Problem(name, line, column, (), message, hint="save the file as UTF-8"),))


def _check_fields(document: Document) -> tuple[Config | None, list[Problem]]:
    """The settings, or what is wrong with single values."""
    if not isinstance(document.data, dict):
        mark = document.locate(())
        # Not repeated: it may be a password file, given by mistake.
        found = shown(document.data) if isinstance(document.data, list) else "one word or number"
        return None, [Problem(document.file, mark.line, mark.column, (), MAPPING, found)]
    try:
        return Config.model_validate(document.data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    return None, [problem for each in details if (problem := translate(document, each)) is not None]


def _without_consequences(document: Document, field_problems: list[Problem]) -> list[Problem]:
    """Those of YAML and those of values together: one for each place, and none inside what is no section."""
    shapeless = {problem.path for problem in field_problems if is_of_shape(problem)}
    problems = [
        problem
        for problem in document.problems
        if not any(problem.path[:length] in shapeless for length in range(1, len(problem.path)))
    ]
    reported = {problem.path for problem in problems}
    return problems + [problem for problem in field_problems if problem.path not in reported]


def _sound_parts(document: Document) -> Parts:
    """What of the file is right by itself, each section and list item judged alone."""
    lacking = _lacking_values(document)
    derived = with_derived_values(document.data)
    raw = derived if isinstance(derived, dict) else {}
    tunnels = raw.get("tunnels", [])
    return Parts(
        router=_sound(Router, raw.get("router"), ("router",), lacking),
        tunnels=_sound_items(Tunnel, tunnels, "tunnels", lacking),
        tunnels_written=len(tunnels) if isinstance(tunnels, list) else 1,
        bgp=_sound(Bgp, raw.get("bgp"), ("bgp",), lacking),
        bgp_written=("bgp",) in document.keys,
        sections_known=isinstance(document.data, dict) and not raw.keys() - Config.model_fields.keys(),
        services=_sound_items(Service, raw.get("services", []), "services", lacking),
        redirect=_sound(Redirect, raw.get("redirect", {}), ("redirect",), lacking),
        control=_sound(Control, raw.get("control", {}), ("control",), lacking),
        kernel=_sound(Kernel, raw.get("kernel", {}), ("kernel",), lacking),
    )


def _lacking_values(document: Document) -> set[KeyPath]:
    """Every place in which something was meant to stand that could not be read, and what is around it."""
    places = (problem.path for problem in document.problems if not _has_value(document.data, problem.path))
    return {path[:length] for path in places for length in range(1, len(path) + 1)}


def _has_value(data: object, path: KeyPath) -> bool:
    for step in path:
        match data, step:
            case list(), int() if step < len(data):
                data = data[step]
            case dict(), str() if step in data:
                data = data[step]
            case _:
                return False
    return data is not None


def _sound(model: type[_Model], data: object, path: KeyPath, lacking: Container[KeyPath]) -> _Model | None:
    if path in lacking:
        return None
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


def _sound_items(
    model: type[_Model], data: object, key: str, lacking: Container[KeyPath]
) -> dict[int, _Model]:
    items = enumerate(data) if isinstance(data, list) else ()
    sound = ((index, _sound(model, item, (key, index), lacking)) for index, item in items)
    return {index: item for index, item in sound if item is not None}


def _positioned(document: Document, fault: Fault) -> Problem:
    mark = document.locate(fault.path)
    return Problem(document.file, mark.line, mark.column, fault.path, fault.message, hint=fault.hint)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
