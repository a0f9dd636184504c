"""YAML text to plain values, with the place of every key and value, and every abuse of YAML refused.

A deliberately small YAML: mappings with text keys, lists, text, decimal whole numbers, true and false. No
tags, no floats, no octal, no dates, no merge keys; a word like `no` or `on` is text. Aliases work, but what
they expand to is bounded. Knows nothing about what the keys mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from config.errors import KeyPath, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_NODES = 10_000
"""Keys and values in one file, aliases counted as often as they are used."""
MAX_DEPTH = 16
"""Mappings and lists inside each other."""

_STRING, _INTEGER, _BOOLEAN, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool", "null"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file, both numbers from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """One file's values and where each of them stands."""

    file: str
    data: object
    """dict, list, str, int, bool; keys without a value are left out and are among the problems."""
    values: Mapping[KeyPath, Mark]
    keys: Mapping[KeyPath, Mark]
    children: Mapping[KeyPath, Sequence[str]]
    """The keys that stand in each mapping."""
    problems: tuple[Problem, ...]
    """Faults of the YAML that leave the rest readable: repeated keys, keys without a value, tags."""

    def locate(self, path: KeyPath) -> Mark:
        """Where the value at `path` stands, or the nearest one around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return Mark(1, 1)

    def locate_key(self, path: KeyPath) -> Mark:
        """Where the key of the value at `path` stands, or the value for a list item."""
        return self.keys.get(path) or self.locate(path)

    def keys_in(self, path: KeyPath) -> Sequence[str]:
        """The keys of the mapping at `path`; none if there is no such mapping."""
        return self.children.get(path, ())


class SourceError(Exception):
    """The text is no YAML that could be read further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def parse(text: str, file: str) -> Document:
    """Read one YAML document.

    Args:
        text: the whole file.
        file: its name, for the problems.

    Raises:
        SourceError: a syntax error, an empty file, more than one document, too much of it.
    """
    try:
        root = _Loader(text).get_single_node()
        if root is None:
            raise SourceError(Problem(file, 0, 0, (), "the file is empty"))
        reading = _Reading(file)
        data = reading.value(root, ())
    except _LimitError as limit:
        raise SourceError(_problem_at(file, limit.mark, limit.message)) from None
    except yaml.MarkedYAMLError as error:
        raise SourceError(_syntax_problem(file, text, error)) from None
    except ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, error.position - before.rfind("\n")
        raise SourceError(
            Problem(file, *place, (), f"the character {chr(int(error.character))!a} is not allowed in YAML")
        ) from None
    return Document(file, data, reading.values, reading.keys, reading.children, tuple(reading.problems))


class _LimitError(Exception):
    """A bound was passed."""

    def __init__(self, mark: yaml.Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


class _Resolver(BaseResolver):
    """Which plain scalars are not text."""


_Resolver.add_implicit_resolver(_INTEGER, re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789"))
_Resolver.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|false)$"), ["t", "f"])
_Resolver.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|)$"), ["~", "n", ""])


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML's own parts up to the node graph, bounded; its object constructors are not among them."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > MAX_DEPTH:
            raise _LimitError(mark, f"mappings and lists are nested more than {MAX_DEPTH} deep")
        if self._count > MAX_NODES:
            raise _LimitError(mark, f"the file has more than {MAX_NODES} keys and values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


@dataclass(slots=True)
class _Reading:
    """Nodes to plain values; notes places and faults on the way."""

    file: str
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    children: dict[KeyPath, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    expanded: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        """The plain value of a node; None where there is none."""
        self.expanded += 1
        if self.expanded > MAX_NODES or len(path) > MAX_DEPTH:
            raise _LimitError(
                node.start_mark, f"aliases expand this to more than {MAX_NODES} values or {MAX_DEPTH} levels"
            )
        self.values[path] = _mark(node)
        match node:
            case yaml.MappingNode() if node.tag == BaseResolver.DEFAULT_MAPPING_TAG:
                return self._mapping(node, path)
            case yaml.SequenceNode() if node.tag == BaseResolver.DEFAULT_SEQUENCE_TAG:
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node, path)
        self._fault(_mark(node), path, f"the tag '{node.tag}' is not allowed here", hint="remove it")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key_node.tag != _STRING:
                self._fault(_mark(key_node), path, "a key must be text", hint="put it in quotes")
                continue
            here = (*path, key)
            if here in self.keys:
                first = self.keys[here]
                self._fault(_mark(key_node), here, f"this key is already there, on line {first.line}")
                continue
            self.keys[here] = _mark(key_node)
            self.children.setdefault(path, []).append(key)
            value = self.value(value_node, here)
            if value is not None:
                result[key] = value
        return result

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> str | int | bool | None:
        text: str = node.value
        match node.tag:
            case tag if tag == _STRING:
                return text
            case tag if tag == _BOOLEAN and text in {"true", "false"}:
                return text == "true"
            case tag if tag == _INTEGER and re.fullmatch(r"[-+]?[0-9]{1,18}", text):
                return int(text)
            case tag if tag == _NULL and path:
                self._fault(_mark(node), path, "has no value", hint="write one, or remove the line")
            case tag if tag == _NULL:
                raise SourceError(Problem(self.file, 0, 0, (), "the file is empty"))
            case _:
                self._fault(_mark(node), path, f"the tag '{node.tag}' is not allowed here", hint="remove it")
        return None

    def _fault(self, mark: Mark, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, mark.line, mark.column, path, message, hint=hint))


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _problem_at(file: str, mark: yaml.Mark | None, message: str, hint: str = "") -> Problem:
    if mark is None:
        return Problem(file, 1, 1, (), message, hint=hint)
    return Problem(file, mark.line + 1, mark.column + 1, (), message, hint=hint)


