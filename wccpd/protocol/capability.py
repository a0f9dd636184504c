"""Capability negotiation (draft 4.4, 4.5; 2.01, 3.5): the router offers, each cache selects one option of each kind.

Assignment method and timers belong to the group: the first usable cache fixes them until the group is empty,
and from then on only what it selected is offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.protocol.settings import Timers
from wccpd.wire.components import Capabilities
from wccpd.wire.elements import TimerScale, TransmitT
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from enum import IntFlag

    from wccpd.protocol.settings import ServiceSettings, TimerOffer


@dataclass(frozen=True, slots=True)
class Selection:
    """What one cache selected; absent elements mean the draft's defaults (GRE, hash, GRE, 10 s, scales of 1)."""

    forwarding: ForwardingMethod = ForwardingMethod.GRE
    assignment: AssignmentMethod = AssignmentMethod.HASH
    packet_return: PacketReturnMethod = PacketReturnMethod.GRE
    timers: Timers = Timers()


@dataclass(frozen=True, slots=True)
class Incompatible:
    """Why a selection cannot be served, in words that name both sides."""

    reason: str


_NO_L2_FORWARDING = ~ForwardingMethod.L2
_NO_L2_RETURN = ~PacketReturnMethod.L2


def offer(
    settings: ServiceSettings, fixed: Selection | None, *, adjacent: bool, with_timers: bool
) -> Capabilities:
    """The Capabilities Info of our I_SEE_YOU.

    Args:
        settings: What the group supports.
        fixed: What the group's first usable cache selected; None while nobody has.
        adjacent: Offer L2 too. A group that supports nothing else then offers an empty choice: to leave the
            element out would mean GRE.
        with_timers: Offer the timers of 2.01 too. Traffic Server takes an offer with elements that it
            does not know for an empty one, so only caches that can negotiate timers are shown them.
    """
    timers = settings.timer_offer
    return Capabilities(
        forwarding=settings.forwarding if adjacent else settings.forwarding & _NO_L2_FORWARDING,
        assignment=settings.assignment if fixed is None else fixed.assignment,
        packet_return=settings.packet_return if adjacent else settings.packet_return & _NO_L2_RETURN,
        transmit_t=_transmit_offer(timers, fixed) if with_timers else None,
        timer_scale=_scale_offer(timers, fixed) if with_timers else None,
    )


def judge(
    capabilities: Capabilities | None,
    settings: ServiceSettings,
    fixed: Selection | None,
    not_adjacent: str = "",
) -> Selection | Incompatible:
    """Read a cache's selection and compare it with our offer.

    More than one bit, or none, is undefined in the drafts and taken as incompatible.

    Args:
        capabilities: Of its HERE_I_AM; None if it had none.
        settings: What the group supports.
        fixed: What the group's first usable cache selected; None while nobody has.
        not_adjacent: Why L2 cannot be had by this cache, in words; empty when it can.
    """
    selection = _selected(capabilities or Capabilities())
    if isinstance(selection, Incompatible):
        return selection
    return unserved(selection, settings, fixed, not_adjacent) or selection


def unserved(
    selection: Selection, settings: ServiceSettings, fixed: Selection | None, not_adjacent: str = ""
) -> Incompatible | None:
    """Why a group with these settings cannot serve a selection; None when it can. Arguments as for `judge`."""
    assignment = settings.assignment if fixed is None else fixed.assignment
    kinds: tuple[tuple[str, IntFlag, IntFlag], ...] = (
        ("forwarding", selection.forwarding, settings.forwarding),
        ("assignment", selection.assignment, assignment),
        ("packet return", selection.packet_return, settings.packet_return),
    )
    for kind, selected, offered in kinds:
        if selected.value.bit_count() != 1 or selected & offered == 0:
            wanted = method_name(selected)
            return Incompatible(f"it asks for {kind} {wanted}, this group offers {method_name(offered)}")
    if not_adjacent and selection.forwarding is ForwardingMethod.L2:
        return Incompatible(f"it asks for forwarding L2, but {not_adjacent}")
    if not_adjacent and selection.packet_return is PacketReturnMethod.L2:
        return Incompatible(f"it asks for packet return L2, but {not_adjacent}")
    return _timer_fault(selection.timers, settings.timer_offer, fixed)


def _selected(capabilities: Capabilities) -> Selection | Incompatible:
    default = Selection()
    transmit, scale = capabilities.transmit_t, capabilities.timer_scale
    if transmit is not None and transmit.upper_milliseconds:
        return Incompatible("it selects a range of TRANSMIT_T, not a value")
    if scale is not None and (scale.timeout_upper or scale.ra_timer_upper):
        return Incompatible("it selects a range of TIMER_SCALE, not a value")
    methods = capabilities
    return Selection(
        default.forwarding if methods.forwarding is None else methods.forwarding,
        default.assignment if methods.assignment is None else methods.assignment,
        default.packet_return if methods.packet_return is None else methods.packet_return,
        Timers(
            10.0 if transmit is None else transmit.lower_milliseconds / 1000,
            1 if scale is None else scale.timeout_lower,
            1 if scale is None else scale.ra_timer_lower,
        ),
    )


def _timer_fault(selected: Timers, offered: TimerOffer, fixed: Selection | None) -> Incompatible | None:
    if fixed is not None:
        if selected == fixed.timers:
            return None
        return Incompatible(
            f"it selects timers {_in_words(selected)}, the group runs at {_in_words(fixed.timers)}"
        )
    if selected == Timers():
        return None
    low, high = offered.transmit.lower_milliseconds, offered.transmit.upper_milliseconds
    if not low <= selected.transmit_seconds * 1000 <= high:
        wanted = f"{selected.transmit_seconds:g} s"
        return Incompatible(f"it selects a TRANSMIT_T of {wanted}, {low} to {high} ms are offered")
    scale = offered.scale
    for name, value, least, most in (
        ("timeout", selected.timeout_scale, scale.timeout_lower, scale.timeout_upper),
        ("REDIRECT_ASSIGN", selected.ra_timer_scale, scale.ra_timer_lower, scale.ra_timer_upper),
    ):
        if not least <= value <= most:
            return Incompatible(f"it selects a {name} scale of {value}, {least} to {most} are offered")
    return None


def _transmit_offer(offered: TimerOffer, fixed: Selection | None) -> TransmitT:
    if fixed is None:
        return offered.transmit
    return TransmitT(0, round(fixed.timers.transmit_seconds * 1000))


def _scale_offer(offered: TimerOffer, fixed: Selection | None) -> TimerScale:
    if fixed is None:
        return offered.scale
    return TimerScale(0, fixed.timers.timeout_scale, 0, fixed.timers.ra_timer_scale)


def _in_words(timers: Timers) -> str:
    return f"{timers.transmit_seconds:g} s, scales {timers.timeout_scale} and {timers.ra_timer_scale}"


def method_name(method: IntFlag) -> str:
    """Spell a method mask for an operator: `GRE`, `L2`, `hash`, `GRE or L2`, `nothing`, `0x4`."""
    if method.value == 0:
        return "nothing"
    names = [member.name or "" for member in type(method) if member in method]
    known = sum(member.value for member in type(method) if member in method)
    if known != method.value or not names:
        return f"{method.value:#x}"
    return " or ".join(name if name in {"GRE", "L2"} else name.lower() for name in names)
