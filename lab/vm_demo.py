"""The demo inside a virtual machine: output here, and with KEEP=1 a machine that stays and a way into it.

A kept machine belongs to a background process of its own, so that `make demo` returns; files in its shared folder
say how far it is.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError, wait_until
from lab.vm import REPOSITORY, VirtualMachine, guest_kernel

SHARE = REPOSITORY / "build" / "vm-demo"
DEMO_TIMEOUT_SECONDS = 1200
KEPT_TIMEOUT_SECONDS = 12 * 3600
_CONSOLE = SHARE / "console.log"
_PID = SHARE / "pid"
_KEPT = SHARE / "kept"
_STOP = SHARE / "stop"
_END_OF_SHELL = b"\x1d"  # Ctrl-]


def run_in_vm() -> int:
    """Run the demo in a machine that ends with it; the demo's exit status.

    Raises:
        LabError: the machine did not do its part.
    """
    _prepare_share()
    machine = VirtualMachine(_demo_command(keep=False), SHARE, DEMO_TIMEOUT_SECONDS, _print)
    try:
        machine.start()
        return machine.wait()
    finally:
        machine.stop()


def run_in_kept_vm() -> int:
    """Run the demo in a machine that stays if it succeeds; the demo's exit status.

    Raises:
        LabError: the machine did not do its part.
    """
    _prepare_share()
    with _CONSOLE.open("wb") as console:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "lab", "keep-vm"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    _PID.write_text(str(keeper.pid))
    with _CONSOLE.open("rb") as console:
        while not _KEPT.exists() and keeper.poll() is None:
            _print(console.read())
            time.sleep(0.2)
        _print(console.read())
    if keeper.poll() is not None:
        return keeper.returncode
    return 0


def keep_vm() -> int:
    """In the background process: run and hold the machine until it ends; the exit status."""
    machine = VirtualMachine(_demo_command(keep=True), SHARE, KEPT_TIMEOUT_SECONDS, _print, shell=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        machine.start()
        return machine.wait()
    except LabError as error:
        print(f"FAILED: {error}", flush=True)
        return 1
    finally:
        machine.stop()


def hold_in_guest() -> None:
    """In the guest: tell that the lab is kept, and wait until it is no longer wanted."""
    share = Path(os.environ["WCCPD_VM_SHARE"])
    (share / _KEPT.name).touch()
    while not (share / _STOP.name).exists():
        time.sleep(1)


def end_kept_vm() -> bool:
    """End a kept machine; whether there was one.

    Raises:
        LabError: it does not end.
    """
    pid = _keeper()
    if pid is None:
        return False
    _STOP.touch()
    try:
        wait_until(lambda: _keeper() is None, "end of the virtual machine", 60, 0.5)
    except LabError:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: _keeper() is None, "end of the terminated virtual machine", 30, 0.5)
    return True


def enter_kept_vm() -> None:
    """Connect this terminal to a shell in the kept machine, until Ctrl-].

    Raises:
        LabError: there is no such machine.
    """
    if _keeper() is None:
        raise LabError("no virtual machine is kept: `make demo KEEP=1` makes one")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(SHARE / "shell.sock"))
        print("a shell in the virtual machine; Ctrl-] leaves it, the machine stays", flush=True)
        connection.sendall(b"\n")
        with _raw_terminal():
            _relay(connection)


def _relay(connection: socket.socket) -> None:
    standard_input = sys.stdin.fileno()
    inputs = [standard_input, connection]
    while True:
        ready, _, _ = select.select(inputs, [], [])
        if connection in ready:
            data = connection.recv(65536)
            if not data:
                return
            _print(data)
        if standard_input in ready:
            typed = os.read(standard_input, 4096)
            if not typed or _END_OF_SHELL in typed:
                return
            connection.sendall(typed)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        print()


def _prepare_share() -> None:
    if _keeper() is not None:
        raise LabError("a lab is already kept in a virtual machine: `make down` ends it")
    shutil.rmtree(SHARE, ignore_errors=True)
    SHARE.mkdir(parents=True)
    print(
        "This kernel cannot make GRE devices. The lab runs in a virtual machine with "
        f"Linux {guest_kernel()} instead; it boots in half a minute and is some ten times slower.",
        flush=True,
    )


def _demo_command(keep: bool) -> list[str]:
    return [sys.executable, "-m", "lab", "demo", *(["--keep"] if keep else [])]


def _keeper() -> int | None:
    try:
        pid = int(_PID.read_text())
        alive = b"keep-vm" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if alive else None


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
