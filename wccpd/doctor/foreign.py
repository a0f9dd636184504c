"""What others have in nftables that may touch our packets: libnftables' JSON in, what it does in a few words out.

Rules are not run: a rule is known to match, known not to, or may match. What is said of a chain that may drop is
therefore said as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Json = Any
"""A piece of a libnftables-json(5) listing."""
_FULL = 0xFFFFFFFF
_DEEPEST = 16
"""Jumps within jumps; nftables allows as many (NFT_JUMP_STACK_SIZE)."""
UDP, GRE = 17, 47
_UNCERTAIN = frozenset({"vmap", "xt", "limit", "quota", "ct count"})
"""Statements whose outcome cannot be said here; `xt` is a match of iptables."""


class Fate(StrEnum):
    """What a chain does with packets of a kind."""

    PASSES = "passes"
    MAY_DROP = "may drop"
    DROPS = "drops"


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain of another's table, with what its rules do, those that it jumps to included."""

    table: str
    """Family and name, e.g. `inet filter`."""
    name: str
    hook: str
    priority: int
    wccp: Fate = Fate.PASSES
    """What becomes of UDP to port 2048, where the hook is input."""
    gre: Fate = Fate.PASSES
    """What becomes of protocol 47, where the hook is input."""
    transit: Fate = Fate.PASSES
    """What becomes of packets that are passed on."""
    marks: int = 0
    """Bits of the packet mark that some rule changes."""
    connection_marks: int = 0
    drops_invalid: bool = False
    """It drops what connection tracking calls invalid."""
    drops_unrouted: bool = False
    """It drops packets whose source is not routed back by their device (`fib saddr . iif oif missing`)."""
    untracks: bool = False

    @property
    def words(self) -> str:
        """The chain as an operator names it."""
        return f"chain {self.name} of table {self.table} ({self.hook}, priority {self.priority})"


def read_chains(listings: Iterable[Json], own_table: str) -> tuple[ForeignChain, ...]:
    """All base chains of families that see IPv4, but those of our own table.

    Args:
        listings: Objects of JSON listings, of whole tables.
        own_table: Name of our table of family ip.
    """
    chains: dict[tuple[str, str], Json] = {}
    rules: dict[tuple[str, str], list[Json]] = {}
    for item in listings:
        ((kind, body),) = item.items()
        if kind not in {"chain", "rule"} or body["family"] not in {"ip", "inet", "netdev"}:
            continue
        table = f"{body['family']} {body['table']}"
        if table == f"ip {own_table}":
            continue
        if kind == "chain":
            chains[table, body["name"]] = body
        else:
            rules.setdefault((table, body["chain"]), []).append(body["expr"])
    return tuple(_chain(table, body, rules) for (table, _), body in chains.items() if "hook" in body)


def _chain(table: str, body: Json, rules: Mapping[tuple[str, str], list[Json]]) -> ForeignChain:
    drops = body.get("policy") == "drop"
    walk = _Walk(table, rules)
    reached = tuple(walk.all_rules(body["name"]))
    hook = body["hook"]

    def fate(packet: Mapping[str, object]) -> Fate:
        return walk.fate(body["name"], packet, policy=Fate.DROPS if drops else Fate.PASSES)

    return ForeignChain(
        table=table,
        name=body["name"],
        hook=hook,
        priority=body.get("prio", 0),
        wccp=fate({"protocol": UDP, "port": 2048}) if hook == "input" else Fate.PASSES,
        gre=fate({"protocol": GRE}) if hook == "input" else Fate.PASSES,
        transit=fate({}) if hook in {"forward", "prerouting", "postrouting", "ingress"} else Fate.PASSES,
        marks=_changed_bits(reached, "meta"),
        connection_marks=_changed_bits(reached, "ct"),
        drops_invalid=any(map(_drops_invalid, reached)),
        drops_unrouted=any(_drops(rule) and _asks_fib(rule) for rule in reached),
        untracks=any("notrack" in statement for rule in reached for statement in rule),
    )


@dataclass(frozen=True, slots=True)
class _Walk:
    """Goes through the chains of one table."""

    table: str
    rules: Mapping[tuple[str, str], list[Json]]

    def all_rules(self, chain: str, depth: int = 0) -> Iterator[Json]:
        """The rules of a chain and of those that it jumps to."""
        for rule in self.rules.get((self.table, chain), ()):
            yield rule
            for statement in rule:
                target = _target(statement)
                if target and depth < _DEEPEST:
                    yield from self.all_rules(target, depth + 1)

    def fate(self, chain: str, packet: Mapping[str, object], policy: Fate, depth: int = 0) -> Fate:
        """What becomes of a packet; `policy` is what becomes of one that comes to the chain's end."""
        doubt = False
        """Whether a rule may have accepted the packet or dropped it before."""
        may_drop = False
        for rule in self.rules.get((self.table, chain), ()):
            matches = _matches(rule, packet)
            if matches is False:
                continue
            verdict = self._verdict(rule, packet, depth)
            if verdict is None:
                continue
            if matches and verdict is not Fate.MAY_DROP:
                if verdict is Fate.DROPS:
                    return Fate.MAY_DROP if doubt else Fate.DROPS
                return Fate.MAY_DROP if may_drop else Fate.PASSES
            doubt = True
            may_drop = may_drop or verdict is not Fate.PASSES
        if policy is Fate.DROPS:
            return Fate.MAY_DROP if doubt else Fate.DROPS
        return Fate.MAY_DROP if may_drop else policy

    def _verdict(self, rule: Json, packet: Mapping[str, object], depth: int) -> Fate | None:
        """What a rule that matches does; None if it lets the next one decide."""
        for statement in rule:
            if "accept" in statement:
                return Fate.PASSES
            if "drop" in statement or "reject" in statement:
                return Fate.DROPS
            if "vmap" in statement:
                return Fate.MAY_DROP if _may_drop(statement["vmap"]) else Fate.PASSES
            target = _target(statement)
            if target and depth < _DEEPEST:
                inner = self.fate(target, packet, Fate.MAY_DROP, depth + 1)
                return None if inner is Fate.MAY_DROP else inner
        return None


