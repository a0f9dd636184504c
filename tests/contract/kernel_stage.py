"""The stage of a real kernel: a router's namespace, and one that holds the other ends of all its wires.

The spoke, the caches and the far side have no address and no stack: they are frames that we put on a wire and
frames that come out of one. So nobody answers but the router. Its answer to a ping sent behind the packets, which no
service may have, tells when all that was to come has come: one processor carries packets in the order in which they
are sent.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from tests.contract.stage import (
    BEYOND_THE_SPOKE,
    EXPIRED,
    FARM,
    LEASE_SECONDS,
    NOWHERE,
    OUT,
    PASSED,
    PROHIBITED,
    RESET,
    Fate,
    Place,
)
from tests.contract.wires import (
    ICMP,
    PLAIN,
    RST,
    Details,
    Seen,
    craft,
    echo_request,
    ethernet,
    fragmentation_needed,
    ip_packet,
    read_frame,
)
from tests.support.namespaces import Namespace, run
from tests.support.plans import CACHES, FAR, INGRESS, ROUTER_ID, ROUTER_INSIDE, SPOKE
from wccpd.dataplane.port import Applied, DataPlane, Observation, Wish
from wccpd.plan.decide import Packet
from wccpd.plan.pages import NO_PAGES, remembering
from wccpd.plan.policy import KernelSettings
from wccpd.plan.redirect import TCP, RedirectPlan
from wccpd.plan.redirect import Path as RedirectPath
from wccpd.wire.enums import ForwardingMethod

PATIENCE_SECONDS = 10.0
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
ROUTER_MAC = {INGRESS: bytes.fromhex("020000000101"), FARM: bytes.fromhex("020000000201"),
              OUT: bytes.fromhex("020000000901")}  # fmt: skip
PEER_MAC = {INGRESS: bytes.fromhex("020000000110"), FARM: bytes.fromhex("0200000002fe"),
            OUT: bytes.fromhex("020000000902")}  # fmt: skip
SUBNETS = {INGRESS: "10.1.0.1/24", FARM: "10.2.0.1/24", OUT: "10.9.0.1/24"}
NO_CACHE = IPv4Address("10.2.0.99")
"""Somebody else on the segment of the caches."""
CACHE_MAC = {cache: bytes.fromhex(f"0200000002{int(cache) & 0xFF:02x}") for cache in CACHES}


class Network:
    """Router and world. Made once for many tests; what a test leaves in the router it must remove."""

    def __init__(self, router: Namespace, world: Namespace) -> None:
        self.router, self.world = router, world
        self._wire_up()
        self._sockets = {device: world.call(lambda device=device: _listen(device)) for device in ROUTER_MAC}
        # Packets keep their order as long as one processor carries them.
        world.call(lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
        self._identification = 0
        # The first GRE device of a namespace brings the kernel's own gre0, gretap0 and erspan0, which stay.
        self.router.run("sh", "-c", f"ip link add first {_SOME_GRE} && ip link del first || true")
        self.at_first = self.state()

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def new_identification(self) -> int:
        self._identification = self._identification % 0xFFFF + 1
        return self._identification

    def exchange(self, frames: Sequence[tuple[str, bytes]]) -> list[tuple[str, Seen]]:
        """Send IPv4 frames in by devices of the router, and collect all that comes out of any."""
        sentinel = self.new_identification()
        last = ip_packet(SPOKE, ROUTER_INSIDE, ICMP, echo_request(sentinel))

        def send() -> None:
            for device, frame in frames:
                self._sockets[device].send(frame)
            self._sockets[INGRESS].send(ethernet(PEER_MAC[INGRESS], ROUTER_MAC[INGRESS], last))

        for _ in self._received(0):
            """Of no exchange of ours."""
        self.world.call(send)
        seen = []
        for device, each in self._received(PATIENCE_SECONDS):
            if device == INGRESS and each.echo_reply == sentinel:
                return [*seen, *self._received(0)]
            seen.append((device, each))
        raise AssertionError(f"the router did not answer in {PATIENCE_SECONDS} s")

    def state(self) -> dict[str, list[str]]:
        """All of the router's kernel that a data plane might touch."""
        listings = self.router.run("sh", "-c", "; echo ---; ".join(_LISTINGS.values()))
        found = dict(zip(_LISTINGS, (each.splitlines() for each in listings.split("---\n")), strict=True))
        found["sysctls"] = self.router.call(_settings)
        return {name: sorted(lines) for name, lines in found.items()}

    def _received(self, patience_seconds: float) -> Iterator[tuple[str, Seen]]:
        devices = {sock.fileno(): (device, sock) for device, sock in self._sockets.items()}
        poller = select.poll()
        for fd in devices:
            poller.register(fd, select.POLLIN)
        until = time.monotonic() + patience_seconds
        while ready := poller.poll(max(0.0, until - time.monotonic()) * 1000):
            for fd, _ in ready:
                device, sock = devices[fd]
                seen = read_frame(sock.recv(65536))
                if seen is not None:
                    yield device, seen

    def _wire_up(self) -> None:
        for device, mac in ROUTER_MAC.items():
            run(["ip", "link", "add", device, "netns", self.router.name, "address", mac.hex(":"), "type", "veth",
                 "peer", "name", device, "netns", self.world.name])  # fmt: skip
            self.router.run("ip", "address", "add", SUBNETS[device], "brd", "+", "dev", device)
            for namespace in (self.router, self.world):
                namespace.run("ip", "link", "set", device, "up")
        neighbours = {SPOKE: INGRESS, FAR: OUT, **dict.fromkeys((*CACHES, NO_CACHE), FARM)}
        for address, device in neighbours.items():
            mac = CACHE_MAC.get(address, PEER_MAC[device]).hex(":")
            self.router.run("ip", "neigh", "add", str(address), "lladdr", mac, "dev", device)  # for good
        self.router.run("ip", "route", "add", str(BEYOND_THE_SPOKE), "via", str(SPOKE))
        self.router.run("ip", "route", "add", "default", "via", str(FAR))
        settings = ["ip_forward=1", "icmp_ratemask=0", "icmp_errors_use_inbound_ifaddr=0"]
        settings += [f"conf.{device}.rp_filter=0" for device in ("all", *ROUTER_MAC)]
        settings += [f"conf.{device}.send_redirects=0" for device in ("all", *ROUTER_MAC)]
        self.router.run("sysctl", "-qw", *(f"net.ipv4.{setting}" for setting in settings))
        # A flow that is sent again some seconds after its reset is still the same one, however slow the machine;
        # where connection tracking is a module that is not loaded yet, there is no such setting.
        self.router.run("sysctl", "-qew", "net.netfilter.nf_conntrack_tcp_timeout_close=600")


