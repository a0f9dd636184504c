"""What `wccpctl proxy-config squid` writes is run as it is on a bare proxy; the real Squid then does its work, by L2.

spoke 10.1.0.10 --- 10.1.0.1 router 10.100.1.10 --- 10.100.1.21 proxy
                             router 10.9.0.1 ------ 10.9.0.2 far, which also is 203.0.113.10, the origin
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.namespaces import Namespace

pytestmark = pytest.mark.netns

ORIGIN = "203.0.113.10"
PROXY = "10.100.1.21"
JOIN_SECONDS = 120
CONFIG = """\
router: {{id: 10.100.1.10}}
services:
  - service: web-cache
    password_file: wccp.password
    group_list: [10.100.1.0/24]
    assignment_wait_seconds: 2
    forwarding: [l2]
    packet_return: [l2]
  - service: 70
    password_file: wccp.password
    assignment_wait_seconds: 2
    match: {{protocol: tcp, ports: [443, 8080], hash: [source_ip], priority: 231}}
    forwarding: [gre, l2]
    packet_return: [gre, l2]
  - service: 90
    group_list: [10.100.2.0/24]
redirect: {{interfaces: [spokes]}}
control: {{socket: {directory}/control.sock}}
state_directory: {directory}/state
"""
BASE = """\
http_port 127.0.0.1:3128
include {directory}/wccp.conf
http_access deny all
cache deny all
cache_mem 8 MB
max_filedescriptors 256
cache_effective_user proxy
pid_filename {directory}/squid.pid
access_log stdio:{directory}/access.log
cache_log {directory}/cache.log
coredump_dir {directory}
dns_nameservers 127.0.0.1
pinger_enable off
shutdown_lifetime 1 second
"""
SERVE = """\
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"the page at {self.path} for {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Page).serve_forever()
"""


class Stage:
    """The namespaces and what runs in them."""

    def __init__(self, namespaces: dict[str, Namespace], directory: Path, squid_directory: Path) -> None:
        self.spoke, self.router = namespaces["spoke"], namespaces["router"]
        self.proxy, self.far = namespaces["proxy"], namespaces["far"]
        self.directory, self.squid_directory = directory, squid_directory
        (directory / "wccp.password").write_text("sesame\n")
        self.config = directory / "wccpd.yaml"
        self.config.write_text(CONFIG.format(directory=directory))
        self.running: list[subprocess.Popen[bytes]] = []
        self.daemon = Daemon(self.router, self.config).ready()

    def wccpctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from wccpd.ctl import main; main()"]
        return subprocess.run(
            [*command, "--socket", str(self.directory / "control.sock"), *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def start(self, namespace: Namespace, *command: str) -> None:
        self.running.append(
            subprocess.Popen(
                ["ip", "netns", "exec", namespace.name, *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def set_up_the_proxy(self) -> None:
        """Run the script as it is, and start Squid on a configuration that includes what it wrote."""
        done = self.wccpctl("proxy-config", "squid", PROXY)
        assert done.returncode == 0, done.stderr
        script = self.directory / "set-up.sh"
        script.write_text(done.stdout)
        environment = {
            "WCCP_PASSWORD_WEB_CACHE": "sesame",
            "WCCP_PASSWORD_70": "sesame",
            "SQUID_CONF": str(self.squid_directory / "wccp.conf"),
            "SQUID_CERT": str(self.squid_directory / "splice.pem"),
        }
        settings = [f"{name}={value}" for name, value in environment.items()]
        for _ in range(2):
            self.proxy.run("env", *settings, "sh", str(script))
        file = self.squid_directory / "squid.conf"
        file.write_text(BASE.format(directory=self.squid_directory))
        squid = shutil.which("squid", path=f"{os.environ['PATH']}:/usr/sbin")
        assert squid is not None, "make setup installs squid-openssl"
        name = f"wtproxy{time.monotonic_ns() % 10**9}"
        self.start(self.proxy, squid, "-N", "-n", name, "-f", str(file))

    def fetch(self, port: int, path: str) -> str:
        return self.spoke.run(
            "curl", "-sS", "--noproxy", "*", "--max-time", "10", f"http://{ORIGIN}:{port}/{path}"
        )

    def accesses(self) -> list[list[str]]:
        log = self.squid_directory / "access.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def close(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(20)
        self.daemon.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    # Squid gives up root: it needs a folder that it can get at.
    squid_directory = Path(tempfile.mkdtemp(prefix="wt-squid-"))
    squid_directory.chmod(0o777)
    with (
        Namespace("spoke") as spoke,
        Namespace("router") as router,
        Namespace("proxy") as proxy,
        Namespace("far") as far,
    ):
        spoke.connect("uplink", "10.1.0.10/24", router, "spokes", "10.1.0.1/24")
        router.connect("farm", "10.100.1.10/24", proxy, "eth0", f"{PROXY}/24")
        router.connect("out", "10.9.0.1/24", far, "in", "10.9.0.2/24")
        spoke.run("ip", "route", "add", "default", "via", "10.1.0.1")
        proxy.run("ip", "route", "add", "default", "via", "10.100.1.10")
        router.run("ip", "route", "add", "default", "via", "10.9.0.2")
        far.run("ip", "route", "add", "default", "via", "10.9.0.1")
        far.run("ip", "address", "add", f"{ORIGIN}/32", "dev", "lo")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Its own route to the clients leads astray: answers must find back by the script's doing.
        proxy.run("ip", "link", "add", "aside", "type", "bridge")
        proxy.run("ip", "address", "add", "192.0.2.1/24", "dev", "aside")
        proxy.run("ip", "link", "set", "aside", "up")
        proxy.run("ip", "route", "add", "10.1.0.0/24", "via", "192.0.2.2")
        # As strict as a distribution may have it.
        proxy.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
        made = Stage(
            {"spoke": spoke, "router": router, "proxy": proxy, "far": far},
            tmp_path_factory.mktemp("router"),
            squid_directory,
        )
        try:
            for port in (80, 8080):
                made.start(far, sys.executable, "-c", SERVE, str(port))
            made.set_up_the_proxy()
            yield made
        finally:
            made.close()
            shutil.rmtree(squid_directory)


def test_the_proxy_joins_both_services_and_is_assigned_everything(stage: Stage) -> None:
    def joined() -> bool:
        status = stage.daemon.status()
        return {each["service"]: each["buckets_assigned"] for each in status["services"]} == {
            "web-cache": 256, "70": 256, "90": 0,
        }  # fmt: skip

    wait_for(joined, "both services are assigned", JOIN_SECONDS)
    caches = {each["service"]: each for each in stage.daemon.status()["caches"]}
    for service in ("web-cache", "70"):
        assert (caches[service]["address"], caches[service]["state"]) == (PROXY, "usable")
        assert (caches[service]["forwarding"], caches[service]["packet_return"]) == ("L2", "L2")
    assert stage.daemon.status()["refused"] == []


@pytest.mark.parametrize("port", [80, 8080])
def test_a_page_fetched_through_it_is_in_its_log_with_the_clients_address(stage: Stage, port: int) -> None:
    page = stage.fetch(port, f"through-{port}")
    assert page == f"the page at /through-{port} for {PROXY}", "the origin sees the proxy"

    def logged() -> list[list[str]]:
        return [each for each in stage.accesses() if f"/through-{port}" in each[6]]

    (line,) = wait_for(logged, "it is in the log")
    assert line[2] == "10.1.0.10"
    services = {each["service"]: each["packets_redirected"] for each in stage.daemon.status()["services"]}
    assert services[{80: "web-cache", 8080: "70"}[port]] > 0


def test_the_doctor_sees_that_the_proxy_answers(stage: Stage) -> None:
    done = stage.wccpctl("doctor", "--all")
    assert f"cache {PROXY}: usable" in done.stdout
    assert "missing decapsulation" not in done.stdout


def test_without_the_daemon_the_configuration_is_enough(stage: Stage) -> None:
    command = [sys.executable, "-c", "from wccpd.ctl import main; main()", "--socket", "/nonexistent.sock"]
    done = subprocess.run(
        [*command, "proxy-config", "squid", PROXY, "--config", str(stage.config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == stage.wccpctl("proxy-config", "squid", PROXY).stdout
    assert done.returncode == 0


def test_what_cannot_be_set_up_is_said(stage: Stage) -> None:
    for words, said in (
        (("vms", PROXY), "'vms' is none of squid, linux, generic"),
        (("squid", "10.100.1.300"), "'10.100.1.300' is no IPv4 address"),
    ):
        done = stage.wccpctl("proxy-config", *words)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
