"""Which data plane: the one that the operator asks for, or the faster one that works here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from wccpd.dataplane.bpf.libbpf import VerifierError
from wccpd.dataplane.ebpf.kernel import pins_of_this_namespace
from wccpd.dataplane.ebpf.plane import NO_CLEAR_DF, EbpfDataPlane
from wccpd.dataplane.linux import LinuxDataPlane
from wccpd.errors import KernelError

if TYPE_CHECKING:
    from wccpd.dataplane.port import DataPlane
    from wccpd.plan.policy import KernelSettings, Policy


class PlaneKind(StrEnum):
    """What the operator may ask for."""

    AUTO = "auto"
    NETLINK = "netlink"
    EBPF = "ebpf"


@dataclass(slots=True)
class PlaneChoice:
    """Opens a data plane, and remembers which and why. What the other one left of the redirect is taken away first.

    Attributes:
        name: Of the plane that was opened; before that, of the one that is asked for.
        hash_function: Of that plane; empty before.
        reason: Why `auto` did not take the eBPF plane; empty if it did, or was not asked.
    """

    kind: PlaneKind
    settings: KernelSettings
    policy: Policy
    name: str = field(init=False)
    hash_function: str = field(init=False, default="")
    reason: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.name = self.kind.value

    def __call__(self) -> DataPlane:
        """Open it.

        Raises:
            KernelError: The plane that is asked for cannot be opened; of `auto`, neither can.
        """
        self.reason = ""
        plane: DataPlane | None = None
        if self.kind is not PlaneKind.NETLINK:
            plane = self._ebpf()
        if plane is None:
            plane = self._netlink()
        self.hash_function = plane.hash_function
        return plane

    def _ebpf(self) -> EbpfDataPlane | None:
        if self.policy.clear_df:
            if self.kind is PlaneKind.EBPF:
                raise KernelError("eBPF data plane", "open", 0, NO_CLEAR_DF)
            self.reason = NO_CLEAR_DF
            return None
        try:
            plane = EbpfDataPlane(self.settings)
        except KernelError as error:
            if self.kind is PlaneKind.EBPF:
                raise
            self.reason = _words(error)
            return None
        try:
            other = LinuxDataPlane(self.settings)
        except KernelError:
            pass  # no libnftables here: then it has left nothing either
        else:
            other.withdraw(self.policy.tunnels)
            other.close()
        self.name = PlaneKind.EBPF.value
        return plane

    def _netlink(self) -> LinuxDataPlane:
        if pins_of_this_namespace().is_dir():
            other = EbpfDataPlane(self.settings)
            other.withdraw()
            other.close()
        self.name = PlaneKind.NETLINK.value
        return LinuxDataPlane(self.settings)


def _words(error: KernelError) -> str:
    """An error in one line; of the verifier's, what it did not like rather than its statistics behind it."""
    if not isinstance(error, VerifierError):
        return str(error)
    said = [line for line in error.verifier if not line.startswith("processed ")]
    return f"the verifier refused the program: {said[-1] if said else error}"