class KernelStage:
    """See tests.contract.stage.Stage."""

    def __init__(
        self,
        network: Network,
        make_plane: Callable[[], DataPlane],
        forwarding: ForwardingMethod,
        settings: KernelSettings | None = None,
    ) -> None:
        self.network = network
        self._settings = settings or KernelSettings()
        self._pages = NO_PAGES
        self.forwarding = forwarding
        self._make_plane = make_plane
        self.before = network.at_first
        self.plane = network.router.call(make_plane)

    def close(self) -> None:
        self.network.router.call(self.plane.close)

    @property
    def hash_function(self) -> str:
        return self.plane.hash_function

    def bring_to(self, plan: RedirectPlan, *, leased: bool = True, faults: int = 0) -> Applied:
        # As the reconciler does.
        plan = remembering(plan, self._settings.services, self._pages)
        self._pages = plan.alternate_pages
        applied = self.network.router.call(lambda: self.plane.bring_to(Wish(plan)))
        assert len(applied.faults) == faults, applied.faults
        if leased:
            self.renew_lease()
        return applied

    def preview(self, plan: RedirectPlan) -> tuple[str, ...]:
        return self.network.router.call(lambda: self.plane.preview(Wish(plan), self._settings))

    def reconfigure(self, services: tuple[str, ...]) -> None:
        self._settings = replace(self._settings, services=services)
        self.network.router.call(lambda: self.plane.reconfigure(self._settings))

    def observe(self) -> Observation:
        return self.network.router.call(self.plane.observe)

    def renew_lease(self, seconds: float = LEASE_SECONDS) -> None:
        self.network.router.call(lambda: self.plane.renew_lease(seconds))

    def let_the_lease_run_out(self) -> None:
        self.renew_lease(0.2)
        until = time.monotonic() + PATIENCE_SECONDS
        while self.observe().leased:
            assert time.monotonic() < until, "the lease does not run out"
            time.sleep(0.05)

    def forget(self) -> None:
        self.network.router.call(self.plane.forget)

    def restart(self) -> None:
        self.close()
        self.plane = self.network.router.call(self._make_plane)

    def send(self, packet: Packet) -> Fate:
        (fate,) = self.send_all([packet])
        return fate

    def send_all(self, packets: Sequence[Packet], details: Details = PLAIN) -> list[Fate]:
        crafted = [craft(packet, self.network.new_identification(), details) for packet in packets]
        frames = [frame_of(packet, ip) for packet, ip in zip(packets, crafted, strict=True)]
        seen = self.network.exchange(frames)
        return [
            fate_on_the_wires(packet, Seen(b"", b"", ip), seen)
            for packet, ip in zip(packets, crafted, strict=True)
        ]

    def send_error(self, about: Packet) -> Fate:
        quoted = ip_packet(about.destination, about.source, about.protocol, _first_octets_of_answer(about))
        error = ip_packet(
            about.source,
            about.destination,
            ICMP,
            fragmentation_needed(quoted, 1400),
            identification=self.network.new_identification(),
        )
        seen = self.network.exchange([frame_of(about, error)])
        return fate_on_the_wires(about, Seen(b"", b"", error), seen)

    def live_flows(self) -> Mapping[IPv4Address, int]:
        return self.network.router.call(self.plane.live_flows)

    def refuse(self, path: RedirectPath) -> None:
        assert path.forwarding is ForwardingMethod.L2, (
            "a router is in between, so the plane must refuse by itself"
        )

    @property
    def damages(self) -> tuple[str, ...]:
        return tuple(self._damages())

    def damage(self, what: str) -> None:
        self.network.router.run("sh", "-c", what)

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied:
        return self.network.router.call(lambda: self.plane.remove(keep_closed))

    def _damages(self) -> Iterator[str]:
        """Shell commands, each of which takes away or adds something; found by what the plane added to the kernel."""
        now = self.network.state()
        for rule in sorted(set(now["rules"]) - set(self.before["rules"])):
            priority, _, selector = rule.partition(":")
            yield f"ip rule del priority {priority} {selector}"
        for route in sorted(set(now["routes"]) - set(self.before["routes"])):
            if " table " in route and " table local " not in route:
                yield f"ip route del {route}"
        for link in sorted(set(now["links"]) - set(self.before["links"])):
            yield f"ip link del {link.split()[0].partition('@')[0]}"
        for line in sorted(set(now["programs"]) - set(self.before["programs"])):
            device, _, qdisc = line.partition(":")
            if qdisc.startswith("qdisc clsact"):
                yield f"tc filter del dev {device} ingress"
                yield f"tc qdisc del dev {device} clsact"
        theirs = {line for line in self.before["nft"] if line.startswith("table ")}
        for line in sorted({line for line in now["nft"] if line.startswith("table ")} - theirs):
            table = line.removesuffix(" {")
            yield from _damages_of(json.loads(self.network.router.run("nft", "-j", "list", *table.split())))
            yield f"nft delete {table}"

    def objects(self) -> dict[str, list[str]]:
        """What is in the router now and was not before the plane came."""
        now = self.network.state()
        return {name: sorted(set(lines) - set(self.before[name])) for name, lines in now.items()}


