"""What is read out of other people's chains, from nft's own listings of them."""

from __future__ import annotations

import json
from typing import Any

import nftables
import pytest

from tests.support.namespaces import Namespace
from wccpd.doctor.foreign import Fate, ForeignChain, read_chains

pytestmark = pytest.mark.netns
HOOK = "type filter hook {} priority {}; policy {};"


def listing(rules: str) -> list[Any]:
    """What nft lists of a ruleset, made in a namespace of its own."""
    with Namespace("foreign") as namespace:

        def make() -> list[Any]:
            context = nftables.Nftables()
            context.set_json_output(True)
            code, _, error = context.cmd(rules)
            assert code == 0, error
            code, output, error = context.cmd("list ruleset")
            assert code == 0, error
            return [item for item in json.loads(output)["nftables"] if "metainfo" not in item]

        return namespace.call(make)


def only(hook: str, *rules: str, policy: str = "accept", priority: str = "0", more: str = "") -> ForeignChain:
    text = f"add table inet t; {more} add chain inet t c {{ {HOOK.format(hook, priority, policy)} }};"
    (found,) = read_chains(listing(text + "".join(f"add rule inet t c {rule};" for rule in rules)), "wccpd")
    return found


@pytest.mark.parametrize(
    ("rules", "policy", "wccp", "gre"),
    [
        ((), "accept", Fate.PASSES, Fate.PASSES),
        ((), "drop", Fate.DROPS, Fate.DROPS),
        (("tcp dport 22 accept",), "drop", Fate.DROPS, Fate.DROPS),
        (("udp dport 2048 accept", "ip protocol gre accept"), "drop", Fate.PASSES, Fate.PASSES),
        (("udp dport { 53, 2000-2100 } accept",), "drop", Fate.PASSES, Fate.DROPS),
        (("meta l4proto { tcp, gre } accept",), "drop", Fate.DROPS, Fate.PASSES),
        (("ct state established accept",), "drop", Fate.MAY_DROP, Fate.MAY_DROP),
        (("udp dport 2048 drop",), "accept", Fate.DROPS, Fate.PASSES),
        (("udp dport != 2048 drop",), "accept", Fate.PASSES, Fate.PASSES),
        (("iif lo accept", "udp dport 2048 drop"), "accept", Fate.MAY_DROP, Fate.PASSES),
        (("ip saddr 192.0.2.0/24 drop", "accept"), "drop", Fate.MAY_DROP, Fate.MAY_DROP),
        (("reject",), "accept", Fate.DROPS, Fate.DROPS),
        (("ct state vmap { established : accept, invalid : drop }",), "accept", Fate.MAY_DROP, Fate.MAY_DROP),
        (("ct state vmap { established : accept }",), "drop", Fate.MAY_DROP, Fate.MAY_DROP),
        (("limit rate 5/second accept",), "drop", Fate.MAY_DROP, Fate.MAY_DROP),
    ],
)
def test_what_an_input_chain_does_with_wccp_and_gre(
    rules: tuple[str, ...], policy: str, wccp: Fate, gre: Fate
) -> None:
    found = only("input", *rules, policy=policy)
    assert (found.wccp, found.gre) == (wccp, gre)


def test_chains_that_are_jumped_to_are_followed() -> None:
    more = "add chain inet t wanted; add rule inet t wanted udp dport 2048 accept; "
    found = only("input", "jump wanted", policy="drop", more=more)
    assert (found.wccp, found.gre) == (Fate.PASSES, Fate.DROPS)
    more = "add chain inet t no; add rule inet t no drop; "
    assert only("input", "udp dport 2048 goto no", more=more).wccp is Fate.DROPS


@pytest.mark.parametrize(
    ("rule", "bits"),
    [
        ("meta mark set 0x1", 0xFFFFFFFF),
        ("meta mark set meta mark | 0x1000000", 0x01000000),
        ("meta mark set meta mark & 0xffffff00", 0xFF),
        ("meta mark set meta mark & 0xffffff00 | 0x80", 0xFF),
        ("meta mark set ct mark", 0xFFFFFFFF),
        ("counter", 0),
    ],
)
def test_which_bits_of_the_packet_mark_a_rule_changes(rule: str, bits: int) -> None:
    assert only("prerouting", rule).marks == bits


def test_which_bits_of_the_connection_mark_a_rule_changes() -> None:
    found = only("forward", "ct mark set ct mark | 0x2")
    assert (found.connection_marks, found.marks) == (2, 0)


def test_what_else_hurts_a_redirect_is_seen() -> None:
    assert only("forward", "ct state invalid drop").drops_invalid
    assert not only("forward", "ct state invalid counter").drops_invalid
    assert only("forward", "ct state vmap { new : accept, invalid : drop }").drops_invalid
    assert only("prerouting", "fib saddr . iif oif missing drop", priority="-300").drops_unrouted
    assert not only("prerouting", "fib daddr type local drop").drops_unrouted
    assert only("prerouting", "notrack", priority="-300").untracks


def test_our_own_table_and_those_without_hooks_are_left_out() -> None:
    rules = f"add table ip wccpd; add chain ip wccpd pre {{ {HOOK.format('prerouting', '-150', 'accept')} }};"
    assert read_chains(listing(rules + "add table ip other; add chain ip other c;"), "wccpd") == ()


def test_a_match_of_iptables_is_not_taken_for_no_condition() -> None:
    chain = {
        "family": "ip",
        "table": "filter",
        "name": "INPUT",
        "hook": "input",
        "prio": 0,
        "policy": "accept",
    }
    rule = {"family": "ip", "table": "filter", "chain": "INPUT", "expr": [{"xt": None}, {"drop": None}]}
    (found,) = read_chains([{"chain": chain}, {"rule": rule}], "wccpd")
    assert (found.wccp, found.gre) == (Fate.MAY_DROP, Fate.MAY_DROP)
