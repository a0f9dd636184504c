"""The floor under any redirect by tc: a hand-written program with one hard-coded cache (`sources/static.bpf.c`)."""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.packets.compiler import compiled
from bench.packets.forwarding import Scenario
from wccpd.dataplane.bpf.objects import BpfObject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.packets.router import Router

CACHE: Final = 2
"""Its next hop."""
_U32 = struct.Struct("=I")


def scenarios() -> Iterator[Scenario]:
    """By L2 and in GRE; no goal is set for them."""
    for method in ("l2", "gre"):
        yield Scenario(
            f"ebpf_static_{method}", partial(_prepare, f"static_{method}"), frozenset({CACHE}), "ebpf"
        )


def _prepare(program: str, router: Router) -> None:
    with BpfObject(router.library, compiled("static")) as static:
        static.load_only([program])
        static.load()
        static.map("egress").update(_U32.pack(0), _U32.pack(router.egress_index))
        router.attach_at_ingress(static.program(program))  # stays when the object is closed
