"""What goes wrong in the lab, and waiting for what should go right."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class LabError(Exception):
    """The lab could not be built, or something in it did not happen in time."""


def wait_until(
    condition: Callable[[], Result],
    what: str,
    timeout_seconds: float,
    interval_seconds: float = 0.2,
    explain: Callable[[], str] = lambda: "",
) -> Result:
    """Call `condition` until its result is true and return that result.

    Raises:
        LabError: it was not true within `timeout_seconds`; says `what` was waited for, the last result and
            what `explain` makes of it.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            details = explain()
            raise LabError(
                f"after {timeout_seconds:.0f} s still no {what} (last seen: {result!r})"
                + (f"\n{details}" if details else "")
            )
        time.sleep(interval_seconds)
