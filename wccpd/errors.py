"""The kernel's errors.

The peer's are `wire.errors.WireError`, the operator's `config.ConfigError`, the sidecar's
`bgp.errors.SidecarError`; each package roots its own, because leaves cannot import ours.
"""

from __future__ import annotations

import os


class KernelError(Exception):
    """The kernel refused something: which object, what we wanted of it, and the errno.

    Attributes:
        obj: The object, e.g. `device wccp-tgw-a`, `nft table wccpd`.
        verb: What was tried, e.g. `add`, `delete`, `list`.
        errno: The kernel's errno, 0 where it gave none.
        detail: The kernel's or libnftables' own words, may be empty.
    """

    def __init__(self, obj: str, verb: str, errno: int, detail: str = "") -> None:
        self.obj = obj
        self.verb = verb
        self.errno = errno
        self.detail = detail
        said = os.strerror(errno) if errno else "refused"
        more = f" ({detail})" if detail and detail != said else ""
        super().__init__(f"{verb} {obj}: {said}{more}")
