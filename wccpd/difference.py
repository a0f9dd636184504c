"""What another configuration would change, and what of it a running daemon cannot take. Pure: two values in, one out.

In the operator's words: tunnels, BGP peers and advertisements, services, lines of redirect lists, passwords, and
every other key of the file. Passwords are compared and never shown. What follows from it in the engine and in the
kernel is for those to say (`wccpd.daemon.reload`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from enum import StrEnum
from typing import TYPE_CHECKING

from wccpd import assemble
from wccpd.plan.match import service_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bgp.events import PeerSpec
    from config import Config, Service, Tunnel


class Kind(StrEnum):
    """What sort of thing changes."""

    TUNNEL = "tunnel"
    PEER = "peer"
    ADVERTISEMENT = "advertisement"
    SERVICE = "service"
    ACL = "acl"
    """A line of a service's redirect list."""
    PASSWORD = "password"  # noqa: S105 - the word, no secret
    SETTING = "setting"
    """Any other key of the file."""


class Action(StrEnum):
    """What becomes of it."""

    ADD = "add"
    REMOVE = "remove"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that another configuration changes."""

    kind: Kind
    action: Action
    what: str
    """Its name: a tunnel's, a neighbour's address, a prefix, a service's, a key of the file."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.what}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One change that a running daemon cannot make."""

    key: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Difference:
    """All of it."""

    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    """If there are any, nothing at all is taken."""


_RESTART = "restart wccpd for it: systemctl restart wccpd, after `wccpctl drain router`"
_RESTART_BOTH = "restart both for it: systemctl restart gobgpd-wccpd wccpd, after `wccpctl drain router`"
_FIXED: Mapping[str, tuple[str, str]] = {
    "router.id": ("every cache, path and BGP session hangs on it", _RESTART_BOTH),
    "control.socket": ("it is open, and it is what this answer comes through", _RESTART),
    "state_directory": ("what must outlive a restart is in the present one", f"move it, then {_RESTART}"),
    "kernel": ("by it we recognise what is ours in the kernel", _RESTART),
    "redirect.dataplane": ("pinned flows are in the present data plane", _RESTART),
    "bgp.gobgp_socket": ("the sessions are kept by the gobgpd behind the present one", _RESTART_BOTH),
    "bgp.asn": ("gobgpd takes it at its start, and every session hangs on it", _RESTART_BOTH),
    "bgp.listen_port": ("gobgpd takes it at its start, and every session hangs on it", _RESTART_BOTH),
}
"""Keys, or whole sections, that a running daemon cannot change: why, and what to do instead."""
_RETOLD = {"bgp.advertise", "bgp.med", "bgp.prepend"}
"""Shown as advertisements."""


def difference(before: Config, after: Config) -> Difference:
    """What turns one configuration into another."""
    changes = (
        *_tunnels(before, after),
        *_peers(before, after),
        *_advertisements(before, after),
        *_services(before, after),
        *_settings(before, after),
    )
    return Difference(changes, tuple(_refusals(before, after)))


def _refusals(before: Config, after: Config) -> Iterator[Refusal]:
    if (before.bgp is None) is not (after.bgp is None):
        reason = "BGP as a whole cannot come or go in a running daemon"
        yield Refusal("bgp", reason, _RESTART_BOTH)
    held = {(tunnel.local, tunnel.remote): tunnel.name for tunnel in before.tunnels}
    for index, tunnel in enumerate(after.tunnels):
        other = held.get((tunnel.local, tunnel.remote), tunnel.name)
        if other != tunnel.name:
            reason = f"{tunnel.name} has the addresses of {other}, and the kernel has one device for a pair"
            yield Refusal(f"tunnels[{index}]", reason, "take it in two reloads, the first without it")
    old, new = _leaves(before.model_dump(mode="json")), _leaves(after.model_dump(mode="json"))
    for key in _differing(old, new):
        for fixed, (reason, remedy) in _FIXED.items():
            if (key == fixed or key.startswith(f"{fixed}.")) and key in old and key in new:
                yield Refusal(key, f"{_shown(old[key])} -> {_shown(new[key])}: {reason}", remedy)


def _tunnels(before: Config, after: Config) -> Iterator[Change]:
    old, new = ({each.name: each for each in config.tunnels} for config in (before, after))
    yield from _gone(Kind.TUNNEL, old, new)
    for name, tunnel in new.items():
        if name not in old:
            yield Change(Kind.TUNNEL, Action.ADD, name, f"{tunnel.local} to {tunnel.remote}, {tunnel.inside}")
        elif old[name] != tunnel:
            detail = _model_changes(old[name], tunnel)
            made = assemble.tunnel_device(before, old[name]), assemble.tunnel_device(after, tunnel)
            if (made[0].local, made[0].remote, made[0].ttl) != (made[1].local, made[1].remote, made[1].ttl):
                detail += "; its device is made anew, what runs through it is interrupted"
            yield Change(Kind.TUNNEL, Action.CHANGE, name, detail)


def _peers(before: Config, after: Config) -> Iterator[Change]:
    old, new = (_peers_of(config) for config in (before, after))
    yield from _gone(Kind.PEER, old, new)
    for address, peer in new.items():
        if address not in old:
            yield Change(Kind.PEER, Action.ADD, address, f"AS {peer.asn} over {peer.description}")
        elif old[address] != peer:
            yield Change(Kind.PEER, Action.CHANGE, address, _peer_changes(old[address], peer))


