"""What the daemon knows that keeps traffic from being inspected: tunnels, BGP, services, caches, messages. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from wccpd.doctor.findings import Finding, Severity
from wccpd.protocol.outputs import Refusal
from wccpd.protocol.view import CacheState
from wccpd.status.view import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wccpd.doctor.facts import Facts, RouterFacts
    from wccpd.status.view import BgpStatus, CacheStatus, ServiceStatus, Status

ENOUGH_PACKETS = 20
"""So many went to a cache without any sign of it before that is called a fault."""
ENOUGH_FLOWS = 5
SILENT_SECONDS = 15.0
"""A cache says HERE_I_AM every 10 s; one that has missed one is late."""
RECENT_SECONDS = 300.0
"""A refused message older than that may be history."""
REPAIRS_TOLD_SECONDS = 600.0
OLD_SQUID_OCTETS = 7
"""Squid up to 4.12 uses no more of a password (protocol.md 6.1)."""

_REMEDIES: dict[str, str] = {
    Refusal.AUTHENTICATION_WRONG: (
        "the same password in the service's password_file and at the proxy (Squid: password= of wccp2_service); "
        "Squid up to 4.12 uses 7 octets of it"
    ),
    Refusal.AUTHENTICATION_MISSING: "give the proxy the group's password (Squid: password= of wccp2_service)",
    Refusal.AUTHENTICATION_UNEXPECTED: "set password_file for this service, or take the password away at the proxy",
    Refusal.NOT_IN_GROUP_LIST: "add the proxy's network to the service's group_list, if it is one of yours",
    Refusal.UNKNOWN_SERVICE: "add the service to `services`, or correct its number at the proxy",
    Refusal.DEFINITION_DIFFERS: (
        "protocol, ports and flags must be the same at all proxies of the group and in `match` "
        "(Squid: wccp2_service_info)"
    ),
    Refusal.SOURCE_MISMATCH: "the proxy must send from the address that it names (Squid: wccp2_address), without NAT",
    Refusal.BAD_CACHE_ADDRESS: "correct the address that the proxy names (Squid: wccp2_address)",
    Refusal.GROUP_FULL: "a group takes 32 proxies: use a second service for the others",
    Refusal.WRONG_ASSIGNMENT_METHOD: "hash or mask, the same at all proxies and in assignment_method",
    Refusal.VERSION_NOT_SPOKEN: "the proxy must speak WCCP version 2",
}
_ADVERTISE = "mend the reason; bgp.advertise_when says what must hold"
_HARMLESS = frozenset(
    {
        Refusal.ROUTER_ASSIGNS,
        Refusal.STALE_CHANGE_NUMBER,
        Refusal.STALE_RECEIVE_ID,
        Refusal.NOT_A_USABLE_CACHE,
        Refusal.TOO_OFTEN,
    }
)
"""Refusals of a group's ordinary life."""


def check_daemon(facts: Facts) -> Iterator[Finding]:
    """The daemon is there, and its data plane works."""
    if facts.router is None:
        yield Finding(
            "daemon", Severity.FAULT, facts.unreachable or "wccpd does not answer", "systemctl start wccpd"
        )
        return
    status = facts.router.status
    if status.router.dataplane_state is not Health.UP:
        yield Finding(
            "data plane",
            Severity.FAULT,
            status.router.dataplane_reason,
            "the kernel's reason stands behind it",
        )
    else:
        yield Finding(
            "data plane", Severity.OK, f"{status.router.dataplane} with {status.router.hash_function}"
        )
    if any("lease" in reason for reason in status.reasons):
        yield Finding(
            "lease",
            Severity.FAULT,
            "the lease is not running: nothing is redirected, every service is in its mode",
            "is wccpd stuck or overloaded? its log; a longer redirect.lease_seconds",
        )


