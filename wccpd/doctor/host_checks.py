"""What of the host keeps this router from its duty. Pure: facts in, findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gre.tunnel import OVERHEAD_BYTES
from wccpd.doctor.findings import Finding, Severity, ok, unread
from wccpd.doctor.foreign_checks import check_foreign_tables, check_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wccpd.doctor.facts import ClockFact, Facts, LinkFact

STRICT = 1
REDIRECT_OVERHEAD_BYTES = 28
"""Outer IPv4, GRE, redirect header (protocol.md 5.1)."""
FULL_SHARE, MUCH_SHARE = 0.95, 0.75
LEAST_FREE_BYTES = 1 << 20
"""The engine's memory is written anew beside the old one; of 64 groups of 32 caches it takes 300 KiB."""
LITTLE_FREE_BYTES = 1 << 26
LEAST_FREE_FILES = 16
CLOCK_ERROR_SECONDS = 1.0


def check_forwarding(facts: Facts) -> Iterator[Finding]:
    """The kernel forwards at all."""
    if facts.host.ip_forward is None:
        yield unread(facts, "forwarding", "ip_forward")
    elif facts.host.ip_forward:
        yield ok("forwarding", "net.ipv4.ip_forward is 1")
    else:
        yield Finding(
            "forwarding",
            Severity.FAULT,
            "net.ipv4.ip_forward is 0: the kernel drops what is not for this host",
            "sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d/",
        )


def check_reverse_path(facts: Facts) -> Iterator[Finding]:
    """No strict reverse-path filter where packets come back under the addresses of servers."""
    every = facts.host.rp_filter.get("all", 0)
    found = False
    for device in _return_devices(facts):
        setting = facts.host.rp_filter.get(device)
        if setting is None:
            continue
        if max(every, setting) == STRICT:
            found = True
            by = f"net.ipv4.conf.{device}.rp_filter" if setting == STRICT else "net.ipv4.conf.all.rp_filter"
            yield Finding(
                "rp_filter",
                Severity.FAULT,
                f"{by} is 1 (strict): what caches return by {device} under the addresses of servers is dropped",
                f"sysctl -w net.ipv4.conf.{device}.rp_filter=2",
            )
    if not found:
        yield ok("rp_filter", "not strict where caches or the Transit Gateway return packets")


def _return_devices(facts: Facts) -> tuple[str, ...]:
    """Devices by which packets come whose source is routed elsewhere."""
    prefix = facts.wanted.device_prefix
    ours = [link.name for link in facts.host.links if link.name.startswith(prefix)]
    ends = {tunnel.remote for tunnel in facts.wanted.tunnels}
    segments = [
        route.device
        for address, route in facts.host.routes.items()
        if facts.wanted.sends_l2 and route is not None and not route.gateway and address not in ends
    ]
    return tuple(dict.fromkeys((*ours, *segments)))


def check_modules(facts: Facts) -> Iterator[Finding]:
    """The kernel has what the data plane needs."""
    needs_gre = facts.wanted.tunnels or (facts.wanted.sends_gre and facts.wanted.is_netlink)
    if needs_gre and facts.host.has_gre is False:
        yield Finding(
            "modules",
            Severity.FAULT,
            "this kernel makes no GRE devices: neither tunnels nor redirection by GRE work",
            "modprobe ip_gre, or install a kernel that has it (Debian: linux-image-amd64); "
            "`forwarding: [l2]` needs none",
        )
    if facts.wanted.is_netlink and facts.host.has_nft is False:
        yield Finding(
            "modules",
            Severity.FAULT,
            f"nftables does not answer: {facts.host.unread.get('nft', '')}",
            "modprobe nf_tables; the package libnftables1",
        )
    if facts.wanted.has_affinity and facts.wanted.is_netlink and facts.host.conntrack is None:
        yield Finding(
            "modules",
            Severity.WARNING,
            "there is no connection tracking yet: flows cannot be held to their cache",
            "modprobe nf_conntrack; it comes with the first rule that needs it",
        )
    there = {
        "GRE devices": facts.host.has_gre,
        "nftables": facts.host.has_nft,
        "conntrack": facts.host.conntrack,
    }
    yield ok("modules", f"there are {', '.join(name for name, has in there.items() if has) or 'none'}")


def check_devices(facts: Facts) -> Iterator[Finding]:
    """Ingress devices are there and up."""
    links = {link.name: link for link in facts.host.links}
    tunnels = {tunnel.name for tunnel in facts.wanted.tunnels}
    fine = []
    for device in facts.wanted.ingress:
        link = links.get(device)
        if link is not None and link.up:
            fine.append(device)
            continue
        if device in tunnels and facts.router is not None:
            continue  # told with the tunnel
        yield Finding(
            "devices",
            Severity.FAULT,
            f"ingress device {device} is {'not there' if link is None else 'down'}: nothing comes in by it",
            f"ip link set {device} up" if link is not None else "see redirect.interfaces and tunnels",
        )
    if fine:
        yield ok("devices", f"up: {', '.join(fine)}")