def frame_of(packet: Packet, ip: bytes) -> tuple[str, bytes]:
    """The frame in which a packet's sender puts these octets, and the device by which it comes in."""
    return packet.device, ethernet(sender_mac(packet), ROUTER_MAC[packet.device], ip)


def fate_on_the_wires(packet: Packet, sent: Seen, seen: Sequence[tuple[str, Seen]]) -> Fate:
    """What became of a packet, by all that came out."""
    fates = [fate for device, each in seen if (fate := _fate(packet, sent, device, each)) is not None]
    assert len(fates) <= 1, f"{packet} came out more than once: {[str(fate) for fate in fates]}"
    return fates[0] if fates else NOWHERE


def _fate(packet: Packet, sent: Seen, device: str, seen: Seen) -> Fate | None:
    """What a packet that came out tells of the one that was sent; None for one that is not of it."""
    if is_the_same(sent, seen):
        _assert_carried_whole(sent, seen)
        owner = next((cache for cache, mac in CACHE_MAC.items() if mac == seen.destination_mac), None)
        if device != FARM or seen.destination == owner:
            return PASSED
        assert owner is not None, f"on the farm's wire to {seen.destination_mac.hex(':')}"
        return Fate(Place.CACHE, RedirectPath(owner, ForwardingMethod.L2))
    if (carried := seen.gre_payload) is not None and is_the_same(sent, carried[1]):
        header, inner = carried
        _assert_carried_whole(sent, inner)
        assert seen.source == ROUTER_ID, "caches know their router by the outer source"
        assert seen.destination_mac == CACHE_MAC[seen.destination]
        return Fate(Place.CACHE, RedirectPath(seen.destination, ForwardingMethod.GRE), header)
    if (seen.source, seen.destination) == (sent.destination, sent.source) and packet.protocol == TCP:
        ports = sent.body[2:4] + sent.body[:2]
        if seen.protocol == TCP and seen.body[:4] == ports and seen.body[13] & RST:
            return RESET
    if seen.protocol == ICMP and seen.body[0] in {3, 11} and is_the_same(sent, seen.quoted):
        return _ANSWERS.get((seen.body[0], seen.body[1]), Fate(Place.UNREACHABLE))
    return None


