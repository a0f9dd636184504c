"""What an installed wccpd puts into site-packages, whose generic names are why it wants an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"wccpd", "bgp", "gre", "config"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """A wheel built from a copy of the sources, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__", "*.bpf.o")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    shutil.copytree(ROOT / "man", source / "man")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    readme = ROOT / "README.md"
    (source / "README.md").write_text(readme.read_text() if readme.exists() else "wccpd\n")
    build = (
        "import sys, warnings; warnings.simplefilter('ignore'); "
        "from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", build, str(source)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return zipfile.Path(next(source.glob("*.whl")))


def names(wheel: zipfile.Path) -> list[str]:
    return wheel.root.namelist()


def test_top_level_names_are_exactly_the_four_packages(wheel: zipfile.Path) -> None:
    top = {name.split("/")[0] for name in names(wheel)}
    assert {name for name in top if not name.endswith((".dist-info", ".data"))} == PACKAGES


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: zipfile.Path) -> None:
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sources - set(names(wheel)) == set()


def test_typing_markers_examples_and_schema_are_in_the_wheel(wheel: zipfile.Path) -> None:
    examples = {str(path.relative_to(ROOT)) for path in (ROOT / "config" / "examples").iterdir()}
    wanted = {f"{package}/py.typed" for package in PACKAGES} | examples | {"config/wccpd.schema.json"}
    assert wanted - set(names(wheel)) == set()


def test_the_manual_pages_go_to_where_man_looks_below_the_environment(wheel: zipfile.Path) -> None:
    files = (name for name in names(wheel) if not name.endswith("/"))
    installed = {name.partition(".data/data/")[2] for name in files if ".data/data/" in name}
    pages = {path.name for path in (ROOT / "man").iterdir()}
    assert installed == {f"share/man/man{name[-1]}/{name}" for name in pages}
    assert {"wccpd.8", "wccpd.yaml.5"} <= pages


def test_both_commands_are_installed_and_an_upload_is_refused(wheel: zipfile.Path) -> None:
    info = next(entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    scripts = (info / "entry_points.txt").read_text()
    assert "wccpd = wccpd.cli:main" in scripts
    assert "wccpctl = wccpd.ctl:main" in scripts
    assert "Classifier: Private :: Do Not Upload" in (info / "METADATA").read_text()


def test_the_ebpf_program_is_compiled_into_the_wheel(wheel: zipfile.Path) -> None:
    made = wheel / "wccpd" / "dataplane" / "ebpf" / "redirect.bpf.o"
    assert made.read_bytes().startswith(b"\x7fELF")
