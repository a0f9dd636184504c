"""The lab that tests and the demo drive: the network, the programs in it, and questions about both.

    with Lab(run_directory) as lab:
        lab.start_proxy("proxy1")
        lab.start_router("router1")
        lab.wait_status("router1", lambda status: status["inspecting"], "inspection", 90)
        page = lab.fetch("spoke1", "http://203.0.113.10/")

Leaving the block ends every program and removes every namespace.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab import network, services
from lab.capture import Capture
from lab.control import read_status
from lab.errors import LabError, wait_until
from lab.processes import Program, Programs
from lab.topology import CACHE_TUNNEL_MTU_BYTES, ORIGIN, SPOKE_NETWORKS, figure_one

SPEAKER_TABLES = (101, 102)
"""Kernel tables of the Transit Gateway that hold what its two BGP speakers learned."""

START_TIMEOUT_SECONDS = 150
"""How long a program may take to come up; an emulated machine is some 13 times slower than a real one."""


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to one request: HTTP status (0: none came), body, client's port, curl's complaint."""

    status: int
    body: str
    client_port: int
    error: str


@dataclass(frozen=True, slots=True)
class Access:
    """A line of a Squid's access log."""

    client: IPv4Address
    result: str
    method: str
    url: str

    def __str__(self) -> str:
        """What a reader of the log wants to know."""
        return f"{self.client} {self.result} {self.method} {self.url}"


