"""Who may import whom, and that every module says what it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("wccpd", "bgp", "gre", "config")


def modules() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if "_pb" not in path.parts]


def imported_names(path: Path) -> set[str]:
    """Top-level names of everything a module imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_import_contracts_of_the_project_hold() -> None:
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_by_saying_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("yaml", {"config/source.py"}),
        (
            "pydantic",
            {
                f"config/{each}.py"
                for each in (
                    "interop",
                    "kept",
                    "kinds",
                    "loader",
                    "model",
                    "passwords",
                    "reference",
                    "section",
                    "services",
                )
            }
            | {"config/wording.py"},
        ),
        ("aiohttp", {"wccpd/status/control.py"}),
        (
            "typer",
            {
                "wccpd/cli.py",
                "wccpd/manual/commands.py",
                *(
                    f"wccpd/ctl/{each}.py"
                    for each in (
                        "application",
                        "capture",
                        "completion",
                        "decode",
                        "diagnose",
                        "follow",
                        "operate",
                        "play",
                        "settings",
                        "show",
                        "support",
                    )
                ),
            },
        ),
        ("rich", {"wccpd/status/text.py"}),
        (
            "ctypes",
            {"wccpd/doctor/clock.py"}
            | {
                f"wccpd/dataplane/{module}.py"
                for module in (
                    "bpf/descriptor",
                    "bpf/filesystem",
                    "bpf/hooks",
                    "bpf/libbpf",
                    "bpf/maps",
                    "bpf/objects",
                    "bpf/programs",
                    "watch",
                )
            },
        ),
        ("scapy", {"wccpd/decode.py"}),
    ],
)
def test_a_library_is_imported_only_where_it_is_at_home(library: str, owners: set[str]) -> None:
    users = {str(path.relative_to(ROOT)) for path in modules() if library in imported_names(path)}
    assert users == owners
