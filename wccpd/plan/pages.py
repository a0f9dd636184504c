"""Which page of the mark stands for what: a service, or one of its buckets with the A flag.

The redirect header of such a bucket shows both buckets (draft 4.12.1), and the mark has room for one: so each
gets a page of its own. There are 255; buckets that come too late share their service's page, and the header of
their packets shows the alternate bucket alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from wccpd.plan.marks import MAX_PAGE
from wccpd.plan.redirect import HashAssignment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wccpd.plan.redirect import RedirectPlan, ServicePlan

RETIRED = 128
"""Buckets that lost the A flag whose pages are remembered; each costs 256 redirect headers."""
NO_PAGES: Mapping[tuple[str, int], int] = MappingProxyType({})


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


def allocate_pages(
    services: Sequence[ServicePlan],
    configured: Sequence[str],
    kept: Mapping[tuple[str, int], int] = NO_PAGES,
) -> Pages:
    """Give out the pages.

    Args:
        services: The services of a plan, at most 255.
        configured: Names in the order of the configuration: a service keeps its page when others come and go.
        kept: The pages of buckets with the A flag so far. A flow that such a bucket pinned stays with its cache when
            the bucket has the flag no more: the page goes on meaning it, until it is needed for another.
    """
    place = {name: number for number, name in enumerate(configured, start=1)}
    own = {service.name: place[service.name] for service in services if service.name in place}
    flagged = [
        (service.name, bucket)
        for service in services
        if isinstance(service.assignment, HashAssignment) and service.name in own
        for bucket in sorted(service.assignment.alternate_buckets)
    ]
    pages = {key: page for key, page in kept.items() if key[0] in own and page > len(configured)}
    # From the end, where a service that is added takes none away.
    free = [page for page in range(len(configured) + 1, MAX_PAGE + 1) if page not in set(pages.values())]
    wanted = set(flagged)
    retired = [key for key in pages if key not in wanted]
    for key in flagged:
        if key in pages:
            continue
        if not free:
            if not retired:
                break
            free.append(pages.pop(retired.pop(0)))
        pages[key] = free.pop()
    for key in retired[: max(0, len(retired) - RETIRED)]:
        del pages[key]
    return Pages(own, pages)


def remembering(
    plan: RedirectPlan, configured: Sequence[str], kept: Mapping[tuple[str, int], int]
) -> RedirectPlan:
    """The plan with the pages of its buckets with the A flag, and those of earlier plans (`allocate_pages`)."""
    return replace(plan, alternate_pages=allocate_pages(plan.services, configured, kept).alternates)
