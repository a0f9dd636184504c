"""How the kernel spreads flows over equal routes, and whether it forwards IPv6: settings of the whole host.

wccpd checks them and says what it found; it sets the hash policy only where the operator told it to, since that is
every route's on this host. (`Documentation/networking/ip-sysctl.rst`, fib_multipath_hash_policy.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wccpd.errors import KernelError

_SETTINGS: Final = Path("/proc/sys/net")
_WORDS: Final = {0: "addresses only", 1: "addresses and ports", 2: "inner addresses", 3: "chosen fields"}
HASH_BY_PORTS: Final = 1


def hash_policy_warnings(versions: frozenset[int]) -> tuple[str, ...]:
    """What is wrong with the hash policy of these IP versions, in words; empty when ports count."""
    found = ((version, _read(_hash_policy(version))) for version in sorted(versions))
    return tuple(
        f"net.ipv{version}.fib_multipath_hash_policy is {value} ({_WORDS.get(value, 'unknown')}): all flows between "
        "two hosts use one tunnel; bgp.multipath_hash_policy sets it"
        for version, value in found
        if value is not None and value not in {HASH_BY_PORTS, 3}
    )


def forwarding_warnings(versions: frozenset[int]) -> tuple[str, ...]:
    """Whether IPv6 prefixes are exchanged on a host that does not forward IPv6; IPv4 is the data plane's to check."""
    if 6 in versions and _read(_SETTINGS / "ipv6/conf/all/forwarding") == 0:
        return ("net.ipv6.conf.all.forwarding is 0: IPv6 packets are dropped",)
    return ()


def set_hash_policy(policy: int, versions: frozenset[int]) -> None:
    """Set the hash policy of these IP versions.

    Raises:
        KernelError: The kernel would not take it.
    """
    for version in sorted(versions):
        path = _hash_policy(version)
        try:
            if _read(path) != policy:
                path.write_text(str(policy))
        except OSError as error:
            name = f"net.ipv{version}.fib_multipath_hash_policy"
            raise KernelError(name, "set", error.errno or 0, error.strerror or str(error)) from error


def _hash_policy(version: int) -> Path:
    return _SETTINGS / f"ipv{version}" / "fib_multipath_hash_policy"


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
