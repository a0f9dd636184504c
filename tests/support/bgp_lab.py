"""A transit gateway made of two BIRD instances, and a gobgpd, in namespaces of their own.

                 wt-<pid>-r                       wt-<pid>-t
      gobgpd 169.254.6.1  tun-a ---- veth ---- a  169.254.6.2 (BIRD 1), 169.254.6.3 (BIRD 2)
             169.254.7.1  tun-b ---- veth ---- b  169.254.7.2 (BIRD 1), 169.254.7.3 (BIRD 2)

The veth pairs stand for GRE tunnels. Each BIRD is one of the transit gateway's two speakers, on all tunnels: a
single BIRD cannot hold two sessions to one remote address. gobgpd's socket is in a temporary folder, so a
speaker under test runs in the test's own process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROUTER_ASN = 64513
TGW_ASN = 64512
TUNNELS = {"tun-a": 6, "tun-b": 7}


def missing_tools() -> str:
    """Why the lab cannot run here, empty if it can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    absent = [tool for tool in ("gobgpd", "bird", "birdc", "ip") if shutil.which(tool, path=_PATH) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_ENVIRONMENT = {**os.environ, "PATH": _PATH}


def run(*command: str) -> str:
    """Run a command to its end and give its output."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, env=_ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `condition` holds.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class Bird:
    """One of the transit gateway's two speakers."""

    number: int
    namespace: str
    folder: Path
    passive: bool
    prefixes: tuple[str, ...] = ()
    looped: tuple[str, ...] = ()
    """Prefixes announced with the router's own ASN in their path."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        return self.folder / f"bird{self.number}.ctl"

    def address(self, tunnel: str) -> IPv4Address:
        return IPv4Address(f"169.254.{TUNNELS[tunnel]}.{self.number + 1}")

    def start(self) -> None:
        config = self._write_config()
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "bird", "-f", "-c", config, "-s", self.control,
             "-P", self.folder / f"bird{self.number}.pid"],
            env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=(self.folder / f"bird{self.number}.log").open("ab"),
        )  # fmt: skip
        wait_until(self.control.exists, 5, "BIRD's control socket")

    def announce(self, prefixes: Iterable[str], looped: Iterable[str] = ()) -> None:
        """Announce exactly these prefixes from now on."""
        self.prefixes, self.looped = tuple(prefixes), tuple(looped)
        self._write_config()
        self.ask("configure")

    def ask(self, question: str) -> str:
        return run("birdc", "-s", str(self.control), question)

    def established(self) -> int:
        """How many of its sessions are up."""
        return sum("Established" in line for line in self.ask("show protocols").splitlines())

    def sees(self, prefix: str) -> bool:
        """Whether the router announces `prefix` to it."""
        return f"BGP.as_path: {ROUTER_ASN}" in self.ask(f"show route {prefix} all")

    def _write_config(self) -> Path:
        routes = " ".join(f"route {prefix} blackhole;" for prefix in (*self.prefixes, *self.looped))
        looped = ", ".join(self.looped)
        filtered = f"if net ~ [ {looped} ] then bgp_path.prepend({ROUTER_ASN});" if looped else ""
        sessions = "\n".join(
            f"protocol bgp {tunnel.replace('-', '_')} {{ local {self.address(tunnel)} as {TGW_ASN};"
            f" neighbor 169.254.{third}.1 as {ROUTER_ASN}; strict bind; {'passive;' if self.passive else ''}"
            " multihop 2; hold time 30; keepalive time 10; connect delay time 1; connect retry time 2;"
            " error wait time 1, 2; graceful restart off;"
            f" ipv4 {{ import all; export filter {{ if source != RTS_STATIC then reject; {filtered} accept; }}; }}; }}"
            for tunnel, third in TUNNELS.items()
        )
        path = self.folder / f"bird{self.number}.conf"
        path.write_text(
            f"log stderr all;\nrouter id 169.254.6.{self.number + 1};\nprotocol device {{ }}\n"
            f"protocol static spokes {{ ipv4; {routes} }}\n{sessions}\n"
        )
        return path


@dataclass
class Lab:
    """The two namespaces with what runs in them; use as a context manager."""

    passive: bool = True
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="wt-bgp-")))
    gobgpd: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.router = f"wt-{os.getpid()}-r"
        self.gateway = f"wt-{os.getpid()}-t"
        self.birds = tuple(Bird(number, self.gateway, self.folder, self.passive) for number in (1, 2))

    @property
    def socket(self) -> Path:
        return self.folder / "gobgpd.sock"

    def __enter__(self) -> Self:
        try:
            self._make_namespaces()
            for bird in self.birds:
                bird.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_namespaces(self) -> None:
        for namespace in (self.router, self.gateway):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        for tunnel, third in TUNNELS.items():
            far = tunnel.removeprefix("tun-")
            run("ip", "-n", self.router, "link", "add", tunnel, "type", "veth", "peer", "name", far,
                "netns", self.gateway)  # fmt: skip
            run("ip", "-n", self.router, "address", "add", f"169.254.{third}.1/29", "dev", tunnel)
            for host in (2, 3):
                run("ip", "-n", self.gateway, "address", "add", f"169.254.{third}.{host}/29", "dev", far)
            run("ip", "-n", self.gateway, "link", "set", "dev", far, "up")
            run("ip", "-n", self.router, "link", "set", "dev", tunnel, "up")

    def start_gobgpd(self) -> None:
        """Start an empty gobgpd; a socket left behind by a killed one is removed first, as the unit does."""
        self.socket.unlink(missing_ok=True)
        self.gobgpd = subprocess.Popen(
            ["ip", "netns", "exec", self.router, "gobgpd", f"--api-hosts=unix://{self.socket}", "--pprof-disable"],
            env=_ENVIRONMENT, stdout=(self.folder / "gobgpd.log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def kill_gobgpd(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        assert self.gobgpd is not None
        self.gobgpd.kill()
        self.gobgpd.wait(5)
        self.gobgpd = None

    def close(self) -> None:
        """End what runs and remove the namespaces and files."""
        for process in (self.gobgpd, *(bird.process for bird in self.birds)):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(5)
        for namespace in (self.router, self.gateway):
            subprocess.run(
                ["ip", "netns", "delete", namespace], check=False, capture_output=True, env=_ENVIRONMENT
            )
        shutil.rmtree(self.folder, ignore_errors=True)