_ANSWERS = {(11, 0): EXPIRED, (3, 13): PROHIBITED, (3, 4): Fate(Place.TOO_BIG)}


def is_the_same(sent: Seen, seen: Seen) -> bool:
    """Whether what was seen is what was sent, or a fragment of it."""
    return (sent.source, sent.destination, sent.protocol, sent.identification) == (
        seen.source,
        seen.destination,
        seen.protocol,
        seen.identification,
    )


def _assert_carried_whole(sent: Seen, seen: Seen) -> None:
    assert seen.ttl == sent.ttl - 1, "a redirected packet has made one hop, as any other"
    assert seen.body == sent.body


def sender_mac(packet: Packet) -> bytes:
    if packet.sender is not None:
        return CACHE_MAC[packet.sender]
    return CACHE_MAC.get(packet.source, PEER_MAC[FARM]) if packet.device == FARM else PEER_MAC[packet.device]


def _first_octets_of_answer(about: Packet) -> bytes:
    ports = about.destination_port.to_bytes(2) + about.source_port.to_bytes(2)
    return ports + (1).to_bytes(4)


_SOME_GRE = "type gre local 127.0.0.1 remote 127.0.0.2"
_LISTINGS = {
    "nft": "nft -s list ruleset",
    "rules": "ip rule list",
    "routes": "ip -4 route list table all",
    "links": "ip -brief link",
    "programs": "for d in spokes farm out; do tc qdisc list dev $d | sed s/^/$d:/; tc filter list dev $d ingress; done",
}


def _settings() -> list[str]:
    """net.ipv4 settings of the namespace that the thread is in, those of devices for all that there are."""
    base = Path("/proc/sys/net/ipv4")
    files = [base / "ip_forward", *base.glob("conf/*/rp_filter"), *base.glob("conf/*/accept_local")]
    return [f"{file.relative_to(base)} = {file.read_text().strip()}" for file in files]


def _damages_of(listing: dict) -> Iterator[str]:
    """Ways to damage one nft table."""
    for item in listing["nftables"]:
        ((kind, body),) = item.items()
        where = f"{body.get('family')} {body.get('table')} {body.get('name')}"
        if kind == "chain":
            yield f"nft flush chain {where}"
            yield f"nft insert rule {where} accept"
        if kind in {"set", "map"} and body.get("elem"):
            yield f"nft flush {kind} {where}"


def _listen(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.bind((device, ETH_P_ALL))
    return sock
