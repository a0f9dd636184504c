"""The packet cases: what each way through a router costs beside plain forwarding.

All routers stand side by side and take turns, round by round, so that what else runs on the machine hits all alike;
a case's ratio is the median of the rounds' ratios, its value the median of the rounds.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from bench.case import Case
from bench.packets.compiler import CompileError
from bench.packets.frames import FLOWS
from bench.packets.router import GATEWAY, ROUTER, Router
from wccpd.dataplane.bpf.libbpf import LibBpf
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROUNDS: Final = 9
PACKETS: Final = 100_000
FRAME_OCTETS: Final = (64, 1400)
PLAIN: Final = "packet_forward"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way through a router."""

    name: str
    """Of the case; the size of the frames is put behind it."""
    prepare: Callable[[Router], None]
    """Makes the plain router into this one."""
    hops: frozenset[int] = frozenset({GATEWAY})
    """Next hops that must get packets, and no others may."""
    plane: str = ""
    goal: str = ""
    is_met: Callable[[float], bool] | None = None
    """Of the ratio to plain forwarding."""


def _nothing(_: Router) -> None:
    """A plain router is made already."""


def _one_rule(router: Router) -> None:
    router.namespace.run("ip", "rule", "add", "fwmark", "1", "lookup", "100")


BASE: Final = (
    Scenario(PLAIN, _nothing),
    Scenario("packet_harness_drop", Router.drop_at_ingress, frozenset({ROUTER})),
    Scenario("packet_forward_one_rule", _one_rule),
)
"""Plain forwarding; what the harness costs; and what any policy routing costs before it does anything."""


def cases(scenarios: Iterable[Scenario]) -> Iterator[Case]:
    """Measure plain forwarding and these in one run."""
    wanted = (*BASE, *scenarios)
    if os.geteuid() != 0:
        yield from _not_measured(wanted, "needs root: network namespaces and BPF")
        return
    try:
        samples = _measure(wanted)
    except (CompileError, KernelError) as error:
        yield from _not_measured(wanted, str(error))
        return
    for octets in FRAME_OCTETS:
        for scenario in wanted:
            yield _case(scenario, octets, samples[scenario.name, octets], samples[PLAIN, octets])


def _measure(scenarios: Sequence[Scenario]) -> dict[tuple[str, int], list[float]]:
    """Nanoseconds per packet, by scenario and size of frames, in the order of the rounds."""
    library = LibBpf()
    samples: dict[tuple[str, int], list[float]] = {
        (scenario.name, octets): [] for scenario in scenarios for octets in FRAME_OCTETS
    }
    with ExitStack() as stack:
        routers = [(each, stack.enter_context(Router(library, each.name))) for each in scenarios]
        for scenario, router in routers:
            scenario.prepare(router)
            router.send(FRAME_OCTETS[0], 2 * FLOWS, scenario.hops)
        for number in range(ROUNDS):
            first = number % len(routers)
            for scenario, router in (*routers[first:], *routers[:first]):
                for octets in FRAME_OCTETS:
                    spent = router.send(octets, PACKETS, scenario.hops)
                    samples[scenario.name, octets].append(spent)
    return samples


def _case(scenario: Scenario, octets: int, nanoseconds: list[float], plain: list[float]) -> Case:
    ratio = median(base / own for own, base in zip(nanoseconds, plain, strict=True))
    return Case(
        name=f"{scenario.name}_{octets}",
        unit="kpps",
        value=1e6 / median(nanoseconds),
        goal=scenario.goal,
        met=scenario.is_met(ratio) if scenario.is_met is not None else None,
        ratio_to=f"{PLAIN}_{octets}",
        ratio=ratio,
        plane=scenario.plane,
        figures={"ns_least": min(nanoseconds), "ns_median": median(nanoseconds), "rounds": len(nanoseconds)},
    )


def _not_measured(scenarios: Iterable[Scenario], reason: str) -> Iterator[Case]:
    for octets in FRAME_OCTETS:
        for each in scenarios:
            yield Case(f"{each.name}_{octets}", "kpps", None, each.goal, plane=each.plane, reason=reason)
