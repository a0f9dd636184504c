"""What is allowed and yet seldom meant: warnings about settings that are valid.

Pure, like `validate`; a rule belongs here if somebody may have a reason to break it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from config.model import AdvertiseWhen
from config.services import DataPlaneKind, Mode
from config.validate import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from config.model import Config
    from config.services import AclLine, Service

TRANSIT_GATEWAY_HOLD_TIME_SECONDS = 30
USUAL_MTU_BYTES = 1500


def advise(config: Config) -> tuple[Fault, ...]:
    """Everything about these settings that deserves a second look."""
    rules: tuple[Callable[[Config], Iterable[Fault]], ...] = (
        _tunnel_advice,
        _bgp_advice,
        _join_advice,
        _list_advice,
        _match_advice,
        _zone_advice,
        _redirect_advice,
    )
    return tuple(chain.from_iterable(rule(config) for rule in rules))


def _tunnel_advice(config: Config) -> Iterator[Fault]:
    for index, tunnel in enumerate(config.tunnels):
        if tunnel.mtu_bytes < USUAL_MTU_BYTES:
            yield Fault(
                ("tunnels", index, "mtu_bytes"),
                f"{tunnel.mtu_bytes} is less than the {USUAL_MTU_BYTES} bytes of usual packets: "
                "what is sent back to spokes is fragmented or refused",
            )


def _bgp_advice(config: Config) -> Iterator[Fault]:
    bgp = config.bgp
    if bgp is None:
        return
    if bgp.hold_time_seconds > TRANSIT_GATEWAY_HOLD_TIME_SECONDS:
        yield Fault(
            ("bgp", "hold_time_seconds"),
            f"{bgp.hold_time_seconds} has no effect: the Transit Gateway offers "
            f"{TRANSIT_GATEWAY_HOLD_TIME_SECONDS}, and the lower counts",
        )
    if bgp.listen_port != 179:
        yield Fault(
            ("bgp", "listen_port"),
            f"the Transit Gateway connects to 179, never to {bgp.listen_port}: only our own attempts can succeed",
        )
    shut = [str(each.service) for each in config.services if each.mode is not Mode.OPEN]
    if shut and bgp.advertise_when is not AdvertiseWhen.REDIRECTING:
        yield Fault(
            ("bgp", "advertise_when"),
            f"'{bgp.advertise_when}' keeps drawing traffic to this router while it has no cache for "
            f"{', '.join(shut)}, and refuses it",
            "'redirecting' sends it to routers that have one",
        )


def _join_advice(config: Config) -> Iterator[Fault]:
    for index, service in enumerate(config.services):
        if service.has_password_source:
            continue
        everybody = any(network.prefixlen == 0 for network in service.group_list)
        who = "any host" if everybody else "any host in group_list"
        yield Fault(
            ("services", index, "group_list"),
            f"without a password {who} can pass as a cache and is sent the traffic",
            "add password_file, here and in the proxies",
        )


def _list_advice(config: Config) -> Iterator[Fault]:
    for index, service in enumerate(config.services):
        everything = next(
            (number for number, line in enumerate(service.redirect_list) if _takes_everything(line)), None
        )
        if everything is not None and everything + 1 < len(service.redirect_list):
            yield Fault(
                ("services", index, "redirect_list", everything + 1),
                f"no packet gets to this line: redirect_list[{everything}] matches all",
            )


def _takes_everything(line: AclLine) -> bool:
    return line.protocol is None and line.combinations == 1 and not (line.sources or line.destinations)


def _match_advice(config: Config) -> Iterator[Fault]:
    """Dynamic services that the file defines and that want the very same packets."""
    first: dict[object, int] = {}
    for index, service in enumerate(config.services):
        packets = _packets(service)
        if packets is None:
            continue
        other = first.setdefault(packets, index)
        rivals = config.services[other]
        if other != index and not (rivals.fallthrough or service.fallthrough):
            yield Fault(
                ("services", index, "match"),
                f"these packets are those of services[{other}] too: only the one of higher priority gets any",
                "set fallthrough for the one that is asked first, or other ports",
            )


def _packets(service: Service) -> object:
    """What packets a service wants, if the file says it."""
    if service.service == "web-cache":
        return 6, frozenset({80}), "destination"
    match = service.match
    return None if match is None else (match.protocol, frozenset(match.ports), str(match.ports_are))


def _zone_advice(config: Config) -> Iterator[Fault]:
    preferring = [index for index, service in enumerate(config.services) if service.prefer_zone]
    zones = {each.zone for each in config.caches}
    for index in preferring:
        if config.router.zone not in zones:
            yield Fault(
                ("services", index, "prefer_zone"),
                f"no caches are in the router's zone '{config.router.zone}', so flows go to all of them",
                "name their networks under caches",
            )
    if config.caches and not preferring:
        yield Fault(("caches",), "zones have no effect: no service has prefer_zone")


def _redirect_advice(config: Config) -> Iterator[Fault]:
    redirect = config.redirect
    if redirect.clear_df and redirect.dataplane is DataPlaneKind.AUTO:
        yield Fault(("redirect", "dataplane"), "'auto' takes netlink, since only that can do clear_df")
    listed = set(redirect.exclude_interfaces)
    devices = {config.device_name(tunnel) for tunnel in config.tunnels}
    if devices and devices <= listed and not redirect.interfaces:
        yield Fault(
            ("redirect", "exclude_interfaces"), "all tunnels are listed, so no traffic is redirected at all"
        )
