"""Brings a running daemon to another configuration, all of it or nothing.

    listen at new addresses -> make new tunnels -> gobgpd, learnt routes -> kernel's redirect, then the engine
                            -> what went: tunnels, addresses

Whatever may be refused comes before the engine, which cannot refuse: until then it has forgotten no cache. A refusal
undoes the steps before it in reverse. A tunnel that goes is taken from gobgpd first, so that the Transit Gateway
sends nothing into it any more; as long as it is there, what comes out of it is inspected.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wccpd import assemble
from wccpd.dataplane.host import adjacent_networks
from wccpd.errors import KernelError
from wccpd.plan.pages import keep_places
from wccpd.protocol.reconfigure import changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ipaddress import IPv4Address

    from config import Config
    from gre.tunnel import GreDevice
    from wccpd.daemon.bgp_side import BgpSide
    from wccpd.daemon.udp import WccpSocket
    from wccpd.daemon.wccp import WccpSpeaker
    from wccpd.dataplane.reconciler import Reconciler
    from wccpd.plan.policy import KernelSettings, Policy
    from wccpd.plan.redirect import RedirectPlan
    from wccpd.protocol.reconfigure import GroupChange
    from wccpd.protocol.settings import EngineSettings
    from wccpd.protocol.view import RouterView

WITHDRAW_GRACE_SECONDS = 1.0
"""Between gobgpd's last word on a tunnel's sessions and the end of the tunnel."""


class NotTakenError(Exception):
    """Something does not take the configuration; everything is as before. One reason a line."""

    def __init__(self, *reasons: object) -> None:
        self.reasons = tuple(map(str, reasons))
        super().__init__("\n".join(self.reasons))


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a configuration would make of the engine and of the kernel."""

    groups: tuple[GroupChange, ...]
    present: RedirectPlan | None
    """What is in the kernel."""
    plan: RedirectPlan
    """What would be."""
    kernel: tuple[str, ...]
    """What would be done to it, one line each."""


class Changer:
    """Changes the parts of a running daemon together."""

    def __init__(
        self,
        wccp: WccpSpeaker,
        bgp: BgpSide,
        reconciler: Reconciler,
        config: Config,
        on_taken: Callable[[Config], None],
    ) -> None:
        """Prepare; nothing is done yet.

        Args:
            wccp: The engine and its sockets.
            bgp: The BGP side.
            reconciler: The kernel's owner.
            config: What they were made with.
            on_taken: Called with a new configuration when all of them have it, before any of them goes on.
        """
        self._wccp, self._bgp, self._reconciler = wccp, bgp, reconciler
        self._config = config
        self._on_taken = on_taken
        self._settings = assemble.kernel_settings(config)

    async def prospect(self, after: Config) -> Prospect:
        """What `change` would do, from what does it; nothing is changed.

        Raises:
            NotTakenError: The kernel cannot be read.
        """
        try:
            engine = await self._engine_settings(after)
            plan, kernel = await self._reconciler.preview(
                assemble.policy(after), self._kernel_settings(after), self._view_with(engine)
            )
        except KernelError as error:
            raise NotTakenError(error) from error
        return Prospect(
            groups=changes(self._wccp.router.groups, self._wccp.router.settings, engine),
            present=self._reconciler.plan,
            plan=plan,
            kernel=kernel,
        )

    async def change(self, after: Config) -> None:
        """Take another configuration.

        Raises:
            NotTakenError: Nothing has changed.
        """
        try:
            engine = await self._engine_settings(after)
            fresh = await self._wccp.prepare(engine)
        except (OSError, KernelError) as error:
            raise NotTakenError(error) from error
        before = self._config
        try:
            await self._make_tunnels(before, after)
            await self._tell_bgp(before, after)
            await self._redirect(after, engine, fresh)
        except Exception:
            # A bug of ours is no reason to stay halfway.
            if self._config is before:
                self._wccp.discard(fresh)
                await self._bgp.reconfigure(before)
                await self._reconciler.restore(assemble.policy(before), self._settings)
            raise
        self._reconciler.set_lease(after.redirect.lease_seconds)
        self._bgp.set_hash_policy()

    async def _make_tunnels(self, before: Config, after: Config) -> None:
        """Have all tunnels of both; only the services of before look at what comes out of them."""
        old, new = assemble.policy(before), assemble.policy(after)
        if old.tunnels == new.tunnels:
            return
        faults = await self._reconciler.reconfigure(_with_both(old, new), self._settings)
        if faults:
            raise NotTakenError(*faults)

    async def _tell_bgp(self, before: Config, after: Config) -> None:
        fault = await self._bgp.reconfigure(after)
        if fault:
            raise NotTakenError(fault)
        if _leaving(assemble.policy(before).tunnels, assemble.policy(after).tunnels):
            await asyncio.sleep(WITHDRAW_GRACE_SECONDS)

    async def _redirect(
        self, after: Config, engine: EngineSettings, fresh: Mapping[IPv4Address, WccpSocket]
    ) -> None:
        settings = self._kernel_settings(after)

        def commit() -> None:
            self._config, self._settings = after, settings
            self._on_taken(after)
            self._wccp.reconfigure(engine, fresh)

        faults = await self._reconciler.reconfigure(
            assemble.policy(after), settings, lambda: self._view_with(engine), commit
        )
        if faults:
            raise NotTakenError(*faults)

    def _view_with(self, settings: EngineSettings) -> RouterView:
        return self._wccp.router.prospect(settings, time.monotonic())

    async def _engine_settings(self, config: Config) -> EngineSettings:
        first_number = self._wccp.router.settings.first_number
        return assemble.engine_settings(config, first_number, await asyncio.to_thread(adjacent_networks))

    def _kernel_settings(self, config: Config) -> KernelSettings:
        """With the services in an order in which each keeps its page."""
        fresh = assemble.kernel_settings(config)
        return replace(fresh, services=keep_places(self._settings.services, fresh.services))


def _leaving(old: Sequence[GreDevice], new: Sequence[GreDevice]) -> tuple[GreDevice, ...]:
    kept = {device.name for device in new}
    return tuple(device for device in old if device.name not in kept)


def _with_both(old: Policy, new: Policy) -> Policy:
    """The old policy with all tunnels of both; what comes out of a new one is looked at as the new policy says."""
    present = {device.name for device in old.tunnels}
    looked_at = (
        device.name for device in new.tunnels if device.name not in present and device.name in new.ingress
    )
    return replace(
        old,
        tunnels=(*new.tunnels, *_leaving(old.tunnels, new.tunnels)),
        ingress=(*old.ingress, *looked_at),
    )
