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
from bench.packets.router import GATEWAY, ROUTER, LostPacketsError, Router
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
    """Of the ratio."""
    beside: str = PLAIN
    """The scenario that it is compared with."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two scenarios of the run, one beside the other."""

    name: str
    """Of the case; the size of the frames is put behind it."""
    of: str
    to: str
    """Names of the scenarios; the ratio is the time of the first in that of the second."""
    goal: str
    is_met: Callable[[float], bool]
    plane: str = ""


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


def cases(scenarios: Iterable[Scenario], comparisons: Iterable[Comparison] = ()) -> Iterator[Case]:
    """Measure plain forwarding and these in one run; one that loses packets is left out of the rest of it."""
    wanted = (*BASE, *scenarios)
    if os.geteuid() != 0:
        measured = _failed(wanted, "needs root: network namespaces and BPF")
    else:
        try:
            measured = _measure(wanted)
        except (CompileError, KernelError) as error:
            measured = _failed(wanted, str(error))
    for octets in FRAME_OCTETS:
        for scenario in wanted:
            yield _case(scenario, octets, measured[scenario.name], measured[scenario.beside])
        for each in comparisons:
            yield _comparison(each, octets, measured[each.of], measured[each.to])


def _comparison(wanted: Comparison, octets: int, own: _Samples, other: _Samples) -> Case:
    name, base = f"{wanted.name}_{octets}", f"{wanted.to}_{octets}"
    fault = own.fault or other.fault
    if fault:
        return Case(name, "x", None, wanted.goal, ratio_to=base, plane=wanted.plane, reason=fault)
    pairs = zip(own.nanoseconds[octets], other.nanoseconds[octets], strict=True)
    ratio = median(each / beside for each, beside in pairs)
    return Case(name, "x", ratio, wanted.goal, wanted.is_met(ratio), base, ratio, wanted.plane)


@dataclass(slots=True)
class _Samples:
    """What was measured of one scenario."""

    nanoseconds: dict[int, list[float]]
    """Per packet, by size of the frames, in the order of the rounds."""
    fault: str = ""
    """Why it was not measured."""


def _failed(scenarios: Iterable[Scenario], fault: str) -> dict[str, _Samples]:
    return {scenario.name: _Samples({}, fault) for scenario in scenarios}


def _measure(scenarios: Sequence[Scenario]) -> dict[str, _Samples]:
    """Samples by scenario."""
    library = LibBpf()
    samples = {scenario.name: _Samples({octets: [] for octets in FRAME_OCTETS}) for scenario in scenarios}
    with ExitStack() as stack:
        routers = [(each, stack.enter_context(Router(library, each.name))) for each in scenarios]
        for scenario, router in routers:
            scenario.prepare(router)
            _take(samples[scenario.name], scenario, router, 2 * FLOWS)
        for own in samples.values():
            own.nanoseconds = {octets: [] for octets in FRAME_OCTETS}  # the first turn fills caches
        for number in range(ROUNDS):
            first = number % len(routers)
            for scenario, router in (*routers[first:], *routers[:first]):
                _take(samples[scenario.name], scenario, router, PACKETS)
    return samples


def _take(samples: _Samples, scenario: Scenario, router: Router, packets: int) -> None:
    """One turn of one scenario, at each size of frames."""
    try:
        for octets in FRAME_OCTETS:
            if not samples.fault:
                samples.nanoseconds[octets].append(router.send(octets, packets, scenario.hops))
    except LostPacketsError as error:
        samples.fault = str(error)


def _case(scenario: Scenario, octets: int, own: _Samples, other: _Samples) -> Case:
    name = f"{scenario.name}_{octets}"
    fault = own.fault or (other.fault and f"{scenario.beside}: {other.fault}")
    if fault:
        return Case(name, "kpps", None, scenario.goal, plane=scenario.plane, reason=fault)
    nanoseconds = own.nanoseconds[octets]
    ratio = median(base / each for each, base in zip(nanoseconds, other.nanoseconds[octets], strict=True))
    return Case(
        name=name,
        unit="kpps",
        value=1e6 / median(nanoseconds),
        goal=scenario.goal,
        met=scenario.is_met(ratio) if scenario.is_met is not None else None,
        ratio_to=f"{scenario.beside}_{octets}",
        ratio=ratio,
        plane=scenario.plane,
        figures={"ns_least": min(nanoseconds), "ns_median": median(nanoseconds), "rounds": len(nanoseconds)},
    )
