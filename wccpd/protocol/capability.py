"""Capability negotiation (draft 4.4, 4.5): the router offers, each cache selects one option of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.wire.components import Capabilities
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod

if TYPE_CHECKING:
    from enum import IntFlag

    from wccpd.protocol.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Selection:
    """What one cache selected; absent elements mean the draft's defaults (GRE, hash, GRE)."""

    forwarding: ForwardingMethod = ForwardingMethod.GRE
    assignment: AssignmentMethod = AssignmentMethod.HASH
    packet_return: PacketReturnMethod = PacketReturnMethod.GRE


@dataclass(frozen=True, slots=True)
class Incompatible:
    """Why a selection cannot be served, in words that name both sides."""

    reason: str


def offer(settings: ServiceSettings) -> Capabilities:
    """The Capabilities Info of our I_SEE_YOU: what this group supports."""
    return Capabilities(
        forwarding=settings.forwarding,
        assignment=settings.assignment,
        packet_return=settings.packet_return,
    )


def judge(capabilities: Capabilities | None, settings: ServiceSettings) -> Selection | Incompatible:
    """Read a cache's selection and compare it with our offer.

    More than one bit, or none, is undefined in the drafts and taken as incompatible.
    """
    default = Selection()
    forwarding, assignment, packet_return = default.forwarding, default.assignment, default.packet_return
    if capabilities is not None:
        if capabilities.forwarding is not None:
            forwarding = capabilities.forwarding
        if capabilities.assignment is not None:
            assignment = capabilities.assignment
        if capabilities.packet_return is not None:
            packet_return = capabilities.packet_return
    kinds: tuple[tuple[str, IntFlag, IntFlag], ...] = (
        ("forwarding", forwarding, settings.forwarding),
        ("assignment", assignment, settings.assignment),
        ("packet return", packet_return, settings.packet_return),
    )
    for kind, selected, offered in kinds:
        if selected.value.bit_count() != 1 or selected & offered == 0:
            return Incompatible(
                f"it asks for {kind} {method_name(selected)}, this group offers {method_name(offered)}"
            )
    return Selection(forwarding, assignment, packet_return)


def method_name(method: IntFlag) -> str:
    """Spell a method mask for an operator: `GRE`, `L2`, `hash`, `GRE or L2`, `nothing`, `0x4`."""
    if method.value == 0:
        return "nothing"
    names = [member.name or "" for member in type(method) if member in method]
    known = sum(member.value for member in type(method) if member in method)
    if known != method.value or not names:
        return f"{method.value:#x}"
    return " or ".join(name if name in {"GRE", "L2"} else name.lower() for name in names)
