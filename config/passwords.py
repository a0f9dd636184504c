"""Passwords from where the configuration says they are: a file, an environment variable, a systemd credential.

No word that leaves this module holds any of what was read.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretBytes

from config.validate import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.errors import KeyPath
    from config.services import Service

MAX_OCTETS = 8
"""Size of the key in the Security Info component (draft-wilson-wrec-wccp-v2-01, 5.6.1)."""


@dataclass(frozen=True, slots=True)
class Passwords:
    """Services with their passwords, and what is to be said about them."""

    services: tuple[Service, ...]
    faults: tuple[Fault, ...]
    """Passwords that cannot be had, or cannot be used."""
    warnings: tuple[Fault, ...]
    """Passwords that others may read, and those that only the running service can have."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A password, or the words why there is none."""

    password: SecretBytes | None = None
    fault: str = ""
    hint: str = ""
    warning: str = ""
    elsewhere: bool = False
    """Whether the fault may be due to where and as whom this runs."""


def with_passwords(
    services: Mapping[int, Service], directory: Path, environment: Mapping[str, str], *, needed: bool
) -> Passwords:
    """Read the passwords of all services.

    Args:
        services: By their index in the file.
        directory: Where relative file names start.
        environment: The process's environment variables.
        needed: False where nothing is going to be run: what only the running service can have is then a warning.
    """
    complete: list[Service] = []
    faults: list[Fault] = []
    warnings: list[Fault] = []
    for index, service in services.items():
        update: dict[str, object] = {}
        for secret in ("password", "previous_password"):
            source, found = _look(service, secret, directory, environment)
            path: KeyPath = ("services", index, source)
            if found.fault and found.elsewhere and not needed:
                warnings.append(Fault(path, f"not checked: {found.fault}", found.hint))
            elif found.fault:
                faults.append(Fault(path, found.fault, found.hint))
            if found.warning:
                warnings.append(Fault(path, found.warning, found.hint))
            if found.password is not None:
                update[secret] = found.password
            if source.endswith("_file"):
                update[source] = directory / getattr(service, source)
        complete.append(service.model_copy(update=update))
    return Passwords(tuple(complete), tuple(faults), tuple(warnings))


def _look(
    service: Service, secret: str, directory: Path, environment: Mapping[str, str]
) -> tuple[str, _Found]:
    """The key that says where this password is, and what is there; the first such key, if there are several."""
    if (file := getattr(service, f"{secret}_file")) is not None:
        return f"{secret}_file", _from_file(directory / file)
    if (name := getattr(service, f"{secret}_environment")) is not None:
        return f"{secret}_environment", _from_environment(name, environment)
    if (name := getattr(service, f"{secret}_credential")) is not None:
        return f"{secret}_credential", _from_credential(name, environment)
    return "", _Found()


def _from_file(path: Path) -> _Found:
    shown = f"{str(path)!a}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return _Found(fault=f"{shown} is not a regular file")
            content = file.read(MAX_OCTETS + 3)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "write the password into it, 1 to 8 octets" if isinstance(error, FileNotFoundError) else ""
        elsewhere = isinstance(error, PermissionError)
        return _Found(fault=f"{shown} cannot be read: {why}", hint=hint, elsewhere=elsewhere)
    found = _checked(content, shown)
    if found.password is None or not status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return found
    can = "write" if status.st_mode & stat.S_IWOTH else "read"
    hint = f"chmod go= {shlex.quote(str(path))}"
    return _Found(found.password, warning=f"every user of this host can {can} {shown}", hint=hint)


def _from_environment(name: str, environment: Mapping[str, str]) -> _Found:
    """The variable's name is not repeated: somebody may have written the password in its place."""
    if name not in environment:
        return _Found(
            fault="this environment variable is not set",
            hint="set it for wccpd, e.g. by EnvironmentFile= in its unit",
            elsewhere=True,
        )
    return _checked(os.fsencode(environment[name]), "this environment variable")


def _from_credential(name: str, environment: Mapping[str, str]) -> _Found:
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return _Found(
            fault="systemd passed no credentials ($CREDENTIALS_DIRECTORY is not set)",
            hint="add LoadCredential= to its unit",
            elsewhere=True,
        )
    found = _from_file(Path(folder) / name)
    return _Found(found.password, found.fault, found.hint)


def _checked(content: bytes, shown: str) -> _Found:
    """What was read as a password, without the end of its line."""
    password = content.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        return _Found(fault=f"{shown} is empty: a password has 1 to {MAX_OCTETS} octets")
    if len(password) > MAX_OCTETS:
        return _Found(
            fault=f"{shown} holds more than {MAX_OCTETS} octets: a WCCP password has 1 to {MAX_OCTETS}, the room that "
            "the protocol has for it; some routers and proxies silently cut longer ones"
        )
    if password != password.strip() or any(octet < 0x20 or octet == 0x7F for octet in password):
        return _Found(fault=f"{shown} holds a control character, or a blank at one of its ends")
    return _Found(SecretBytes(password))
