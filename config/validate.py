"""What settings mean together: every rule that needs more than one value.

Pure: takes the parts of a configuration that are sound by themselves and returns all faults, each with its
key path. Parts that did not pass their own checks are absent, so that one bad value hides no other fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import collapse_addresses
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from config.fields import INTERFACE_NAME_OCTETS
from config.model import GRE_OVERHEAD_BYTES, TRANSIT_GATEWAY_MTU_BYTES
from config.services import (
    Action,
    Assignment,
    DataPlaneKind,
    LostFlows,
    Mode,
    ProbeKind,
    Redirect,
    Service,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from config.errors import KeyPath
    from config.model import Bgp, Control, Kernel, Router, Tunnel

MAX_COMBINATIONS = 10_000
"""Of one redirect list: so many are laid out in seconds, and looked up as fast as ten."""
_Item = TypeVar("_Item")

IPV6_MTU_BYTES = 1280
"""The least MTU of a link that carries IPv6 (RFC 8200 section 5)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule broken, at one key of the file."""

    path: KeyPath
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """The sections and list items that passed their own checks; None or no entry for the others."""

    router: Router | None
    tunnels: Mapping[int, Tunnel]
    """By their index in the file; complete only if `tunnels_written` says as many."""
    tunnels_written: int
    bgp: Bgp | None
    bgp_written: bool
    sections_known: bool
    """No unknown key at the top: a section that is absent was left out, not misspelt."""
    services: Mapping[int, Service]
    redirect: Redirect | None
    control: Control | None
    kernel: Kernel | None


def validate(parts: Parts) -> tuple[Fault, ...]:
    """All rules between values that these settings break."""
    rules: tuple[Callable[[Parts], Iterable[Fault]], ...] = (
        _router_rules,
        _tunnel_rules,
        _bgp_rules,
        _service_rules,
        _redirect_rules,
        _exclude_rules,
        _ingress_rules,
        _socket_rules,
    )
    return tuple(chain.from_iterable(rule(parts) for rule in rules))


def _router_rules(parts: Parts) -> Iterator[Fault]:
    if parts.router is None:
        return
    known = {parts.router.id}
    for index, address in enumerate(parts.router.addresses):
        if address in known:
            yield Fault(("router", "addresses", index), f"{address} is already an address of this router")
        known.add(address)


def _tunnel_rules(parts: Parts) -> Iterator[Fault]:
    tunnels = parts.tunnels
    for index, first in _repeated(tunnels, lambda tunnel: tunnel.name):
        yield Fault(("tunnels", index, "name"), f"tunnels[{first}] already has this name")
    for index, first in _repeated(tunnels, lambda tunnel: (tunnel.local, tunnel.remote)):
        yield Fault(
            ("tunnels", index, "remote"),
            f"tunnels[{first}] already joins these two addresses, and only the pair tells tunnels apart",
        )
    for index, first in _repeated(tunnels, lambda tunnel: tunnel.inside):
        yield Fault(("tunnels", index, "inside"), f"tunnels[{first}] already has this inside CIDR block")
    for index, first in _repeated(
        {index: each for index, each in tunnels.items() if each.inside_ipv6},
        lambda tunnel: tunnel.inside_ipv6,
    ):
        yield Fault(("tunnels", index, "inside_ipv6"), f"tunnels[{first}] already has this inside CIDR block")
    own = {parts.router.id, *parts.router.addresses} if parts.router else set()
    for index, tunnel in tunnels.items():
        yield from _outer_rules(index, tunnel)
        if tunnel.remote in own | {tunnel.local}:
            yield Fault(
                ("tunnels", index, "remote"),
                f"{tunnel.remote} is this router's own address, not the Transit Gateway's",
            )
        if parts.kernel and len(parts.kernel.device_prefix + tunnel.name) > INTERFACE_NAME_OCTETS:
            device = parts.kernel.device_prefix + tunnel.name
            yield Fault(
                ("tunnels", index, "name"),
                f"its device '{device}' has {len(device)} octets: the kernel takes {INTERFACE_NAME_OCTETS}",
            )


def _outer_rules(index: int, tunnel: Tunnel) -> Iterator[Fault]:
    if tunnel.local.version != tunnel.remote.version:
        yield Fault(
            ("tunnels", index, "remote"),
            f"{tunnel.remote} is IPv{tunnel.remote.version}, and local {tunnel.local} is not: "
            "both ends of a tunnel have the same IP version",
            "write local too" if tunnel.remote.version == 6 else "",
        )
        return
    most = TRANSIT_GATEWAY_MTU_BYTES - GRE_OVERHEAD_BYTES[tunnel.remote.version]
    if tunnel.mtu_bytes > most:
        yield Fault(
            ("tunnels", index, "mtu_bytes"),
            f"{tunnel.mtu_bytes} is too much over IPv{tunnel.remote.version}: GRE leaves {most} of 8500",
        )
    if tunnel.inside_ipv6 is not None and tunnel.mtu_bytes < IPV6_MTU_BYTES:
        yield Fault(
            ("tunnels", index, "mtu_bytes"),
            f"{tunnel.mtu_bytes} is too little for IPv6 inside, which needs {IPV6_MTU_BYTES}",
        )


def _bgp_rules(parts: Parts) -> Iterator[Fault]:
    if parts.tunnels_written and not parts.bgp_written and parts.sections_known:
        yield Fault(
            ("tunnels",),
            "tunnels need a bgp section: a Connect attachment has no static routes, only those of BGP",
        )
    bgp = parts.bgp
    if bgp is None:
        return
    if not parts.tunnels_written and parts.sections_known:
        yield Fault(
            ("bgp",), "there are no tunnels, so BGP has nobody to speak to", "remove bgp or add tunnels"
        )
    if bgp.asn == bgp.peer_asn:
        yield Fault(
            ("bgp", "asn"),
            f"{bgp.asn} is also peer_asn, which makes the sessions iBGP: "
            "the Transit Gateway does not install routes this router originates over iBGP",
        )
    if bgp.keepalive_seconds * 3 > bgp.hold_time_seconds:
        key = "keepalive_seconds" if "keepalive_seconds" in bgp.model_fields_set else "hold_time_seconds"
        yield Fault(
            ("bgp", key),
            f"three keepalives of {bgp.keepalive_seconds} s exceed the hold time, {bgp.hold_time_seconds} s",
        )
    yield from _overlaps(("bgp", "advertise"), bgp.advertise, identical_only=True)
    yield from _overlaps(("bgp", "accept"), bgp.accept)
    yield from _overlaps(("bgp", "local_networks"), bgp.local_networks, identical_only=True)
    for index, network in enumerate(bgp.accept):
        name = "accept_max_length" if network.version == 4 else "accept_max_length_ipv6"
        longest = getattr(bgp, name)
        if network.prefixlen > longest:
            yield Fault(
                ("bgp", "accept", index), f"nothing in {network} can be accepted: {name} is {longest}"
            )
    for index, network in enumerate(bgp.local_networks):
        if network.prefixlen == 0:
            yield Fault(("bgp", "local_networks", index), "no learnt route at all could be used")
    yield from _ipv6_rules(parts, bgp)


def _ipv6_rules(parts: Parts, bgp: Bgp) -> Iterator[Fault]:
    complete = len(parts.tunnels) == parts.tunnels_written
    if not complete or any(tunnel.inside_ipv6 for tunnel in parts.tunnels.values()):
        return
    for name, networks in (("advertise", bgp.advertise), ("accept", bgp.accept)):
        for index, network in enumerate(networks):
            if network.version == 6:
                yield Fault(
                    ("bgp", name, index),
                    f"no tunnel has inside_ipv6, so {network} cannot be exchanged",
                )


def _service_rules(parts: Parts) -> Iterator[Fault]:
    for index, first in _repeated(parts.services, lambda service: service.service):
        yield Fault(("services", index, "service"), f"services[{first}] already is this service group")
    for index, service in parts.services.items():
        yield from _password_rules(index, service)
        yield from _redirect_list_rules(index, service)
        yield from _zone_rules(index, service, parts)
        yield from _probe_rules(index, service, parts)
        if service.lost_flows is LostFlows.RESET and not service.affinity:
            yield Fault(
                ("services", index, "lost_flows"),
                "'reset' needs affinity: without it nobody knows whose a flow was",
                "remove 'affinity: false'",
            )
        if service.assignment is not Assignment.AUTO and service.assignment_wait_seconds is not None:
            yield Fault(
                ("services", index, "assignment_wait_seconds"),
                f"has no meaning with 'assignment: {service.assignment}', only with 'auto'",
            )
        yield from _overlaps(("services", index, "group_list"), service.group_list)
    addresses = {index: each for index, each in parts.services.items() if each.group_address is not None}
    for index, first in _repeated(addresses, lambda service: service.group_address):
        yield Fault(("services", index, "group_address"), f"services[{first}] already meets at this address")


def _password_rules(index: int, service: Service) -> Iterator[Fault]:
    if not service.has_password_source and not service.group_list:
        yield Fault(
            ("services", index),
            "anyone could join this service group and be sent the traffic: no password, no list",
            "add password_file or group_list",
        )
    for which in ("password", "previous_password"):
        keys = [f"{which}_{place}" for place in ("file", "environment", "credential")]
        written = [key for key in keys if getattr(service, key) is not None]
        for key in written[1:]:
            yield Fault(
                ("services", index, key),
                f"there is {written[0]} already: one place for each password",
                "remove one",
            )
        if which.startswith("previous") and written and not service.has_password_source:
            yield Fault(
                ("services", index, written[0]),
                "there is no present password: a group without one accepts no digest at all",
                "add password_file, password_environment or password_credential",
            )


def _redirect_list_rules(index: int, service: Service) -> Iterator[Fault]:
    if service.service == "web-cache" and service.match is not None:
        yield Fault(
            ("services", index, "match"),
            "web-cache is TCP port 80 by definition",
            "take a dynamic service, e.g. 'service: 80', for anything else",
        )
    if service.service != "web-cache" and service.match is None and service.mode is not Mode.OPEN:
        yield Fault(
            ("services", index, "mode"),
            f"'{service.mode}' must hold before any cache has said what the service is",
            "add 'match', e.g. {protocol: tcp, ports: [443]}",
        )
    actions = {line.action for line in service.redirect_list}
    if actions == {Action.DENY}:
        yield Fault(
            ("services", index, "redirect_list"),
            "nothing would ever be redirected: what no line matches is denied, and no line permits",
            "end the list with {action: permit}",
        )
    lines = dict(enumerate(service.redirect_list))
    for number, repeated in _repeated(lines, lambda line: line):
        yield Fault(
            ("services", index, "redirect_list", number),
            f"is already in the list, at redirect_list[{repeated}]",
        )
    combinations = sum(line.combinations for line in service.redirect_list)
    if combinations > MAX_COMBINATIONS:
        yield Fault(
            ("services", index, "redirect_list"),
            f"its lines enumerate {combinations} combinations of networks and ports, {MAX_COMBINATIONS} are possible",
            "use larger networks, or several lines in place of a line that enumerates on both sides",
        )


def _zone_rules(index: int, service: Service, parts: Parts) -> Iterator[Fault]:
    if service.prefer_zone and parts.router is not None and parts.router.zone is None:
        yield Fault(
            ("services", index, "prefer_zone"),
            "the router is in no zone",
            "set router.zone, and zones in caches",
        )


def _probe_rules(index: int, service: Service, parts: Parts) -> Iterator[Fault]:
    if service.probe is None:
        return
    if parts.redirect is not None and parts.redirect.dataplane is not DataPlaneKind.NETLINK:
        yield Fault(
            ("services", index, "probe"),
            f"needs 'dataplane: netlink', and redirect.dataplane is '{parts.redirect.dataplane}'",
        )
    if service.probe.path != "/" and service.probe.kind is not ProbeKind.HTTP:
        yield Fault(("services", index, "probe", "path"), "has a meaning with 'kind: http' only")


def _redirect_rules(parts: Parts) -> Iterator[Fault]:
    redirect = parts.redirect
    if redirect is None:
        return
    yield from _overlaps(("redirect", "never"), redirect.never)
    if redirect.clear_df and redirect.dataplane is DataPlaneKind.EBPF:
        yield Fault(
            ("redirect", "clear_df"),
            "'dataplane: ebpf' cannot fragment packets",
            "remove one of the two, or take 'dataplane: netlink'",
        )
    if any(network.prefixlen == 0 for network in collapse_addresses(redirect.never)):
        yield Fault(("redirect", "never"), "nothing would ever be redirected")
    for index, first in _repeated(dict(enumerate(redirect.interfaces)), lambda name: name):
        yield Fault(("redirect", "interfaces", index), f"is already in the list, at interfaces[{first}]")
    for index, name in enumerate(redirect.interfaces):
        if parts.kernel and name.startswith(parts.kernel.device_prefix):
            yield Fault(
                ("redirect", "interfaces", index),
                f"'{name}' is a device of our own, by its beginning: tunnels need not be listed here",
            )


def _exclude_rules(parts: Parts) -> Iterator[Fault]:
    if parts.redirect is None or parts.kernel is None or len(parts.tunnels) != parts.tunnels_written:
        return
    devices = {parts.kernel.device_prefix + tunnel.name for tunnel in parts.tunnels.values()}
    for index, name in enumerate(parts.redirect.exclude_interfaces):
        if name not in devices:
            yield Fault(
                ("redirect", "exclude_interfaces", index),
                f"'{name}' is no device of a tunnel: others are looked at only if interfaces lists them",
            )


def _ingress_rules(parts: Parts) -> Iterator[Fault]:
    if not parts.sections_known or parts.redirect is None:
        return
    if not parts.redirect.interfaces and not parts.tunnels_written:
        yield Fault((), "no traffic can come in: there are neither tunnels nor redirect.interfaces")


def _socket_rules(parts: Parts) -> Iterator[Fault]:
    if parts.bgp and parts.control and parts.bgp.gobgp_socket == parts.control.socket:
        yield Fault(("control", "socket"), "is the same as bgp.gobgp_socket")


def _repeated(items: Mapping[int, _Item], identity: Callable[[_Item], Hashable]) -> Iterator[tuple[int, int]]:
    """Indices of items that repeat an earlier one, each with the earlier one's index."""
    first_index: dict[Hashable, int] = {}
    for index, item in items.items():
        first = first_index.setdefault(identity(item), index)
        if first != index:
            yield index, first


def _overlaps(
    path: KeyPath, networks: Sequence[IPv4Network | IPv6Network], *, identical_only: bool = False
) -> Iterator[Fault]:
    """Networks that repeat, lie in or enclose another one of the same list; the later of two is to blame."""
    order = sorted(range(len(networks)), key=lambda index: _sort_key(networks[index]))
    around: list[int] = []
    for index in order:
        network = networks[index]
        while around and not _holds(networks[around[-1]], network):
            around.pop()
        outer = around[-1] if around else index
        if outer != index and networks[outer] == network:
            yield Fault((*path, index), f"{network} is in the list twice")
            continue
        if outer != index and not identical_only:
            yield Fault((*path, max(index, outer)), f"{network} already lies in {networks[outer]}")
        around.append(index)


def _sort_key(network: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _holds(outer: IPv4Network | IPv6Network, inner: IPv4Network | IPv6Network) -> bool:
    """Whether `inner`, which does not begin before `outer`, lies in it."""
    return outer.version == inner.version and int(inner.network_address) <= int(outer.broadcast_address)
