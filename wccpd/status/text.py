"""One screen of status: aligned text without colour for pipes and files, tables with colour for terminals.

Lays out what `screen` decided to show, and knows nothing of what it means but the words that have a colour.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from wccpd.status.buckets import GUTTER
from wccpd.status.screen import Table, screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from wccpd.status.buckets import Picture
    from wccpd.status.view import Status

WIDTH = 80

_CACHE_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")
_COLOURS = {
    "YES": "bold green",
    "NO": "bold red",
    "up": "green",
    "established": "green",
    "usable": "green",
    "degraded": "yellow",
    "negotiating": "yellow",
    "draining": "yellow",
    "stale": "yellow",
    "down": "red",
    "lost": "red",
    "incompatible": "red",
}


def plain(status: Status, *, width: int = WIDTH) -> str:
    """The screen as aligned text without colour, wrapped to `width` columns."""
    shown = screen(status)
    lines = [f"Is traffic being inspected? {'YES' if shown.inspecting else 'NO'}"]
    for reason in shown.reasons:
        lines += textwrap.wrap(reason, width, initial_indent="  - ", subsequent_indent="    ")
    for table in shown.tables:
        lines += ["", table.title, *_plain_table(table, width)]
    return "\n".join(lines)


def plain_tables(tables: Iterable[Table], *, width: int = WIDTH) -> str:
    """Some tables as aligned text without colour."""
    return "\n\n".join("\n".join((table.title, *_plain_table(table, width))) for table in tables)


def _plain_table(table: Table, width: int) -> Iterator[str]:
    for remark in table.remarks:
        yield from _wrapped(remark, width, 2)
    if table.rows:
        yield from _plain_rows(table, width)
    for footer in table.footers:
        yield from _wrapped(footer, width, 2)


def _plain_rows(table: Table, width: int) -> Iterator[str]:
    headings = tuple(column.removeprefix(">") for column in table.columns)
    grid = [headings, *(row.cells for row in table.rows)]
    sizes = [max(map(len, column)) for column in zip(*grid, strict=True)]
    gap = "  " if sum(sizes) + 2 * len(sizes) <= width else " "
    notes = ((), *(row.notes for row in table.rows))
    for cells, under in zip(grid, notes, strict=True):
        aligned = [
            cell.rjust(size) if column.startswith(">") else cell.ljust(size)
            for cell, size, column in zip(cells, sizes, table.columns, strict=True)
        ]
        yield f"  {gap.join(aligned)}".rstrip()
        for note in under:
            yield from _wrapped(note, width, 6)


def _wrapped(sentence: str, width: int, indent: int) -> list[str]:
    blanks = " " * indent
    return textwrap.wrap(sentence, width, initial_indent=blanks, subsequent_indent=blanks + "  ")


def print_to_terminal(status: Status, console: Console | None = None) -> None:
    """Print the screen as tables with colour.

    Args:
        status: what to print.
        console: where; standard output in the terminal's width if left out.
    """
    from rich.console import Console as NewConsole  # noqa: PLC0415 - slow to import, and pipes never need it
    from rich.padding import Padding  # noqa: PLC0415

    target = console or NewConsole(highlight=False, markup=False, emoji=False)
    shown = screen(status)
    target.print("Is traffic being inspected? ", _coloured("YES" if shown.inspecting else "NO"), sep="")
    for reason in shown.reasons:
        target.print(Padding(f"- {reason}", (0, 0, 0, 2)))
    for table in shown.tables:
        _print_table(target, table)


def clear_terminal() -> None:
    """Begin at the top of an empty terminal."""
    from rich.console import Console as NewConsole  # noqa: PLC0415 - slow to import, and pipes never need it

    NewConsole().clear()


def print_tables_to_terminal(tables: Iterable[Table]) -> None:
    """Print some tables with colour to standard output, in the terminal's width."""
    from rich.console import Console as NewConsole  # noqa: PLC0415 - see print_to_terminal

    target = NewConsole(highlight=False, markup=False, emoji=False)
    for table in tables:
        _print_table(target, table)


def print_buckets_to_terminal(pictures: Iterable[Picture]) -> None:
    """Print the owners of buckets, each cache in a colour of its own."""
    from rich.console import Console as NewConsole  # noqa: PLC0415 - see print_to_terminal
    from rich.text import Text as NewText  # noqa: PLC0415

    target = NewConsole(highlight=False, markup=False, emoji=False)
    for picture in pictures:
        target.print(picture.title, style="bold")
        styles = {
            share.letter: f"bold {_CACHE_COLOURS[index % len(_CACHE_COLOURS)]}"
            for index, share in enumerate(picture.shares)
        }
        for line in picture.lines:
            text = NewText(line)
            for place, letter in enumerate(line):
                if letter in styles and place >= GUTTER:
                    text.stylize(styles[letter], place, place + 1)
            target.print(text)
        for share in picture.shares:
            target.print(NewText(share.words, style=styles[share.letter]))


def _print_table(target: Console, table: Table) -> None:
    from rich.padding import Padding  # noqa: PLC0415 - see print_to_terminal

    target.print()
    target.print(table.title, style="bold")
    for remark in table.remarks:
        target.print(Padding(remark, (0, 0, 0, 2)))
    if table.rows:
        target.print(Padding(_grid(table), (0, 0, 0, 2)))
    for row in table.rows:
        for note in row.notes:
            target.print(Padding(f"{row.cells[0]}: {note}", (0, 0, 0, 4)), style="dim")
    for footer in table.footers:
        target.print(Padding(footer, (0, 0, 0, 2)))


def _grid(table: Table) -> Grid:
    from rich import box  # noqa: PLC0415 - see print_to_terminal
    from rich.table import Table as NewGrid  # noqa: PLC0415

    grid = NewGrid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in table.columns:
        grid.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in table.rows:
        grid.add_row(*map(_coloured, row.cells))
    return grid


def _coloured(word: str) -> Text:
    from rich.text import Text as NewText  # noqa: PLC0415 - see print_to_terminal

    return NewText(word, style=_COLOURS.get(word, ""))
