"""The messages of a simulated cache: HERE_I_AM (draft 5.1) and REDIRECT_ASSIGN (draft 5.3)."""

from __future__ import annotations

from functools import lru_cache, reduce
from ipaddress import IPv4Address
from operator import and_
from typing import TYPE_CHECKING

from wccpd.simulator.profiles import AssignmentHabit
from wccpd.wire.addresses import AddressTable
from wccpd.wire.assignments import AlternateAssignment, AlternateSets, AssignmentInfo, AssignmentMap
from wccpd.wire.components import CacheView, Capabilities, CommandExtension
from wccpd.wire.elements import AssignmentKey, Command, RouterAssignment, RouterIdReceiveId
from wccpd.wire.enums import (
    DIGEST_OCTETS,
    PASSWORD_OCTETS,
    AddressFamily,
    AssignmentMethod,
    CapabilityType,
    CommandType,
    ForwardingMethod,
    IdentityFlags,
    PacketReturnMethod,
)
from wccpd.wire.identity import HashAssignment, MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import (
    AlternateMaskValueSet,
    Mask,
    MaskValueSet,
    NumberedValues,
    Value,
    value_sequence_number,
)
from wccpd.wire.messages import HereIAm, RedirectAssign, encode_message
from wccpd.wire.security import KeyVariant, digest

if TYPE_CHECKING:
    from wccpd.simulator.cache import SimulatedCache
    from wccpd.simulator.heard import ListedCache
    from wccpd.simulator.profiles import Profile
    from wccpd.wire.reader import IPAddress

MASK_BITS = 0x1741
"""The mask that Squid, FortiOS and old WAAS use: 6 bits of an address, 64 values."""
_DIGEST_OFFSET = 16
_ANY = IPv4Address(0)


def here_i_am(cache: SimulatedCache, *, view_number: int, shutdown: bool) -> HereIAm:
    """What the cache says of itself and of the routers that it hears."""
    profile = cache.profile
    rows = tuple(
        RouterIdReceiveId(nexus.router_id or nexus.configured, nexus.receive_id)
        for nexus in cache.nexuses
        if nexus.router_id is not None or profile.lists_unheard_routers
    )
    known = {each.address for nexus in cache.nexuses if nexus.view is not None for each in nexus.view.caches}
    return HereIAm(
        service=cache.service,
        minor_version=profile.minor_version,
        address_table=_table(profile),
        identity=_identity(cache),
        view=CacheView.of(view_number, rows, tuple(sorted(known)))
        if profile.lists_caches
        else CacheView.of(1, rows, ()),
        capabilities=_capabilities(cache),
        commands=CommandExtension((Command(CommandType.SHUTDOWN, cache.address),)) if shutdown else None,
    )


def redirect_assign(
    cache: SimulatedCache, key_number: int, parties: tuple[ListedCache, ...], buckets: bytes
) -> RedirectAssign:
    """Who gets what, for all the routers that the cache lists."""
    key = AssignmentKey(cache.address, key_number)
    ahead = 1 if cache.profile.assigns is AssignmentHabit.OPENNOP else 0
    rows = tuple(
        RouterAssignment(nexus.router_id or nexus.configured, nexus.receive_id + ahead, nexus.change_number)
        for nexus in cache.nexuses
        if nexus.router_id is not None or cache.profile.lists_unheard_routers
    )
    addresses = tuple(each.address for each in parties)
    if cache.assignment is AssignmentMethod.MASK:
        everything = cache.profile.assigns is AssignmentHabit.TRAFFIC_SERVER
        values = _mask_set(0 if everything else MASK_BITS, addresses, buckets)
        body = AssignmentMap((values,)) if cache.profile.minor_version == 0 else _numbered(values)
        return _redirect_assign(cache, alternate_assignment=AlternateAssignment(key, rows, body))
    return _redirect_assign(cache, assignment=AssignmentInfo(key, rows, addresses, buckets))


def _redirect_assign(
    cache: SimulatedCache,
    assignment: AssignmentInfo | None = None,
    alternate_assignment: AlternateAssignment | None = None,
) -> RedirectAssign:
    return RedirectAssign(
        service=cache.service,
        minor_version=cache.profile.minor_version,
        address_table=_table(cache.profile),
        assignment=assignment,
        alternate_assignment=alternate_assignment,
    )


