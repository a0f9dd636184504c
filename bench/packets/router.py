"""A router to be measured, in a network namespace of its own.

    injected frames -> in  [ what is measured ]  out -> counted by next hop, dropped
                       172.16.0.1/30             172.16.1.1/24

The frames enter at `in` by BPF_PROG_TEST_RUN as if its driver had received them, 64 at a time, and go all the way
in the calling thread: its CPU time is what they cost. A tc program at the egress of `out` counts and drops them.
Next hops are 172.16.1.N with MAC address 02:00:00:00:00:N; the gateway to the Internet is 254. Not in it: a driver,
DMA, the other end's work. IPv6 is off, since its announcements would be counted.

A namespace that ever had an `ip rule` forwards more slowly for good: one router per case, never one after another.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from bench.packets.compiler import compiled
from bench.packets.frames import FLOWS, frame
from tests.support.namespaces import Namespace
from wccpd.dataplane.bpf.hooks import Direction, XdpMode, attach_tc, attach_xdp
from wccpd.dataplane.bpf.objects import BpfObject

if TYPE_CHECKING:
    from collections.abc import Callable

    from wccpd.dataplane.bpf.libbpf import LibBpf
    from wccpd.dataplane.bpf.programs import BpfProgram

INGRESS: Final = "in"
EGRESS: Final = "out"
GATEWAY: Final = 254
ROUTER: Final = 0
"""What the router's own MAC address counts as."""
CACHE_HOPS: Final = range(2, 34)
_MAC: Final = bytes.fromhex("020000000100")
_KEY = struct.Struct("=I")
_TALLY = struct.Struct("=QQ")
_INJECTION = struct.Struct("=Q56s")


class LostPacketsError(Exception):
    """Not all packets arrived, or not where they should: a time for them would mean nothing."""


def hop_address(hop: int) -> str:
    """Address of a next hop, 2 to 33 for caches, or `GATEWAY`."""
    return f"172.16.1.{hop}"


class Router:
    """One router; a plain one until something else is set up in `namespace`."""

    def __init__(self, library: LibBpf, role: str) -> None:
        self.namespace = Namespace(role)
        self.library = library
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.namespace)
            self._configure()
            inject = stack.enter_context(BpfObject(self.library, compiled("inject")))
            count = stack.enter_context(BpfObject(self.library, compiled("count")))
            inject.load()
            count.load()
            self._injector, self._injection = inject.program("inject"), inject.map("injection")
            self._counter, self._delivered = count.program("count"), count.map("delivered")
            self._ingress_index = self.namespace.call(lambda: socket.if_nametoindex(INGRESS))
            self.egress_index = self.namespace.call(lambda: socket.if_nametoindex(EGRESS))
            nothing = inject.program("nothing")
            self.namespace.call(
                lambda: attach_xdp(self.library, self._ingress_index, nothing, XdpMode.NATIVE)
            )
            self.namespace.call(
                lambda: attach_tc(self.library, self.egress_index, Direction.EGRESS, self._counter)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def on_exit(self, work: Callable[[], None]) -> None:
        """Do something before the namespace goes."""
        self._stack.callback(work)

    def drop_at_ingress(self) -> None:
        """Count and drop right where packets enter: what the harness itself costs."""
        self.attach_at_ingress(self._counter)

    def attach_at_ingress(self, program: BpfProgram) -> None:
        """Give every packet to a tc program as soon as it is in."""
        self.namespace.call(lambda: attach_tc(self.library, self._ingress_index, Direction.INGRESS, program))

    def send(self, frame_octets: int, packets: int, hops: frozenset[int]) -> float:
        """Send packets through, evenly over all flows.

        Args:
            frame_octets: Without the check sequence, 64 or more.
            packets: How many.
            hops: The next hops that must get some, and no others may.

        Returns:
            CPU nanoseconds per packet.

        Raises:
            LostPacketsError: Not all packets came out, or not towards these hops.
        """
        octets = frame(frame_octets, _MAC)
        self._injection.update(_KEY.pack(0), _INJECTION.pack(FLOWS - 1, octets[:56]))
        before = self._tallies()
        nanoseconds = self.namespace.call(lambda: self._run(octets, packets))
        after = self._tallies()
        arrived = {hop: after[hop] - before.get(hop, 0) for hop in after if after[hop] != before.get(hop, 0)}
        if sum(arrived.values()) != packets:
            raise LostPacketsError(f"{sum(arrived.values())} of {packets} packets were delivered")
        if arrived.keys() != hops:
            raise LostPacketsError(f"the next hops {sorted(arrived)} got packets, not {sorted(hops)}")
        return nanoseconds / packets

    def _run(self, octets: bytes, packets: int) -> int:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        started = time.thread_time_ns()
        self._injector.run_live(octets, device_index=self._ingress_index, count=packets)
        return time.thread_time_ns() - started

    def _tallies(self) -> dict[int, int]:
        return {
            hop: sum(_TALLY.unpack(each)[0] for each in self._delivered.get_per_cpu(_KEY.pack(hop)))
            for hop in range(256)
        }

    def _configure(self) -> None:
        settings = (
            "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
        )  # fmt: skip
        self.namespace.run("sysctl", "-qw", *settings)
        lines = [
            f"link add {INGRESS} address {_MAC.hex(':')} type veth peer name in-peer",
            f"link add {EGRESS} type veth peer name out-peer",
            *(f"link set {device} up" for device in (INGRESS, "in-peer", EGRESS, "out-peer")),
            f"address add 172.16.0.1/30 dev {INGRESS}",
            f"address add 172.16.1.1/24 dev {EGRESS}",
            f"neighbour add 172.16.0.2 lladdr 02:00:00:00:02:00 dev {INGRESS}",
            f"route add 10.1.0.0/16 via 172.16.0.2 dev {INGRESS}",
            *(
                f"neighbour add {hop_address(hop)} lladdr 02:00:00:00:00:{hop:02x} dev {EGRESS}"
                for hop in (*CACHE_HOPS, GATEWAY)
            ),
            f"route add default via {hop_address(GATEWAY)} dev {EGRESS}",
        ]
        for line in lines:
            self.namespace.run("ip", *line.split())