def _syntax_problem(file: str, text: str, error: yaml.MarkedYAMLError) -> Problem:
    """PyYAML's complaint in the operator's words; never a piece of the file, which could be a secret."""
    mark = error.problem_mark or error.context_mark
    problem, context = error.problem or "not valid YAML", error.context or ""
    unfinished = "end of stream" in problem or "<stream end>" in problem
    if "quoted scalar" in context and unfinished:
        return _problem_at(file, error.context_mark, "the quotation that begins here has no end")
    if "flow" in context and unfinished:
        return _problem_at(file, error.context_mark, "this bracket is never closed")
    message, hint = _syntax_message(problem, context)
    slip = _slip(text, mark.line) if mark is not None and "expected" in message else ""
    return _problem_at(file, mark, message, slip or hint)


def _syntax_message(problem: str, context: str) -> tuple[str, str]:
    """The message for a complaint that stands where it belongs, and what to do."""
    for sign, message, hint in _SYNTAX:
        if sign in problem:
            return message, hint
    if "single document" in context:
        return "the file holds a second document", "remove the '---' line"
    if begins := re.search(r"found character '(.)' that cannot start", problem):
        return f"a value cannot begin with '{begins[1]}'", "put it in quotes"
    if "while scanning an alias" in context:
        return "a '*' begins an alias, which wants a name", "put the value in quotes if it is none"
    if no_value := re.search(r"expected the node content, but found '(.)'", problem):
        return f"a value is expected here, not '{no_value[1]}'", "remove it, or put the value in quotes"
    if "expected ',' or" in problem:
        return "a ',' or the closing bracket is expected here", "close the bracket that was opened before"
    return f"YAML syntax error: {problem}", ""


_SYNTAX = (
    ("\\t", "a tab is used for indentation", "YAML wants blanks"),
    (
        "mapping values are not allowed",
        "a ':' is not expected here",
        "check the indentation of this line and the one above, or put the value in quotes",
    ),
    (
        "expected <block end>",
        "the indentation or a missing ':' makes this line unreadable",
        "compare it with the lines above; expected is 'key: value'",
    ),
    (
        "could not find expected ':'",
        "the indentation or a missing ':' makes this line unreadable",
        "compare it with the lines above; expected is 'key: value'",
    ),
    (
        "unknown escape character",
        "this escape is unknown",
        "in single quotes a backslash is only a backslash",
    ),
    ("undefined alias", "this alias names no anchor", ""),
    ("expected '<document start>'", "nothing more is expected here", "a line is 'key: value'"),
)
"""Signs in PyYAML's complaints, what we say in their place, and what to do."""

_SLIPS = (
    (re.compile(r" *-[A-Za-z_]+:"), "'-' wants a blank after it"),
    (re.compile(r" *(- +)?[A-Za-z_]+:[^\s:/]"), "':' wants a blank after it"),
    (re.compile(r" *(- +)?[A-Za-z_]+ *= *\S"), "'=' must be ':'"),
)
"""What people write in a hurry, and what is wrong with it."""


def _slip(text: str, line: int) -> str:
    """A well-known slip on the line (from 0) of a complaint or on the one before, which PyYAML took for text."""
    lines = text.split("\n", line + 1)
    for number in (line, line - 1):
        for slip, words in _SLIPS:
            if 0 <= number < len(lines) and slip.match(lines[number][:200]):
                return f"on line {number + 1} the {words}"
    return ""
