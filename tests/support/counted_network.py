"""A spoke, a router, caches reached by L2 and a way past them; the spoke's questions are counted where they arrive.

    spoke 10.1.0.10 --- 10.1.0.1 router 10.100.1.10 --- .21, .22 caches
                                 router 10.9.0.1 ------ 10.9.0.2 far, the way past the caches

A question is a UDP packet of the spoke's to port 53 or 54. No daemon is started here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.support.namespaces import Namespace
from wccpd.wire.components import Capabilities
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod

ROUTER_ID = IPv4Address("10.100.1.10")
FIRST, SECOND = IPv4Address("10.100.1.21"), IPv4Address("10.100.1.22")
SPOKE = "10.1.0.10"
SERVER = "203.0.113.10"
L2 = Capabilities(
    forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.L2
)


@dataclass(frozen=True, slots=True)
class CountedNetwork:
    """The four namespaces."""

    spoke: Namespace
    router: Namespace
    caches: Namespace
    far: Namespace


def arrived(where: Namespace) -> int:
    """Questions that came to the caches' namespace, or to `far`."""
    listing = where.run("nft", "list", "counter", "ip", "count", "questions")
    return int(listing.split("packets ")[1].split()[0])


@contextmanager
def counted_network() -> Iterator[CountedNetwork]:
    """Make the network; take it away afterwards."""
    with (
        Namespace("spoke") as spoke,
        Namespace("router") as router,
        Namespace("caches") as caches,
        Namespace("far") as far,
    ):
        spoke.connect("uplink", f"{SPOKE}/24", router, "spokes", "10.1.0.1/24")
        router.connect("farm", f"{ROUTER_ID}/24", caches, "eth0", f"{FIRST}/24")
        router.connect("out", "10.9.0.1/24", far, "in", "10.9.0.2/24")
        caches.run("ip", "address", "add", f"{SECOND}/24", "dev", "eth0")
        spoke.run("ip", "route", "add", "default", "via", "10.1.0.1")
        router.run("ip", "route", "add", "default", "via", "10.9.0.2")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for where in (caches, far):
            where.run(
                "nft",
                "add table ip count; add counter ip count questions; "
                "add chain ip count pre { type filter hook prerouting priority -300; };"
                f"add rule ip count pre ip saddr {SPOKE} udp dport 53-54 counter name questions",
            )
        yield CountedNetwork(spoke, router, caches, far)
