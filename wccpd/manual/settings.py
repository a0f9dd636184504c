"""wccpd.yaml(5): the manual page of the configuration file, from the descriptions in its models."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import config
from config.reference import Setting, settings
from wccpd.manual.roff import Page

EXAMPLES = Path(config.__file__).parent / "examples"


def settings_page() -> str:
    """Write the page."""
    page = Page("wccpd.yaml", 5, "configuration of wccpd, the WCCPv2 router")
    page.heading("Synopsis")
    page.paragraph("`/etc/wccpd/wccpd.yaml`")
    page.heading("Description")
    page.paragraph(
        "One YAML file says all that `wccpd` needs to know. "
        "`wccpd check FILE` reads it without touching anything else and names every mistake with its line and column. "
        "`wccpd explain-config KEY` shows what is written here about one key."
    )
    page.paragraph(
        "The YAML is plain: mappings, lists, text, whole numbers, `true` and `false`. "
        "Words such as `no` or `on` are text, numbers with a leading zero are text, a key may stand only once, and "
        "tags and merge keys are refused. "
        "A key without a value is a mistake: leave out what is to have its default. "
        "The file has at most 256 KiB."
    )
    page.paragraph(
        "Passwords are never written in this file. They have 1 to 8 octets, since the protocol has no room for more, "
        "and come from a file, from an environment variable, or from a systemd credential."
    )
    page.paragraph(
        "For completion and checks in an editor with the YAML language server, begin the file with the line below; "
        "`wccpd schema` prints the JSON Schema."
    )
    page.literal("# yaml-language-server: $schema=/etc/wccpd/wccpd.schema.json")
    page.heading("Example")
    page.paragraph("The smallest router: one Connect peer of a Transit Gateway, proxies for port 80.")
    page.literal(_without_comments((EXAMPLES / "one-router.yaml").read_text()))
    page.heading("Settings")
    for _, group in groupby(settings(), lambda each: each.path[0]):
        _write_group(page, list(group))
    page.heading("See also")
    page.paragraph("`wccpd`(8), `wccpctl`(8), `systemd.exec`(5)")
    return page.text()


def _write_group(page: Page, group: list[Setting]) -> None:
    """A section of the file with all that is in it; a mapping inside it gets its own part."""
    section = group[0]
    page.subheading(f"`{section.key}`")
    page.paragraph(f"{_facts(section)}. {section.description}")
    for setting in group[1:]:
        paragraphs = [f"{_facts(setting)}.", setting.description]
        if setting.example and setting.example != setting.default:
            paragraphs.append(f"Example: `{setting.path[-1]}: {setting.example}`")
        page.item(setting.key, *paragraphs)


def _facts(setting: Setting) -> str:
    """What may be written and what counts otherwise, as one sentence without its full stop."""
    words = setting.accepts[0].upper() + setting.accepts[1:]
    if setting.unit:
        words += f", in {setting.unit}"
    if setting.required:
        return f"{words}; required"
    return f"{words}; default: {setting.default}" if setting.default else words


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))
