"""A manual page in roff with the man(7) macros, as groff and mandoc both read it.

Text may hold `words in backticks`, which become bold, as names and values are set in manual pages.
"""

from __future__ import annotations

import re
import textwrap

from wccpd import __version__

REVISED = "2026-11-24"
"""The date in the pages' footers: when what they say last changed. A build must not have a date of its own."""

_ESCAPES = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti"})
_LINE_CHARACTERS = 78


class Page:
    """One page, written from top to bottom.

    Args:
        name: What the page is called by, e.g. `wccpd.yaml`.
        section: Section of the manual: 1 and 8 are commands, 5 is files.
        purpose: What it is, in a few words; apropos(1) finds it by them.
    """

    def __init__(self, name: str, section: int, purpose: str) -> None:
        self._lines = [
            r".\" Made by `make manual`: change the texts in the code.",
            f'.TH {_escaped(name.upper())} {section} {REVISED} "wccpd {__version__}" "wccpd manual"',
            ".nh",  # no hyphenation, and no stretched blanks: much of the text is names to be copied
            ".ad l",
            ".SH NAME",
            rf"{_escaped(name)} \- {_escaped(purpose)}",
        ]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._lines.append(f".SH {text.upper()}")

    def subheading(self, text: str) -> None:
        """Begin a part of a section."""
        self._lines.append(f".SS {_formatted(text)}")

    def paragraph(self, text: str) -> None:
        """Write a paragraph."""
        if not self._lines[-1].startswith(".S"):
            self._lines.append(".PP")
        self._lines += _filled(text)

    def item(self, term: str, *paragraphs: str) -> None:
        """Write a term, which stands out, and under it what it means."""
        self._lines += [".TP", _formatted(f"`{term}`" if "`" not in term else term)]
        for number, text in enumerate(paragraphs):
            if number:
                self._lines.append(".IP")
            self._lines += _filled(text)

    def literal(self, text: str) -> None:
        """Show lines as they are."""
        if not self._lines[-1].startswith(".S"):
            self._lines.append(".PP")
        self._lines += [".in +4n", ".EX"]
        self._lines += (_protected(_escaped(line)) for line in text.splitlines())
        self._lines += [".EE", ".in"]

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self._lines) + "\n"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _formatted(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fP", _escaped(text))


def _protected(line: str) -> str:
    """A line that roff does not take for a request."""
    return rf"\&{line}" if line.startswith(".") else line


def _filled(text: str) -> list[str]:
    """Short lines, each sentence beginning one: so do changes of a page stay small."""
    lines: list[str] = []
    for sentence in re.split(r"(?<=[.!?:]) +(?=[A-Z`])", " ".join(text.split())):
        wrapped = textwrap.wrap(
            _formatted(sentence), _LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False
        )
        lines += map(_protected, wrapped)
    return lines
