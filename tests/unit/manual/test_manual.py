"""The manual pages: current, whole, and roff that both formatters take without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import pytest
import typer

from config.reference import settings
from wccpd import cli, manual
from wccpd.exit_codes import ExitCode
from wccpd.manual import Page, command_page
from wccpd.manual.pages import PAGES

FOLDER = Path(manual.__file__).parents[2] / "man"


def formatted(page: str) -> str:
    """A page as a reader sees it, on one line, without overstrikes."""
    done = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=200"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return " ".join(re.sub(".\b", "", done.stdout).split())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_the_checkout_is_the_one_that_the_code_makes(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make manual`"


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_finds_nothing_to_say_about_a_page(name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", str(FOLDER / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("man") is None, reason="man-db is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_warnings_about_a_page(name: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(FOLDER / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_of_the_file_has_every_key_with_all_that_is_known_about_it() -> None:
    text = formatted(PAGES["wccpd.yaml.5"]())
    for setting in settings():
        assert setting.key in text
        assert " ".join(setting.description.replace("`", "").split()) in text
        assert setting.accepts.replace("`", "")[1:] in text
        assert setting.default.replace("`", "") in text


def test_the_page_of_the_command_has_every_subcommand_with_its_help_and_options() -> None:
    text = formatted(PAGES["wccpd.8"]())
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert " ".join((command.callback.__doc__ or "").replace("`", "").split()) in text
    assert "-o, --output <text|json> How to write the answer." in text
    assert "FILE Configuration file. [default: /etc/wccpd/wccpd.yaml]" in text


toy = typer.Typer(name="toy", help="A toy.\n\nIt does nothing.")
show = typer.Typer()
toy.add_typer(show, name="show")


@toy.command()
def plain() -> None:
    """Do nothing, with no options."""


@toy.command(hidden=True)
def secret() -> None:
    """Be hidden."""


@show.command("all-of-it")
def everything(count: Annotated[int, typer.Option("--count", "-n", help="How often.")] = 3) -> None:
    """Show it: .TH 'quoted' and C:\\temp."""


def test_commands_inside_commands_are_named_in_full_and_hidden_ones_not_at_all() -> None:
    page = command_page(toy, 1, purpose="toy", exit_codes={ExitCode.OK: "Played."}, see_also="`man`(1)")
    lines = page.splitlines()
    assert [line for line in lines if line.startswith(".SS")] == [
        r".SS \fBplain\fP",
        r".SS \fBshow all\-of\-it\fP [OPTIONS]",
    ]
    text = formatted(page)
    assert "TOY(1)" in text
    assert "A toy. It does nothing." in text
    assert r"Show it: .TH 'quoted' and C:\temp." in text
    assert "-n, --count <int> How often. [default: 3]" in text
    assert "hidden" not in text


def test_text_cannot_become_a_request_and_is_shown_letter_by_letter() -> None:
    page = Page("x", 1, "test")
    page.heading("Text")
    page.paragraph(".SH no request")
    page.item("-a, --all", "It's a ~ and a ^ and `bold`.", ".TP neither")
    page.literal(".nf\n'quoted'\n\\n")
    text = formatted(page.text())
    for words in (
        ".SH no request",
        "-a, --all",
        "It's a ~ and a ^ and bold.",
        ".TP neither",
        ".nf",
        "'quoted'",
        "\\n",
    ):
        assert words in text
