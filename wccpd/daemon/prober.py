"""Carries out the probes: connections of our own that the kernel sends the redirect's way, by their mark.

One task for each cache of each probed service. What a result means is the ledger's to say (wccpd/plan/probe.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

from wccpd import __version__
from wccpd.plan.probe import ProbeKind, ProbeLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from ipaddress import IPv4Address

    from wccpd.plan.probe import ProbeEvent, ProbePolicy, ProbeTarget

_ANSWER_OCTETS = 512
"""Of an HTTP answer; its first line is all we want."""
_NO_PATH_SECONDS = 0.05
"""How soon a cache is tried again whose path the kernel does not have yet."""


class Prober:
    """Probes the usable caches of the services that have a probe, until cancelled.

    Args:
        policies: By service.
        source: The router's address that caches know.
        mark_of: The mark that leads to a cache; None while there is none.
        on_event: Told when a cache is out or in again.
    """

    def __init__(
        self,
        policies: Mapping[str, ProbePolicy],
        source: IPv4Address,
        mark_of: Callable[[ProbeTarget], int | None],
        on_event: Callable[[ProbeEvent], None],
    ) -> None:
        self.ledger = ProbeLedger(policies)
        self._source = source
        self._mark_of = mark_of
        self._on_event = on_event
        self._tasks: dict[ProbeTarget, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._wanted: frozenset[ProbeTarget] = frozenset()

    def reconfigure(self, policies: Mapping[str, ProbePolicy], source: IPv4Address) -> None:
        """Probe by other policies from now on; what is known of the caches stays. Say `keep` afterwards."""
        self.ledger.reconfigure(policies)
        self._source = source

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._adjust()
            await asyncio.Event().wait()

    def keep(self, usable: Iterable[ProbeTarget]) -> None:
        """Take the usable caches of now."""
        self._wanted = self.ledger.keep(usable, time.monotonic())
        self._adjust()

    def _adjust(self) -> None:
        if self._group is None:
            return
        for gone in self._tasks.keys() - self._wanted:
            self._tasks.pop(gone).cancel()
        for target in self._wanted - self._tasks.keys():
            self._tasks[target] = self._group.create_task(
                self._probe(target), name=f"probe {target.service} {target.cache}"
            )

    async def _probe(self, target: ProbeTarget) -> None:
        while (policy := self.ledger.policies.get(target.service)) is not None:
            mark = self._mark_of(target)
            if mark is None:
                await asyncio.sleep(_NO_PATH_SECONDS)
                continue
            began = time.monotonic()
            failure = await attempt(policy, self._source, mark)
            for event in self.ledger.note(target, failure, time.monotonic()):
                self._on_event(event)
            await asyncio.sleep(max(0.0, began + policy.interval_seconds - time.monotonic()))


async def attempt(policy: ProbePolicy, source: IPv4Address, mark: int) -> str:
    """One probe: why it failed, in words; empty if it did not."""
    try:
        async with asyncio.timeout(policy.timeout_seconds):
            return await _tried(policy, source, mark)
    except TimeoutError:
        return f"no answer within {policy.timeout_seconds:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()


async def _tried(policy: ProbePolicy, source: IPv4Address, mark: int) -> str:
    loop = asyncio.get_running_loop()
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.bind((str(source), 0))
        await loop.sock_connect(sock, (str(policy.address), policy.port))
        if policy.kind is ProbeKind.TCP:
            return ""
        await loop.sock_sendall(sock, _request(policy))
        return _judged(await loop.sock_recv(sock, _ANSWER_OCTETS))


def _request(policy: ProbePolicy) -> bytes:
    return (
        f"GET {policy.path} HTTP/1.1\r\nHost: {policy.address}\r\n"
        f"User-Agent: wccpd-probe/{__version__}\r\nConnection: close\r\n\r\n"
    ).encode()


def _judged(answer: bytes) -> str:
    """What is wrong with the beginning of an HTTP answer (RFC 9112, 4)."""
    version, _, rest = answer.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        return "the answer is not HTTP"
    return "" if int(rest[:3]) < 500 else f"HTTP status {int(rest[:3])}"
