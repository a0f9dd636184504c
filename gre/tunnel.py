"""What a GRE device should look like, and what one looks like: frozen values, no kernel.

Two kinds are built: a tunnel to the Transit Gateway (plain, with an inside address) and the redirect device
towards one cache (an output key: the key's 4 octets become the redirect header on the way out,
and without an input key the device takes back what the cache returns, as 0x883E or as plain GRE).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface

MAX_DEVICE_NAME = 15
"""IFNAMSIZ less its NUL."""
OVERHEAD_BYTES = {4: 24, 6: 44}
"""Outer header and plain GRE header, by the IP version of the outer header."""
REDIRECT_KEY = 0x57434350
"""Output key of redirect devices: any value does, it never reaches the wire; this one reads "WCCP" in a dump."""


@dataclass(frozen=True, slots=True)
class GreDevice:
    """A kernel GRE device (`ip link add NAME type gre`, or `ip6gre`) as it should be."""

    name: str
    local: IPAddress
    """Outer source; its IP version, which is also that of `remote`, makes the kind of device."""
    remote: IPAddress
    ttl: int = 255
    """Outer TTL, 1 to 255. Fixed: an inherited one would copy BGP's multihop TTL of 2 to the outer header."""
    output_key: int | None = None
    mtu_bytes: int | None = None
    """None: the kernel's own choice from the underlying device."""
    addresses: tuple[IPInterface, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = field(default=(("rp_filter", "2"),))
    """net.ipv4.conf.NAME.* values. Strict reverse-path filtering silently eats returned packets, whose source is a
    server on the Internet; the kernel takes the greater of this and `all`, so only 2 (loose) overrules a strict
    `all`."""

    @property
    def kind(self) -> str:
        """The kernel's kind of device."""
        return "gre" if self.remote.version == 4 else "ip6gre"


@dataclass(frozen=True, slots=True)
class ObservedGre:
    """A GRE device as the kernel has it."""

    name: str
    index: int
    local: IPAddress
    remote: IPAddress
    ttl: int
    output_key: int | None
    mtu_bytes: int
    up: bool
    addresses: tuple[IPInterface, ...]
    """Link-local IPv6 addresses, which the kernel makes, left out."""
    sysctls: tuple[tuple[str, str], ...]
    received_packets: int
    received_bytes: int
    sent_packets: int
    sent_bytes: int
    errors: int = 0
    """Packets that the device could not receive or send."""
    dropped: int = 0
    path_mtu_bytes: int | None = None
    """What the path to `remote` carries, outer header included, as far as the kernel has found out; None for a
    device with a key, and where there is no path."""

    @property
    def fitting_mtu_bytes(self) -> int | None:
        """The greatest MTU whose packets fit through the path; None if not known."""
        if self.path_mtu_bytes is None:
            return None
        return self.path_mtu_bytes - OVERHEAD_BYTES[self.remote.version]

    def is_like(self, wanted: GreDevice) -> bool:
        """Whether nothing needs to be done to make it `wanted`."""
        return self.same_tunnel(wanted) and self.up and self.has_settings(wanted)

    def same_tunnel(self, wanted: GreDevice) -> bool:
        """Whether the part that cannot be changed in place agrees."""
        return (self.local, self.remote, self.ttl, self.output_key) == (
            wanted.local,
            wanted.remote,
            wanted.ttl,
            wanted.output_key,
        )

    def has_settings(self, wanted: GreDevice) -> bool:
        """Whether MTU, addresses and sysctls agree."""
        mtu_agrees = wanted.mtu_bytes is None or self.mtu_bytes == wanted.mtu_bytes
        return mtu_agrees and set(wanted.addresses) <= set(self.addresses) and self.sysctls == wanted.sysctls


def redirect_device_name(prefix: str, cache: IPv4Address) -> str:
    """The device towards a cache: the prefix and the address in hexadecimal, e.g. `wccp-0a640115`."""
    return f"{prefix}{int(cache):08x}"


def redirect_device(prefix: str, router_id: IPv4Address, cache: IPv4Address) -> GreDevice:
    """The redirect device towards `cache`; its outer source is the Router ID, which caches match on.

    It carries the Router ID as an address too: on a device without any, the kernel treats loose reverse-path
    filtering as strict (`__fib_validate_source`, net/ipv4/fib_frontend.c) and drops what the cache returns.
    """
    return GreDevice(
        redirect_device_name(prefix, cache),
        router_id,
        cache,
        output_key=REDIRECT_KEY,
        addresses=(IPv4Interface(router_id),),
    )
