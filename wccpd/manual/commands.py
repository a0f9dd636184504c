"""The manual page of a command, from its typer application: the same words as `--help` has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from wccpd.manual.roff import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from wccpd.exit_codes import ExitCode

_Command: TypeAlias = TyperCommand | TyperGroup


def command_page(
    app: typer.Typer,
    section: int,
    *,
    purpose: str,
    exit_codes: Mapping[ExitCode, str],
    see_also: str,
    more: Callable[[Page], None] | None = None,
) -> str:
    """Write the page of a command with all its subcommands.

    Args:
        app: The application. Its help is the description; the help of commands and options is theirs.
        section: Section of the manual, 1 or 8.
        purpose: What the command is for, in a few words without a full stop.
        exit_codes: Those that it ends with, and what each means.
        see_also: Names of other pages, e.g. `wccpctl(8), wccpd.yaml(5)`.
        more: Writes sections of its own between commands and exit codes, such as files and examples.
    """
    command = get_command(app)
    assert isinstance(command, TyperGroup), "an application with subcommands"
    context = _context(command, command.name or "", None)
    page = Page(context.command_path, section, purpose)
    page.heading("Synopsis")
    page.paragraph(f"`{context.command_path}` {_usage(command, context)}")
    page.heading("Description")
    for paragraph in _paragraphs(command.help):
        page.paragraph(paragraph)
    _write_parameters(page, command, context)
    page.heading("Commands")
    for subcommand, subcontext in _subcommands(command, context):
        name = subcontext.command_path.removeprefix(context.command_path).strip()
        page.subheading(f"`{name}` {_usage(subcommand, subcontext)}".strip())
        for paragraph in _paragraphs(subcommand.help):
            page.paragraph(paragraph)
        _write_parameters(page, subcommand, subcontext)
    if more is not None:
        more(page)
    page.heading("Exit status")
    for code, meaning in exit_codes.items():
        page.item(str(int(code)), meaning)
    page.heading("See also")
    page.paragraph(see_also)
    return page.text()


def _context(command: _Command, name: str, parent: typer.Context | None) -> typer.Context:
    return typer.Context(command, info_name=name, parent=parent)


def _subcommands(command: _Command, context: typer.Context) -> Iterator[tuple[_Command, typer.Context]]:
    """Every command below this one that does something itself, and is not hidden."""
    if not isinstance(command, TyperGroup):
        return
    for name in command.list_commands(context):
        subcommand = command.get_command(context, name)
        if not isinstance(subcommand, TyperCommand | TyperGroup) or subcommand.hidden:
            continue
        subcontext = _context(subcommand, name, context)
        if isinstance(subcommand, TyperGroup):
            yield from _subcommands(subcommand, subcontext)
        else:
            yield subcommand, subcontext


def _usage(command: _Command, context: typer.Context) -> str:
    """What follows the command's name; `[OPTIONS]` only where there are some beside `--help`."""
    pieces = command.collect_usage_pieces(context)
    if not any(term.startswith("-") for term, _ in _parameters(command, context)):
        pieces = [piece for piece in pieces if piece != command.options_metavar]
    return " ".join(pieces)


def _write_parameters(page: Page, command: _Command, context: typer.Context) -> None:
    for term, text in _parameters(command, context):
        page.item(term, text)


def _parameters(command: _Command, context: typer.Context) -> Iterator[tuple[str, str]]:
    """Arguments and options as `--help` lists them, `--help` itself left out, and the types of arguments."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        term, text = record
        if parameter.param_type_name == "argument":
            term = re.sub(r" *<[^<>]*>$", "", term)
        yield " ".join(term.split()), text


def _paragraphs(text: str | None) -> Iterable[str]:
    return (text or "").strip().split("\n\n")