class Lab:
    """One running lab. Only one can exist on a machine at a time; it needs root."""

    def __init__(self, run_directory: Path | None = None, router_count: int = 1) -> None:
        """Prepare a lab that keeps its files in `run_directory` (default: a new one under /tmp)."""
        self.topology = figure_one(router_count)
        self.directory = run_directory or Path(tempfile.mkdtemp(prefix="wccpd-lab-"))
        self._directory_is_ours = run_directory is None
        self.programs = Programs(self.directory)
        self.password_file = self.directory / "wccp.password"
        self.certificate = self.directory / "origin.pem"
        self._key = self.directory / "origin.key"
        self._captures = 0
        self._cleanup = contextlib.ExitStack()
        self._commands = Path(sys.executable).parent

    # --- life ---

    def __enter__(self) -> Self:
        """Build the network and start what is not under test: origin, BGP speakers, NAT, firewall.

        Raises:
            LabError: not root, another lab is running, or something did not start.
        """
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces: it needs root")
        try:
            self._cleanup.enter_context(network.exclusive_use())
            self._cleanup.callback(network.remove_all)
            network.build(self.topology)
            self._cleanup.callback(self.programs.end_all)
            self._write_files()
            self._start_surroundings()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every program, remove every namespace; a directory of our own stays only after a failure."""
        self._cleanup.close()
        if error is None and self._directory_is_ours:
            shutil.rmtree(self.directory, ignore_errors=True)

    def leave_running(self) -> None:
        """Give up ownership: nothing is ended or removed when the block is left."""
        self._cleanup.pop_all()
        self._directory_is_ours = False

    def _write_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # Squid and tcpdump work here as users of their own.
        self.directory.chmod(0o755)
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(secrets.token_hex(4) + "\n")
        network.execute(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-nodes", "-days", "2", "-subj", "/CN=origin.lab"),
                *("-addext", f"subjectAltName=IP:{ORIGIN}"),
                *("-keyout", str(self._key), "-out", str(self.certificate)),
            ]
        )
        # Squid wants certificate and key in one file.
        (self.directory / "squid.pem").write_text(self.certificate.read_text() + self._key.read_text())
        for speaker, table in enumerate(SPEAKER_TABLES):
            text = services.speaker_configuration(self.topology, speaker, table)
            (self.directory / f"bird{speaker}.conf").write_text(text)

    def _start_surroundings(self) -> None:
        self.run("firewall", ["nft", "-f", "-"], services.firewall_ruleset())
        self.run("nat", ["nft", "-f", "-"], services.nat_ruleset())
        origin_script = str(Path(__file__).with_name("origin.py"))
        origin = self.start(
            "origin", "internet", [sys.executable, origin_script, str(self.certificate), str(self._key)]
        )
        for speaker, table in enumerate(SPEAKER_TABLES):
            # Asked after the main table, which has no default. One table each: both write the same route.
            self.run("tgw", ["ip", "rule", "add", "pref", str(33000 + table), "lookup", str(table)])
            self._start_speaker(speaker)
        for proxy in self.topology.proxies:
            self._make_proxy_network(proxy.name)
        for speaker in range(len(SPEAKER_TABLES)):
            bird = self.programs.get(f"bird{speaker}")
            control = self.directory / f"bird{speaker}.ctl"
            wait_until(control.exists, f"BGP speaker {speaker}", START_TIMEOUT_SECONDS, explain=bird.log_tail)
        wait_until(
            lambda: "ready" in origin.log_tail(),
            "origin server",
            START_TIMEOUT_SECONDS,
            explain=origin.log_tail,
        )

    def _start_speaker(self, speaker: int) -> None:
        base = self.directory / f"bird{speaker}"
        files = ["-c", f"{base}.conf", "-s", f"{base}.ctl", "-P", f"{base}.pid"]
        self.start(f"bird{speaker}", "tgw", ["/usr/sbin/bird", "-f", *files])

    def _make_proxy_network(self, name: str) -> None:
        proxy = self.topology.proxy(name)
        self.run(name, ["nft", "-f", "-"], services.proxy_ruleset(proxy))
        devices = []
        for number, router in enumerate(self.topology.routers, 1):
            device = f"wccp{number}"
            devices.append(device)
            tunnel = ["type", "gre", "local", str(proxy.address), "remote", str(router.address), "ttl", "255"]
            self.run(name, ["ip", "link", "add", device, *tunnel])
            self.run(name, ["ip", "link", "set", device, "mtu", str(CACHE_TUNNEL_MTU_BYTES), "up"])
        hops = [word for device in devices for word in ("nexthop", "dev", device)]
        for spokes in SPOKE_NETWORKS:
            self.run(name, ["ip", "route", "add", str(spokes), *hops])

    # --- programs ---

    def run(self, node: str, command: Sequence[str], text_input: str | None = None) -> str:
        """Run a command on a node to its end; its standard output.

        Raises:
            LabError: it failed.
        """
        return network.execute(network.in_namespace(self.topology.node(node), command), text_input)

    def start(self, name: str, node: str, command: Sequence[str]) -> Program:
        """Start a program that stays; it logs to NAME.log in the run directory."""
        return self.programs.start(name, self.topology.node(node), command)

    def kill(
        self, name: str, signal_number: signal.Signals = signal.SIGKILL, timeout_seconds: float = 60
    ) -> int:
        """End the program called `name` with a signal; its exit status.

        Raises:
            LabError: it did not end in time.
        """
        return self.programs.signal(name, signal_number, timeout_seconds)

    def start_proxy(self, name: str, wait: bool = True) -> None:
        """Start Squid on a proxy, as program `squid-NAME`; `wait` until it listens."""
        proxy = self.topology.proxy(name)
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        shutil.chown(directory, "proxy", "proxy")
        configuration = self.directory / f"{name}.conf"
        password = self.password_file.read_text().strip()
        text = services.squid_configuration(
            self.topology, proxy, directory, password, self.directory / "squid.pem"
        )
        configuration.write_text(text)
        (directory / "squid.pid").unlink(missing_ok=True)
        # The service name keeps the shared memory of two Squids on one machine apart.
        service = f"wccpd{name}{os.getpid()}"
        self.start(f"squid-{name}", name, ["/usr/sbin/squid", "-N", "-n", service, "-f", str(configuration)])
        if wait:
            self.wait_proxy(name)

    def wait_proxy(self, name: str) -> None:
        """Return when the Squid on a proxy listens on its intercept ports.

        Raises:
            LabError: it does not in time.
        """
        program = self.programs.get(f"squid-{name}")

        def listens() -> bool:
            if not program.running:
                raise LabError(f"Squid on {name} ended\n{program.log_tail()}\n{self._squid_log(name)}")
            ports = self.run(name, ["ss", "-Hltn"])
            return all(
                f":{port} " in ports
                for port in (services.SQUID_HTTP_INTERCEPT_PORT, services.SQUID_HTTPS_INTERCEPT_PORT)
            )

        wait_until(listens, f"Squid on {name}", START_TIMEOUT_SECONDS, explain=lambda: self._squid_log(name))

    def _squid_log(self, name: str) -> str:
        log = self.directory / name / "cache.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""

    def start_router(self, name: str) -> None:
        """Start gobgpd and wccpd on a router, as programs `gobgpd-NAME` and `wccpd-NAME`.

        Returns when wccpd's control socket is there.
        """
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        self.start_gobgpd(name)
        router = self.topology.router(name)
        text = services.wccpd_configuration(self.topology, router, directory, self.password_file)
        self.configuration(name).write_text(text)
        self.start_wccpd(name)

    def start_gobgpd(self, name: str) -> None:
        """Start the BGP sidecar of a router."""
        socket = self.directory / name / "gobgpd.sock"
        # A socket that a killed gobgpd left behind stops the next start.
        socket.unlink(missing_ok=True)
        gobgpd = shutil.which("gobgpd") or "/usr/bin/gobgpd"
        program = self.start(
            f"gobgpd-{name}", name, [gobgpd, "--api-hosts", f"unix://{socket}", "--pprof-disable"]
        )
        wait_until(socket.exists, "gobgpd's socket", START_TIMEOUT_SECONDS, explain=program.log_tail)

    def start_wccpd(self, name: str) -> None:
        """Start the daemon under test on a router whose configuration exists."""
        socket = self.directory / name / "control.sock"
        socket.unlink(missing_ok=True)
        command = [str(self._commands / "wccpd"), "run", "--config", str(self.configuration(name))]
        program = self.start(f"wccpd-{name}", name, command)

        def answers() -> bool:
            if not program.running:
                raise LabError(f"wccpd on {name} ended\n{program.log_tail(40)}")
            return socket.exists()

        wait_until(answers, "wccpd's control socket", START_TIMEOUT_SECONDS, explain=program.log_tail)

    def configuration(self, router: str) -> Path:
        """The wccpd configuration file of a router."""
        return self.directory / router / "wccpd.yaml"

    # --- questions ---

    def wccpctl(self, router: str, *arguments: str) -> str:
        """What `wccpctl` answers on a router.

        Raises:
            LabError: it failed.
        """
        socket = self.directory / router / "control.sock"
        return self.run(router, [str(self._commands / "wccpctl"), "--socket", str(socket), *arguments])

    def status(self, router: str) -> dict[str, Any]:
        """The router's status, straight from the control API: much quicker than `wccpctl` on a slow machine.

        Raises:
            LabError: wccpd does not answer.
        """
        return read_status(self.directory / router / "control.sock")

    def wait_status(
        self, router: str, condition: Callable[[dict[str, Any]], Any], what: str, timeout_seconds: float
    ) -> dict[str, Any]:
        """The router's first status that meets `condition`.

        Raises:
            LabError: none did in time; shows the last status and the daemon's log.
        """
        last: dict[str, Any] = {}

        program = self.programs.get(f"wccpd-{router}")

        def met() -> bool:
            if not program.running:
                raise LabError(f"wccpd on {router} ended\n{program.log_tail(40)}")
            last.clear()
            try:
                last.update(self.status(router))
            except LabError as error:
                last["error"] = str(error)
                return False
            return bool(condition(last))

        wait_until(
            met,
            what,
            timeout_seconds,
            0.5,
            lambda: json.dumps(last, indent=1)[:6000] + "\n" + program.log_tail(30),
        )
        return last

    def fetch(
        self, spoke: str, url: str, timeout_seconds: float = 60, client_port: int | None = None
    ) -> Page:
        """Fetch `url` from a spoke with curl. HTTPS is verified against the origin's own certificate."""
        command = ["curl", "-sS", "--max-time", str(timeout_seconds), "--cacert", str(self.certificate)]
        command += ["--noproxy", "*", "-w", "\n%{http_code} %{local_port} %{errormsg}", url]
        if client_port is not None:
            command += ["--local-port", str(client_port)]
        # curl's exit status says no more than the error message that we print.
        out = self.run(spoke, ["sh", "-c", '"$@" 2>/dev/null || true', "sh", *command])
        body, _, trailer = out.rpartition("\n")
        status, port, error = [*trailer.split(" ", 2), "", ""][:3]
        return Page(int(status), body, int(port), error)

    def accesses(self, proxy: str) -> list[Access]:
        """What the Squid on a proxy logged."""
        log = self.directory / proxy / "access.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [Access(IPv4Address(line[2]), line[3], line[5], line[6]) for line in lines if len(line) > 6]

    def wait_access(self, url_part: str, timeout_seconds: float = 30) -> tuple[str, Access]:
        """The proxy that served a URL containing `url_part`, and its log line.

        Raises:
            LabError: no proxy logged it in time.
        """

        def logged() -> list[tuple[str, Access]]:
            proxies = [proxy.name for proxy in self.topology.proxies]
            return [(name, a) for name in proxies for a in self.accesses(name) if url_part in a.url]

        return wait_until(logged, f"line with {url_part} in an access log", timeout_seconds)[0]

    def origin_requests(self) -> list[tuple[IPv4Address, int, str]]:
        """What the origin answered: peer address, local port, path."""
        lines = [line.split() for line in (self.directory / "origin.log").read_text().splitlines()]
        return [(IPv4Address(words[0]), int(words[2]), words[3]) for words in lines if len(words) == 4]

    def capture(self, node: str, packet_filter: str = "ip") -> Capture:
        """Start a capture on all interfaces of a node; its file stays in the run directory."""
        self._captures += 1
        name = f"capture{self._captures}-{node}"
        file = self.directory / f"{name}.pcap"
        command = ["tcpdump", "-i", "any", "-y", "LINUX_SLL2", "-n", "-s", "300", "-U", "--immediate-mode"]
        program = self.start(name, node, [*command, "-Z", "root", "-w", str(file), packet_filter])
        return Capture(self.topology.node(node), file, program)

    def tgw_default_devices(self) -> list[frozenset[str]]:
        """For each of the two BGP speakers: the tunnels over which it has a default route."""
        return [self._default_devices(table) for table in SPEAKER_TABLES]

    def _default_devices(self, table: int) -> frozenset[str]:
        # Asking for a table that nothing was ever put into is an error to `ip`.
        tables = json.loads(self.run("tgw", ["ip", "-j", "route", "show", "table", "all"]))
        routes = [r for r in tables if r["dst"] == "default" and str(r.get("table")) == str(table)]
        hops = [hop for route in routes for hop in route.get("nexthops", [route])]
        return frozenset(str(hop["dev"]) for hop in hops)

    def kernel_state(self, node: str) -> frozenset[str]:
        """Links, addresses, rules, routes and nftables objects of a node, without counters."""
        commands = (
            ["ip", "-o", "link", "show"],
            ["ip", "-o", "address", "show"],
            ["ip", "rule", "show"],
            ["ip", "route", "show", "table", "all"],
            ["ip", "nexthop", "show"],
            ["nft", "-s", "list", "ruleset"],
        )
        return frozenset(
            f"{command[-2]}: {line.strip()}"
            for command in commands
            for line in self.run(node, command).splitlines()
        )
