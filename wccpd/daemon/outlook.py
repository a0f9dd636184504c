"""What a configuration would change, as the control API tells it: stable keys, plain JSON values, no secret."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from config.errors import key_path_text
from wccpd.plan.match import service_name
from wccpd.plan.redirect import HashAssignment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from ipaddress import IPv4Address

    from config import Problem
    from wccpd.daemon.change import Prospect
    from wccpd.difference import Difference
    from wccpd.plan.redirect import Assignment, RedirectPlan

_NOTHING: Mapping[str, object] = {"problems": [], "refused": [], "changes": [], "services": [], "kernel": []}


def problems(found: Iterable[Problem]) -> dict[str, object]:
    """Of a file that cannot be used: everything that is wrong with it."""
    return {
        **_NOTHING,
        "problems": [
            {"line": each.line, "column": each.column, "key": key_path_text(each.path), "text": str(each)}
            for each in found
        ],
    }


def outlook(found: Difference, prospect: Prospect | None) -> dict[str, object]:
    """Of a file that can be used; of one that is refused there is no prospect."""
    return {
        **_NOTHING,
        "refused": [asdict(each) for each in found.refusals],
        "changes": [asdict(each) for each in found.changes],
        "services": list(_services(prospect)) if prospect is not None else [],
        "kernel": list(prospect.kernel) if prospect is not None else [],
    }


def _services(prospect: Prospect) -> Iterator[dict[str, object]]:
    """Service groups that do not go on as they are: who has to leave, and how many buckets or values go to others."""
    groups = {service_name(each.service): each for each in prospect.groups}
    old, new = _owners(prospect.present), _owners(prospect.plan)
    for name in sorted(groups.keys() | old.keys() | new.keys()):
        group, had, has = groups.get(name), old.get(name, {}), new.get(name, {})
        moved = sum(has.get(place) != owner for place, owner in had.items() if owner is not None)
        if group is not None or moved:
            yield {
                "service": name,
                "change": str(group.change) if group is not None else "changed",
                "leaving": {str(cache): why for cache, why in group.leaving.items()}
                if group is not None
                else {},
                "buckets_moved": moved,
            }


def _owners(plan: RedirectPlan | None) -> dict[str, dict[object, IPv4Address | None]]:
    """By service, who gets the new flows of each bucket or value."""
    return {} if plan is None else {each.name: _table(each.assignment) for each in plan.services}


def _table(assignment: Assignment) -> dict[object, IPv4Address | None]:
    if isinstance(assignment, HashAssignment):
        return dict(enumerate(assignment.owners))
    return {(each.mask, value): owner for each in assignment.sets for value, owner in each.owners.items()}