def check_mtu(facts: Facts) -> Iterator[Finding]:
    """What comes in fits through what it leaves by."""
    links = {link.name: link for link in facts.host.links}
    findings = (
        *_tunnel_mtu(facts, links),
        *_redirect_mtu(facts, links),
    )
    yield from findings or (ok("mtu", "every packet that comes in fits through tunnels and redirect"),)


def _tunnel_mtu(facts: Facts, links: dict[str, LinkFact]) -> Iterator[Finding]:
    for tunnel in facts.wanted.tunnels:
        route = facts.host.routes.get(tunnel.remote)
        link, under = links.get(tunnel.name), links.get(route.device) if route is not None else None
        if link is None or route is None or under is None:
            continue
        carries = min(under.mtu_bytes, route.mtu_bytes or under.mtu_bytes)
        fits = carries - OVERHEAD_BYTES[tunnel.remote.version]
        if fits < link.mtu_bytes:
            yield Finding(
                "mtu",
                Severity.FAULT,
                f"{tunnel.name} has MTU {link.mtu_bytes}, but {route.device} carries {carries} bytes to "
                f"{tunnel.remote}, which leaves {fits}",
                f"mtu_bytes: {fits} for this tunnel, or ip link set {route.device} mtu "
                f"{link.mtu_bytes + OVERHEAD_BYTES[tunnel.remote.version]}",
            )


def _redirect_mtu(facts: Facts, links: dict[str, LinkFact]) -> Iterator[Finding]:
    """Caches behind a device that carries less than what comes in."""
    largest = max((links[name].mtu_bytes for name in facts.wanted.ingress if name in links), default=0)
    ends = {tunnel.remote for tunnel in facts.wanted.tunnels}
    for cache, route in facts.host.routes.items():
        if cache in ends or route is None or route.device not in links:
            continue
        overhead = REDIRECT_OVERHEAD_BYTES if facts.wanted.sends_gre and not facts.wanted.sends_l2 else 0
        carries = min(links[route.device].mtu_bytes, route.mtu_bytes or links[route.device].mtu_bytes)
        fits = carries - overhead
        if fits >= largest:
            continue
        clamped = facts.wanted.clamps_mss and overhead
        how = (
            "TCP is clamped to it, other packets are fragmented or refused by ICMP"
            if clamped
            else ("nothing tells TCP so: packets are fragmented or refused by ICMP, which many networks lose")
        )
        yield Finding(
            "mtu",
            Severity.OK if clamped else Severity.WARNING,
            f"packets up to {largest} bytes come in, {fits} fit through {route.device} to cache {cache}; {how}",
            "" if clamped else f"ip link set {route.device} mtu {largest + overhead} here and at {cache}",
        )


def check_default_route(facts: Facts) -> Iterator[Finding]:
    """There is a way towards the firewall, and it does not lead back."""
    route = facts.host.default_route
    remedy = "ip route add default via FIREWALL: the subnet's router, or the firewall's address"
    if "routes" in facts.host.unread:
        yield unread(facts, "default route", "routes")
    elif route is None:
        yield Finding(
            "default route",
            Severity.FAULT,
            "this host has no default route: what is forwarded, and what proxies fetch through it, goes nowhere",
            remedy,
        )
    elif route.device in facts.wanted.ingress:
        yield Finding(
            "default route",
            Severity.FAULT,
            f"the default route leads out by {route.device}, where traffic comes in: it loops",
            remedy,
        )
    else:
        yield ok("default route", f"via {route.gateway or 'the segment'} by {route.device}")


def check_socket(facts: Facts) -> Iterator[Finding]:
    """WCCP's port loses nothing."""
    losing = [each for each in facts.host.sockets if each.dropped]
    for each in losing:
        yield Finding(
            "udp 2048",
            Severity.WARNING,
            f"the socket at {each.address} port 2048 has dropped {each.dropped} datagrams: its buffer was full",
            "who sends so much? see the refused messages of `wccpctl status`; sysctl -w net.core.rmem_max=8388608",
        )
    if facts.router is None or losing:
        return
    bound = {each.address for each in facts.host.sockets}
    missing = [str(address) for address in facts.wanted.wccp_addresses if str(address) not in bound]
    if facts.host.sockets and missing:
        yield Finding(
            "udp 2048", Severity.FAULT, f"nobody listens at {', '.join(missing)} port 2048", "restart wccpd"
        )
    elif facts.host.sockets:
        yield ok("udp 2048", f"bound at {', '.join(sorted(bound))}, nothing dropped")


def check_conntrack(facts: Facts) -> Iterator[Finding]:
    """Connection tracking has room."""
    table = facts.host.conntrack
    if table is None:
        if not facts.wanted.has_affinity:
            yield Finding("conntrack", Severity.SKIPPED, "not needed: no service has affinity")
        return
    share = table.count / table.limit if table.limit else 0.0
    measured = f"{table.count} of {table.limit} connections tracked"
    remedy = (
        f"sysctl -w net.netfilter.nf_conntrack_max={max(2 * table.limit, 262144)}; or `affinity: false` for services "
        "that need no flow to stay at its cache"
    )
    if share >= FULL_SHARE:
        yield Finding("conntrack", Severity.FAULT, f"{measured}: new connections are dropped", remedy)
    elif share >= MUCH_SHARE:
        yield Finding("conntrack", Severity.WARNING, measured, remedy)
    elif table.dropped:
        yield Finding(
            "conntrack", Severity.WARNING, f"{measured}; {table.dropped} packets were dropped", remedy
        )
    else:
        yield ok("conntrack", measured)


