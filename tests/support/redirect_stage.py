"""A running daemon in tests/support/counted_network.py's network, and `wccpctl` beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.support.counted_network import L2, ROUTER_ID, SPOKE, CountedNetwork, arrived, counted_network
from tests.support.daemon import Daemon, NetworkCache, wait_for
from tests.support.scripted_cache import ScriptedCache
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ServiceFlags

SOURCE_PORT = 49152
DNS = ServiceInfo.dynamic(53, 200, 17, ServiceFlags.DESTINATION_IP_HASH | ServiceFlags.PORTS_DEFINED, (53,))


@contextmanager
def again_and_again(damage: Callable[[], object]) -> Iterator[None]:
    """The damage is done all the time: the daemon repairs it within milliseconds of hearing of it."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            with suppress(AssertionError):  # what is not there at the moment cannot be damaged
                damage()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Stage:
    """The namespaces and what runs in them; `config` has `{directory}` for the test's own folder."""

    def __init__(self, network: CountedNetwork, directory: Path, config: str) -> None:
        self.router, self.caches, self.far = network.router, network.caches, network.far
        self.spoke = network.spoke
        self.directory = directory
        self.config = directory / "wccpd.yaml"
        self.config.write_text(config.format(directory=directory))
        self.daemon = Daemon(self.router, self.config).ready()
        self.joined: list[NetworkCache] = []

    def cache(self, address: IPv4Address, **details: object) -> NetworkCache:
        """A cache of service 53 that has said nothing yet."""
        made = {"router_address": ROUTER_ID, "service": DNS, "capabilities": L2, **details}
        self.joined.append(NetworkCache(self.caches, ScriptedCache(address=address, **made)))  # type: ignore[arg-type]
        return self.joined[-1]

    def join(self, *addresses: IPv4Address, **details: object) -> None:
        for address in addresses:
            self.cache(address, **details).join()

    def wccpctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it in the router's namespace, as an operator on the router does."""
        command = ["ip", "netns", "exec", self.router.name, sys.executable, "-c"]
        command += ["from wccpd.ctl import main; main()", "--socket", str(self.directory / "control.sock")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    def explain(self, *words: str) -> dict[str, Any]:
        """The answer of `wccpctl explain` about a flow of the spoke's."""
        done = self.wccpctl("explain", SPOKE, *words, "-o", "json")
        assert done.returncode in {0, 1}, done.stderr
        return dict(json.loads(done.stdout))

    def doctor(self) -> list[dict[str, Any]]:
        """The findings of `wccpctl doctor`."""
        done = self.wccpctl("doctor", "-o", "json", "--config", str(self.config))
        assert done.stdout, done.stderr
        return list(json.loads(done.stdout)["findings"])

    def counts(self) -> tuple[int, int]:
        """Questions that came to the caches, and past them."""
        return arrived(self.caches), arrived(self.far)

    def send(self, server: str, port: int, source_port: int = SOURCE_PORT) -> str:
        """Send one packet, and say where it came out."""
        before = self.counts()
        self.spoke.call(lambda: ask(server, port, source_port))
        try:
            wait_for(lambda: self.counts() != before, "it comes out", seconds=0.5)
        except AssertionError:
            return "dropped"
        after = self.counts()
        return "redirected" if after[0] > before[0] else "forwarded"

    def close(self) -> None:
        for cache in self.joined:
            cache.close()
        self.daemon.stop(signal.SIGKILL)


def ask(server: str, port: int, source_port: int) -> None:
    """One UDP packet from the namespace that this runs in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((SPOKE, source_port))
        sock.sendto(b"question", (server, port))


@contextmanager
def redirect_stage(directory: Path, config: str) -> Iterator[Stage]:
    """Make the network, start the daemon; take all of it away afterwards."""
    with counted_network() as network:
        made = Stage(network, directory, config)
        try:
            yield made
        finally:
            made.close()
