"""A configuration with its passwords as plain JSON values, to be had again whatever became of the files.

Only for a file that nobody but root can read: the passwords are in it as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretBytes, ValidationError

from config.model import Config
from config.source import SourceError
from config.source import parse as parse_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.services import Service

_SECRETS = ("password", "previous_password")


class KeptError(Exception):
    """What was kept is no configuration to this version; the text says why."""


def keep(config: Config, text: str) -> dict[str, object]:
    """The configuration as JSON values.

    Args:
        config: What was made of the text, passwords included.
        text: The file's.
    """
    return {"text": text, "passwords": [_passwords(service) for service in config.services]}


def restore(kept: Mapping[str, object]) -> Config:
    """The configuration that was kept, and no file but that is read.

    Raises:
        KeptError: It is damaged, or was kept by a version with other settings.
    """
    try:
        data = parse_yaml(str(kept["text"]), "<kept>").data
        passwords = kept["passwords"]
        if not isinstance(data, dict) or not isinstance(passwords, list):
            raise KeptError("it has another form")
        bare = [
            {key: value for key, value in service.items() if not key.startswith(_SECRETS)}
            for service in data["services"]
        ]
        config = Config.model_validate({**data, "services": bare})
        services = zip(config.services, passwords, strict=True)
        return config.with_services(
            tuple(service.model_copy(update=_read(saved)) for service, saved in services)
        )
    except (SourceError, ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        # Never the error's own words: they may hold a password.
        raise KeptError(f"it cannot be read ({type(error).__name__})") from None


def _passwords(service: Service) -> dict[str, str]:
    """The passwords in hexadecimal, and where they came from."""
    found: dict[str, str] = {}
    for key in type(service).model_fields:
        value = getattr(service, key) if key.startswith(_SECRETS) else None
        if isinstance(value, SecretBytes):
            found[key] = value.get_secret_value().hex()
        elif value is not None:
            found[key] = str(value)
    return found


def _read(saved: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in saved.items():
        if key in _SECRETS:
            found[key] = SecretBytes(bytes.fromhex(value))
        elif key.startswith(_SECRETS):
            found[key] = Path(value) if key.endswith("_file") else value
    return found
