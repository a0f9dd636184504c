"""Make and remove the lab's network namespaces, links, addresses and static routes, with iproute2.

Knows the topology's data and nothing of the programs that run in it.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.errors import LabError, wait_until
from lab.topology import NAMESPACE_PREFIX, TGW_TUNNEL_MTU_BYTES, Node, Segment, Topology

LOCK_FILE = Path("/run/wccpd-lab.lock")

NODE_SYSCTLS = {
    # Namespaces start with the host's values; redirected packets come in asymmetrically by design.
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}


def execute(command: Sequence[str], text_input: str | None = None, timeout_seconds: float = 120) -> str:
    """Run `command` and return its standard output.

    Raises:
        LabError: it failed; carries what it wrote.
    """
    done = subprocess.run(
        command, input=text_input, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def in_namespace(node: Node, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` on `node`; the pid is the command's own, `ip` replaces itself."""
    return ["ip", "netns", "exec", node.namespace, *command]


@contextlib.contextmanager
def exclusive_use() -> Iterator[None]:
    """Hold the lock that keeps two labs of one machine apart.

    Raises:
        LabError: another lab holds it.
    """
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LabError("another lab is running on this machine") from None
    try:
        yield
    finally:
        os.close(descriptor)


def leftover_namespaces() -> list[str]:
    """Names of the lab namespaces that exist now."""
    lines = execute(["ip", "netns", "list"]).splitlines()
    return sorted(line.split()[0] for line in lines if line.startswith(NAMESPACE_PREFIX))


def remove_all() -> None:
    """End every process inside a lab namespace and remove the namespaces."""
    for namespace in leftover_namespaces():
        _end_processes(namespace)
        execute(["ip", "netns", "delete", namespace])


def _end_processes(namespace: str) -> None:
    def pids() -> list[int]:
        return [int(pid) for pid in execute(["ip", "netns", "pids", namespace]).split()]

    def send(signal_number: signal.Signals) -> None:
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    send(signal.SIGTERM)
    try:
        wait_until(lambda: not pids(), f"end of the processes in {namespace}", 5)
    except LabError:
        send(signal.SIGKILL)
        wait_until(lambda: not pids(), f"end of the killed processes in {namespace}", 10)


def build(topology: Topology) -> None:
    """Make the whole network. What is left of an earlier lab is removed first."""
    remove_all()
    routers = {router.name for router in topology.routers}
    for node in topology.nodes:
        _make_node(node, is_router=node.name in routers)
    for segment in topology.segments:
        _make_segment(segment)
    for node in topology.nodes:
        _ip_batch(node.namespace, [f"route add {to} via {via}" for to, via in node.routes])
    _make_transit_gateway_tunnels(topology)


def _make_node(node: Node, *, is_router: bool) -> None:
    execute(["ip", "netns", "add", node.namespace])
    sysctls = NODE_SYSCTLS | {"net.ipv4.ip_forward": str(int(node.forwards))}
    if is_router:
        # Common hardening, which the router's own devices must overrule for themselves.
        sysctls["net.ipv4.conf.all.rp_filter"] = "1"
    execute(in_namespace(node, ["sysctl", "-q", "-w", *(f"{key}={value}" for key, value in sysctls.items())]))
    _ip_batch(node.namespace, ["link set lo up", *(f"address add {a} dev lo" for a in node.loopback)])


def _make_segment(segment: Segment) -> None:
    if len(segment.ports) == 2:
        left, right = segment.ports
        execute(
            [
                *("ip", "link", "add", left.interface, "netns", NAMESPACE_PREFIX + left.node, "type", "veth"),
                *("peer", "name", right.interface, "netns", NAMESPACE_PREFIX + right.node),
            ]
        )
    else:
        _make_bridge(segment)
    for port in segment.ports:
        _ip_batch(
            NAMESPACE_PREFIX + port.node,
            [
                f"link set {port.interface} mtu {segment.mtu_bytes} up",
                f"address add {port.address} dev {port.interface}",
            ],
        )


def _make_bridge(segment: Segment) -> None:
    bridge = NAMESPACE_PREFIX + segment.name
    execute(["ip", "netns", "add", bridge])
    commands = ["link add br0 type bridge forward_delay 0", f"link set br0 mtu {segment.mtu_bytes} up"]
    for port in segment.ports:
        commands += [
            f"link add {port.node} type veth peer name {port.interface} netns {NAMESPACE_PREFIX}{port.node}",
            f"link set {port.node} mtu {segment.mtu_bytes} master br0 up",
        ]
    _ip_batch(bridge, commands)


def _make_transit_gateway_tunnels(topology: Topology) -> None:
    for router in topology.routers:
        device = router.tgw_device
        _ip_batch(
            NAMESPACE_PREFIX + "tgw",
            [
                f"link add {device} type gre local {router.tgw_address} remote {router.address} ttl 255",
                f"link set {device} mtu {TGW_TUNNEL_MTU_BYTES} up",
                *(
                    f"address add {speaker}/{router.inside.prefixlen} dev {device}"
                    for speaker in router.speakers
                ),
            ],
        )


def _ip_batch(namespace: str, commands: Sequence[str]) -> None:
    if commands:
        execute(["ip", "-n", namespace, "-batch", "-"], "\n".join(commands) + "\n")
