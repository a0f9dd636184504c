"""What our objects in the nft table are called, in one place: chains, sets and maps that others refer to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address

PREROUTING = "prerouting"
LEASE = "lease"
"""Map: device to the chain `fresh`; elements with a timeout, renewed by the daemon."""
INGRESS = "ingress"
"""Map: device to the chain `lapsed`, asked when the lease said nothing."""
FRESH = "fresh"
LAPSED = "lapsed"
CLASSIFY = "classify"
EXEMPT = "exempt"
KEEP = "keep"
"""Chain: take the packet mark from the connection mark."""
ERRORS = "errors"
"""Chain: ICMP errors about what a cache sent."""
REASSEMBLE = "reassemble"
"""Chain that nothing goes to; see `compile`."""
COUNT = "count"
"""Chain: count a marked packet and let it go its way."""
CACHES = "caches"
CACHE_MACS = "cache-macs"
"""Set: ingress device and MAC of the caches behind it."""
RETURNED = "returned"
"""Map: the same to the counter, of caches whose frames count as returned."""
NEVER = "never"
ROUTERS = "routers"
LIVE = "live"
"""Set: pages and slots of all paths that are there."""
SLOTS = "slots"
"""Map: slot to the cache that it means, also of paths that are gone; read by the next run, met by no packet."""
HEIRS = "heirs"
"""Map: page and former slot to the chain that puts the slot of the present path into the connection mark."""
PATHS = "paths"
"""Map: page and slot to the chain that marks for that path by constants."""
PINS = "pins"
"""Map: page and slot to the chain that writes the connection mark by constants."""
REDIRECTED = "redirected"
"""Map: page and slot to the counter."""
HEADERS = "headers"
"""Map: bucket and page to the redirect header."""
MSS = "mss"
"""Map: slot to the greatest MSS that fits through its device."""
SPOKES = "spokes"
"""Set: the ingress devices."""


def service(name: str) -> str:
    """Chain of a service: exemptions and redirect list."""
    return f"service-{name}"


def listed(name: str) -> str:
    """Chain: the redirect list for packets that have ports."""
    return f"listed-{name}"


def ported(chain: str) -> str:
    """Chain: what another one decides, for packets that have ports."""
    return f"{chain}-ported"


def permitted(name: str) -> str:
    """Chain: packets of a service that may be redirected."""
    return f"permitted-{name}"


def denied(name: str) -> str:
    """Chain: packets that the redirect list denies."""
    return f"denied-{name}"


def chosen(name: str) -> str:
    """Chain: a new flow has got its mark."""
    return f"chosen-{name}"


def unassigned(name: str) -> str:
    """Chain: nobody owns it."""
    return f"unassigned-{name}"


def lapsed(name: str) -> str:
    """Chain: the lease is not running."""
    return f"lapsed-{name}"


def established(name: str) -> str:
    """Chain: the connection is pinned to being forwarded."""
    return f"established-{name}"


def to(name: str, cache: IPv4Address) -> str:
    """Chain: mark a new flow for a cache by constants."""
    return f"to-{name}-{cache}"


def turn(name: str, cache: IPv4Address) -> str:
    """Chain: the same for a connection that another service has pinned; its connection mark stays."""
    return f"turn-{name}-{cache}"


def pin(name: str, cache: IPv4Address) -> str:
    """Chain: write the connection mark by constants."""
    return f"pin-{name}-{cache}"


def heir(slot: int) -> str:
    """Chain: a flow whose cache has another slot now gets it."""
    return f"heir-{slot}"


def buckets(name: str) -> str:
    """Map: bucket to packet mark."""
    return f"buckets-{name}"


def owners(name: str) -> str:
    """Map: bucket to `to` chain, for packets with a foreign mark."""
    return f"owners-{name}"


def pinned(name: str) -> str:
    """Map: page and slot of connection marks that this service wrote, and pages without a slot, to a chain."""
    return f"pinned-{name}"


def turns(name: str) -> str:
    """Map: slot in connection marks of other services to the chain that goes on to the same cache."""
    return f"turns-{name}"


def alternates(name: str) -> str:
    """Map: bucket with the A flag to its chain."""
    return f"alternates-{name}"


def alternate(name: str, bucket: int) -> str:
    """Chain of a bucket with the A flag; also the map of alternate buckets to packet marks."""
    return f"alternate-{name}-{bucket}"


def values(name: str, number: int, form: str) -> str:
    """Map: values of a mask to chains. The form says which fields the key has."""
    return f"values-{name}-{number}-{form}"


def dispatch(depth: int, side: str) -> str:
    """Map: protocol and port to services."""
    return f"dispatch-{depth}-{side}"
