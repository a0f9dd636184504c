"""Answers `wccpctl proxy-config`: the configuration, completed by what the router knows of caches and other routers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from wccpd import assemble
from wccpd.plan.match import service_name
from wccpd.protocol.view import CacheState
from wccpd.proxy_config import generic, linux, squid
from wccpd.proxy_config.side import CannotError, Chosen, side_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from config import Config
    from wccpd.protocol.view import RouterView
    from wccpd.proxy_config.side import ServiceSide, Side
    from wccpd.wire.components import ServiceInfo

KINDS: dict[str, Callable[[Side], str]] = {
    "squid": squid.script,
    "linux": linux.script,
    "generic": generic.text,
}


def proxy_configuration(config: Config, kind: str, cache: IPv4Address, view: RouterView | None = None) -> str:
    """The set-up of one proxy.

    Args:
        config: The router's own configuration.
        kind: One of `KINDS`.
        cache: The proxy's address.
        view: What the engine knows; None without a daemon.

    Raises:
        CannotError: There is none; the text says why.
    """
    if kind not in KINDS:
        raise CannotError(f"{kind!a} is none of {', '.join(KINDS)}")
    known = _Known(config, view)
    remarks: list[str] = []
    services = tuple(known.services(cache, remarks))
    side = side_of(
        cache,
        known.routers(),
        services,
        assemble.client_networks(config),
        known.chosen(cache),
        tuple(remarks),
    )
    return KINDS[kind](side)


@dataclass(frozen=True, slots=True)
class _Known:
    config: Config
    view: RouterView | None

    def services(self, cache: IPv4Address, remarks: list[str]) -> Iterator[ServiceSide]:
        """The services that a cache may join and whose definition is known; remarks say why others are left out."""
        lists = assemble.group_lists(self.config)
        for service in assemble.proxy_services(self.config):
            info = service.info or self._definition(service.name)
            allowed = lists[service.name]
            if allowed and not any(cache in network for network in allowed):
                remarks.append(f"service {service.name}: {cache} is not in its group_list")
            elif info is None:
                remarks.append(f"service {service.name}: no cache has said what it is; give it a `match`")
            else:
                yield replace(service, info=info)

    def _definition(self, name: str) -> ServiceInfo | None:
        groups = self.view.groups if self.view is not None else ()
        return next((group.definition for group in groups if service_name(group.key) == name), None)

    def routers(self) -> tuple[IPv4Address, ...]:
        """Ourselves, then the routers of which usable caches tell."""
        groups = self.view.groups if self.view is not None else ()
        others = {router for group in groups for router in group.routers if isinstance(router, IPv4Address)}
        own = self.config.router.id
        return own, *sorted(others - {own})

    def chosen(self, cache: IPv4Address) -> Chosen | None:
        """What the cache has selected where it is usable."""
        groups = self.view.groups if self.view is not None else ()
        return next(
            (
                Chosen(each.forwarding, each.packet_return)
                for group in groups
                for each in group.caches
                if each.address == cache and each.state is CacheState.USABLE
            ),
            None,
        )
