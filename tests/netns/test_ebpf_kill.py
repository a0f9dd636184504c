"""A daemon that is killed and started again loses no packet: programs and maps stay where they are.

Packets go through the router of `make bench` all the while; each must come out, and at a cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from bench.packets.ebpf import GRE, Redirect, _forget, _prepare
from bench.packets.router import Router
from wccpd.dataplane.bpf.libbpf import LibBpf

pytestmark = pytest.mark.netns
KILLS = int(os.environ.get("KILLS", "4"))
BATCH = 100_000
VICTIM = """
import os, signal
from bench.packets.ebpf import GRE, Redirect, _SETTINGS, plan_for
from wccpd.dataplane.ebpf.plane import EbpfDataPlane
from wccpd.dataplane.port import Wish
plane = EbpfDataPlane(_SETTINGS)
applied = plane.bring_to(Wish(plan_for(Redirect(GRE, affinity=True))))
assert applied.changes == () and not applied.faults, applied
plane.renew_lease(600)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_packet_is_lost_while_the_daemon_is_killed_and_started_again() -> None:
    redirect = Redirect(GRE, affinity=True)
    with Router(LibBpf(), "kill") as router:
        _prepare(redirect, router)
        enough = threading.Event()
        sent, failures = [0], []

        def send() -> None:
            try:
                while not enough.is_set():
                    router.send(
                        64, BATCH, frozenset(redirect.hops)
                    )  # raises if one is lost or goes elsewhere
                    sent[0] += BATCH
            except Exception as failure:
                failures.append(failure)

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(KILLS):
            # Not `ip netns exec`: that would hide the BPF file system behind a new /sys.
            command = ["nsenter", f"--net=/run/netns/{router.namespace.name}", sys.executable, "-c", VICTIM]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == -signal.SIGKILL, done.stderr
        enough.set()
        sender.join(60)
        assert not failures
        assert sent[0] > KILLS * BATCH
        _forget(router)
