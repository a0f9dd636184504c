"""A transit gateway made of two BIRD instances, and a gobgpd, in namespaces of their own.

                 wt-<pid>-0-r                     wt-<pid>-1-t
      gobgpd 169.254.6.1  tun-a ---- veth ---- tgw-a  169.254.6.2 (BIRD 1), 169.254.6.3 (BIRD 2)
             fd00:6::1                                fd00:6::2,            fd00:6::3
             169.254.7.1  tun-b ---- veth ---- tgw-b  169.254.7.2 (BIRD 1), 169.254.7.3 (BIRD 2)
             fd00:7::1                                fd00:7::2,            fd00:7::3

The veth pairs stand for GRE tunnels; with `gre` the gateway's ends really are such, from 10.99.1.1 and .2 to
10.99.1.10, and the router's ends are left to whoever is tested. Each BIRD is one of the transit gateway's two speakers,
on all tunnels: a single BIRD cannot hold two sessions to one remote address. gobgpd's socket is in a temporary folder,
so a speaker under test runs in the test's own process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Self

from tests.support.namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def gobgpds() -> dict[str, str]:
    """Version -> program: the one that is installed, and those that `setup/other-gobgpds` fetched."""
    fetched = sorted(
        _FETCHED.glob("*/gobgpd"), key=lambda path: [int(each) for each in path.parent.name.split(".")]
    )
    return {"installed": "gobgpd", **{path.parent.name: str(path) for path in fetched}}


_FETCHED = Path(__file__).resolve().parents[2] / "build" / "gobgpd"


def _start(namespace: Namespace, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace.name, *command],
        env=_ENVIRONMENT,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


@dataclass
class Bird:
    """One of the transit gateway's two speakers."""

    number: int
    namespace: Namespace
    folder: Path
    passive: bool
    prefixes: tuple[str, ...] = ()
    looped: tuple[str, ...] = ()
    """Prefixes announced with the router's own ASN in their path."""
    speaks_ipv6: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        return self.folder / f"bird{self.number}.ctl"

    def address(self, tunnel: str) -> IPv4Address:
        return IPv4Address(f"169.254.{TUNNELS[tunnel]}.{self.number + 1}")

    def start(self) -> None:
        config = self._write_config()
        pid_file = self.folder / f"bird{self.number}.pid"
        command = ["bird", "-f", "-c", str(config), "-s", str(self.control), "-P", str(pid_file)]
        with (self.folder / f"bird{self.number}.log").open("ab") as log:
            self.process = _start(self.namespace, command, log)
        deadline = time.monotonic() + 5
        while not self.control.exists():
            assert time.monotonic() < deadline, "BIRD opened no control socket within 5 s"
            time.sleep(0.02)

    def announce(self, prefixes: Iterable[str], looped: Iterable[str] = ()) -> None:
        """Announce exactly these prefixes from now on."""
        self.prefixes, self.looped = tuple(prefixes), tuple(looped)
        self._write_config()
        self.ask("configure")

    def ask(self, question: str) -> str:
        """BIRD's answer; it exits with 1 when it finds no route, which is an answer too."""
        command = ["birdc", "-s", str(self.control), *question.split()]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False, env=_ENVIRONMENT
        )
        assert "ready." in done.stdout, f"{question}: {done.stderr or done.stdout}"
        return done.stdout

    def established(self) -> int:
        """How many of its sessions are up."""
        return sum("Established" in line for line in self.ask("show protocols").splitlines())

    def sees(self, prefix: str) -> bool:
        """Whether the router announces `prefix` to it."""
        return f"BGP.as_path: {ROUTER_ASN}" in self.ask(f"show route {prefix} all")

    def next_hops(self, prefix: str) -> set[str]:
        """The next hops with which the router announces `prefix` to it."""
        lines = self.ask(f"show route {prefix} all").splitlines()
        return {line.split(":", 1)[1].split()[0] for line in lines if "BGP.next_hop:" in line}

    def _write_config(self) -> Path:
        announced = (*self.prefixes, *self.looped)
        routes = " ".join(f"route {prefix} blackhole;" for prefix in announced if ":" not in prefix)
        routes6 = " ".join(f"route {prefix} blackhole;" for prefix in announced if ":" in prefix)
        looped = ", ".join(self.looped)
        filtered = f"if net ~ [ {looped} ] then bgp_path.prepend({ROUTER_ASN});" if looped else ""
        sessions = "\n".join(
            f"protocol bgp {tunnel.replace('-', '_')} {{ local {self.address(tunnel)} as {TGW_ASN};"
            f" neighbor 169.254.{third}.1 as {ROUTER_ASN}; strict bind; {'passive;' if self.passive else ''}"
            " multihop 2; hold time 30; keepalive time 10; connect delay time 1; connect retry time 2;"
            " error wait time 1, 2; graceful restart off;"
            f" ipv4 {{ import all; export filter {{ if source != RTS_STATIC then reject; {filtered} accept; }}; }};"
            f"{self._ipv6_channel(third)} }}"
            for tunnel, third in TUNNELS.items()
        )
        path = self.folder / f"bird{self.number}.conf"
        path.write_text(
            f"log stderr all;\nrouter id 169.254.6.{self.number + 1};\nprotocol device {{ }}\n"
            f"protocol static spokes {{ ipv4; {routes} }}\n"
            f"protocol static spokes6 {{ ipv6; {routes6} }}\n{sessions}\n"
        )
        return path

    def _ipv6_channel(self, third: int) -> str:
        if not self.speaks_ipv6:
            return ""
        return (
            f" ipv6 {{ import all; next hop address fd00:{third}::{self.number + 1};"
            " export where source = RTS_STATIC; };"
        )


