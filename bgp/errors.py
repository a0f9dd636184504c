"""What goes wrong between us and gobgpd: one family, told apart by type, never by gobgpd's prose.

gobgpd answers nearly every fault with status UNKNOWN and a sentence; the sentence is kept for people to read
and nothing is decided by it. grpc's own exceptions do not leave `bgp.client`.
"""

from __future__ import annotations

from enum import StrEnum


class SidecarReason(StrEnum):
    """Why a call to gobgpd failed; also the metric label."""

    UNREACHABLE = "unreachable"
    """Nobody listens on the socket, or the connection broke."""
    TIMED_OUT = "timed_out"
    """Connected, but no answer within the deadline: it hangs."""
    REFUSED = "refused"
    """It answered, and would not do it."""
    INCOMPATIBLE = "incompatible"
    """It speaks neither of the two APIs that we know, or its state can only be left by restarting it."""


class SidecarError(Exception):
    """A call to gobgpd that failed.

    Attributes:
        reason: The kind of failure.
        verb: What was asked, an RPC's name such as `AddPeer`.
        detail: gobgpd's or gRPC's own words, for people to read; may be empty.
    """

    reason: SidecarReason

    def __init__(self, verb: str, detail: str = "") -> None:
        self.verb = verb
        self.detail = detail
        super().__init__(
            f"{verb}: {self.reason.value.replace('_', ' ')}" + (f" ({detail})" if detail else "")
        )


class SidecarUnreachable(SidecarError):  # noqa: N818 - named by what gobgpd did, as its three siblings
    """Nobody listens on the socket, or the connection broke under the call."""

    reason = SidecarReason.UNREACHABLE


class SidecarTimedOut(SidecarError):  # noqa: N818 - as above
    """No answer within the deadline."""

    reason = SidecarReason.TIMED_OUT


class SidecarRefused(SidecarError):  # noqa: N818 - as above
    """gobgpd answered with an error."""

    reason = SidecarReason.REFUSED


class SidecarIncompatible(SidecarError):  # noqa: N818 - as above
    """gobgpd speaks an API that we do not know, or must be restarted to become what we want."""

    reason = SidecarReason.INCOMPATIBLE