def _target(statement: Json) -> str:
    for verb in ("jump", "goto"):
        if verb in statement and statement[verb] is not None:
            return str(statement[verb]["target"])
    return ""


def _may_drop(vmap: Json) -> bool:
    """Whether some verdict of a verdict map is not to accept; of a named one, whose elements are elsewhere, perhaps."""
    match vmap["data"]:
        case {"set": list(elements)}:
            return any("accept" not in verdict for _, verdict in elements)
        case _:
            return True


def _drops_invalid(rule: Json) -> bool:
    if _drops(rule) and _asks(rule, "ct", "state", "invalid"):
        return True
    return any(
        "drop" in verdict and "invalid" in str(key)
        for statement in rule
        if "vmap" in statement and isinstance(statement["vmap"]["data"], dict)
        for key, verdict in statement["vmap"]["data"].get("set", ())
        if isinstance(verdict, dict)
    )


def _drops(rule: Json) -> bool:
    return any("drop" in statement or "reject" in statement for statement in rule)


def _matches(rule: Sequence[Json], packet: Mapping[str, object]) -> bool | None:
    """Whether a packet meets all conditions of a rule; None if that cannot be said."""
    verdict: bool | None = True
    for statement in rule:
        if "match" not in statement:
            if _UNCERTAIN.intersection(statement):
                verdict = None
            continue
        met = _meets(statement["match"], packet)
        if met is False:
            return False
        if met is None:
            verdict = None
    return verdict


def _meets(match: Json, packet: Mapping[str, object]) -> bool | None:
    left, right, operator = match["left"], match["right"], match["op"]
    protocols = {"tcp": 6, "udp": 17, "gre": 47, "icmp": 1, "icmpv6": 58, "sctp": 132, "esp": 50, "ah": 51}
    value: object
    match left:
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            value = packet.get("protocol")
        case {"payload": {"protocol": name, "field": field}} if name in protocols:
            if packet.get("protocol") not in {None, protocols[name]}:
                return False
            value = packet.get("port") if field == "dport" else None
        case _:
            return None
    if value is None or operator not in {"==", "in", "!="}:
        return None
    chosen = right["set"] if isinstance(right, dict) and "set" in right else [right]
    numbers = (protocols.get(each, each) if isinstance(each, str) else each for each in chosen)
    found = [_is_in(value, number) for number in numbers]
    among = True if True in found else None if None in found else False
    return among if operator != "!=" or among is None else not among


def _is_in(value: object, given: Json) -> bool | None:
    """Whether a number is a value or in a range of a listing."""
    if isinstance(given, int):
        return value == given
    if isinstance(given, dict) and "range" in given and isinstance(value, int):
        first, last = given["range"]
        return first <= value <= last if isinstance(first, int) and isinstance(last, int) else None
    return None


def _asks(rule: Json, kind: str, key: str, value: str) -> bool:
    """Whether a rule has a condition on a key that names a value, e.g. `ct state invalid`."""
    return any(
        "match" in statement
        and statement["match"]["left"].get(kind, {}).get("key") == key
        and value in str(statement["match"]["right"])
        and statement["match"]["op"] != "!="
        for statement in rule
        if "match" not in statement or isinstance(statement["match"]["left"], dict)
    )


def _asks_fib(rule: Json) -> bool:
    """Whether a rule asks for packets whose source is not routed back."""
    return any(
        "match" in statement
        and isinstance(statement["match"]["left"], dict)
        and "saddr" in statement["match"]["left"].get("fib", {}).get("flags", ())
        and statement["match"]["right"] in {False, "0"}
        for statement in rule
    )


def _changed_bits(rules: Sequence[Json], kind: str) -> int:
    """Bits of a mark that rules change: `meta mark set …` or `ct mark set …`."""
    bits = 0
    for rule in rules:
        for statement in rule:
            mangle = statement.get("mangle") if isinstance(statement, dict) else None
            if mangle and mangle["key"].get(kind, {}).get("key") == "mark":
                bits |= _FULL ^ _kept(mangle["value"], kind)
    return bits


def _kept(value: Json, kind: str) -> int:
    """Bits of the mark that an expression leaves as they are."""
    match value:
        case {"meta": {"key": "mark"}} if kind == "meta":
            return _FULL
        case {"ct": {"key": "mark"}} if kind == "ct":
            return _FULL
        case {"&": [inner, int(mask)]}:
            return _kept(inner, kind) & mask
        case {"|": [inner, int(set_)]} | {"^": [inner, int(set_)]}:
            return _kept(inner, kind) & (_FULL ^ set_)
        case _:
            return 0
