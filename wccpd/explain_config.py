"""What `wccpd explain-config` says about settings, as text and as JSON."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from config.reference import first_sentence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.reference import Setting

_LINE_CHARACTERS = 88


def text(setting: Setting) -> str:
    """One setting with all that is known about it."""
    parts = [setting.key, textwrap.indent(_facts(setting), "  "), "", _filled(setting.description)]
    if setting.example:
        parts += ["", "  Example:", textwrap.indent(setting.example_lines, "    ")]
    return "\n".join(parts)


def listing(settings: Iterable[Setting]) -> str:
    """One line for each setting: its key and what it is."""
    settings = tuple(settings)
    width = max((len(each.key) for each in settings), default=0)
    room = max(_LINE_CHARACTERS * 2 - width, 40)
    return "\n".join(
        f"{each.key:<{width}}  {textwrap.shorten(_plain(first_sentence(each.description)), room, placeholder=' ...')}"
        for each in settings
    )


def document(setting: Setting) -> dict[str, object]:
    """One setting as plain values."""
    return {
        "key": setting.key,
        "accepts": _plain(setting.accepts),
        "unit": setting.unit,
        "required": setting.required,
        "default": _plain(setting.default),
        "description": setting.description,
        "example": setting.example,
    }


def _facts(setting: Setting) -> str:
    facts = [_plain(setting.accepts) + (f", in {setting.unit}" if setting.unit else "")]
    if setting.required:
        facts.append("required")
    elif setting.default:
        facts.append(f"default: {_plain(setting.default)}")
    return "\n".join(facts)


def _filled(words: str) -> str:
    return textwrap.fill(words, _LINE_CHARACTERS, initial_indent="  ", subsequent_indent="  ")


def _plain(words: str) -> str:
    return words.replace("`", "")
