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


def allocate_pages(services: Sequence[ServicePlan], configured: Sequence[str]) -> Pages:
    """Give out the pages.

    Args:
        services: The services of a plan, at most 255.
        configured: Names in the order of the configuration: a service keeps its page when others come and go.
    """
    place = {name: number for number, name in enumerate(configured, start=1)}
    own = {service.name: place[service.name] for service in services}
    free = iter(range(len(configured) + 1, MAX_PAGE + 1))
    flagged = (
        (service.name, bucket)
        for service in services
        if isinstance(service.assignment, HashAssignment)
        for bucket in sorted(service.assignment.alternate_buckets)
    )
    return Pages(own, dict(zip(flagged, free, strict=False)))
