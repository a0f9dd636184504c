"""Routes into the kernel: our encoder against `ip -batch`, in the same namespace, turn by turn."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from bench.case import Case
from bgp.events import NextHop, RouteSet
from tests.support.namespaces import Namespace, run
from wccpd.dataplane.routes import GaveWayError, KernelRoutes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTES = 5_000
ROUNDS = 3
PREFIXES = [IPv4Network((0x0A000000 + (number << 6), 26)) for number in range(ROUTES)]
BOTH = frozenset({NextHop("tun-a"), NextHop("tun-b")})


def cases() -> Iterator[Case]:
    """Write 5,000 routes over two tunnels, both ways."""
    if os.geteuid() != 0:
        yield Case("routes_write", "routes/s", None, reason="needs root to make network namespaces")
        return
    with Namespace("r") as router, Namespace("f") as far:
        for number, name in enumerate(("a", "b"), 1):
            net = f"10.255.{number}"
            router.connect(f"tun-{name}", f"{net}.1/24", far, f"far-{name}", f"{net}.2/24")
        kernel = router.call(KernelRoutes)
        wanted = RouteSet.of(dict.fromkeys(PREFIXES, BOTH))
        try:
            ours, theirs, moves = [], [], []
            for _ in range(ROUNDS):
                theirs.append(_ip_batch(router))
                ours.append(_sync(kernel, wanted, written=ROUTES))
                moves.append(
                    _sync(kernel, RouteSet.of(dict.fromkeys(PREFIXES, frozenset({NextHop("tun-a")}))))
                )
                kernel.remove_all()
            _sync(kernel, wanted, written=ROUTES)
            behind = _moves_behind_a_listing(kernel)
        finally:
            kernel.close()
    ratio = min(theirs) / min(ours)
    yield Case(
        "routes_write", "routes/s", ROUTES / min(ours), ratio_to="ip -batch, through the same groups", ratio=ratio,
        goal="at least 1.0 x", met=ratio >= 1.0,
    )  # fmt: skip
    worst = max(moves) * 1000
    yield Case("routes_move_5000", "ms", worst, goal="under 100 ms", met=worst < 100)
    worst = max(behind) * 1000
    yield Case("routes_move_5000_while_verifying", "ms", worst, goal="under 100 ms", met=worst < 100)


def _moves_behind_a_listing(kernel: KernelRoutes) -> list[float]:
    """Lose a tunnel at every point of a verifying look, as the daemon takes every few seconds."""
    both, one = (RouteSet.of(dict.fromkeys(PREFIXES, hops)) for hops in (BOTH, frozenset({NextHop("tun-a")})))
    took = []
    with ThreadPoolExecutor(1) as worker:
        for milliseconds in range(1, 60, 3):
            looking = worker.submit(kernel.sync, both)
            time.sleep(milliseconds / 1000)
            started = time.perf_counter()
            kernel.hurry()
            worker.submit(_sync, kernel, one).result()
            took.append(time.perf_counter() - started)
            with contextlib.suppress(GaveWayError):
                looking.result()
            _sync(kernel, both)
    return took


def _sync(kernel: KernelRoutes, wanted: RouteSet, written: int = 0) -> float:
    started = time.perf_counter()
    result = kernel.sync(wanted, verify=False)
    took = time.perf_counter() - started
    assert (result.written, result.routes, result.errors) == (written, ROUTES, ())
    return took


def _ip_batch(router: Namespace) -> float:
    """The same routes through a next-hop group, by iproute2; its process's start is left out of the time."""
    for number, name in ((1, "a"), (2, "b")):
        router.run("ip", "nexthop", "add", "id", str(number), "dev", f"tun-{name}")
    router.run("ip", "nexthop", "add", "id", "3", "group", "1/2")
    lines = "".join(f"route add {prefix} nhid 3 proto 99\n" for prefix in PREFIXES)
    path = f"/tmp/{router.name}.batch"
    with open(path, "w", encoding="ascii") as file:
        file.write(lines)
    try:
        command = ["ip", "netns", "exec", router.name, "ip", "-batch"]
        started = time.perf_counter()
        run([*command, os.devnull])
        idle = time.perf_counter() - started
        started = time.perf_counter()
        run([*command, path])
        took = time.perf_counter() - started - idle
        for each in ("3", "1", "2"):
            router.run("ip", "nexthop", "delete", "id", each)
        return took
    finally:
        os.unlink(path)
