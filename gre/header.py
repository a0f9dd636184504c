"""The GRE header (RFC 2784, RFC 2890) and the WCCP redirect header behind it (draft 4.12.1). Pure values.

A redirected packet on the wire is

    outer IPv4 | 00 00 88 3E | flags, service ID, alternate bucket, primary bucket | original packet

The kernel's GRE device with an output key emits `20 00 08 00 | key` in those 8 octets instead;
an nftables rule rewrites them in place (ARCHITECTURE.md, "How the kernel is made to send WCCP GRE").
"""

from __future__ import annotations

from enum import IntFlag

GRE_PROTOCOL_IPV4 = 0x0800
GRE_PROTOCOL_WCCP = 0x883E
GRE_FLAG_KEY = 0x2000
"""In the first 16 bits of the header: a key field follows (RFC 2890)."""

KEYED_IPV4_HEADER = GRE_FLAG_KEY << 16 | GRE_PROTOCOL_IPV4
"""First 32 bits that Linux emits on a device with an output key."""
WCCP_HEADER = GRE_PROTOCOL_WCCP
"""First 32 bits of a WCCP redirected packet: no flags, version 0."""


class RedirectFlags(IntFlag):
    """First octet of the redirect header, counted from the low end as every implementation does."""

    DYNAMIC = 0x01
    ALTERNATE = 0x02


def redirect_header(
    *, dynamic: bool, service_id: int, bucket: int, alternate_bucket: int | None = None
) -> int:
    """The 32 bits of a redirect header, first octet highest.

    Args:
        dynamic: The service is dynamic rather than standard.
        service_id: 0 to 255.
        bucket: Primary hash bucket, 0 to 255; 0 for mask assignment.
        alternate_bucket: The alternate bucket where the alternate hash decided, else None.
    """
    flags = RedirectFlags.DYNAMIC if dynamic else RedirectFlags(0)
    if alternate_bucket is not None:
        flags |= RedirectFlags.ALTERNATE
    return flags << 24 | service_id << 16 | (alternate_bucket or 0) << 8 | bucket
