"""How 24 bits of the packet mark carry the decision from prerouting to the outgoing GRE header.

    bit 23        16 15         8 7          0   (shifted left by `shift`)
    +--------------+-------------+------------+
    | primary      | service     | cache      |
    | bucket       | slot        | slot       |
    +--------------+-------------+------------+

The cache slot selects the routing table, bucket and service slot the redirect header. Slot 0 means "none":
a packet without our mark has all 24 bits zero. Bits outside the mask belong to others and are never changed.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_SLOT = 255
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
    def cache_mask(self) -> int:
        """The bits that an `ip rule` looks at."""
        return 0xFF << self.shift

    @property
    def path_mask(self) -> int:
        """Service and cache: what the counters are kept by."""
        return 0xFFFF << self.shift

    @property
    def header_mask(self) -> int:
        """Bucket and service: what the redirect header depends on."""
        return 0xFFFF00 << self.shift

    def mark(self, *, cache_slot: int = 0, service_slot: int = 0, bucket: int = 0) -> int:
        """Compose a mark; each part is 0 to 255."""
        return (bucket << 16 | service_slot << 8 | cache_slot) << self.shift
