"""YAML as wccpd reads it: places, the small subset, and the bounds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.source import MAX_DEPTH, Mark, SourceError, parse


def refusal(text: str) -> str:
    with pytest.raises(SourceError) as caught:
        parse(text, "x")
    return str(caught.value.problem)


def test_every_key_and_value_has_its_place() -> None:
    document = parse("a: 1\nb:\n  - c: x\n    d: 'y'\n", "x")
    assert document.data == {"a": 1, "b": [{"c": "x", "d": "y"}]}
    assert document.locate(("b", 0, "d")) == Mark(4, 8)
    assert document.locate_key(("b", 0, "d")) == Mark(4, 5)
    assert document.locate(("b", 7, "z")) == document.locate(("b",)) == Mark(3, 3)


def test_words_that_other_yaml_readers_take_for_truth_dates_or_numbers_are_text() -> None:
    text = "[yes, no, on, 1:30, 2026-11-23, 010, 0x10, 1.5, 1e3, ~x, True]"
    assert parse(text, "x").data == text.strip("[]").split(", ")


def test_whole_numbers_and_truth_are_not_text() -> None:
    assert parse("[0, -7, +5, true, false, '5']", "x").data == [0, -7, 5, True, False, "5"]


def test_a_repeated_key_is_a_problem_that_names_the_first_line() -> None:
    document = parse("a: 1\nb: 2\na: 3\n", "x")
    assert [str(problem) for problem in document.problems] == [
        "x:3:1: a: this key is already there, on line 1"
    ]
    assert document.data == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: !!python/object/apply:os.system [x]\n",
            "the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !!binary aGk=\n", "the tag 'tag:yaml.org,2002:binary' is not allowed here; remove it"),
        ("a: !!int x\n", "is not allowed here"),
        ("80: x\n", "x:1:1: a key must be text; put it in quotes"),
        ("? [a, b]\n: x\n", "a key must be text"),
        ("a:\n", "a: has no value; write one, or remove the line"),
        ("a: [1, ~]\n", "a[1]: has no value"),
    ],
)
def test_a_fault_that_leaves_the_rest_readable_is_a_problem(text: str, expected: str) -> None:
    document = parse(text, "x")
    assert len(document.problems) == 1
    assert expected in str(document.problems[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n\tb: 1\n", "x:2:1: a tab is used for indentation; YAML wants blanks"),
        ("a: b: c\n", "x:1:5: a ':' is not expected here"),
        ("a: 1\n b: 2\n", "x:2:3: a ':' is not expected here"),
        ("a: [1\nb: 2\n", "x:2:2: a ',' or the closing bracket is expected here"),
        ("a: 1\n---\nb: 2\n", "x:2:1: the file holds a second document; remove the '---' line"),
        ("a: *b\n", "x:1:4: this alias names no anchor"),
        ("a: 1\nb: \x07\n", "x:2:4: the character '\\x07' is not allowed in YAML"),
        ("---\n...\n", "x: the file is empty"),
        ("~\n", "x: the file is empty"),
    ],
)
def test_a_syntax_error_is_said_at_its_place(text: str, expected: str) -> None:
    assert refusal(text).startswith(expected)


def test_a_syntax_error_repeats_nothing_of_the_file() -> None:
    assert "hunter22" not in refusal("a: 'hunter22\nb: 1\n")


def test_an_alias_stands_for_its_anchor() -> None:
    assert parse("a: &x [1, 2]\nb: *x\n", "x").data == {"a": [1, 2], "b": [1, 2]}


def test_aliases_that_multiply_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.monotonic()
    assert "aliases expand this to more than" in refusal("\n".join(lines))
    assert time.monotonic() - started < 5


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    assert "aliases expand this" in refusal("a: &x [*x]\n")


def test_deep_nesting_is_refused() -> None:
    assert "nested more than 16 deep" in refusal("[" * 5000)
    depth = MAX_DEPTH - 1
    assert parse("[" * depth + "1" + "]" * depth, "x").problems == ()


def test_a_file_of_too_many_values_is_refused() -> None:
    assert "more than 10000 keys and values" in refusal("- 1\n" * 10_001)


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!'\"|>#%@ \n\t,?~0", max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        document = parse(text, "x")
    except SourceError as error:
        assert str(error.problem).startswith("x:")  # noqa: PT017 - refusing is one of two right answers
        return
    assert all(problem.line >= 1 and problem.column >= 1 for problem in document.problems)
