"""Recorded datagrams with what they mean (tests/vectors/wire)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "vectors" / "wire"


@dataclass(frozen=True)
class Vector:
    name: str
    origin: str
    datagram: bytes
    password: bytes
    expect: dict[str, Any]
    """Path of an attribute to its value: addresses and keys as text, octets as hex."""


def load() -> list[Vector]:
    vectors = []
    for path in sorted(FOLDER.glob("*.json")):
        raw = json.loads(path.read_text())
        datagram = bytes.fromhex("".join(raw["hex"]))
        vectors.append(Vector(raw["name"], raw["origin"], datagram, raw["password"].encode(), raw["expect"]))
    return vectors


VECTORS = load()
HASH_HERE_I_AM = next(each.datagram for each in VECTORS if each.name == "squid-hash-here-i-am")


def look_up(message: object, path: str) -> object:
    """Follow `a.b.0.c` and reduce what stands there to what JSON can say."""
    value: Any = message
    for step in path.split("."):
        value = value[int(step)] if step.isdigit() else getattr(value, step)
    return plain(value)


def plain(value: Any) -> object:
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case bytes():
            return value.hex()
        case tuple() if not hasattr(value, "_fields"):
            return [plain(each) for each in value]
        case _:
            return str(value)
