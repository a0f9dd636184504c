"""Files that people, editors and programs break: what wccpd says about each, letter by letter.

What is expected is in `broken_files.txt` beside this file, under the same names, in the same order.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import config
from tests.support.broken_config import BROKEN, GOOD

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


def test_a_file_with_hundreds_of_mistakes_shows_the_first_hundred_and_keeps_all(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD + "".join(f"key{number}: 1\n" for number in range(250)))
    with pytest.raises(config.ConfigError) as caught:
        config.load(path)
    lines = str(caught.value).splitlines()
    assert (len(caught.value.problems), len(lines)) == (250, 101)
    assert lines[-1] == "... and 150 more"


def test_a_key_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    said = said_about(GOOD + '"\\e[2J": 1\n' + f"{'k' * 200}: 1\n", tmp_path)
    assert "r.yaml:13:1: '\\x1b[2J': is not a known key" in said
    assert f"r.yaml:14:1: '{'k' * 60}...': is not a known key" in said
    assert said.replace("\n", "").isprintable()


CHANGES = 300
PIECES = (
    *" \n\t:-[]{}&*!|>'\"%@`#,?~09azAZ_/.\\\0é", "\n  - ", "null", "true", "a: ", "- ", "1e9", "<<: ", "10.0.0.0/8",
    "::/0", "-1", "9" * 21,
)  # fmt: skip


def changed(text: str, chance: random.Random) -> str:
    """The text with a few pieces put in, taken out or moved."""
    for _ in range(chance.randint(1, 4)):
        place, lines = chance.randrange(len(text)), text.split("\n")
        line = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                text = text[:place] + chance.choice(PIECES) + text[place + chance.randint(0, 3) :]
            case 1:
                text = "\n".join(lines[:line] + lines[line + 1 :]) or "x"
            case 2:
                text = "\n".join([*lines[:line], chance.choice(lines), *lines[line:]])
            case _:
                lines[line] = lines[line].partition(":")[0] + ": " + chance.choice(PIECES)
                text = "\n".join(lines)
    return text


def test_an_example_changed_at_random_is_read_or_refused_at_places_that_it_has(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    examples = [
        path.read_text() for path in sorted((Path(config.__file__).parent / "examples").glob("*.yaml"))
    ]
    for name in ("web-cache.password", "proxies.password"):
        (tmp_path / name).write_text("s3cret")
    refused: list[tuple[str, config.ConfigError]] = []
    for _ in range(CHANGES):
        text = changed(chance.choice(examples), chance)
        try:
            config.parse(text, directory=tmp_path)
        except config.ConfigError as error:
            refused.append((text, error))
    assert CHANGES // 3 < len(refused) < CHANGES
    for text, error in refused:
        lines = text.count("\n") + 2
        assert error.problems, text
        assert all(0 <= problem.line <= lines for problem in error.problems), text
        assert "is not acceptable" not in str(error), "a kind of error without words of its own"
        assert "s3cret" not in str(error)
