"""What a data plane is: it shows what is really there, and brings that to a wished state.

Blocking calls; the reconciler runs them in one worker thread, one at a time; only the lease is renewed from another
one. Wishes are whole states, never changes: a plane finds out itself what differs, and applies it so that each
service group is either as before or as wished at every moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from wccpd.plan.verdict import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address

    from gre.tunnel import GreDevice, ObservedGre
    from wccpd.errors import KernelError
    from wccpd.plan.policy import KernelSettings
    from wccpd.plan.redirect import Path, RedirectPlan


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything of ours that should be in the kernel, the routes learnt by BGP aside."""

    plan: RedirectPlan
    tunnels: tuple[GreDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What is there of ours, and what of the host's bears on it."""

    devices: Mapping[str, ObservedGre] = field(default_factory=dict)
    """GRE devices of ours by name: tunnels, and what the plane made for caches."""
    slots: Mapping[Path, int] = field(default_factory=dict)
    """The number of each path that is there, also one that an earlier run left."""
    former: Mapping[int, IPv4Address] = field(default_factory=dict)
    """Numbers that no path has, each with the cache that flows mean by it (`RedirectPlan.former`)."""
    counters: Counters = field(default_factory=Counters)
    forwards: bool = True
    """net.ipv4.ip_forward: without it the kernel drops whatever is not for the host itself."""
    hindrances: tuple[str, ...] = ()
    """Settings of the host that keep the redirect from working, in words, each with its remedy."""
    leased: bool = False
    """Whether the lease is running: while it is not, every service is in its mode."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a wish."""

    changes: tuple[str, ...] = ()
    """What was done, one line each; empty when everything was as wished already."""
    devices_changed: bool = False
    """Whether a tunnel device was made, remade or set up: routes through it are gone."""
    faults: tuple[KernelError, ...] = ()
    """What the kernel refused; everything else was done."""
    refused: frozenset[Path] = frozenset()
    """Paths that are not there for that reason. Nobody is sent there: packets of such a cache's buckets are in the
    service's mode until the next plan gives them to others."""


class Notices(Protocol):
    """What becomes readable when somebody else changed what is ours."""

    def fileno(self) -> int:
        """For an event loop."""
        ...

    def drain(self) -> bool:
        """Take the notices that are there; whether one concerns us.

        Raises:
            KernelError: No more can be had.
        """
        ...

    def close(self) -> None:
        """Release it."""
        ...


class DataPlane(Protocol):
    """A kernel, or a fake of one."""

    hash_function: str
    """`jhash` or `xor`: which function makes buckets of packets."""
    on_progress: Callable[[], None]
    """Called in the worker thread between the steps of a call that may take long."""

    def observe(self) -> Observation:
        """Read everything of ours.

        Raises:
            KernelError: It could not be read, or what has our name is somebody else's.
        """
        ...

    def bring_to(self, wish: Wish) -> Applied:
        """Make the kernel as wished; one refused object keeps none of the others back.

        Raises:
            KernelError: What is there could not be read; nothing was changed.
        """
        ...

    def preview(self, wish: Wish, settings: KernelSettings) -> tuple[str, ...]:
        """What `reconfigure` and `bring_to` would do now, one line each; nothing is changed.

        Raises:
            KernelError: What is there could not be read.
        """
        ...

    def reconfigure(self, settings: KernelSettings) -> None:
        """Take the names of other services; by what objects are recognised stays as it is."""
        ...

    def renew_lease(self, seconds: float) -> None:
        """Let the redirect be valid for so long from now; when it runs out, every service is in its mode.

        Never waits for another call, which may be under way in another thread at the same time; but for `remove`
        and `close`, which must not be. Nothing is done before the first wish was carried out.

        Raises:
            KernelError: The kernel refused.
        """
        ...

    def live_flows(self) -> Mapping[IPv4Address, int]:
        """How many flows are pinned to each cache that has a path; ended connections do not count.

        Raises:
            KernelError: It could not be read.
        """
        ...

    def remove(self, keep_closed: RedirectPlan | None = None) -> Applied:
        """Take away everything of ours.

        Args:
            keep_closed: Services of this plan whose mode is not open go on dropping or rejecting, without a
                daemon, until they are removed too; None removes all.
        """
        ...

    def watch(self) -> Notices | None:
        """Open what tells that somebody else changed what is ours; None if nothing tells.

        Raises:
            KernelError: It cannot be opened.
        """
        ...

    def forget(self) -> None:
        """Take nothing for granted that was read or written before: the next look reads everything."""
        ...

    def close(self) -> None:
        """Release sockets. What is in the kernel stays."""
        ...
