"""What others have in nftables and among the policy rules that takes packets from us. Pure: facts in, findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.doctor.findings import Finding, Severity, ok, unread
from wccpd.doctor.foreign import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wccpd.doctor.facts import Facts, RuleFact

BASE_PRIORITY = -150
"""Of our own chains in nftables."""
_LOCAL_TABLE = 255


def check_foreign_tables(facts: Facts) -> Iterator[Finding]:
    """Nobody else's nftables chains drop or mark what is ours."""
    if facts.host.has_nft is None:
        yield unread(facts, "nftables", "nft")
        return
    found = tuple(finding for judge in _JUDGES for finding in judge(facts))
    yield from found
    if facts.host.legacy_iptables:
        tables = ", ".join(facts.host.legacy_iptables)
        yield Finding(
            "nftables",
            Severity.WARNING,
            f"old iptables has rules ({tables}), which are not looked at here",
            "look at iptables-legacy-save yourself, or move them to nftables",
        )
    if not found:
        others = len(facts.host.foreign_chains)
        yield ok("nftables", f"{others} chains of others, none of which drops or marks what is ours")


def _judge_transit(facts: Facts) -> Iterator[Finding]:
    for chain in facts.host.foreign_chains:
        if (
            chain.hook in {"forward", "prerouting", "postrouting", "ingress"}
            and chain.transit is not Fate.PASSES
        ):
            surely = chain.transit is Fate.DROPS
            yield Finding(
                "nftables",
                Severity.FAULT if surely else Severity.WARNING,
                f"{chain.words} {'drops' if surely else 'may drop'} packets that are forwarded or redirected",
                f"nft list chain {chain.table} {chain.name}; accept there what comes in by "
                f"{', '.join(facts.wanted.ingress)} and what caches return",
            )
        if chain.drops_invalid and chain.hook in {"forward", "prerouting", "postrouting"}:
            yield Finding(
                "nftables",
                Severity.WARNING,
                f"{chain.words} drops what is `ct state invalid`: of a redirected flow the host may see one half only",
                f"accept packets of {', '.join(facts.wanted.ingress)} and of caches before that rule",
            )
        if chain.drops_unrouted:
            yield Finding(
                "nftables",
                Severity.FAULT,
                f"{chain.words} drops packets whose source is not routed back by their device, as rp_filter does: "
                "what caches return under the addresses of servers",
                "except the devices of caches and tunnels from that rule",
            )


def _judge_marks(facts: Facts) -> Iterator[Finding]:
    ours = facts.wanted.marks_mask
    for chain in facts.host.foreign_chains:
        after_ours = chain.hook in {"forward", "postrouting"} or (
            chain.hook == "prerouting" and chain.priority >= BASE_PRIORITY
        )
        if chain.marks & ours and after_ours:
            yield Finding(
                "nftables",
                Severity.FAULT,
                f"{chain.words} changes bits {chain.marks & ours:#x} of the packet mark, which are ours: "
                "redirected packets lose their way",
                f"set only other bits there (`meta mark set meta mark & {ours:#x} | …`), or: kernel.mark_shift",
            )
        if chain.connection_marks & ours and facts.wanted.has_affinity:
            yield Finding(
                "nftables",
                Severity.FAULT,
                f"{chain.words} changes bits {chain.connection_marks & ours:#x} of the connection mark, which are "
                "ours: flows lose their cache",
                f"set only other bits there (`ct mark set ct mark & {ours:#x} | …`), or: kernel.mark_shift",
            )
        if chain.untracks and facts.wanted.has_affinity:
            yield Finding(
                "nftables",
                Severity.WARNING,
                f"{chain.words} takes packets out of connection tracking: their flows are not held to a cache",
                "except what comes in by the ingress devices, or set affinity: false",
            )


def _judge_input(facts: Facts) -> Iterator[Finding]:
    wants_gre = bool(facts.wanted.tunnels) or facts.wanted.sends_gre
    for chain in facts.host.foreign_chains:
        if chain.hook != "input":
            continue
        for what, fate, remedy, wanted in (
            ("UDP port 2048, WCCP", chain.wccp, "udp dport 2048 accept", True),
            ("protocol 47, GRE", chain.gre, "ip protocol gre accept", wants_gre),
        ):
            if wanted and fate is not Fate.PASSES:
                surely = fate is Fate.DROPS
                yield Finding(
                    "local firewall",
                    Severity.FAULT if surely else Severity.WARNING,
                    f"{chain.words} {'drops' if surely else 'may drop'} {what}",
                    f"nft insert rule {chain.table} {chain.name} {remedy}",
                )


_JUDGES = (_judge_transit, _judge_marks, _judge_input)


def check_rules(facts: Facts) -> Iterator[Finding]:
    """Nobody's policy rule takes redirected packets before ours do."""
    if "rules" in facts.host.unread:
        yield unread(facts, "ip rules", "rules")
        return
    found = False
    for rule in facts.host.rules:
        if not _catches(rule, facts) or not facts.wanted.is_netlink:
            continue
        found = True
        every = not rule.selector
        mark = f" with fwmark {rule.mark:#x}/{rule.mask or 0xFFFFFFFF:#x}" if rule.mark is not None else ""
        yield Finding(
            "ip rules",
            Severity.FAULT if every else Severity.WARNING,
            f"ip rule {rule.priority} ({rule.selector or 'from all'}{mark} lookup {rule.table}) comes before ours "
            f"({facts.wanted.rule_priority + 1} and up) and may take redirected packets elsewhere",
            f"give it a priority above {facts.wanted.rule_priority + 255}, or lower kernel.rule_priority",
        )
    if not found:
        yield ok("ip rules", "none before ours could take a redirected packet")


def _catches(rule: RuleFact, facts: Facts) -> bool:
    """Whether a redirected packet may meet the rule before ours."""
    if rule.priority > facts.wanted.rule_priority or rule.table == _LOCAL_TABLE:
        return False
    if rule.mark is None:
        return True
    mask = 0xFFFFFFFF if rule.mask is None else rule.mask
    foreign = rule.mark & mask & ~facts.wanted.marks_mask
    # It asks for a bit that is not ours to be set: then somebody else has marked the packet.
    return not foreign and bool(mask & facts.wanted.slot_mask) == bool(rule.mark & facts.wanted.slot_mask)
