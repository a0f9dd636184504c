"""What a data plane is: observe what is really there, apply operations, nothing else.

Blocking calls; the reconciler runs them in one worker thread, one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wccpd.plan.diff import Observed, Operations


class DataPlane(Protocol):
    """A kernel, or a fake of one."""

    def observe(self) -> Observed:
        """Everything of ours that is there now.

        Raises:
            KernelError: It could not be read.
        """
        ...

    def apply(self, operations: Operations) -> None:
        """Carry out operations in their order.

        Raises:
            KernelError: The kernel refused one; those before it stay done, the nft part is all or nothing.
        """
        ...

    def close(self) -> None:
        """Release sockets. What is in the kernel stays."""
        ...
