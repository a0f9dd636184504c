"""Looks at the host: everything that `facts.HostFacts` holds, in a fraction of a second and without changing anything.

What cannot be read is no error: it is left out, with the reason in `unread`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nftables
from pyroute2 import IPRoute, NetlinkError

from wccpd.dataplane.rtnetlink import RouteSocket
from wccpd.doctor.clock import read_clock
from wccpd.doctor.ethtool import driver_counters
from wccpd.doctor.facts import (
    ConntrackFact,
    DiskFact,
    HostFacts,
    LinkFact,
    RouteFact,
    RuleFact,
    SocketFact,
)
from wccpd.doctor.foreign import ForeignChain, read_chains
from wccpd.doctor.metadata import is_ec2, read_metadata
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import TypeVar

    from gre.tunnel import IPAddress
    from wccpd.doctor.facts import Wanted

    Value = TypeVar("Value")

AF_INET: Final = 2
WCCP_PORT: Final = 2048
Json = Any
"""A piece of a listing of libnftables, or a message of pyroute2; none of them leaves this module."""
_NET: Final = Path("/proc/sys/net")
_UNICAST: Final = 1
_MAIN_TABLE: Final = 254
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 4, 5, 9
"""Of linux/rtnetlink.h; a multipath route's first device stands behind four octets."""
_PATIENCE_SECONDS: Final = 0.2
_SELECTORS: Final = {
    "FRA_SRC": "from",
    "FRA_DST": "to",
    "FRA_IIFNAME": "iif",
    "FRA_OIFNAME": "oif",
    "FRA_IP_PROTO": "ipproto",
    "FRA_SPORT_RANGE": "sport",
    "FRA_DPORT_RANGE": "dport",
    "FRA_UID_RANGE": "uid",
    "FRA_L3MDEV": "l3mdev",
}
_NO_SUPPRESSION: Final = 0xFFFFFFFF
_INVERTED: Final = 2
"""FIB_RULE_INVERT (linux/fib_rules.h)."""


def gather(wanted: Wanted, caches: Collection[IPAddress] = ()) -> HostFacts:
    """Look at the host of the network namespace that we are in.

    Args:
        wanted: What this router is configured for.
        caches: Those that are known, whose ways are looked at.
    """
    gatherer = _Gatherer(wanted)
    with IPRoute() as ipr:
        return gatherer.all(ipr, tuple(caches))


