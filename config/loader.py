"""From a file's name to frozen settings, or to a `ConfigError` that holds everything wrong with the file.

The only place that reads files: the configuration and the password files it names. The order: YAML
(`source`), single values (`model`), rules between values (`validate`), passwords; a fault in one step hides
none of the next wherever the next can still be judged.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretBytes, ValidationError

from config.errors import ConfigError, Problem
from config.model import Bgp, Config, Control, Kernel, Router, Tunnel, with_derived_values
from config.services import Redirect, Service
from config.source import Document, SourceError
from config.source import parse as parse_yaml
from config.validate import Fault, Parts, validate
from config.wording import shown, translate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    _Model = TypeVar("_Model", bound=BaseModel)

MAX_FILE_BYTES = 256 * 1024
PASSWORD_MAX_OCTETS = 8
"""Length of the password field in the Security Info component's key (draft-wilson-wrec-wccp-v2-01, 5.6.1)."""


def load(path: Path | str) -> Config:
    """Read, check and complete a configuration file, passwords included.

    Raises:
        ConfigError: with every problem of the file.
    """
    return parse(read(path), file=str(path), directory=Path(path).parent)


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
    try:
        document = parse_yaml(text, file)
    except SourceError as error:
        raise ConfigError((error.problem,)) from None
    problems = list(document.problems)
    config, field_problems = _check_fields(document)
    reported = {problem.path for problem in problems}
    problems += (problem for problem in field_problems if problem.path not in reported)
    parts = _sound_parts(document)
    problems += (_positioned(document, fault) for fault in validate(parts))
    services, faults = _with_passwords(parts.services, directory or Path())
    problems += (_positioned(document, fault) for fault in faults)
    if config is None or problems:
        raise ConfigError(tuple(problems))
    return config.with_services(services)


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
        found = shown(document.data)
        return None, [
            Problem(
                document.file, mark.line, mark.column, (), "must be a mapping of 'key: value' lines", found
            )
        ]
    try:
        return Config.model_validate(document.data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    return None, [problem for each in details if (problem := translate(document, each)) is not None]


def _sound_parts(document: Document) -> Parts:
    """What of the file is right by itself, each section and list item judged alone."""
    derived = with_derived_values(document.data)
    raw = derived if isinstance(derived, dict) else {}
    tunnels = raw.get("tunnels", [])
    return Parts(
        router=_sound(Router, raw.get("router")),
        tunnels=_sound_items(Tunnel, tunnels),
        tunnels_written=len(tunnels) if isinstance(tunnels, list) else 1,
        bgp=_sound(Bgp, raw.get("bgp")),
        bgp_written=("bgp",) in document.keys,
        sections_known=isinstance(document.data, dict) and not raw.keys() - Config.model_fields.keys(),
        services=_sound_items(Service, raw.get("services", [])),
        redirect=_sound(Redirect, raw.get("redirect", {})),
        control=_sound(Control, raw.get("control", {})),
        kernel=_sound(Kernel, raw.get("kernel", {})),
    )


def _sound(model: type[_Model], data: object) -> _Model | None:
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


def _sound_items(model: type[_Model], data: object) -> dict[int, _Model]:
    items = enumerate(data) if isinstance(data, list) else ()
    return {index: sound for index, item in items if (sound := _sound(model, item)) is not None}


def _positioned(document: Document, fault: Fault) -> Problem:
    mark = document.locate(fault.path)
    return Problem(document.file, mark.line, mark.column, fault.path, fault.message, hint=fault.hint)


def _with_passwords(
    services: Mapping[int, Service], directory: Path
) -> tuple[tuple[Service, ...], list[Fault]]:
    """The services with their passwords, and a fault for each password that cannot be had."""
    complete, faults = [], []
    for index, service in services.items():
        found: dict[str, object] = {}
        for key, file in (
            ("password", service.password_file),
            ("previous_password", service.previous_password_file),
        ):
            if file is None:
                continue
            path = directory / file
            password = _read_password(path)
            if isinstance(password, str):
                faults.append(Fault(("services", index, f"{key}_file"), f"{str(path)!a} {password}"))
            else:
                found |= {f"{key}_file": path, key: password}
        complete.append(service.model_copy(update=found))
    return tuple(complete), faults


def _read_password(path: Path) -> SecretBytes | str:
    """A password, or the words why there is none; the words never hold what was read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return "is not a regular file"
            content = file.read(PASSWORD_MAX_OCTETS + 3)
    except OSError as error:
        return f"cannot be read: {_why(error)}"
    password = content.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        return "is empty: a password has 1 to 8 octets"
    if len(password) > PASSWORD_MAX_OCTETS:
        return "holds more than 8 octets: WCCP passwords have 1 to 8"
    if password != password.strip() or any(octet < 0x20 or octet == 0x7F for octet in password):
        return "holds a control character, or a blank at one of its ends"
    return SecretBytes(password)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