def check_repairs(facts: Facts) -> Iterator[Finding]:
    """Nobody else changes what is ours in the kernel."""
    router = facts.router
    if router is None or router.repairs is None or router.repairs.last_seconds > REPAIRS_TOLD_SECONDS:
        return
    repairs = router.repairs
    yield Finding(
        "foreign changes",
        Severity.WARNING,
        f"somebody changed our objects in the kernel {repairs.count} times, last {repairs.last_seconds:.0f} s ago; put "
        f"right: {'; '.join(repairs.changes)}",
        "who flushes or edits? e.g. a firewall script with `flush ruleset`, NetworkManager, systemd-networkd "
        "(ManageForeignRoutingPolicyRules=no)",
    )


def check_tunnels(facts: Facts) -> Iterator[Finding]:
    """Every tunnel is up and carries packets both ways."""
    if facts.router is None:
        return
    for tunnel in facts.router.status.tunnels:
        name = f"tunnel {tunnel.name}"
        if tunnel.state is not Health.UP:
            yield Finding(
                name, Severity.FAULT, tunnel.reason, f"ip -d link show {tunnel.device}; wccpd repairs it"
            )
        elif tunnel.sent_packets >= ENOUGH_PACKETS and not tunnel.received_packets:
            yield Finding(
                "protocol 47",
                Severity.FAULT,
                f"{tunnel.sent_packets} packets were sent into {tunnel.device} and none ever came: GRE is blocked, or "
                f"{tunnel.local} to {tunnel.remote} is no Connect peer",
                "security group and network ACL: protocol 47 from the Transit Gateway's CIDR block; the route to it; "
                "the two GRE addresses of the Connect peer",
            )
        else:
            yield Finding(
                name, Severity.OK, f"up, {tunnel.received_packets} packets in, {tunnel.sent_packets} out"
            )


def check_bgp(facts: Facts) -> Iterator[Finding]:
    """Gobgpd lives, both sessions of each tunnel are up, and all tunnels are used alike."""
    if facts.wanted.gobgp_socket and facts.host.gobgp:
        yield Finding(
            "gobgpd",
            Severity.FAULT,
            f"gobgpd does not answer at {facts.wanted.gobgp_socket}: {facts.host.gobgp}",
            "systemctl restart gobgpd-wccpd; a socket left by a killed one must be removed first",
        )
    bgp = facts.router.status.bgp if facts.router is not None else None
    if bgp is None:
        return
    if bgp.state is Health.DOWN and not facts.host.gobgp and not bgp.peers:
        yield Finding("bgp", Severity.FAULT, bgp.reason, "its log: journalctl -u gobgpd-wccpd")
    yield from _sessions(bgp)
    yield from _spread(bgp)
    yield from _advertising(bgp)
    for warning in bgp.warnings:
        yield Finding("bgp", Severity.WARNING, warning, "sysctl, or bgp.multipath_hash_policy")


def _sessions(bgp: BgpStatus) -> Iterator[Finding]:
    by_tunnel = defaultdict(list)
    for peer in bgp.peers:
        by_tunnel[peer.tunnel].append(peer)
    for tunnel, peers in by_tunnel.items():
        down = [peer for peer in peers if peer.state != "established"]
        if not down:
            yield Finding("bgp sessions", Severity.OK, f"{tunnel}: all {len(peers)} established")
            continue
        names = ", ".join(f"{peer.address} ({peer.state})" for peer in down)
        yield Finding(
            "bgp sessions",
            Severity.FAULT if len(down) == len(peers) else Severity.WARNING,
            f"{tunnel}: no session with {names}",
            "TCP 179 both ways through the tunnel; bgp.asn and peer_asn as at the Connect peer; its inside CIDR block",
        )


