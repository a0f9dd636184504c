"""How 24 bits of a mark carry the decision from prerouting to the outgoing GRE header, and from packet to packet.

    bit 23        16 15         8 7          0   (shifted left by `shift`)
    +--------------+-------------+------------+
    | bucket       | page        | slot       |
    +--------------+-------------+------------+

The slot is the path's number and selects the routing table; 0 means no path. The page is the service's number,
from 1, or that of one bucket of it with the A flag: bucket and page select the redirect header. The packet mark is
written in prerouting; the connection mark keeps it for the flow's later packets: there a page without a slot says
that the connection is forwarded. Bits outside the mask belong to others and are never changed.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PAGE = 255
_FULL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class MarkLayout:
    """Where our 24 bits are; `shift` is 0 to 8."""

    shift: int = 0

    @property
    def mask(self) -> int:
        """All our bits."""
        return 0xFFFFFF << self.shift

    @property
    def foreign_mask(self) -> int:
        """All bits that are not ours."""
        return _FULL ^ self.mask

    @property
    def slot_mask(self) -> int:
        """The bits that an `ip rule` looks at."""
        return 0xFF << self.shift

    @property
    def path_mask(self) -> int:
        """Page and slot: what the counters are kept by."""
        return 0xFFFF << self.shift

    @property
    def header_mask(self) -> int:
        """Bucket and page: what the redirect header depends on."""
        return 0xFFFF00 << self.shift

    @property
    def lapsed(self) -> int:
        """Set in prerouting while the lease is not running: a bucket of no page."""
        return self.mark(bucket=0xFF)

    @property
    def fallen(self) -> int:
        """Set when a service let a packet through to those further down: another bucket of no page."""
        return self.mark(bucket=0xFE)

    def mark(self, *, slot: int = 0, page: int = 0, bucket: int = 0) -> int:
        """Compose a mark; each part is 0 to 255."""
        return (bucket << 16 | page << 8 | slot) << self.shift
