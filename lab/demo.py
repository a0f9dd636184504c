"""`make demo`: the whole architecture at work, each claim checked before it is printed.

Builds the lab, starts everything, fetches pages from both spokes, shows who served them, the routes, a redirected
packet; then kills a Squid and watches the traffic move. Ends with status 0 only if every check held.
"""

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from lab.capture import GRE_WCCP, describe_with_tshark
from lab.errors import LabError, wait_until
from lab.laboratory import Lab
from lab.topology import ORIGIN, SPOKES

ROUTER = "router1"
JOIN_TIMEOUT_SECONDS = 300
LOSS_LIMIT_SECONDS = 35
STEPS = 9

DRAWING = """
   spoke1 10.1.0.10    spoke2 10.2.0.10
         |                   |                          Spoke VPCs
      +--+-------------------+--+
      |  tgw    two BGP speakers|                       Transit Gateway, AS 64512
      +-----------: :-----------+
                  : : GRE, BGP: default up, spokes down
      +-----------: :-----------+     GRE, WCCP     +--------+
      | router1 10.100.1.10     |<=================>| proxy1 | 10.100.1.21   Squid
      | wccpd + gobgpd, AS 65010|<=================>| proxy2 | 10.100.1.22   Squid
      +------------+------------+                   +---+----+
                   | not redirected                     | redirected, from the proxy's own address
      -------------+------------------------------------+---   Egress VPC, 10.100.1.0/24
                   |
              firewall --- nat 198.51.100.1 --- internet 203.0.113.10 (HTTP, HTTPS)
"""


class Progress:
    """Says which step has begun, and when."""

    def __init__(self) -> None:
        self._step = 0
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        """Announce the next step."""
        self._step += 1
        print(f"\n[{self._step}/{STEPS}] {time.monotonic() - self._began:4.0f} s  {text}", flush=True)


