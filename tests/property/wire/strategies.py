"""Messages as a peer could send them, in every form that both versions of the protocol have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from wccpd.wire.assignments import (
    AlternateAssignment,
    AlternateAssignmentMap,
    AlternateSets,
    AssignmentInfo,
    AssignmentMap,
    HashBuckets,
)
from wccpd.wire.components import (
    CacheView,
    Capabilities,
    CommandExtension,
    RouterIdentity,
    RouterQuery,
    RouterView,
    ServiceInfo,
)
from wccpd.wire.elements import (
    AssignmentKey,
    Command,
    RouterAssignment,
    RouterIdReceiveId,
    TimerScale,
    TransmitT,
    UnknownElement,
)
from wccpd.wire.enums import (
    AssignmentMethod,
    CommandType,
    ForwardingMethod,
    IdentityFlags,
    PacketReturnMethod,
    SecurityOption,
    ServiceFlags,
    ServiceType,
)
from wccpd.wire.identity import (
    AlternateMaskAssignment,
    ExtendedAssignment,
    HashAssignment,
    MaskAssignment,
    NoAssignment,
    UnknownAssignmentData,
    WebCacheIdentity,
    WeightStatus,
)
from wccpd.wire.masks import AlternateMaskValueSet, Mask, MaskValueSet, NumberedValues, Value
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery, UnknownComponent
from wccpd.wire.security import SecurityInfo

Addresses = st.SearchStrategy[IPv4Address] | st.SearchStrategy[IPv6Address]

octet = st.integers(0, 0xFF)
uint16 = st.integers(0, 0xFFFF)
uint32 = st.integers(0, 0xFFFFFFFF)
words = st.integers(0, 5).flatmap(lambda count: st.binary(min_size=4 * count, max_size=4 * count))


def some(each: st.SearchStrategy, most: int = 4) -> st.SearchStrategy[tuple]:
    return st.lists(each, max_size=most).map(tuple)


services = st.builds(
    ServiceInfo,
    st.sampled_from(ServiceType),
    octet,
    octet,
    octet,
    uint32.map(ServiceFlags),
    st.tuples(*[uint16] * 8),
)
securities = st.just(SecurityInfo()) | st.binary(min_size=16, max_size=16).map(
    lambda digest: SecurityInfo(SecurityOption.MD5, digest)
)
capabilities = st.builds(
    Capabilities,
    st.none() | uint32.map(ForwardingMethod),
    st.none() | uint32.map(AssignmentMethod),
    st.none() | uint32.map(PacketReturnMethod),
    st.none()
    | st.tuples(uint16, uint16).filter(lambda t: t[1] and (not t[0] or t[0] >= t[1])).map(TransmitT._make),
    st.none()
    | st.tuples(st.just(0), st.integers(1, 255), st.just(255), st.integers(1, 255)).map(TimerScale._make),
    some(st.builds(UnknownElement, st.integers(6, 0xFFFF), words)),
)
unknown = some(st.builds(UnknownComponent, st.integers(18, 0xFFFF), words))


def masks(address: Addresses) -> st.SearchStrategy[Mask]:
    return st.builds(Mask, address, address, uint16, uint16)


def mask_sets(address: Addresses) -> st.SearchStrategy[tuple[MaskValueSet, ...]]:
    values = st.builds(Value, address, address, uint16, uint16, address)
    return some(st.builds(MaskValueSet, masks(address), some(values)))


def alternate_sets(address: Addresses, kind: type) -> st.SearchStrategy[tuple[AlternateMaskValueSet, ...]]:
    """A destination port mask of all ones has the numbers 0 to 65535."""
    all_ports = Mask(kind(0), kind(0), 0, 0xFFFF)
    numbers = st.lists(st.integers(0, 0xFFFF), unique=True, max_size=6).map(sorted).map(tuple)
    first = st.builds(NumberedValues, address, numbers)
    return some(st.builds(AlternateMaskValueSet, st.just(all_ports), some(first, most=1)), most=2)


def identities(address: Addresses, kind: type) -> st.SearchStrategy[WebCacheIdentity]:
    hashed = st.builds(HashAssignment, st.binary(min_size=32, max_size=32), uint16, uint16)
    masked = st.builds(MaskAssignment, mask_sets(address), uint16, uint16)
    extended = st.one_of(
        hashed,
        masked,
        st.builds(AlternateMaskAssignment, alternate_sets(address, kind), uint16, uint16),
        st.builds(WeightStatus, uint16, uint16),
        st.builds(UnknownAssignmentData, st.integers(4, 0xFFFF), words),
    ).map(ExtendedAssignment)
    flags = uint16.map(lambda bits: IdentityFlags(bits & ~6))
    return st.builds(
        WebCacheIdentity, address, hashed | masked | st.just(NoAssignment()) | extended, flags, uint16
    )


def commands(address: Addresses) -> st.SearchStrategy[CommandExtension]:
    known = st.builds(Command, st.sampled_from(CommandType), address)
    return st.builds(CommandExtension, some(known | st.builds(UnknownElement, st.integers(3, 0xFFFF), words)))


def messages_of(kind: type[IPv4Address] | type[IPv6Address], minor: int) -> st.SearchStrategy:
    """All four messages with addresses of one family, none of them unspecified."""
    address = st.integers(1, 0xFFFFFFFF if kind is IPv4Address else 2**128 - 1).map(kind)
    keys = st.builds(AssignmentKey, address, uint32)
    routers = some(st.builds(RouterAssignment, address, uint32, uint32))
    buckets = st.builds(HashBuckets, some(address, most=32), st.binary(min_size=256, max_size=256))
    bodies = (
        buckets
        | st.builds(AssignmentMap, mask_sets(address))
        | st.builds(AlternateSets, alternate_sets(address, kind))
    )
    envelope = {
        "service": services,
        "security": securities,
        "minor_version": st.just(minor),
        "unknown": unknown,
    }
    maybe = {
        "capabilities": st.none() | capabilities,
        "commands": st.none() | commands(address),
    }
    here_i_am = st.builds(
        HereIAm,
        identity=identities(address, kind),
        view=st.builds(
            CacheView.of, uint32, some(st.builds(RouterIdReceiveId, address, uint32)), some(address, most=32)
        ),
        **envelope,
        **maybe,
    )
    i_see_you = st.builds(
        ISeeYou,
        identity=st.builds(RouterIdentity, address, uint32, address, some(address, most=32)),
        view=st.builds(RouterView, uint32, keys, some(address), some(identities(address, kind))),
        assignment_map=st.none() | st.builds(AssignmentMap, mask_sets(address)),
        alternate_assignment_map=st.none() | st.builds(AlternateAssignmentMap, bodies),
        **envelope,
        **maybe,
    )
    by_bucket = st.builds(
        lambda key, routers, table: AssignmentInfo(key, routers, table.caches, table.buckets),
        keys,
        routers,
        buckets,
    )
    redirect_assign = st.builds(RedirectAssign, assignment=by_bucket, **envelope) | st.builds(
        RedirectAssign, alternate_assignment=st.builds(AlternateAssignment, keys, routers, bodies), **envelope
    )
    removal_query = st.builds(
        RemovalQuery, query=st.builds(RouterQuery, address, uint32, address, address), **envelope
    )
    return st.one_of(here_i_am, i_see_you, redirect_assign, removal_query)


messages = st.one_of(messages_of(IPv4Address, 0), messages_of(IPv4Address, 1), messages_of(IPv6Address, 1))
