"""`wccpctl simulate`: plays web-caches of any kind against a real router, over UDP, and tells what happens.

The caches are those of `wccpd.simulator`, which know no network; here are their sockets, their clock and their voice.
No traffic is taken: a simulated cache that gets buckets loses what is redirected to it. For a laboratory, or for a
service that the router does not redirect for yet.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from wccpd.simulator.cache import Ignored, SimulatedCache, Stopped, Transmit
from wccpd.simulator.profiles import PROFILES, Profile
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import WCCP_PORT, MessageType, ServiceFlags
from wccpd.wire.errors import WireError
from wccpd.wire.framing import read_header
from wccpd.wire.messages import peek_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wccpd.simulator.cache import CacheOutput
    from wccpd.simulator.nexus import Nexus

MAX_DATAGRAM_BYTES = 65535
LONGEST_SLEEP_SECONDS = 0.5
GOODBYE_SECONDS = 4.0
"""So long caches that say SHUTDOWN are given to be acknowledged."""
READ_TWICE = 2
"""Answers that a cache must have read, if it can read no view, to count as joined: the second one met its echo."""
_PROTOCOLS = {"tcp": 6, "udp": 17}


class SpecError(ValueError):
    """The operator described a cache or a service that there cannot be; the text says how it is done."""


def parse_cache(text: str) -> tuple[Profile, IPv4Address]:
    """Read `PROFILE@ADDRESS`.

    Raises:
        SpecError: No such profile, or no IPv4 address.
    """
    name, _, address = text.partition("@")
    profile = PROFILES.get(name)
    if profile is None:
        raise SpecError(f"{text}: there is no profile {name!r}, only {', '.join(PROFILES)}")
    try:
        return profile, IPv4Address(address)
    except ValueError:
        raise SpecError(f"{text}: write PROFILE@ADDRESS, e.g. {name}@10.0.1.21") from None


def parse_service(text: str) -> ServiceInfo:
    """Read `web-cache` or `NUMBER[/PROTOCOL[/PORT,PORT...]]`; a dynamic service hashes by source address.

    Raises:
        SpecError: It is neither.
    """
    if text == "web-cache":
        return ServiceInfo.web_cache()
    number, protocol, ports, *rest = (*text.split("/"), "", "")
    try:
        listed = tuple(int(port) for port in ports.split(",") if port)
        known = _PROTOCOLS[protocol or "tcp"]
        if any(rest) or not 0 <= int(number) <= 0xFF or not all(0 < port <= 0xFFFF for port in listed):
            raise ValueError(text)
        flags = ServiceFlags.SOURCE_IP_HASH | (ServiceFlags.PORTS_DEFINED if listed else ServiceFlags(0))
        padded = (*listed, *(0,) * (8 - len(listed)))[:8]
        if len(listed) > len(padded):
            raise ValueError(text)
        return ServiceInfo.dynamic(int(number), 240, known, flags, padded)
    except (ValueError, KeyError):
        hint = "write web-cache or NUMBER/PROTOCOL/PORTS, e.g. 70/tcp/443,8443 (up to 8 ports)"
        raise SpecError(f"{text}: {hint}") from None


@dataclass(slots=True)
class _Known:
    """What was last told of one cache and one router, so that only changes are told."""

    answers: int = 0
    joined: bool = False
    change_number: int | None = None


@dataclass(eq=False)
class Simulation:
    """Caches with sockets. `say` is given each line."""

    caches: tuple[SimulatedCache, ...]
    say: Callable[[str], None]
    _sockets: dict[tuple[IPv4Address, int], socket.socket] = field(default_factory=dict)
    _known: dict[tuple[int, IPv4Address], _Known] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def open(self) -> None:
        """Bind a socket for each address and source port.

        Raises:
            OSError: An address is not local or its port is taken; the text names it.
        """
        for cache in self.caches:
            place = cache.address, cache.profile.source_port
            if place in self._sockets:
                continue
            sock = self._sockets[place] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            try:
                sock.bind((str(cache.address), cache.profile.source_port))
            except OSError as error:
                text = f"UDP {cache.address}:{cache.profile.source_port}: {error.strerror}"
                raise OSError(error.errno, text) from error

    def run(self, seconds: float | None, *, until_joined: bool) -> bool:
        """Play for so long, for ever if None; tell whether every cache is joined to every router at the end.

        Args:
            seconds: How long.
            until_joined: End as soon as every router has taken every cache.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            if until_joined and self.is_joined:
                break
            if all(cache.stopped for cache in self.caches):
                break
            self._step(until)
        return self.is_joined

    def leave(self) -> None:
        """Let every cache stop in its own way, and wait for acknowledgements."""
        for cache in self.caches:
            self._carry_out(cache, cache.leave(time.monotonic()))
        until = time.monotonic() + GOODBYE_SECONDS
        while time.monotonic() < until and not all(cache.stopped for cache in self.caches):
            self._step(until)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()

    @property
    def is_joined(self) -> bool:
        """Whether every router has taken every cache, as far as the cache can know."""
        return all(
            not cache.stopped and self._knows(index, nexus).joined
            for index, cache in enumerate(self.caches)
            for nexus in cache.nexuses
        )

    def _step(self, until: float | None) -> None:
        deadlines = [each for cache in self.caches if (each := cache.next_deadline()) is not None]
        now = time.monotonic()
        wait = min([LONGEST_SLEEP_SECONDS, *(each - now for each in deadlines)])
        if until is not None:
            wait = min(wait, until - now)
        ready, _, _ = select.select(list(self._sockets.values()), [], [], max(0.0, wait))
        for place, sock in self._sockets.items():
            if sock in ready:
                with contextlib.suppress(OSError):
                    datagram, (source, _) = sock.recvfrom(MAX_DATAGRAM_BYTES)
                    self._receive(place, datagram, IPv4Address(source))
        for cache in self.caches:
            deadline = cache.next_deadline()
            if deadline is not None and deadline <= time.monotonic():
                self._carry_out(cache, cache.tick(time.monotonic()))

    def _receive(self, place: tuple[IPv4Address, int], datagram: bytes, source: IPv4Address) -> None:
        try:
            key = peek_service(datagram).key
        except WireError as error:
            self._tell(place[0], f"cannot read what {source} sent: {error}")
            return
        for index, cache in enumerate(self.caches):
            if (cache.address, cache.profile.source_port) == place and cache.service.key == key:
                self._carry_out(cache, cache.receive(datagram, source, time.monotonic()))
                self._notice(index, cache, source)

    def _carry_out(self, cache: SimulatedCache, outputs: Iterable[CacheOutput]) -> None:
        for output in outputs:
            match output:
                case Transmit(datagram, destination, port):
                    message = read_header(datagram).message_type
                    if message is not MessageType.HERE_I_AM:
                        self._tell(cache.address, f"sends {message.name} to {destination}", cache)
                    try:
                        sock = self._sockets[cache.address, port]
                        sock.sendto(datagram, (str(destination), WCCP_PORT))
                    except OSError as error:
                        self._tell(cache.address, f"cannot send to {destination}: {error.strerror}", cache)
                case Ignored(reason, source):
                    self._tell(cache.address, f"makes nothing of what {source} sent: {reason}", cache)
                case Stopped(reason):
                    self._tell(cache.address, f"stops: {reason}", cache)

    def _notice(self, index: int, cache: SimulatedCache, source: IPv4Address) -> None:
        """Tell what an answer changed."""
        for nexus in cache.nexuses:
            if source not in {nexus.configured, nexus.router_id} or nexus.router_id is None:
                continue
            known = self._knows(index, nexus)
            known.answers += 1
            if known.answers == 1:
                self._tell(cache.address, f"is answered by router {nexus.router_id}", cache)
            before, known.joined = known.joined, self._has_joined(cache, nexus, known)
            if known.joined and not before:
                how = (
                    "lists it as usable" if nexus.view is not None else "was echoed, its view cannot be read"
                )
                self._tell(cache.address, f"router {nexus.router_id} {how}", cache)
            if before and not known.joined:
                self._tell(cache.address, f"router {nexus.router_id} no longer lists it", cache)
            if nexus.view is not None and nexus.view.change_number != known.change_number:
                known.change_number = nexus.view.change_number
                caches = ", ".join(map(str, sorted(nexus.view.addresses))) or "none"
                text = f"change number {known.change_number} of {nexus.router_id}, usable caches: {caches}"
                self._tell(cache.address, text, cache)

    def _has_joined(self, cache: SimulatedCache, nexus: Nexus, known: _Known) -> bool:
        if nexus.view is not None:
            return cache.address in nexus.view.addresses
        return known.answers > READ_TWICE and nexus.receive_id != 0

    def _knows(self, index: int, nexus: Nexus) -> _Known:
        return self._known.setdefault((index, nexus.configured), _Known())

    def _tell(self, address: IPv4Address, text: str, cache: SimulatedCache | None = None) -> None:
        who = f"{address}" if cache is None else f"{address} {cache.profile.name} {cache.service.key}"
        self.say(f"{time.monotonic() - self._started:7.1f} s  {who}: {text}")