def check_clock(facts: Facts) -> Iterator[Finding]:
    """The clock is right: logs of several routers and proxies can be laid side by side."""
    clock = facts.host.clock
    yield judge_clock(clock) if clock is not None else unread(facts, "clock", "clock")


def judge_clock(clock: ClockFact) -> Finding:
    """What to say of a clock."""
    remedy = "run chrony or systemd-timesyncd; on EC2 with 169.254.169.123"
    if not clock.synchronised:
        return Finding("clock", Severity.WARNING, "the clock is not synchronised", remedy)
    if clock.error_seconds > CLOCK_ERROR_SECONDS:
        measured = f"the clock may be wrong by {clock.error_seconds:.1f} s"
        return Finding("clock", Severity.WARNING, measured, remedy)
    return ok("clock", f"synchronised, wrong by at most {clock.error_seconds * 1000:.0f} ms")


def check_disk(facts: Facts) -> Iterator[Finding]:
    """The engine's memory and orders can be kept."""
    where = facts.wanted.state_directory
    disk = facts.host.disk
    remedy = f"make room in the file system of {where}, or move it: state_directory"
    if facts.router is not None and facts.router.save_fault:
        yield Finding("disk", Severity.FAULT, f"state cannot be saved: {facts.router.save_fault}", remedy)
    if disk is None:
        yield unread(facts, "disk", "disk")
    elif disk.read_only:
        yield Finding("disk", Severity.FAULT, f"{where} is on a file system that is read-only", remedy)
    elif disk.free_bytes < LEAST_FREE_BYTES or disk.free_files < LEAST_FREE_FILES:
        yield Finding(
            "disk",
            Severity.FAULT,
            f"the disk is full: {disk.free_bytes // 1024} KiB and {disk.free_files} files left at {where}; after a "
            "restart caches would have to join anew",
            remedy,
        )
    elif disk.free_bytes < LITTLE_FREE_BYTES:
        yield Finding("disk", Severity.WARNING, f"{disk.free_bytes >> 20} MiB left at {where}", remedy)
    else:
        yield ok("disk", f"{disk.free_bytes >> 20} MiB free at {where}")


def check_allowances(facts: Facts) -> Iterator[Finding]:
    """EC2 does not throttle the instance (ENA driver's counters)."""
    if not facts.host.has_ena:
        yield Finding("ena", Severity.SKIPPED, "no device with ENA's allowance counters")
        return
    over = {name: count for name, count in facts.host.allowances.items() if count}
    for name, count in over.items():
        yield Finding(
            "ena",
            Severity.WARNING,
            f"{name} is {count}: packets were queued or dropped since EC2's allowance was exceeded",
            "a larger instance type, or more routers; conntrack_allowance: a security group without tracking",
        )
    if not over:
        yield ok("ena", "no allowance was ever exceeded")


def check_ec2(facts: Facts) -> Iterator[Finding]:
    """The source/destination check, which the instance itself cannot read."""
    ec2 = facts.host.ec2
    if ec2 is None:
        yield Finding(
            "source/destination check", Severity.SKIPPED, facts.host.unread.get("ec2", "not on EC2")
        )
        return
    ask = "; ".join(
        f"aws ec2 describe-network-interface-attribute --network-interface-id {interface} --attribute sourceDestCheck"
        for interface in ec2.interfaces
    )
    yield Finding(
        "source/destination check",
        Severity.SKIPPED,
        f"instance {ec2.instance}: its metadata do not tell; it must be off on {', '.join(ec2.interfaces)}",
        f"{ask}; to switch it off: aws ec2 modify-network-interface-attribute --network-interface-id ENI "
        "--no-source-dest-check",
    )


def check_addresses(facts: Facts) -> Iterator[Finding]:
    """The Router ID and the tunnels' ends are addresses of this host."""
    if not facts.host.addresses:
        return
    wanted = [*facts.wanted.wccp_addresses, *(tunnel.local for tunnel in facts.wanted.tunnels)]
    missing = [str(each) for each in dict.fromkeys(wanted) if str(each) not in facts.host.addresses]
    if missing:
        yield Finding(
            "addresses",
            Severity.FAULT,
            f"not an address of this host: {', '.join(missing)}",
            "give it to a device, or correct router.id, router.addresses or tunnels[].local",
        )
    else:
        yield ok("addresses", "Router ID and tunnels' ends are there")


HOST_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_forwarding,
    check_reverse_path,
    check_modules,
    check_addresses,
    check_devices,
    check_mtu,
    check_default_route,
    check_foreign_tables,
    check_rules,
    check_socket,
    check_conntrack,
    check_clock,
    check_disk,
    check_allowances,
    check_ec2,
)