def _peers_of(config: Config) -> dict[str, PeerSpec]:
    spec = assemble.speaker_spec(config)
    return {} if spec is None else {str(peer.address): peer for peer in spec.peers}


_KEPT_IN_SESSION = {"connect_retry_seconds", "description", "interface"}
"""Of a peer, what gobgpd is not told while the session lives."""


def _peer_changes(old: PeerSpec, new: PeerSpec) -> str:
    names = [each.name for each in fields(old) if getattr(old, each.name) != getattr(new, each.name)]
    words = "; ".join(
        f"{name} {_shown(getattr(old, name))} -> {_shown(getattr(new, name))}" for name in names
    )
    if set(names) <= _KEPT_IN_SESSION:
        return f"{words}; its session stays, gobgpd has it when it is started anew"
    return f"{words}; its session starts anew"


def _advertisements(before: Config, after: Config) -> Iterator[Change]:
    old, new = (
        {}
        if (spec := assemble.speaker_spec(config)) is None
        else {str(each.prefix): each for each in spec.advertisements}
        for config in (before, after)
    )
    yield from _gone(Kind.ADVERTISEMENT, old, new)
    for prefix, each in new.items():
        said = f"MED {_shown(each.med)}, our ASN prepended {each.prepend} times"
        if prefix not in old:
            yield Change(Kind.ADVERTISEMENT, Action.ADD, prefix, said)
        elif old[prefix] != each:
            yield Change(Kind.ADVERTISEMENT, Action.CHANGE, prefix, said)


def _services(before: Config, after: Config) -> Iterator[Change]:
    old, new = ({_name(each): each for each in config.services} for config in (before, after))
    yield from _gone(Kind.SERVICE, old, new)
    for name, service in new.items():
        if name not in old:
            yield Change(Kind.SERVICE, Action.ADD, name, f"mode {service.mode}")
            continue
        detail = _model_changes(old[name], service, without={"redirect_list"})
        if detail:
            yield Change(Kind.SERVICE, Action.CHANGE, name, detail)
        yield from _passwords(name, old[name], service)
        yield from _acl(name, old[name], service)
    order = [name for name in old if name in new], [name for name in new if name in old]
    if order[0] != order[1]:
        yield Change(Kind.SETTING, Action.CHANGE, "services", f"order: {', '.join(order[1])}")


def _name(service: Service) -> str:
    return service_name(assemble.service_key(service))


def _passwords(name: str, old: Service, new: Service) -> Iterator[Change]:
    for key in ("password", "previous_password"):
        had, has = getattr(old, key), getattr(new, key)
        if had == has:
            continue
        action = Action.ADD if had is None else Action.REMOVE if has is None else Action.CHANGE
        words = "the password" if key == "password" else "the previous password, still accepted"
        yield Change(Kind.PASSWORD, action, name, words)


def _acl(name: str, old: Service, new: Service) -> Iterator[Change]:
    had, has = ([str(line) for line in service.redirect_list] for service in (old, new))
    for verb, first, last, start, end in SequenceMatcher(None, had, has, autojunk=False).get_opcodes():
        if verb == "equal":
            continue
        for number in range(first, last):
            yield Change(Kind.ACL, Action.REMOVE, name, f"line {number + 1}: {had[number]}")
        for number in range(start, end):
            yield Change(Kind.ACL, Action.ADD, name, f"line {number + 1}: {has[number]}")


def _settings(before: Config, after: Config) -> Iterator[Change]:
    old, new = (
        _leaves(config.model_dump(mode="json", exclude={"tunnels", "services"})) for config in (before, after)
    )
    for key in _differing(old, new):
        if key in _RETOLD:
            continue
        action = Action.ADD if key not in old else Action.REMOVE if key not in new else Action.CHANGE
        yield Change(Kind.SETTING, action, key, _changed(old.get(key), new.get(key)))


def _gone(kind: Kind, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Change]:
    return (Change(kind, Action.REMOVE, name) for name in old if name not in new)


def _model_changes(old: Tunnel | Service, new: Tunnel | Service, without: set[str] | None = None) -> str:
    had, has = (_leaves(each.model_dump(mode="json", exclude=without or set())) for each in (old, new))
    return "; ".join(f"{key} {_changed(had.get(key), has.get(key))}" for key in _differing(had, has))


def _leaves(data: object, path: str = "") -> dict[str, object]:
    """Every key that holds no further keys, by its path; a list is one value."""
    if not isinstance(data, dict):
        return {path: data}
    found: dict[str, object] = {}
    for key, value in data.items():
        found |= _leaves(value, f"{path}.{key}" if path else str(key))
    return found


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    return (key for key in {**old, **new} if old.get(key) != new.get(key))


def _changed(old: object, new: object) -> str:
    return f"{_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    match value:
        case None | [] | ():
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(map(_shown, value))
        case dict():
            return "{" + ", ".join(f"{key}: {_shown(each)}" for key, each in _flat(value)) + "}"
        case _:
            return str(value)


def _flat(value: Mapping[object, object]) -> Sequence[tuple[object, object]]:
    return [(key, each) for key, each in value.items() if each is not None]