def _spread(bgp: BgpStatus) -> Iterator[Finding]:
    """Prefixes that only some of the tunnels with a session are used for."""
    up = {peer.tunnel for peer in bgp.peers if peer.state == "established"}
    uneven: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for route in bgp.routes:
        missing = tuple(sorted(up - set(route.tunnels)))
        if missing and not route.stale:
            uneven[missing].append(route.prefix)
    for missing, prefixes in uneven.items():
        some = ", ".join(prefixes[:3]) + (f" and {len(prefixes) - 3} more" if len(prefixes) > 3 else "")
        yield Finding(
            "equal paths",
            Severity.WARNING,
            f"{some}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not used, although a session is up: "
            "not announced there, or with another AS path or MED",
            "all Connect peers of a fleet need the same ASN, prepend and MED: the Transit Gateway spreads over equal "
            "paths only",
        )


def _advertising(bgp: BgpStatus) -> Iterator[Finding]:
    if bgp.drained:
        yield Finding(
            "drain",
            Severity.WARNING,
            "this router is drained: it advertises nothing",
            "wccpctl undrain router",
        )
    elif not bgp.advertising:
        why = bgp.advertise_reason or bgp.reason or "no session is established"
        yield Finding(
            "advertising", Severity.FAULT, f"nothing is advertised, so no traffic comes: {why}", _ADVERTISE
        )
    elif bgp.advertise_reason:
        yield Finding(
            "advertising", Severity.WARNING, f"about to be withdrawn: {bgp.advertise_reason}", _ADVERTISE
        )
    else:
        yield Finding("advertising", Severity.OK, f"{', '.join(bgp.advertised_prefixes)}")


def check_services(facts: Facts) -> Iterator[Finding]:
    """Every service has caches, and they own everything."""
    if facts.router is None:
        return
    for service in facts.router.status.services:
        name = f"service {service.service}"
        if service.state is Health.UP:
            yield Finding(name, Severity.OK, f"{service.caches_usable} caches usable, all buckets assigned")
            continue
        remedy = "why each cache is not usable stands below"
        if not service.caches_seen:
            remedy = _why_nobody_comes(facts)
        elif "drained" in service.reason:
            remedy = "wccpctl undrain CACHE"
        yield Finding(
            name, Severity.FAULT, f"{service.reason}; its packets are in mode {service.mode}", remedy
        )


def _why_nobody_comes(facts: Facts) -> str:
    address = facts.wanted.wccp_addresses[0] if facts.wanted.wccp_addresses else "this router"
    return (
        f"at the proxy: it must send WCCP to {address} (Squid: wccp2_router {address}; `wccpctl proxy-config`); "
        "between: UDP port 2048 in security groups, network ACLs and firewalls; refused messages stand below"
    )


def check_caches(facts: Facts) -> Iterator[Finding]:
    """Every cache that speaks is usable, speaks on, and answers what it is sent."""
    if facts.router is None:
        return
    for cache in facts.router.status.caches:
        yield from _cache_state(cache)
    services = {each.service: each for each in facts.router.status.services}
    by_address: dict[str, list[CacheStatus]] = defaultdict(list)
    for cache in facts.router.status.caches:
        by_address[cache.address].append(cache)
    for address, entries in by_address.items():
        yield from _answers(facts.router, address, entries, services)


def _cache_state(cache: CacheStatus) -> Iterator[Finding]:
    name = f"cache {cache.address}, {cache.service}"
    if cache.state == CacheState.INCOMPATIBLE:
        yield Finding(
            name,
            Severity.FAULT,
            f"not usable: {cache.reason}",
            "the same methods here (forwarding, packet_return, assignment_method) and at the proxy (Squid: "
            "wccp2_forwarding_method, wccp2_return_method, wccp2_assignment_method)",
        )
    elif cache.state == CacheState.NEGOTIATING:
        yield Finding(
            name,
            Severity.FAULT,
            f"not usable yet: {cache.reason}",
            "does it get our answers? UDP from port 2048 of this router to it; its log",
        )
    elif cache.state == CacheState.SHUTDOWN:
        yield Finding(name, Severity.WARNING, "it has said that it leaves", "nothing, if it was meant to")
    elif cache.last_here_i_am_seconds > SILENT_SECONDS:
        yield Finding(
            name,
            Severity.WARNING,
            f"silent for {cache.last_here_i_am_seconds:.0f} s: a HERE_I_AM is due every 10 s, after 30 s it is lost",
            "does the proxy live? is the way from it blocked (UDP port 2048)?",
        )
    if cache.draining:
        yield Finding(
            name, Severity.WARNING, "drained: it gets no new flows", f"wccpctl undrain {cache.address}"
        )


