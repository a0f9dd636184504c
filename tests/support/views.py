"""Engine views for tests that start at the plan."""

from __future__ import annotations

from ipaddress import IPv4Address

from wccpd.protocol.assignment import EMPTY, Owners, assign
from wccpd.protocol.view import AssignedBy, CacheState, CacheView, GroupView, RouterView, Rung
from wccpd.wire.components import ServiceInfo
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod, ServiceFlags, ServiceType

ROUTER_ID = IPv4Address("10.100.1.10")
FIRST = IPv4Address("10.100.1.21")
SECOND = IPv4Address("10.100.1.22")
WEB_CACHE = ServiceInfo.web_cache()
HTTPS = ServiceInfo.dynamic(70, 100, 6, ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED, (443, 8443))


def cache(address: IPv4Address, state: CacheState = CacheState.USABLE, buckets: int = 0) -> CacheView:
    methods = ForwardingMethod.GRE, PacketReturnMethod.GRE
    return CacheView(address, state, Rung.STANDARD, "", *methods, 10000, buckets, 0.0, None)


def group(
    info: ServiceInfo, *caches: IPv4Address, owners: Owners | None = None, key: ServiceKey | None = None
) -> GroupView:
    """A group whose caches are all usable and share the buckets equally, unless told otherwise."""
    table = assign(EMPTY, dict.fromkeys(caches, 1)) if owners is None else owners
    return GroupView(
        key=key or info.key,
        definition=info if caches else None,
        caches=tuple(cache(address) for address in caches),
        bucket_owners=table,
        assigned_by=AssignedBy.ROUTER if caches else AssignedBy.NOBODY,
        designated=None,
        change_number=1,
    )


def view(*groups: GroupView) -> RouterView:
    return RouterView(groups)


STANDARD_5 = ServiceInfo(ServiceType.STANDARD, 5)
