"""Rules about marks that several chains have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.plan import names
from wccpd.plan.model import NftRule
from wccpd.plan.redirect import TCP

if TYPE_CHECKING:
    from wccpd.plan.marks import MarkLayout


def leave_no_mark(marks: MarkLayout) -> str:
    """The statement for a packet that is not redirected: others must not see bits of ours in its mark."""
    return f"meta mark set meta mark & {marks.foreign_mask:#x}"


def inherit(marks: MarkLayout, condition: str = "") -> NftRule:
    """Have a connection mark that means a cache by a former slot mean it by the present one."""
    return NftRule(
        f"{condition}ct mark & {marks.path_mask:#x} vmap @{names.HEIRS}", "its cache has another path now"
    )


def pin_uninspected(marks: MarkLayout, page: int) -> NftRule:
    """Pin a TCP connection to being forwarded: a page without a slot."""
    return NftRule(
        f"meta l4proto {TCP} ct mark & {marks.mask:#x} == 0 "
        f"ct mark set ct mark & {marks.foreign_mask:#x} | {marks.mark(page=page):#x}",
        "a connection that begins uninspected stays so",
    )