def _answers(
    router: RouterFacts, address: str, entries: list[CacheStatus], services: dict[str, ServiceStatus]
) -> Iterator[Finding]:
    """Whether a cache does anything with what it is sent."""
    usable = [each for each in entries if each.state == CacheState.USABLE]
    traffic = next((fact for cache, fact in router.traffic.items() if str(cache) == address), None)
    flows = next((fact for cache, fact in router.flows.items() if str(cache) == address), None)
    if not usable or traffic is None:
        return
    # Idle connections of better days may still be tracked as answered: that nothing comes back now decides.
    silent_flows = flows is not None and flows.unanswered >= ENOUGH_FLOWS
    nothing = traffic.redirected >= ENOUGH_PACKETS and not traffic.returned
    method = usable[0].forwarding
    modes = sorted({services[each.service].mode for each in usable if each.service in services})
    if silent_flows and nothing:
        yield Finding(
            f"cache {address}",
            Severity.FAULT,
            f"{traffic.redirected} packets went to it in {traffic.seconds:.0f} s and none came back; "
            f"{flows.unanswered if flows else 0} connections were never answered: it does not take {method} packets in "
            "(missing decapsulation or interception), unless its answers go to clients past this router",
            f"wccpctl proxy-config linux {address} shows what it needs: device, intercept rule, rp_filter; meanwhile "
            f"wccpctl drain {address} (mode {', '.join(modes)} counts if it is the only one)",
        )
    elif nothing and flows is None:
        yield Finding(
            f"cache {address}",
            Severity.WARNING,
            f"{traffic.redirected} packets went to it in {traffic.seconds:.0f} s and none came back: missing "
            "decapsulation or interception, unless its answers go another way",
            f"wccpctl proxy-config linux {address}",
        )
    else:
        yield Finding(
            f"cache {address}",
            Severity.OK,
            f"usable; in {traffic.seconds:.0f} s {traffic.redirected} packets there, {traffic.returned} back"
            + (f"; {flows.unanswered} of {flows.flows} connections unanswered" if flows is not None else ""),
        )


def check_messages(facts: Facts) -> Iterator[Finding]:
    """No message was refused lately, for a reason that somebody should mend."""
    if facts.router is None:
        return
    status: Status = facts.router.status
    for refused in status.refused:
        if refused.reason in _HARMLESS or refused.last_seconds > RECENT_SECONDS:
            continue
        yield Finding(
            "messages",
            Severity.FAULT if refused.reason in _REMEDIES else Severity.WARNING,
            f"{refused.reason}: {refused.count} refused, last from {refused.last_source} {refused.last_seconds:.0f} s "
            f"ago: {refused.last_detail}",
            _REMEDIES.get(refused.reason, "who sends that? `wccpctl status` shows the last one"),
        )


def check_passwords(facts: Facts) -> Iterator[Finding]:
    """Passwords are such that every proxy can use them."""
    long = [name for name, octets in facts.wanted.password_octets.items() if octets > OLD_SQUID_OCTETS]
    for name in facts.wanted.open_services:
        yield Finding(
            "password",
            Severity.WARNING,
            f"service {name} has neither password nor group_list: whoever reaches UDP port 2048 may take its traffic",
            "password_file and group_list for it",
        )
    for name in long:
        octets = facts.wanted.password_octets[name]
        yield Finding(
            "password",
            Severity.OK,
            f"service {name}: {octets} octets; Squid up to 4.12 uses 7 of them and would not join",
        )


ROUTER_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_daemon,
    check_services,
    check_caches,
    check_messages,
    check_tunnels,
    check_bgp,
    check_repairs,
    check_passwords,
)
