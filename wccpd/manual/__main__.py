"""`python -m wccpd.manual`: write the manual pages and the JSON Schema of the checkout anew."""

from __future__ import annotations

from pathlib import Path

from config import schema
from wccpd import manual
from wccpd.manual.pages import PAGES

FOLDER = Path(manual.__file__).parents[2] / "man"


def write() -> None:
    """Write each file that is made of texts in the code."""
    schema.FILE.write_text(schema.schema_text())
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    write()
