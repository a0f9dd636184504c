"""Replacing the buckets of a service in one transaction: as nft text through libnftables, and by our own encoder.

A map of 256 buckets as the plane has it, in a namespace of its own; each call gives buckets other marks. Each way is
compared with the empty transaction that it can make itself: one message that changes nothing. The kernel frees
removed elements later, in a thread of its own, whose time is not in the figures of either way.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Final, Protocol

from bench.case import Case, microseconds
from bench.nfnetlink import ElementChange, ElementSocket, Field
from tests.support.namespaces import Namespace
from wccpd.dataplane.nft import Nft
from wccpd.plan.marks import MarkLayout
from wccpd.wire.enums import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.nfnetlink import Key

TABLE: Final = "wccpd"
REPEAT: Final = 40
GOAL: Final = 5.0
FEW: Final = 16
"""Of 256 buckets: what the loss of one of 16 caches moves."""
_TABLE_TEXT: Final = f"""add table ip {TABLE}
add map ip {TABLE} buckets {{ typeof meta length : meta mark; }}
add map ip {TABLE} none {{ typeof meta length : meta mark; }}
"""


class Way(Protocol):
    """A way of changing elements."""

    name: str

    def change_nothing(self) -> None:
        """An empty transaction."""

    def replace(self, marks: Mapping[Key, int]) -> None:
        """Give these buckets, all or some, other marks."""


class Text:
    """Through libnftables, as the plane writes all else."""

    name = "libnftables"

    def __init__(self) -> None:
        self._nft = Nft(TABLE)

    def change_nothing(self) -> None:
        """See `Way`."""
        self._nft.run(f"add table ip {TABLE}\n")

    def replace(self, marks: Mapping[Key, int]) -> None:
        """See `Way`."""
        all_or_some = (
            f"flush map ip {TABLE} buckets"
            if len(marks) == BUCKETS
            else f"delete element ip {TABLE} buckets {{ {', '.join(str(bucket) for (bucket,) in marks)} }}"
        )
        added = ", ".join(f"{bucket} : {mark}" for (bucket,), mark in marks.items())
        self._nft.run(f"{all_or_some}\nadd element ip {TABLE} buckets {{ {added} }}\n")


class Encoder:
    """By `bench.nfnetlink`."""

    name = "nfnetlink"

    def __init__(self) -> None:
        self._socket = ElementSocket(TABLE)

    def change_nothing(self) -> None:
        """See `Way`."""
        self._socket.change([ElementChange("none", (Field.HOST_32,), Field.HOST_32, flush=True)])

    def replace(self, marks: Mapping[Key, int]) -> None:
        """See `Way`."""
        whole = len(marks) == BUCKETS
        remove = () if whole else tuple(marks)
        change = ElementChange("buckets", (Field.HOST_32,), Field.HOST_32, whole, remove, marks)
        self._socket.change([change])


WAYS: Final = (Text, Encoder)


def cases() -> Iterator[Case]:
    """Nothing, a few buckets, all buckets; each way."""
    if os.geteuid() != 0:
        for way in WAYS:
            for name in ("empty_transaction", f"replace_{FEW}_buckets", f"replace_{BUCKETS}_buckets"):
                yield Case(
                    f"netlink_{name}_{way.name}",
                    "us",
                    None,
                    plane="netlink",
                    reason="needs root: a namespace",
                )
        return
    with Namespace("elements") as namespace:
        yield from namespace.call(lambda: [case for way in WAYS for case in _measured(way())])


def _measured(way: Way) -> Iterator[Case]:
    Nft(TABLE).run(_TABLE_TEXT)
    tables = tuple(_marks(cache_slot) for cache_slot in (1, 2))
    way.replace(tables[0])
    empty = microseconds(way.change_nothing, REPEAT)
    base = f"netlink_empty_transaction_{way.name}"
    yield Case(base, "us", empty, plane="netlink")
    for count, goal in ((FEW, ""), (BUCKETS, f"at most {GOAL:g} x")):
        turn = cycle({bucket: table[bucket] for bucket in list(table)[:count]} for table in tables)
        spent = microseconds(partial(_replace_next, way, turn), REPEAT)
        ratio = spent / empty
        yield Case(
            f"netlink_replace_{count}_buckets_{way.name}",
            "us",
            spent,
            goal,
            ratio <= GOAL if goal else None,
            base,
            ratio,
            "netlink",
        )


def _replace_next(way: Way, turn: Iterator[Mapping[Key, int]]) -> None:
    way.replace(next(turn))


def _marks(cache_slot: int) -> dict[Key, int]:
    layout = MarkLayout()
    return {(bucket,): layout.mark(slot=cache_slot, page=1, bucket=bucket) for bucket in range(BUCKETS)}
