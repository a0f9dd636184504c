"""Network namespaces that a test makes for itself and that go away with it."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from lab.vm import IN_VM

CLONE_NEWNET = 0x40000000
PATIENCE_SECONDS = 300 if os.environ.get(IN_VM) else 60
"""For one command or call; the VM's processor is emulated, and some twenty times slower."""
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()
Result = TypeVar("Result")


class Namespace:
    """One namespace, with a thread that lives in it."""

    def __init__(self, role: str) -> None:
        self.name = f"wt-{os.getpid()}-{next(_serial)}-{role}"
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        run(["ip", "netns", "add", self.name])
        self.run("ip", "link", "set", "lo", "up")
        self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(Path("/run/netns") / self.name,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        run(["ip", "netns", "del", self.name])

    def run(self, *command: str) -> str:
        """Run a command in the namespace and return what it printed."""
        return run(["ip", "netns", "exec", self.name, *command])

    def call(self, work: Callable[[], Result]) -> Result:
        """Call a function in the namespace's thread: sockets that it opens are in the namespace."""
        assert self._thread is not None
        return self._thread.submit(work).result(PATIENCE_SECONDS)

    def connect(
        self, device: str, address: str, other: Namespace, other_device: str, other_address: str
    ) -> None:
        """Join two namespaces by a veth pair."""
        run(["ip", "link", "add", device, "netns", self.name, "type", "veth",
             "peer", "name", other_device, "netns", other.name])  # fmt: skip
        for namespace, end, where in ((self, device, address), (other, other_device, other_address)):
            namespace.run("ip", "address", "add", where, "dev", end)
            namespace.run("ip", "link", "set", end, "up")


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def _enter(path: Path) -> None:
    with path.open() as file:
        if _libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
