"""What the kernel should look like: frozen values with the kernel's own words.

The same types describe what was observed, so that comparing is `==`. Element keys and values are held in
the one spelling that both nft and the observer write: decimal numbers, dotted addresses, bare names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2s
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address

    from gre.tunnel import GreDevice

LAYOUT_PREFIX = "layout-"
"""An empty chain with such a name says that a table is ours; nft 1.0.6 does not list a table's comment."""
LAYOUT = "layout-3"
"""Changes when a set or map is declared differently: a table of another layout is replaced whole."""


@dataclass(frozen=True, slots=True, order=True)
class MarkRule:
    """`ip rule add fwmark MARK/MASK lookup TABLE priority PRIORITY`."""

    priority: int
    mark: int
    mask: int
    table: int


@dataclass(frozen=True, slots=True, order=True)
class TableRoute:
    """`ip route add default [via GATEWAY] dev DEVICE [onlink] table TABLE proto PROTOCOL`."""

    table: int
    device: str
    protocol: int
    gateway: IPv4Address | None = None
    """The cache on the device's segment, for L2; None through a GRE device."""


@dataclass(frozen=True, slots=True)
class NftSet:
    """A named set."""

    name: str
    declaration: str
    """nft text between the braces, e.g. `type ifname;`."""
    elements: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NftMap:
    """A named map, verdict maps and counter maps included."""

    name: str
    declaration: str
    elements: Mapping[str, str] | None = field(default_factory=dict)
    """None: the content changes by itself (elements with a timeout) and is not compared."""


@dataclass(frozen=True, slots=True)
class NftRule:
    """One rule. Its comment says what it is for and carries a digest of its text.

    The kernel's listing of a rule is not the text that made it, so rules are compared by that digest.
    """

    text: str
    purpose: str

    @property
    def comment(self) -> str:
        """Purpose and digest, at most 128 octets (the kernel's limit for user data, less its framing)."""
        digest = blake2s(self.text.encode(), digest_size=4).hexdigest()
        return f"{self.purpose[:100]} [{digest}]"


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain; a base chain when it has a hook."""

    name: str
    hook: str = ""
    """nft text, e.g. `type filter hook prerouting priority -150; policy accept;`."""
    rules: tuple[NftRule, ...] = ()


@dataclass(frozen=True, slots=True)
class NftTable:
    """Our table of family ip."""

    name: str
    counters: frozenset[str] = frozenset()
    sets: tuple[NftSet, ...] = ()
    maps: tuple[NftMap, ...] = ()
    chains: tuple[NftChain, ...] = ()
    """A chain comes after the chains that it jumps to."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything of ours that should be in the kernel, the routes learnt by BGP aside."""

    devices: tuple[GreDevice, ...] = ()
    rules: tuple[MarkRule, ...] = ()
    routes: tuple[TableRoute, ...] = ()
    nft: NftTable | None = None