class Demo:
    """One run of the demo in a lab that is already built."""

    def __init__(self, lab: Lab, progress: Progress) -> None:
        self._lab = lab
        self._step = progress.step

    def run(self) -> None:
        """Show everything.

        Raises:
            LabError: a claim did not hold.
        """
        self._start_programs()
        self._show_joining()
        self._show_routes()
        served = self._show_pages()
        self._show_bypassed()
        self._show_packet()
        self._show_status()
        self._show_loss(served["spoke1"])

    def _start_programs(self) -> None:
        self._step("starting two Squids, gobgpd and wccpd")
        for proxy in self._lab.topology.proxies:
            self._lab.start_proxy(proxy.name, wait=False)
        self._lab.start_router(ROUTER)
        for proxy in self._lab.topology.proxies:
            self._lab.wait_proxy(proxy.name)
            claim(f"{proxy.name}: Squid listens, intercepting HTTP and HTTPS")

    def _show_joining(self) -> None:
        self._step("the Squids join the service groups (up to a minute: they are offered what each can read)")
        seen: set[str] = set()

        def joined(status: dict[str, Any]) -> bool:
            for cache in status["caches"]:
                news = f"{cache['address']} in {cache['service']}: {cache['state']}, {cache['rung']}"
                if news not in seen:
                    seen.add(news)
                    print(f"      {news}", flush=True)
            return status["inspecting"] and all(
                (s["caches_usable"], s["buckets_assigned"]) == (2, 256) for s in status["services"]
            )

        status = self._lab.wait_status(ROUTER, joined, "two usable caches per service", JOIN_TIMEOUT_SECONDS)
        for service in status["services"]:
            claim(
                f"{service['service']}: 2 caches usable, 256 of 256 buckets, assigned by {service['assigned_by']}"
            )

    def _show_routes(self) -> None:
        self._step("BGP between router1 and the Transit Gateway")
        status = self._lab.wait_status(
            ROUTER, lambda s: len(s["bgp"]["routes"]) == 2, "two routes learnt", 90
        )
        prefixes = sorted(route["prefix"] for route in status["bgp"]["routes"])
        check(
            prefixes == ["10.1.0.0/24", "10.2.0.0/24"],
            f"router1 learnt the spokes and nothing else: {prefixes}",
        )
        wait_until(lambda: all(self._lab.tgw_default_devices()), "default route on the Transit Gateway", 60)
        claim("both BGP speakers of the Transit Gateway took router1's default")
        indent(self._lab.run(ROUTER, ["ip", "route", "show"]), "router1: ")

    def _show_pages(self) -> dict[str, str]:
        self._step("fetching pages from both spokes")
        served = {}
        for spoke in SPOKES:
            path = f"hello-from-{spoke.name}"
            self._fetch(spoke.name, f"http://{ORIGIN}/{path}", f"the page at /{path}\n")
            proxy, access = self._lab.wait_access(f"/{path}")
            check(
                access.client == spoke.address,
                f"{spoke.name} was served by {proxy}, says its log: {access}",
            )
            served[spoke.name] = proxy
            self._fetch(spoke.name, f"https://{ORIGIN}/{path}", f"the page at /{path}\n")
            claim(f"{spoke.name}: HTTPS as well, with the origin's own certificate")
        return served

    def _show_bypassed(self) -> None:
        self._step("a flow that no service asks for: port 8080")
        self._fetch("spoke1", f"http://{ORIGIN}:8080/not-redirected", "the page at /not-redirected\n")
        logged = [
            a for p in self._lab.topology.proxies for a in self._lab.accesses(p.name) if "8080" in a.url
        ]
        check(not logged, "it reached the origin, and no Squid saw it")

    def _show_packet(self) -> None:
        self._step("one redirected packet on its way from router1 to a proxy")
        capture = self._lab.capture(ROUTER, "ip proto 47")
        capture.wait_ready()
        self._fetch("spoke1", f"http://{ORIGIN}/captured", "the page at /captured\n")
        packet = capture.wait_for(
            lambda p: (
                p.is_opening
                and p.destination == ORIGIN
                and p.encapsulation is not None
                and p.encapsulation.gre_protocol == GRE_WCCP
            ),
            "redirected packet",
        )
        capture.stop()
        assert packet.encapsulation is not None
        indent(
            describe_with_tshark(
                capture.file, f"gre.proto == 0x883e && tcp.flags.syn == 1 && ip.dst == {ORIGIN}"
            ),
            "",
        )
        header = packet.encapsulation.redirect_header
        check(header is not None and header[:2] == b"\0\0", "WCCP's GRE with a redirect header for service 0")

    def _show_status(self) -> None:
        self._step("wccpctl status")
        text = self._lab.wccpctl(ROUTER, "status")
        indent(text, "")
        status = self._lab.status(ROUTER)
        redirected = {s["service"]: s["packets_redirected"] for s in status["services"]}
        check(all(redirected.values()), f"packets redirected, by service: {redirected}")

    def _show_loss(self, victim: str) -> None:
        survivor = next(p.name for p in self._lab.topology.proxies if p.name != victim)
        self._step(f"killing the Squid on {victim}")
        self._lab.kill(f"squid-{victim}", signal.SIGKILL)
        killed_at = time.monotonic()

        attempts: list[float] = []

        def served_again() -> bool:
            attempts.append(time.monotonic() - killed_at)
            page = self._lab.fetch("spoke1", f"http://{ORIGIN}/after-the-loss", timeout_seconds=3)
            if len(attempts) % 5 == 1 or page.status == 200:
                outcome = "served" if page.status == 200 else page.error or f"HTTP {page.status}"
                print(f"      {attempts[-1]:4.1f} s: {outcome}", flush=True)
            return page.status == 200

        wait_until(served_again, f"page by way of {survivor}", LOSS_LIMIT_SECONDS + 30, interval_seconds=1)
        seconds = attempts[-1]
        proxy, _ = self._lab.wait_access("/after-the-loss")
        check(proxy == survivor, f"{survivor} serves spoke1 now, {seconds:.0f} s after the loss")
        check(seconds <= LOSS_LIMIT_SECONDS, f"that is within {LOSS_LIMIT_SECONDS} s")
        self._lab.wait_status(
            ROUTER, lambda s: buckets_of(s, self._address(survivor)) == 512, "moved buckets", 30
        )
        claim(f"all 256 buckets of both services belong to {survivor}")

    def _address(self, proxy: str) -> str:
        return str(self._lab.topology.proxy(proxy).address)

    def _fetch(self, spoke: str, url: str, body: str) -> None:
        page = self._lab.fetch(spoke, url)
        check(
            page.status == 200 and page.body == body,
            f"{spoke} got {url}" + (f": {page.error}" if page.error else ""),
        )


def buckets_of(status: dict[str, Any], address: str) -> int:
    """How many buckets a cache owns in all services together."""
    return sum(int(cache["buckets"]) for cache in status["caches"] if cache["address"] == address)


def check(holds: bool, text: str) -> None:
    """Print a claim that holds.

    Raises:
        LabError: it does not.
    """
    if not holds:
        raise LabError(f"this should hold and does not: {text}")
    claim(text)


def claim(text: str) -> None:
    """Print something that was checked."""
    print(f"  ok  {text}", flush=True)


def indent(text: str, prefix: str) -> None:
    """Print what a program said."""
    for line in text.rstrip().splitlines():
        print(f"      | {prefix}{line}", flush=True)


def run_demo(hold: Callable[[Lab], None] | None) -> int:
    """Run the demo on this kernel; the exit status.

    Args:
        hold: called with the lab when everything held, to keep it; None takes it down.
    """
    print(DRAWING)
    progress = Progress()
    progress.step("building the network: namespaces, links, NAT, firewall, origin, two BGP speakers")
    try:
        with Lab() as lab:
            Demo(lab, progress).run()
            print("\nEvery claim above was checked and holds.", flush=True)
            if hold is not None:
                hold(lab)
    except LabError as error:
        print(f"\nFAILED: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
