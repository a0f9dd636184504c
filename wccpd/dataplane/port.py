"""What a data plane is: observe what is really there, apply operations, nothing else.

Blocking calls; the reconciler runs them in one worker thread, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wccpd.errors import KernelError
    from wccpd.plan.diff import Observed, Operations


@dataclass(frozen=True, slots=True)
class Failure:
    """One operation that the kernel refused."""

    error: KernelError
    device: str = ""
    """The device that cannot be used for it, if it is a device's or a route's."""
    table: int = 0
    """The routing table that cannot be used for it, if it is a route's or a rule's."""


class DataPlane(Protocol):
    """A kernel, or a fake of one."""

    def observe(self) -> Observed:
        """Everything of ours that is there now.

        Raises:
            KernelError: It could not be read.
        """
        ...

    def apply(self, operations: Operations) -> tuple[Failure, ...]:
        """Carry out operations in their order; one that the kernel refuses keeps none of the others back.

        Returns:
            What was refused; the nft part is all or nothing.
        """
        ...

    def close(self) -> None:
        """Release sockets. What is in the kernel stays."""
        ...
