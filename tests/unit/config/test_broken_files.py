"""Files that people, editors and programs break: what wccpd says about each, letter by letter.

What is expected is in `broken_files.txt` beside this file, under the same names, in the same order.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from tests.support.broken_config import BROKEN

EXPECTED = Path(__file__).with_name("broken_files.txt")


def expected() -> dict[str, str]:
    """The lines under each name."""
    sections = EXPECTED.read_text().split("== ")[1:]
    return {name: lines.rstrip("\n") for name, _, lines in (section.partition("\n") for section in sections)}


def said_about(content: str | bytes, folder: Path) -> str:
    path = folder / "r.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(config.ConfigError) as caught:
        config.load(path)
    return str(caught.value).replace(f"{path}", "r.yaml")


def test_every_broken_file_has_its_expected_words_and_no_words_are_left_over() -> None:
    assert list(expected()) == list(BROKEN)
    assert len(BROKEN) > 100


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_these_words(name: str, tmp_path: Path) -> None:
    assert said_about(BROKEN[name], tmp_path) == expected()[name]
