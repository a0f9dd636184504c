"""A router and scripted caches on one clock, without a network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from tests.support.scripted_cache import ScriptedCache
from wccpd.protocol.outputs import Output, Refused, Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import EngineSettings, ServiceSettings
from wccpd.protocol.view import CacheState, GroupView
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import ServiceType

ROUTER_ID = IPv4Address("10.100.1.10")
SECOND_ADDRESS = IPv4Address("10.100.1.9")
FIRST = IPv4Address("10.100.1.21")
SECOND = IPv4Address("10.100.1.22")
WEB_CACHE = ServiceKey(ServiceType.STANDARD, 0)
PASSWORD = b"sesame"


class Stage:
    """A router and caches on one clock, without a network: what is sent arrives at once unless told otherwise."""

    def __init__(self, *, adjacent: tuple[IPv4Network, ...] | None = None, **settings: object) -> None:
        defaults: dict[str, object] = {"key": WEB_CACHE, "passwords": (PASSWORD,)}
        service = ServiceSettings(**{**defaults, **settings})
        addresses = ROUTER_ID, SECOND_ADDRESS
        self.router = Router(EngineSettings(ROUTER_ID, addresses, (service,), 1000, adjacent=adjacent))
        self.now = 100.0
        self.caches: dict[IPv4Address, ScriptedCache] = {}

    def cache(self, address: IPv4Address, **details: object) -> ScriptedCache:
        made = ScriptedCache(address, ROUTER_ID, **{"password": PASSWORD, **details})
        self.caches[address] = made
        return made

    def send(
        self, cache: ScriptedCache, datagram: bytes, local: IPv4Address = ROUTER_ID
    ) -> tuple[Output, ...]:
        return self.deliver(self.router.receive(datagram, cache.address, 2048, local, self.now))

    def hello(self, *caches: ScriptedCache) -> tuple[Output, ...]:
        return tuple(output for cache in caches for output in self.send(cache, cache.here_i_am()))

    def deliver(self, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        for output in outputs:
            if isinstance(output, Send):
                self.caches[output.remote].hear(output)
        return outputs

    def wait(self, seconds: float) -> tuple[Output, ...]:
        """Let time pass, ticking exactly at each deadline."""
        until = self.now + seconds
        outputs: list[Output] = []
        while (deadline := self.router.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            outputs += self.deliver(self.router.tick(self.now))
        self.now = until
        return tuple(outputs)

    def live(self, seconds: float, *caches: ScriptedCache, every: float = 10) -> tuple[Output, ...]:
        """Let time pass while the caches say HERE_I_AM every so often."""
        outputs: tuple[Output, ...] = ()
        for _ in range(int(seconds // every)):
            outputs += self.wait(every) + self.hello(*caches)
        return outputs

    def joined(self, *addresses: IPv4Address, every: float = 10, **details: object) -> list[ScriptedCache]:
        caches = [self.cache(address, **details) for address in addresses]
        self.hello(*caches)
        self.live(2 * every, *caches, every=every)  # once to become usable, once to learn of the others
        return caches

    @property
    def group(self) -> GroupView:
        return self.router.view().groups[0]

    def state(self, address: IPv4Address) -> CacheState:
        return next(cache.state for cache in self.group.caches if cache.address == address)


def only(outputs: tuple[Output, ...], kind: type) -> list:
    return [output for output in outputs if isinstance(output, kind)]


def reason(outputs: tuple[Output, ...]) -> object:
    (refused,) = only(outputs, Refused)
    return refused.reason