class Lab:
    """The two namespaces with what runs in them; use as a context manager.

    Args:
        passive: Whether the transit gateway only listens. Else both sides dial.
        ipv6: Whether the transit gateway exchanges IPv6 prefixes too.
        gobgpd: The program.
        gre: Whether its ends of the tunnels are GRE devices; else both ends are of veth pairs.
    """

    def __init__(
        self, *, passive: bool, ipv6: bool = False, gobgpd: str = "gobgpd", gre: bool = False
    ) -> None:
        self._passive = passive
        self._gre = gre
        self._ipv6 = ipv6
        self.program = gobgpd
        self._stack = ExitStack()
        self.gobgpd: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """gobgpd's API."""
        return self.folder / "gobgpd.sock"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.router = stack.enter_context(Namespace("r"))
            self.gateway = stack.enter_context(Namespace("t"))
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="wt-bgp-")))
            stack.callback(self._end_processes)
            if self._gre:
                self._connect_by_gre()
            for tunnel, third in TUNNELS.items():
                far = tunnel.replace("tun-", "tgw-")
                net = f"169.254.{third}"
                if self._gre:
                    self.gateway.run("ip", "address", "add", f"{net}.2/29", "dev", far)
                else:
                    self.router.connect(tunnel, f"{net}.1/29", self.gateway, far, f"{net}.2/29")
                    self.router.run("ip", "address", "add", f"fd00:{third}::1/125", "dev", tunnel, "nodad")
                self.gateway.run("ip", "address", "add", f"{net}.3/29", "dev", far)
                for number in (2, 3):
                    self.gateway.run(
                        "ip", "address", "add", f"fd00:{third}::{number}/125", "dev", far, "nodad"
                    )
            self.birds = tuple(
                Bird(number, self.gateway, self.folder, self._passive, speaks_ipv6=self._ipv6)
                for number in (1, 2)
            )
            for bird in self.birds:
                bird.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect_by_gre(self) -> None:
        self.router.connect("eth0", "10.99.1.10/24", self.gateway, "eth0", "10.99.1.1/24")
        self.gateway.run("ip", "address", "add", "10.99.1.2/24", "dev", "eth0")
        for last, tunnel in enumerate(TUNNELS, start=1):
            device = tunnel.replace("tun-", "tgw-")
            ends = ("local", f"10.99.1.{last}", "remote", "10.99.1.10", "ttl", "255")
            self.gateway.run("ip", "link", "add", device, "type", "gre", *ends)
            self.gateway.run("ip", "link", "set", device, "up")

    def announce(self, prefixes: Iterable[str], looped: Iterable[str] = ()) -> None:
        """Let both speakers announce exactly these prefixes."""
        for bird in self.birds:
            bird.announce(prefixes, looped)

    def start_gobgpd(self) -> None:
        """Start an empty gobgpd; a socket left behind by a killed one is removed first, as the unit does."""
        self.socket.unlink(missing_ok=True)
        command = [self.program, f"--api-hosts=unix://{self.socket}", "--pprof-disable"]
        with (self.folder / "gobgpd.log").open("ab") as log:
            self.gobgpd = _start(self.router, command, log)

    def signal_gobgpd(self, number: signal.Signals) -> None:
        """Send a signal to gobgpd."""
        assert self.gobgpd is not None
        self.gobgpd.send_signal(number)

    def kill_gobgpd(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        self.signal_gobgpd(signal.SIGKILL)
        assert self.gobgpd is not None
        self.gobgpd.wait(5)
        self.gobgpd = None

    def _end_processes(self) -> None:
        for process in (self.gobgpd, *(bird.process for bird in getattr(self, "birds", ()))):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(5)
