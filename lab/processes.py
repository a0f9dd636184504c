"""Programs that run on the lab's nodes: start, watch, end by pid."""

import contextlib
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.network import in_namespace
from lab.topology import Node


@dataclass(frozen=True, slots=True)
class Program:
    """A running program of the lab."""

    name: str
    node: Node
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that it wrote."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f"--- {self.log.name} (pid {self.process.pid}, exit {self.process.poll()}):\n" + "\n".join(
            text[-lines:]
        )


class Programs:
    """All programs of one lab, by name. A name can be started again once its program has ended."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._programs: dict[str, Program] = {}

    def start(self, name: str, node: Node, command: Sequence[str]) -> Program:
        """Start `command` on `node`; both its outputs are appended to NAME.log.

        Raises:
            LabError: a program of this name is running.
        """
        if self.running(name):
            raise LabError(f"{name} is already running")
        log = self._log_directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                in_namespace(node, command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        program = Program(name, node, process, log)
        self._programs[name] = program
        return program

    def running(self, name: str) -> bool:
        """Whether a program of this name was started and has not ended."""
        return name in self._programs and self._programs[name].running

    def get(self, name: str) -> Program:
        """The program called `name`.

        Raises:
            LabError: nothing of that name was started.
        """
        if name not in self._programs:
            raise LabError(f"{name} was never started")
        return self._programs[name]

    def signal(self, name: str, signal_number: signal.Signals, timeout_seconds: float = 60) -> int:
        """Send a signal that ends the program and wait for its end; its exit status.

        Raises:
            LabError: it did not end in time.
        """
        program = self.get(name)
        program.process.send_signal(signal_number)
        try:
            return program.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"{name} still runs {timeout_seconds:.0f} s after {signal_number.name}\n{program.log_tail()}"
            ) from None

    def end_all(self) -> None:
        """End everything that still runs: politely, then by force."""
        running = [program for program in self._programs.values() if program.running]
        for program in running:
            program.process.terminate()
        for program in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(10)
        for program in running:
            if program.running:
                program.process.kill()
                program.process.wait()
