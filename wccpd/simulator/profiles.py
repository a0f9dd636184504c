"""How the caches of the field differ from the drafts: one named profile each.

A profile only says what is different; `cache`, `assigners` and `readers` do it. Each field names the software that
behaves so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from wccpd.wire.components import Capabilities
from wccpd.wire.enums import WCCP_PORT, AssignmentMethod, ForwardingMethod, PacketReturnMethod
from wccpd.wire.security import KeyVariant


class ReaderKind(StrEnum):
    """How a cache reads an I_SEE_YOU."""

    DRAFT = "draft"
    """Any order, unknown components skipped (2.01, 4.1)."""
    SQUID = "squid"
    """Right strides and no checks: Squid to 4.16 and 5.1."""
    SQUID_WRONG_STRIDE = "squid-wrong-stride"
    """Squid 7.0.1 to 7.6 on 64 bits: takes a pointer's 8 octets for the 4 of a component's header."""
    SQUID_INVERTED_CHECK = "squid-inverted-check"
    """Squid 4.17 to 6.14: the wrong stride, and a range check that refuses every sound router count."""
    TRAFFIC_SERVER = "traffic-server"
    """Traffic Server: the drawn order or nothing."""
    OPENNOP = "opennop"
    """OpenNOP: takes the first four components for the ones it wants, whatever they are."""


class Election(StrEnum):
    """Who takes itself for the designated cache."""

    LOWEST_ADDRESS = "lowest-address"
    """The lowest among those that every router lists (draft 4.9)."""
    LOWEST_REVERSED = "lowest-reversed"
    """Squid on x86 compares addresses in the byte order of the wire as numbers: last octet first."""
    EVERY_CACHE = "every-cache"
    """Traffic Server and OpenNOP: there is no election, each assigns."""


class AssignmentHabit(StrEnum):
    """When a cache sends REDIRECT_ASSIGN, and to whom it gives what."""

    DRAFT = "draft"
    """15 s after a change, by weight, again while its key is not echoed (draft 4.8)."""
    SQUID = "squid"
    """15 s after a change, by weight, never again: Squid ignores the key."""
    TRAFFIC_SERVER = "traffic-server"
    """15 s after a change, everything to the first cache, again while its key is not echoed."""
    OPENNOP = "opennop"
    """After every HERE_I_AM, with a Receive ID that the router should have sent meanwhile."""


GRE_HASH_GRE = Capabilities(
    forwarding=ForwardingMethod.GRE, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.GRE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of cache; the defaults are the drafts'."""

    name: str
    reader: ReaderKind = ReaderKind.DRAFT
    election: Election = Election.LOWEST_ADDRESS
    assigns: AssignmentHabit = AssignmentHabit.DRAFT
    selects: Capabilities = GRE_HASH_GRE
    """What it selects, or prefers where the router offers more."""
    selects_at_once: bool = False
    """Squid: its selection stands in the first HERE_I_AM, before any offer."""
    quits_without_offer: bool = False
    """Squid: closes its WCCP socket for good when an offer lacks the bit that it selected."""
    query_answers: int = 3
    """HERE_I_AMs in answer to a REMOVAL_QUERY, 1 s apart (draft 4.14); Squid refuses the message type."""
    says_goodbye: bool = True
    """Sends SHUTDOWN on leaving (draft 5.6.12)."""
    forgets_silent_routers: bool = True
    """A router silent for 30 s leaves the view; Squid keeps what it heard last for ever."""
    lists_unheard_routers: bool = False
    """Squid lists the configured address with Receive ID 0 before the first I_SEE_YOU."""
    lists_caches: bool = True
    """Squid's view has change number 1 and no caches, always."""
    follows_router_id: bool = False
    """Traffic Server sends to the Router ID once it knows it, and never looks at a source address."""
    source_port: int = WCCP_PORT
    """OpenNOP sends from an ephemeral port."""
    key_variant: KeyVariant = KeyVariant.EXACT
    """How it makes the MD5 key from the password."""
    minor_version: int = 0
    """Of its messages; 1 for 2.01, which brings variable timers and the alternate form of mask assignments."""
    needs_version: bool = False
    """2.01, 3.4: its version is its lowest (V), not its highest."""
    transmit_milliseconds: int = 10_000
    """TRANSMIT_T that it selects where a router offers it; a group that runs at another is followed."""
    timeout_scale: int = 1
    """Likewise."""
    ra_timer_scale: int = 1
    """Likewise."""
    uses_address_table: bool = False
    """2.01, 4.7: its addresses stand in a table, IPv4 as they are."""


STRICT = Profile(name="strict")

STRICT_2_01 = Profile(name="strict-2.01", minor_version=1, transmit_milliseconds=2000, timeout_scale=2)
TABLE_2_01 = Profile(name="table-2.01", minor_version=1, needs_version=True, uses_address_table=True)

SQUID_5_1 = Profile(
    name="squid-5.1",
    reader=ReaderKind.SQUID,
    election=Election.LOWEST_REVERSED,
    assigns=AssignmentHabit.SQUID,
    selects_at_once=True,
    quits_without_offer=True,
    query_answers=0,
    says_goodbye=False,
    forgets_silent_routers=False,
    lists_unheard_routers=True,
    lists_caches=False,
)
SQUID_4_12 = replace(SQUID_5_1, name="squid-4.12", key_variant=KeyVariant.SEVEN_OCTETS)
SQUID_4_13 = replace(SQUID_5_1, name="squid-4.13", key_variant=KeyVariant.NINE_OCTETS)
SQUID_5_7 = replace(SQUID_5_1, name="squid-5.7", reader=ReaderKind.SQUID_INVERTED_CHECK)
SQUID_7_6 = replace(SQUID_5_1, name="squid-7.6", reader=ReaderKind.SQUID_WRONG_STRIDE)

TRAFFIC_SERVER_9_2 = Profile(
    name="ats-9.2",
    reader=ReaderKind.TRAFFIC_SERVER,
    election=Election.EVERY_CACHE,
    assigns=AssignmentHabit.TRAFFIC_SERVER,
    query_answers=1,
    says_goodbye=False,
    follows_router_id=True,
)

OPENNOP = Profile(
    name="opennop",
    reader=ReaderKind.OPENNOP,
    election=Election.EVERY_CACHE,
    assigns=AssignmentHabit.OPENNOP,
    selects=Capabilities(forwarding=ForwardingMethod.L2, packet_return=PacketReturnMethod.L2),
    selects_at_once=True,
    query_answers=0,
    says_goodbye=False,
    forgets_silent_routers=False,
    lists_caches=False,
    source_port=40001,
)

PROFILES = {
    profile.name: profile
    for profile in (
        STRICT,
        STRICT_2_01,
        TABLE_2_01,
        SQUID_4_12,
        SQUID_4_13,
        SQUID_5_1,
        SQUID_5_7,
        SQUID_7_6,
        TRAFFIC_SERVER_9_2,
        OPENNOP,
    )
}
"""By name, as an operator gives it."""