class _Gatherer:
    """Collects facts, and the reasons for those that are not to be had."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._unread: dict[str, str] = {}

    def all(self, ipr: IPRoute, caches: tuple[IPAddress, ...]) -> HostFacts:
        """Everything."""
        names = {message["index"]: str(message.get_attr("IFLA_IFNAME")) for message in ipr.get_links()}
        nothing: tuple[LinkFact, ...] = ()
        links = self._read("links", lambda: tuple(_links(ipr)), nothing)
        chains = self._read("nft", self._foreign_chains, None)
        to = (*caches, *(tunnel.remote for tunnel in self._wanted.tunnels))
        allowances, has_ena = self._allowances(links)
        return HostFacts(
            ip_forward=self._read("ip_forward", lambda: _number(_NET / "ipv4/ip_forward") == 1, None),
            rp_filter=self._read("rp_filter", _rp_filters, {}),
            links=links,
            addresses=self._read("addresses", lambda: _addresses(ipr), frozenset()),
            has_gre=_has_gre(links),
            has_nft=chains is not None,
            default_route=self._read(
                "routes", lambda: _default_route(self._wanted.route_protocol, names), None
            ),
            routes={each: _route_to(ipr, each, names) for each in dict.fromkeys(to)},
            rules=self._read("rules", lambda: tuple(_rules(ipr)), ()),
            foreign_chains=chains or (),
            legacy_iptables=self._read("iptables", _legacy_tables, ()),
            sockets=self._read("sockets", _wccp_sockets, ()),
            conntrack=self._read("conntrack", _conntrack, None),
            clock=self._read("clock", read_clock, None),
            disk=self._read("disk", lambda: _disk(Path(self._wanted.state_directory)), None),
            allowances=allowances,
            has_ena=has_ena,
            ec2=self._read("ec2", read_metadata, None) if is_ec2() else None,
            gobgp=_why_deaf(self._wanted.gobgp_socket) if self._wanted.gobgp_socket else "",
            unread=self._unread,
        )

    def _read(self, what: str, work: Callable[[], Value], instead: Value) -> Value:
        try:
            return work()
        except NetlinkError as error:
            self._unread[what] = str(error.args[-1])
        except KernelError as error:
            self._unread[what] = str(error)
        except (OSError, ValueError) as error:
            self._unread[what] = getattr(error, "strerror", None) or str(error)
        return instead

    def _foreign_chains(self) -> tuple[ForeignChain, ...]:
        """Base chains of others. Only tables that have one are listed: ours may hold thousands of elements."""
        context = nftables.Nftables()
        context.set_json_output(True)
        context.set_stateless_output(True)
        tables = {
            (body["family"], body["table"])
            for body in _listed(context, "list chains", "chain")
            if "hook" in body and (body["family"], body["table"]) != ("ip", self._wanted.nft_table)
        }
        found: list[Json] = []
        for family, table in sorted(tables):
            found += _listing(context, f"list table {family} {table}")
        return read_chains(found, self._wanted.nft_table)

    def _allowances(self, links: Collection[LinkFact]) -> tuple[dict[str, int], bool]:
        """ENA's counters of what exceeded an allowance, of physical devices."""
        found: dict[str, int] = {}
        physical = [link.name for link in links if (Path("/sys/class/net") / link.name / "device").exists()]
        for device in physical:
            none: dict[str, int] = {}
            counters = self._read("ena", partial(driver_counters, device), none)
            found |= {
                f"{device} {name}": value
                for name, value in counters.items()
                if name.endswith("allowance_exceeded")
            }
        return found, bool(found)


def _listing(context: nftables.Nftables, command: str) -> list[Json]:
    code, output, error = context.cmd(command)
    if code != 0:
        raise OSError(error.strip().partition("\n")[0] or "nftables does not answer")
    return [item for item in json.loads(output)["nftables"] if "metainfo" not in item] if output else []


def _listed(context: nftables.Nftables, command: str, kind: str) -> list[Json]:
    return [item[kind] for item in _listing(context, command) if kind in item]


def _links(ipr: IPRoute) -> Iterator[LinkFact]:
    for message in ipr.get_links():
        info = message.get_attr("IFLA_LINKINFO")
        yield LinkFact(
            name=str(message.get_attr("IFLA_IFNAME")),
            up=bool(message["flags"] & 1)
            and message.get_attr("IFLA_OPERSTATE") not in {"DOWN", "LOWERLAYERDOWN"},
            mtu_bytes=int(message.get_attr("IFLA_MTU") or 0),
            kind=str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else "",
        )


def _addresses(ipr: IPRoute) -> frozenset[str]:
    found = (message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in ipr.get_addr())
    return frozenset(map(str, found))


def _rp_filters() -> dict[str, int]:
    return {file.parent.name: _number(file) for file in (_NET / "ipv4/conf").glob("*/rp_filter")}


def _number(file: Path) -> int:
    return int(file.read_text())


def _has_gre(links: Collection[LinkFact]) -> bool:
    """Whether the kernel makes GRE devices: there is one, or the module is there or can be loaded."""
    if any(link.kind in {"gre", "ip6gre"} for link in links) or Path("/sys/module/ip_gre").exists():
        return True
    modules = Path("/lib/modules") / os.uname().release
    for index in ("modules.dep", "modules.builtin"):
        try:
            if "/ip_gre.ko" in (modules / index).read_text():
                return True
        except OSError:
            continue
    return False


