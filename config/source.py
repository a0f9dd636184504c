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
    from collections.abc import Mapping

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
        message, hint = _syntax_message(error)
        raise SourceError(
            _problem_at(file, error.problem_mark or error.context_mark, message, hint)
        ) from None
    except ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, error.position - before.rfind("\n")
        raise SourceError(
            Problem(file, *place, (), f"the character {chr(int(error.character))!a} is not allowed in YAML")
        ) from None
    return Document(file, data, reading.values, reading.keys, tuple(reading.problems))


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


def _syntax_message(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """PyYAML's complaint in the operator's words; never a piece of the file, which could be a secret."""
    problem = error.problem or "not valid YAML"
    if "\\t" in problem:
        return "a tab is used for indentation", "YAML wants blanks"
    if "mapping values are not allowed" in problem:
        return "a ':' is not expected here", "check the indentation, or put the value in quotes"
    if "expected <block end>" in problem or "could not find expected ':'" in problem:
        return (
            "the indentation or a missing ':' makes this line unreadable",
            "compare it with the lines above",
        )
    if "single document" in (error.context or ""):
        return "the file holds a second document", "remove the '---' line"
    if "undefined alias" in problem:
        return "this alias names no anchor", ""
    return f"YAML syntax error: {problem}", ""
