"""What our nft table holds, without listing it whole at each look.

Listing a table of 64 services with 32 caches takes a second of CPU. So what was read once, and what our own
transactions made of it, is believed until the kernel's notices say that somebody else touched the table
(`watch.TableWatch`), or a transaction of ours was refused. A notice is queued before the call of who changed
something returns: none is missed, and one that finds no room counts as a change. Counters, and whether the lease
runs, change by themselves; they are read each time.

Belief is checked all the same, as often as `LISTING_SHARE` allows, but not while others change tables of their own.

libnftables lists again from the beginning whenever anything in nftables changes meanwhile, whosever it is, and does
not give up. So a listing waits for a pause; while there is none, what was believed stays in force, and the table is in
doubt.
"""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wccpd.dataplane.nfnetlink import CounterSocket
from wccpd.errors import KernelError
from wccpd.plan.diff import ObservedTable
from wccpd.plan.verdict import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wccpd.dataplane.nft import Nft
    from wccpd.dataplane.watch import TableWatch
    from wccpd.plan.model import NftTable

LISTING_SHARE: Final = 0.02
"""How much of the time may go into listing a table that nobody is said to have touched."""
_PAUSE_SECONDS: Final = (0.002, 0.05)
"""Others must have been silent for as long as the last listing took, within these bounds."""
_PATIENCE_SECONDS: Final = 0.1
"""How long a look waits for such a pause."""
NO_PAUSE: Final = "others change nftables so often that it cannot be listed; `nft monitor` shows who"


class KnownTable:
    """Our table. To be used from one thread.

    Args:
        nft: Lists and changes it.
        watch: Tells whether somebody else touched it; notices of `nft` must not be among them.
        clock: Monotonic seconds.
    """

    def __init__(self, nft: Nft, watch: TableWatch, clock: Callable[[], float] = time.monotonic) -> None:
        self._nft = nft
        self._watch = watch
        self._clock = clock
        self._sockets = CounterSocket(nft.table)
        self._known = False
        self._table: ObservedTable | None = None
        self._made: NftTable | None = None
        self._list_again_at = self._listing_seconds = 0.0
        self.in_doubt = False
        """Whether somebody touched the table, and it could not be listed since."""
        self.listings = 0
        """How often the table was listed whole."""

    def close(self) -> None:
        """Close the sockets."""
        self._watch.close()
        self._sockets.close()

    def forget(self) -> None:
        """Believe nothing: the next look lists the table."""
        self._known = False

    def look(self) -> ObservedTable | None:
        """The table, None when there is none; its counters are those of the last listing.

        Raises:
            KernelError: It cannot be listed, or what has our name is somebody else's; or nothing is believed of it
                and others leave no pause for a listing (EBUSY).
        """
        # First the notices: what happens from here on is in the listing, or in the queue for the next look.
        self.in_doubt |= self._watch.drain()
        check = self._clock() > self._list_again_at and not self._watch.heard
        if self.in_doubt or check or not self._known:
            if self._others_pause():
                self._list()
            elif not self._known:
                raise KernelError(f"nft table {self._nft.table}", "list", errno.EBUSY, NO_PAUSE)
        return self._table

    def count(self, maps: Iterable[str]) -> ObservedTable | None:
        """The table with its counters as of now; None when there is none.

        Args:
            maps: Those whose elements count.

        Raises:
            KernelError: It cannot be read.
        """
        listed = self.listings
        table = self.look()
        if table is None or self.listings != listed:
            return table
        present = [name for name in maps if name in table.maps]
        return replace(
            table,
            counters=self._sockets.counters(),
            element_counters={name: self._element_counters(name) for name in present},
        )

    def is_leased(self) -> bool:
        """Whether the lease is running.

        Raises:
            KernelError: It cannot be read.
        """
        try:
            return self._sockets.is_leased()
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return False  # taken away since the last look, and the next one will be told
            raise

    def change(self, transaction: str, made: NftTable | None) -> None:
        """Commit a transaction.

        Args:
            transaction: nft text.
            made: What the table is after it; None: the next look lists it.

        Raises:
            KernelError: It was refused; nothing was changed.
        """
        self._known = False
        self._made = None
        self._nft.run(transaction)
        if made is not None:
            self._table, self._made, self._known = _as_made(made), made, True

    def is_as(self, wanted: NftTable | None) -> bool:
        """Whether the table is known to be what it should be, without comparing."""
        return self._known and wanted is not None and self._made == wanted

    def confirm(self, wanted: NftTable | None) -> None:
        """Take note that a comparison of the last look found nothing to do."""
        if self._known:
            self._made = wanted

    def _element_counters(self, name: str) -> dict[str, Count]:
        try:
            return self._nft.element_counters(name)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return {}  # the same
            raise

    def _others_pause(self) -> bool:
        shortest, longest = _PAUSE_SECONDS
        pause = min(max(shortest, self._listing_seconds), longest)
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while self._watch.hears_within(pause):
            self.in_doubt |= self._watch.drain()
            if time.monotonic() > give_up_at:
                return False
        return True

    def _list(self) -> None:
        self._known = False
        self._made = None
        started = self._clock()
        self._table = self._nft.observe()
        self.listings += 1
        finished = self._clock()
        self._listing_seconds = finished - started
        self._list_again_at = finished + self._listing_seconds / LISTING_SHARE
        self._known, self.in_doubt = True, False


def _as_made(table: NftTable) -> ObservedTable:
    """What a listing says of a table that is as it should be; nothing has been counted."""
    return ObservedTable(
        name=table.name,
        counters=dict.fromkeys(table.counters, Count()),
        sets={each.name: each.elements for each in table.sets},
        maps={each.name: each.elements or {} for each in table.maps},
        chains={each.name: tuple(rule.comment for rule in each.rules) for each in table.chains},
    )
