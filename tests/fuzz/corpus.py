"""The kept corpus: one datagram a line in hex, each there because it reaches code that no other one reaches."""

from __future__ import annotations

import hashlib
from pathlib import Path

FILE = Path(__file__).with_name("corpus.hex")


def load() -> list[bytes]:
    """Every datagram, in the order of the file."""
    return [bytes.fromhex(line) for line in FILE.read_text(encoding="ascii").split("\n") if line]


def save(datagrams: set[bytes]) -> None:
    """Replace the file: shorter ones first, so that additions are seen in a diff."""
    ordered = sorted(datagrams - {b""}, key=lambda each: (len(each), each))
    FILE.write_text("".join(f"{each.hex()}\n" for each in ordered), encoding="ascii")


def unpack(directory: Path) -> Path:
    """Write each datagram to a file of its own, as libFuzzer wants it."""
    directory.mkdir(parents=True, exist_ok=True)
    for datagram in load():
        (directory / hashlib.sha1(datagram, usedforsecurity=False).hexdigest()).write_bytes(datagram)
    return directory
