"""gobgpd's import and export policy as values: which statements, under which names.

gobgpd's global import policy also judges the paths that we originate ourselves, so its first statement lets
local routes in; without it a default of *reject* swallows them in silence. Then come the accepted ranges with
their length bounds; none of them admits 0/0. The export policy lets out exactly what we advertise. All else is
rejected, both ways.

The names carry a digest of the content. That makes the configuration idempotent without comparing rules: the
right name assigned means the right content, and a change is a new policy assigned in one step, never an edit
of the one in force. Knows neither protobuf nor gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgp.events import IPNetwork, SpeakerSpec

NAME_PREFIX = "wccpd-"
"""What our policies and sets begin with, and the only thing by which we recognise them."""


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Prefixes with length bounds, all of one IP version, as gobgpd demands."""

    name: str
    entries: tuple[tuple[IPNetwork, int, int], ...]


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """One direction's policy."""

    name: str
    accept_local: bool
    """Whether the first statement accepts routes that we originate."""
    sets: tuple[PrefixSet, ...]
    """Accepted, one statement each, in this order."""


def import_policy(spec: SpeakerSpec) -> PolicyPlan:
    """What may come in: our own paths, and the accepted ranges."""
    entries = ((rule.prefix, rule.min_length, rule.max_length) for rule in spec.accepted)
    return _plan("import", True, tuple(entries))


def export_policy(spec: SpeakerSpec) -> PolicyPlan:
    """What may go out: exactly the advertised prefixes."""
    prefixes = (each.prefix for each in spec.advertisements)
    return _plan("export", False, tuple((prefix, prefix.prefixlen, prefix.prefixlen) for prefix in prefixes))


def _plan(direction: str, accept_local: bool, entries: tuple[tuple[IPNetwork, int, int], ...]) -> PolicyPlan:
    digest = sha256(repr(sorted(map(str, entries))).encode()).hexdigest()[:12]
    name = f"{NAME_PREFIX}{direction}-{digest}"
    by_version = {
        version: tuple(each for each in entries if each[0].version == version) for version in (4, 6)
    }
    sets = tuple(PrefixSet(f"{name}-v{version}", chosen) for version, chosen in by_version.items() if chosen)
    return PolicyPlan(name, accept_local, sets)
