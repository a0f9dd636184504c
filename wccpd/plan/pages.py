"""Which page of the mark stands for what: a service, or one of its buckets with the A flag.

The redirect header of such a bucket shows both buckets (draft 4.12.1), and the mark has room for one: so each
gets a page of its own. There are 255; buckets that come too late share their service's page, and the header of
their packets shows the alternate bucket alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wccpd.plan.marks import MAX_PAGE
from wccpd.plan.redirect import HashAssignment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wccpd.plan.redirect import ServicePlan


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one plan."""

    services: Mapping[str, int]
    alternates: Mapping[tuple[str, int], int]

    def of_service(self, service: str) -> int:
        """The page of a service, 1 to 255."""
        return self.services[service]

    def of_alternate(self, service: str, bucket: int) -> int:
        """The page of a bucket with the A flag."""
        return self.alternates.get((service, bucket), self.services[service])

    def alternates_of(self, service: str) -> tuple[tuple[int, int], ...]:
        """Page and primary bucket of the buckets that have a page of their own."""
        return tuple((page, bucket) for (name, bucket), page in self.alternates.items() if name == service)

    def all_of(self, service: str) -> tuple[int, ...]:
        """Every page of a service, its own first."""
        return self.services[service], *(page for page, _ in self.alternates_of(service))


def keep_places(before: Sequence[str], configured: Sequence[str]) -> tuple[str, ...]:
    """The order of names that gives pages when the configuration of a running router changes.

    A connection stays marked with its service's page: who stays keeps it, and the page of a service that went is
    given out again as late as possible.

    Args:
        before: The names in the order up to now; an empty one holds a page that is free.
        configured: Names of the new configuration, at most 255, in any order.
    """
    kept = [name if name in configured else "" for name in before]
    fresh = [name for name in configured if name not in before]
    room = MAX_PAGE - len(kept)
    late = iter(fresh[room:])
    return (*(name or next(late, "") for name in kept), *fresh[:room])


def allocate_pages(services: Sequence[ServicePlan], configured: Sequence[str]) -> Pages:
    """Give out the pages.

    Args:
        services: The services of a plan, at most 255.
        configured: Names in the order of the configuration: a service keeps its page when others come and go.
    """
    place = {name: number for number, name in enumerate(configured, start=1)}
    own = {service.name: place[service.name] for service in services}
    # From the end, where a service that is added takes none away.
    free = iter(range(MAX_PAGE, len(configured), -1))
    flagged = (
        (service.name, bucket)
        for service in services
        if isinstance(service.assignment, HashAssignment)
        for bucket in sorted(service.assignment.alternate_buckets)
    )
    return Pages(own, dict(zip(flagged, free, strict=False)))
