"""Our nftables table through libnftables: one transaction at a time in, JSON listings out.

Writing is nft's own text, since that is what an operator can read and try by hand; reading is JSON.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import Any

import nftables

from wccpd.dataplane.watch import sender_of
from wccpd.errors import KernelError
from wccpd.plan.diff import ObservedTable
from wccpd.plan.model import LAYOUT, LAYOUT_PREFIX
from wccpd.plan.verdict import Count

_ASLEEP = f"{LAYOUT_PREFIX}dormant"
"""Our tables have no flags. One that somebody made `dormant` looks at nothing, and so is replaced like one of another
layout. nft 1.0.6 lists any word for the flag."""
Json = Any
"""A piece of a libnftables-json(5) listing."""


class Nft:
    """A libnftables context. To be used from one thread, in the network namespace where it was made."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._context = nftables.Nftables()
        self._context.set_json_output(True)
        self._context.set_numeric_proto_output(True)

    def run(self, transaction: str) -> None:
        """Commit one transaction, all or nothing.

        Raises:
            KernelError: libnftables or the kernel refused it; nothing was changed.
        """
        code, _, error = self._context.cmd(transaction)
        if code != 0:
            raise KernelError(f"nft table {self.table}", "change", _errno(error), _first_line(error))

    def sender(self) -> int:
        """The netlink address from which our transactions come, which notices of them bear; 0 if it is not known.

        Raises:
            KernelError: Transactions or notices are not to be had at all.
        """
        table = f"{self.table}_try"
        return sender_of(lambda: self.run(f"add table ip {table}\ndelete table ip {table}\n"), table)

    def takes_rule(self, rule: str) -> bool:
        """Whether libnftables and the kernel know everything in a rule; the try leaves nothing behind."""
        table = f"ip {self.table}_try"
        tried = f"add table {table}; add chain {table} c; add rule {table} c {rule}; delete table {table}"
        return bool(self._context.cmd(tried)[0] == 0)

    def observe(self) -> ObservedTable | None:
        """The table as it is, None when there is none.

        Raises:
            KernelError: nftables cannot be listed at all.
        """
        code, output, error = self._context.cmd("list tables ip")
        if code != 0:
            raise KernelError("nft tables", "list", _errno(error), _first_line(error))
        if not any(item["table"]["name"] == self.table for item in _objects(output) if "table" in item):
            return None
        code, output, error = self._context.cmd(f"list table ip {self.table}")
        if code != 0:
            raise KernelError(f"nft table {self.table}", "list", _errno(error), _first_line(error))
        table = replace(read_table(_objects(output)), name=self.table)
        if not table.is_ours:
            raise KernelError(
                f"nft table {self.table}",
                "adopt",
                errno.EEXIST,
                "somebody else's; kernel.nft_table names ours",
            )
        return table

    def element_counters(self, name: str) -> dict[str, Count]:
        """What the elements of one map have counted.

        Raises:
            KernelError: There is no such map, or it cannot be listed.
        """
        code, output, error = self._context.cmd(f"list map ip {self.table} {name}")
        if code != 0:
            raise KernelError(f"nft map {self.table} {name}", "list", _errno(error), _first_line(error))
        (elements,) = (item["map"].get("elem", []) for item in _objects(output) if "map" in item)
        return _counted(elements)


def _counted(elements: list[Json]) -> dict[str, Count]:
    return {_text(key): count for key, _ in elements if (count := _count(key)) is not None}


def read_table(objects: list[Json]) -> ObservedTable:
    """Turn the objects of one table's JSON listing into an `ObservedTable`."""
    counters: dict[str, Count] = {}
    sets: dict[str, frozenset[str]] = {}
    maps: dict[str, dict[str, str]] = {}
    element_counters: dict[str, dict[str, Count]] = {}
    chains: dict[str, list[str]] = {}
    has_flags = False
    for item in objects:
        ((kind, body),) = item.items()
        match kind:
            case "table":
                has_flags = "flags" in body
            case "counter":
                counters[body["name"]] = Count(body["packets"], body["bytes"])
            case "set":
                sets[body["name"]] = frozenset(_text(element) for element in body.get("elem", ()))
            case "map":
                elements = body.get("elem", ())
                maps[body["name"]] = {_text(key): _text(value) for key, value in elements}
                counted = _counted(elements)
                if counted:
                    element_counters[body["name"]] = counted
            case "chain":
                chains[body["name"]] = []
            case "rule":
                chains[body["chain"]].append(body.get("comment", ""))
    return ObservedTable(
        counters=counters,
        sets=sets,
        maps=maps,
        element_counters=element_counters,
        chains={
            _ASLEEP if has_flags and name == LAYOUT else name: tuple(comments)
            for name, comments in chains.items()
        },
    )


def _count(key: Json) -> Count | None:
    """The counter of a map's element."""
    match key:
        case {"elem": {"counter": {"packets": packets, "bytes": octets}}}:
            return Count(packets, octets)
        case _:
            return None


def _text(element: Json) -> str:
    """An element in the spelling that `plan.model` uses."""
    match element:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"jump": {"target": chain}}:
            return f"jump {chain}"
        case {"goto": {"target": chain}}:
            return f"goto {chain}"
        case {"elem": {"val": value}}:
            return _text(value)
        case {"concat": fields}:
            return " . ".join(map(_text, fields))
        case _:
            return str(element)


def _objects(output: str) -> list[Json]:
    if not output:
        return []
    return [item for item in json.loads(output)["nftables"] if "metainfo" not in item]


def _first_line(error: str) -> str:
    return error.strip().partition("\n")[0]


_ERRNO = {os.strerror(number): number for number in errno.errorcode}


def _errno(error: str) -> int:
    """The errno behind libnftables' words, which end with the C library's for it; 0 for a syntax error."""
    return next((number for words, number in _ERRNO.items() if _first_line(error).endswith(words)), 0)