def _default_route(own_protocol: int, names: dict[int, str]) -> RouteFact | None:
    """The default route of the main table that counts; the learnt routes, thousands, are left out."""
    with RouteSocket() as sock:
        routes = tuple(sock.table(4, _MAIN_TABLE, leave_out=own_protocol))
    defaults = [
        route for route in routes if not route.prefix.prefixlen and route.is_unicast and not route.is_dead
    ]
    best = min(defaults, key=lambda route: route.metric, default=None)
    if best is None:
        return None
    attributes = dict(best.way.attributes)
    gateway = attributes.get(_RTA_GATEWAY)
    device = attributes.get(_RTA_OIF) or attributes.get(_RTA_MULTIPATH, b"")[4:8]
    name = names.get(int.from_bytes(device, sys.byteorder), "a next-hop object")
    return RouteFact(name, str(ipaddress.ip_address(gateway)) if gateway else "")


def _route_to(ipr: IPRoute, address: IPAddress, names: dict[int, str]) -> RouteFact | None:
    try:
        (route,) = ipr.route("get", dst=str(address))
    except NetlinkError:
        return None
    return _fact(route, names) if route["type"] == _UNICAST else None


def _fact(route: Json, names: dict[int, str]) -> RouteFact:
    metrics = route.get_attr("RTA_METRICS")
    mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else None
    gateway = route.get_attr("RTA_GATEWAY")
    return RouteFact(names.get(route.get_attr("RTA_OIF"), "?"), str(gateway or ""), mtu)


def _rules(ipr: IPRoute) -> Iterator[RuleFact]:
    for message in ipr.get_rules(family=AF_INET):
        selectors = []
        for attribute, word in _SELECTORS.items():
            value = message.get_attr(attribute)
            if value:
                length = {"FRA_SRC": "src_len", "FRA_DST": "dst_len"}.get(attribute)
                selectors.append(f"{word} {value}{f'/{message[length]}' if length else ''}")
        mark, mask = message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK")
        if message["flags"] & _INVERTED:
            selectors = ["not", *selectors, *((f"fwmark {mark:#x}",) if mark is not None else ())]
            mark = mask = None
        suppressed = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
        if suppressed not in {None, _NO_SUPPRESSION}:
            selectors.append(f"suppress_prefixlength {suppressed}")
        yield RuleFact(
            priority=message.get_attr("FRA_PRIORITY") or 0,
            table=message.get_attr("FRA_TABLE") or message["table"],
            mark=mark,
            mask=mask,
            selector=" ".join(selectors),
        )


def _legacy_tables() -> tuple[str, ...]:
    file = Path("/proc/net/ip_tables_names")
    return tuple(file.read_text().split()) if file.exists() else ()


def _wccp_sockets() -> tuple[SocketFact, ...]:
    """Sockets bound to WCCP's port (proc(5), /proc/net/udp)."""
    found = []
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        if int(port, 16) == WCCP_PORT:
            # In the order of the machine's octets, as a number.
            octets = int(address, 16).to_bytes(4, "little")
            found.append(SocketFact(str(ipaddress.IPv4Address(octets)), int(fields[-1])))
    return tuple(found)


def _conntrack() -> ConntrackFact | None:
    count, limit = _NET / "netfilter/nf_conntrack_count", _NET / "netfilter/nf_conntrack_max"
    if not count.exists():
        return None
    return ConntrackFact(_number(count), _number(limit), _conntrack_drops())


def _conntrack_drops() -> int:
    """Packets dropped for want of an entry, over all processors (nf_conntrack_standalone.c, ct_cpu_seq_show)."""
    try:
        lines = Path("/proc/net/stat/nf_conntrack").read_text().splitlines()
    except OSError:
        return 0
    columns = lines[0].split()
    wanted = [columns.index(name) for name in ("drop",) if name in columns]
    return sum(int(line.split()[index], 16) for line in lines[1:] for index in wanted)


def _disk(directory: Path) -> DiskFact:
    """The file system of a directory, or of the first one above it that is there."""
    place = next(each for each in (directory, *directory.parents) if each.exists())
    found = os.statvfs(place)
    return DiskFact(
        free_bytes=found.f_bavail * found.f_frsize,
        # Some file systems have no fixed number of files and say 0 of 0.
        free_files=found.f_favail if found.f_files else 1 << 30,
        read_only=bool(found.f_flag & os.ST_RDONLY),
    )


def _why_deaf(path: str) -> str:
    """Why a unix socket takes no connection; empty if it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE_SECONDS)
        try:
            sock.connect(path)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return ""