def _numbered(values: MaskValueSet) -> AlternateSets:
    """The alternate form of 2.01: a cache with the numbers of its values."""
    numbers: dict[IPAddress, list[int]] = {}
    for value in values.values:
        numbers.setdefault(value.cache, []).append(value_sequence_number(values.mask, value))
    caches = tuple(NumberedValues(address, tuple(each)) for address, each in numbers.items())
    return AlternateSets((AlternateMaskValueSet(values.mask, caches),))


def _table(profile: Profile) -> AddressTable | None:
    return AddressTable.of_family(AddressFamily.IPV4) if profile.uses_address_table else None


def signed(message: HereIAm | RedirectAssign, password: bytes | None, variant: KeyVariant) -> bytes:
    """Write a message with the digest as this kind of cache makes it.

    Args:
        message: What to write.
        password: 1 to 8 octets, None for no digest.
        variant: How it makes the key.
    """
    if password is None or variant is KeyVariant.EXACT:
        return encode_message(message, password=password)
    if variant is KeyVariant.SEVEN_OCTETS:
        return encode_message(message, password=password[: PASSWORD_OCTETS - 1])
    datagram = encode_message(message, password=password)
    value = digest(datagram, _DIGEST_OFFSET, password.ljust(PASSWORD_OCTETS + 1, b"\0"))
    return datagram[:_DIGEST_OFFSET] + value + datagram[_DIGEST_OFFSET + DIGEST_OCTETS :]


def selected(selects: Capabilities, kind: CapabilityType) -> int:
    """The bit of one kind; what is not said is the drafts' default."""
    match kind:
        case CapabilityType.FORWARDING_METHOD:
            return int(selects.forwarding or ForwardingMethod.GRE)
        case CapabilityType.ASSIGNMENT_METHOD:
            return int(selects.assignment or AssignmentMethod.HASH)
        case _:
            return int(selects.packet_return or PacketReturnMethod.GRE)


def _identity(cache: SimulatedCache) -> WebCacheIdentity:
    flags = IdentityFlags.MINIMUM_VERSION if cache.profile.needs_version else IdentityFlags(0)
    if cache.assignment is AssignmentMethod.MASK:
        mask = MaskAssignment((_mask_set(MASK_BITS, (), b""),), cache.weight)
        return WebCacheIdentity(cache.address, mask, flags)
    return WebCacheIdentity(cache.address, HashAssignment(weight=cache.weight), flags)


@lru_cache(maxsize=256)
def _mask_set(mask: int, addresses: tuple[IPv4Address, ...], buckets: bytes) -> MaskValueSet:
    """A mask over destination addresses, its values dealt out in the order of the buckets.

    Traffic Server's mask is 0: one value, which every packet has.
    """
    values = tuple(
        Value(_ANY, IPv4Address(number), 0, 0, addresses[index])
        for number, index in zip(_submasks(mask), buckets, strict=False)
    )
    return MaskValueSet(Mask(_ANY, IPv4Address(mask), 0, 0), values)


def _submasks(mask: int) -> tuple[int, ...]:
    """Every number whose bits are all in `mask`, in rising order."""
    return tuple(number for number in range(mask + 1) if number & ~mask == 0)


def _capabilities(cache: SimulatedCache) -> Capabilities | None:
    """Its selection: at once, or in answer to an offer, of what is offered."""
    profile = cache.profile
    if profile.selects_at_once:
        return profile.selects
    offers = [nexus.offer for nexus in cache.nexuses if nexus.offer is not None]
    if not offers:
        return None
    forwarding, packet_return = (
        _choose(selected(profile.selects, kind), [offer.get(kind, 1) for offer in offers])
        for kind in (CapabilityType.FORWARDING_METHOD, CapabilityType.PACKET_RETURN_METHOD)
    )
    return Capabilities(
        forwarding=ForwardingMethod(forwarding),
        assignment=cache.assignment,
        packet_return=PacketReturnMethod(packet_return),
        transmit_t=cache.timers.transmit_t,
        timer_scale=cache.timers.timer_scale,
    )


def _choose(preferred: int, offers: list[int]) -> int:
    """The preferred bit, or the lowest that every router offers instead of it."""
    common = reduce(and_, offers)
    return preferred if common & preferred or common == 0 else common & -common
