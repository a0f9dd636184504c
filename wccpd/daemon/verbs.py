"""What the control API offers beside status: verbs that change what the daemon does, and questions about flows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from wccpd.daemon.bgp_side import NoBgpError
from wccpd.daemon.proxy_side import proxy_configuration
from wccpd.errors import KernelError
from wccpd.proxy_config.side import CannotError
from wccpd.status.control import VerbError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from config import Config
    from wccpd.daemon.bgp_side import BgpSide
    from wccpd.daemon.doctoring import Doctor
    from wccpd.daemon.drains import Drains
    from wccpd.daemon.explaining import Explainer
    from wccpd.daemon.reload import Reloader
    from wccpd.daemon.wccp import WccpSpeaker
    from wccpd.dataplane.reconciler import Reconciler
    from wccpd.status.control import Answer, Asked, Work
    from wccpd.status.view import Status

MAX_CONFIRM_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Verbs:
    """The parts of a daemon that somebody may give orders to."""

    wccp: WccpSpeaker
    bgp: BgpSide
    reconciler: Reconciler
    drains: Drains
    reloader: Reloader
    explainer: Explainer
    doctor: Doctor
    read_status: Callable[[], Awaitable[Status]]
    read_config: Callable[[], Config]

    def commands(self) -> Mapping[str, Work]:
        """What POST carries out, by path below `/v1/`."""
        return {
            "router/drain": partial(self._set_drained, True),
            "router/undrain": partial(self._set_drained, False),
            "caches/{cache}/drain": partial(self._drain_cache, True),
            "caches/{cache}/undrain": partial(self._drain_cache, False),
            "plan": self._plan,
            "reload": self._reload,
            "confirm": lambda _: self.reloader.confirm(),
            "rollback": lambda _: self.reloader.rollback(),
        }

    def reads(self) -> Mapping[str, Work]:
        """What GET answers, by path below `/v1/`."""
        return {
            "flows": self._live_flows,
            "explain": self._explain,
            "doctor": self._examine,
            "caches/{cache}/proxy-config/{kind}": self._proxy_config,
        }

    async def _set_drained(self, drained: bool, _: Asked) -> Answer:
        try:
            confirmed = await self.bgp.drain(drained)
        except NoBgpError as error:
            raise VerbError(str(error)) from error
        except OSError as error:
            raise self._not_kept(error) from error
        return {"drained": drained, "confirmed": confirmed}

    async def _drain_cache(self, draining: bool, asked: Asked) -> Answer:
        """Give a cache no new flows, or give it some again."""
        cache = _cache_of(asked)
        known = {each.address for group in self.wccp.router.view().groups for each in group.caches}
        if draining and cache not in known:
            raise VerbError(f"no cache {cache} has spoken to this router")
        try:
            self.drains.change(cache, draining=draining)
        except OSError as error:
            raise self._not_kept(error) from error
        self.reconciler.drained = self.drains.caches
        await self.reconciler.once()
        return {"cache": str(cache), "draining": draining}

    async def _plan(self, asked: Asked) -> Answer:
        """What a file would change. A verb, since it reads the password files that the text names."""
        if not asked.body:
            return await self.reloader.plan()
        file = Path(asked.query.get("file", ""))
        if not file.is_absolute():
            raise VerbError("file must say the absolute name of the file that is sent")
        try:
            text = asked.body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise VerbError(f"{file} is not UTF-8") from None
        return await self.reloader.plan(text, file)

    async def _reload(self, asked: Asked) -> Answer:
        seconds = asked.query.get("confirm_seconds")
        if seconds is None:
            return await self.reloader.reload()
        if not seconds.isdecimal() or not 1 <= int(seconds[:9]) <= MAX_CONFIRM_SECONDS:
            raise VerbError(f"confirm_seconds must be 1 to {MAX_CONFIRM_SECONDS}")
        return await self.reloader.reload(int(seconds))

    def _not_kept(self, error: OSError) -> VerbError:
        return VerbError(f"cannot keep it in {self.drains.directory}: {error.strerror}")

    async def _live_flows(self, _: Asked) -> Answer:
        """Flows that are pinned to each cache."""
        try:
            by_cache = await self.reconciler.live_flows()
        except KernelError as error:
            raise VerbError(str(error)) from error
        return {"flows": {str(cache): count for cache, count in by_cache.items()}}

    async def _explain(self, asked: Asked) -> Answer:
        """What becomes of a flow, and why."""
        return await self.explainer.answer(asked, self.wccp.router.view(), self.drains.caches)

    async def _examine(self, _: Asked) -> Answer:
        """What is wrong with this router and its host."""
        return await self.doctor.answer(self.read_status, self.wccp.router.view())

    async def _proxy_config(self, asked: Asked) -> Answer:
        """How a proxy is to be set up."""
        cache, kind = _cache_of(asked), asked.names["kind"]
        try:
            text = proxy_configuration(self.read_config(), kind, cache, self.wccp.router.view())
        except CannotError as error:
            raise VerbError(str(error)) from error
        return {"version": 1, "cache": str(cache), "kind": kind, "text": text}


def _cache_of(asked: Asked) -> IPv4Address:
    try:
        return IPv4Address(asked.names["cache"])
    except AddressValueError:
        raise VerbError(f"{asked.names['cache']!a} is no IPv4 address") from None
