"""What `wccpd check` says: the meaning of a configuration in a few lines, or its problems, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config import redacted
from config.errors import key_path_text
from config.services import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from config import Config, ConfigError, Loaded, Problem, Service
    from config.model import Bgp
    from config.services import Match

DOCUMENT_VERSION = 1
"""Of the JSON. Keys are added, never changed; if one must be, this goes up."""
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP"}
_MODES = {
    Mode.OPEN: "forwarded uninspected while no cache can have it",
    Mode.CLOSED: "dropped while no cache can have it",
    Mode.REJECT: "refused with a reset or ICMP while no cache can have it",
}


def text(file: str, loaded: Loaded) -> str:
    """A good file in a few lines."""
    return "\n".join((f"{file}: {_verdict(loaded)}", *_lines(loaded.config)))


def warning_text(problem: Problem) -> str:
    """One warning as a line, in the form that compilers have."""
    place, _, words = str(problem).partition(": ")
    return f"{place}: warning: {words}"


def good_document(file: str, loaded: Loaded) -> dict[str, object]:
    """A good file as plain values."""
    return _document(file, (), loaded.warnings, redacted(loaded.config))


def bad_document(file: str, error: ConfigError) -> dict[str, object]:
    """A bad file as plain values."""
    return _document(file, error.problems, (), None)


def _document(
    file: str, problems: Iterable[Problem], warnings: Iterable[Problem], settings: dict[str, object] | None
) -> dict[str, object]:
    return {
        "version": DOCUMENT_VERSION,
        "file": file,
        "usable": settings is not None,
        "problems": [*map(_problem, problems)],
        "warnings": [*map(_problem, warnings)],
        "settings": settings,
    }


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "key": key_path_text(problem.path),
        "message": problem.message,
        "found": problem.found,
        "expected": problem.allowed,
        "hint": problem.hint,
    }


def _verdict(loaded: Loaded) -> str:
    count = len(loaded.warnings)
    return "ok" if not count else f"ok, with {count} warning{'s' if count > 1 else ''}"


def _lines(config: Config) -> Iterator[str]:
    router = config.router
    more = f", also {_listed(router.addresses)}" if router.addresses else ""
    yield _line("router", f"{router.id}{more}{f', zone {router.zone}' if router.zone else ''}")
    for tunnel in config.tunnels:
        inside = ", ".join(map(str, filter(None, (tunnel.inside_interface, tunnel.inside_ipv6_interface))))
        ends = f"{tunnel.local} to {tunnel.remote}"
        yield _line(
            "tunnel", f"{config.device_name(tunnel)}: {ends}, inside {inside}, MTU {tunnel.mtu_bytes}"
        )
    if config.bgp is not None:
        yield _line("BGP", _bgp(config, config.bgp))
    for service in config.services:
        first, *rest = _service(service)
        yield _line("service", f"{service.service}: {first}")
        yield from (_line("", f"  {line}") for line in rest)
    listed = set(config.redirect.exclude_interfaces)
    devices = [name for name in map(config.device_name, config.tunnels) if name not in listed]
    ingress = [*devices, *config.redirect.interfaces]
    never = f", never what goes to {_listed(config.redirect.never)}" if config.redirect.never else ""
    plane = config.redirect.dataplane
    yield _line("redirect", f"{plane}, what comes in through {_listed(ingress) or 'nothing'}{never}")


def _line(word: str, words: str) -> str:
    return f"  {word:<9} {words}"


def _bgp(config: Config, bgp: Bgp) -> str:
    speakers = [neighbor for tunnel in config.tunnels for neighbor in tunnel.bgp_neighbors]
    advertised = f"advertises {_listed(bgp.advertise)}, advertise_when: {bgp.advertise_when}"
    return f"AS {bgp.asn} to AS {bgp.peer_asn}, {len(speakers)} sessions ({_listed(speakers)}); {advertised}"


def _service(service: Service) -> Iterator[str]:
    yield f"{_packets(service)}; mode {service.mode}: {_MODES[service.mode]}"
    who = f"caches of {_listed(service.group_list)}" if service.group_list else "all caches"
    yield f"joined by {who} {'that know the password' if service.has_password_source else 'without a password'}"
    yield (
        f"offers forwarding {_listed(service.forwarding)}, return {_listed(service.packet_return)}, "
        f"assignment {_listed(service.assignment_method)} by {_ASSIGNERS[service.assignment.value]}"
    )
    if service.redirect_list:
        count = len(service.redirect_list)
        yield f"redirect list of {count} line{'s' if count > 1 else ''}; what none matches is not redirected"


_ASSIGNERS = {"auto": "the caches, else by the router", "cache": "the caches", "router": "the router"}


def _packets(service: Service) -> str:
    if service.service == "web-cache":
        return "TCP port 80"
    return "whatever its first cache says" if service.match is None else _matched(service.match)


def _matched(match: Match) -> str:
    if match.protocol is None:
        return "every protocol"
    protocol = _PROTOCOLS.get(match.protocol, f"protocol {match.protocol}")
    if not match.ports:
        return f"all {protocol}"
    side = "source " if match.ports_are == "source" else ""
    return f"{protocol} {side}port{'s' if len(match.ports) > 1 else ''} {_listed(match.ports)}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
