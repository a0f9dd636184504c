"""The pages that there are, by the names of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd import cli, ctl
from wccpd.exit_codes import ExitCode
from wccpd.manual.commands import command_page
from wccpd.manual.settings import settings_page
from wccpd.status.events import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from wccpd.manual.roff import Page


def wccpd_page() -> str:
    """wccpd(8)."""
    return command_page(
        cli.app,
        8,
        purpose="WCCPv2 router for Linux",
        exit_codes={
            ExitCode.OK: "The command did what it says; of `check`: the file can be used, perhaps with warnings.",
            ExitCode.FAILURE: "Something else went wrong; standard error, or the log, says what.",
            ExitCode.CONFIG: "The configuration file or the command line is wrong; nothing was touched.",
        },
        see_also="`wccpctl`(8), `wccpd.yaml`(5), `gobgpd`(8), `nft`(8), `ip-rule`(8)",
        more=_wccpd_more,
    )


def _wccpd_more(page: Page) -> None:
    page.heading("Output of check")
    page.paragraph(
        "A mistake is a line `FILE:LINE:COLUMN: KEY: what is wrong, found ...; allowed: ...; a hint`; "
        "all of them come at once, on standard error. Warnings look the same, with the word `warning` before the key."
    )
    page.paragraph("With `-o json` it is one object on standard output. Keys may be added, and none changes:")
    page.item("version", "1.")
    page.item("file", "The name as it was given.")
    page.item("usable", "Whether the file can be used.")
    page.item(
        "problems, warnings",
        "Lists of objects with `file`, `line` and `column` (from 1; 0 for the file as a whole), `key` (such as "
        "`services[0].mode`), `message`, `found`, `expected` and `hint`; what says nothing is empty text.",
    )
    page.item(
        "settings", "All settings with their defaults, without passwords; null if the file cannot be used."
    )
    page.heading("Files")
    page.item(str(cli.DEFAULT_CONFIG), "The configuration, see `wccpd.yaml`(5).")
    page.item("/run/wccpd/control.sock", "Socket of the control API; `wccpctl` asks there.")
    page.item("/var/lib/wccpd", "What must outlive a restart.")
    page.heading("Environment")
    page.item("CREDENTIALS_DIRECTORY", "Set by systemd: where passwords named in `password_credential` are.")
    page.heading("Examples")
    page.paragraph("Check a file before it is put in place, and stop a script if it cannot be used:")
    page.literal("wccpd check new.yaml && install -m 0640 new.yaml /etc/wccpd/wccpd.yaml")
    page.paragraph("Every mistake of a file, for a program:")
    page.literal("wccpd check -o json new.yaml | jq '.problems[] | {line, key, message}'")
    page.paragraph("What may be written as the mode of a service:")
    page.literal("wccpd explain-config services.mode")


def wccpctl_page() -> str:
    """wccpctl(8)."""
    return command_page(
        ctl.app,
        8,
        purpose="ask a running wccpd, and give it orders",
        exit_codes={
            ExitCode.OK: "The command did what it says; of `check`: all is well.",
            ExitCode.FAILURE: "It was refused, or did not come about in time; of `check`: a warning.",
            ExitCode.CONFIG: "The command line is wrong; of `check`: critical.",
            ExitCode.UNREACHABLE: "The daemon could not be asked; of `check`: unknown.",
        },
        see_also="`wccpd`(8), `wccpd.yaml`(5)",
        more=_wccpctl_more,
    )


def _wccpctl_more(page: Page) -> None:
    page.heading("Events")
    page.paragraph("What `events` and `GET /v1/events` tell, by the names that the log has too:")
    for name, meaning in NAMES.items():
        page.item(name, meaning)
    page.heading("Environment")
    page.item("WCCPD_CONTROL_SOCKET", "The control socket, like `--socket`.")
    page.item("NO_COLOR", "If set, nothing has a colour.")
    page.heading("Examples")
    page.paragraph("Stop a script until every service has two caches:")
    page.literal("wccpctl wait --usable 2 --timeout 60")
    page.paragraph("Complete commands in bash:")
    page.literal(". <(wccpctl completion bash)")


PAGES: dict[str, Callable[[], str]] = {
    "wccpctl.8": wccpctl_page,
    "wccpd.8": wccpd_page,
    "wccpd.yaml.5": settings_page,
}
