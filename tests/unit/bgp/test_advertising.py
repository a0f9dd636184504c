"""When our prefixes are advertised, on a clock of the test's own."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest

from bgp.advertising import AdvertisePolicy, AdvertiseWhen, Facts, Gate

WELL = Facts((), {"web-cache": 2, "70": 1})
NO_FORWARDING = replace(WELL, cannot_forward=("net.ipv4.ip_forward is 0",))
NO_CACHES = replace(WELL, usable_caches={"web-cache": 0, "70": 1})
POLICY = AdvertisePolicy(
    AdvertiseWhen.REDIRECTING, 1, fail_seconds=3, recover_seconds=10, patience_seconds=30
)


def gate(when: AdvertiseWhen = AdvertiseWhen.REDIRECTING, quorum: int = 1, **more: bool) -> Gate:
    return Gate(replace(POLICY, when=when, quorum=quorum), 0.0, **more)


@pytest.mark.parametrize(
    ("when", "facts", "advertised"),
    [
        (AdvertiseWhen.ALWAYS, NO_FORWARDING, True),
        (AdvertiseWhen.ALWAYS, NO_CACHES, True),
        (AdvertiseWhen.FORWARDING, WELL, True),
        (AdvertiseWhen.FORWARDING, NO_CACHES, True),
        (AdvertiseWhen.FORWARDING, NO_FORWARDING, False),
        (AdvertiseWhen.REDIRECTING, WELL, True),
        (AdvertiseWhen.REDIRECTING, NO_CACHES, False),
        (AdvertiseWhen.REDIRECTING, NO_FORWARDING, False),
    ],
)
def test_each_condition_asks_for_what_it_says(when: AdvertiseWhen, facts: Facts, advertised: bool) -> None:
    tried = gate(when)
    tried.judge(facts, 0.0)
    assert tried.judge(facts, 30.0).advertise is advertised


def test_every_service_needs_its_quorum() -> None:
    tried = gate(quorum=2)
    tried.judge(WELL, 0.0)
    decision = tried.judge(WELL, 30.0)
    assert decision.advertise is False
    assert decision.reason == "service 70 has 1 usable caches, the quorum is 2"
    assert gate(quorum=2).judge(replace(WELL, usable_caches={"web-cache": 2, "70": 2}), 0.0).advertise


def test_a_start_in_good_order_advertises_at_once() -> None:
    assert gate().judge(WELL, 0.0).advertise is True


def test_after_a_start_nothing_is_decided_while_caches_may_still_return() -> None:
    tried = gate()
    assert tried.judge(NO_CACHES, 0.0).advertise is None
    assert tried.next_deadline() == 30.0
    assert tried.judge(NO_CACHES, 29.9).advertise is None
    assert tried.judge(WELL, 29.95).advertise is True
    other = gate()
    other.judge(NO_CACHES, 0.0)
    assert other.judge(NO_CACHES, 30.0).advertise is False


def test_a_short_failure_is_not_answered_and_a_lasting_one_is() -> None:
    tried = gate()
    tried.judge(WELL, 0.0)
    assert tried.judge(NO_CACHES, 10.0).advertise is True
    assert tried.next_deadline() == 13.0
    assert tried.judge(WELL, 12.9).advertise is True
    assert tried.judge(NO_CACHES, 20.0).advertise is True
    assert tried.judge(NO_CACHES, 23.0).advertise is False
    assert tried.next_deadline() == inf


def test_after_a_withdrawal_all_must_be_well_without_interruption() -> None:
    tried = gate()
    tried.judge(WELL, 0.0)
    tried.judge(NO_CACHES, 1.0)
    tried.judge(NO_CACHES, 4.0)
    assert tried.judge(WELL, 5.0).advertise is False
    assert tried.next_deadline() == 15.0
    tried.judge(NO_CACHES, 14.0)
    assert tried.judge(WELL, 16.0).advertise is False
    assert tried.judge(WELL, 25.9).advertise is False
    assert tried.judge(WELL, 26.0).advertise is True


def test_caches_that_flap_every_second_cost_at_most_one_withdrawal() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    tried = gate()
    changes, last = 0, tried.judge(WELL, 0.0).advertise
    for second in range(1, 2000):
        decision = tried.judge(NO_CACHES if chance.random() < 0.5 else WELL, float(second)).advertise
        changes += decision is not last
        last = decision
    # Ten good seconds in a row, and then four bad ones, come by chance now and then; single seconds never count.
    assert changes <= 2 * 2000 / 13


def test_drain_and_undrain_count_at_once_whatever_the_facts() -> None:
    tried = gate()
    tried.judge(WELL, 0.0)
    tried.drain(True, 1.0)
    decision = tried.judge(WELL, 1.0)
    assert (decision.advertise, decision.reason) == (False, "drained by the operator")
    tried.drain(False, 2.0)
    assert tried.judge(WELL, 2.0).advertise is True


def test_a_drained_router_stays_so_over_a_restart() -> None:
    assert gate(drained=True).judge(WELL, 0.0).advertise is False


def test_another_policy_counts_from_the_next_judgement_on_and_keeps_what_was_decided() -> None:
    tried = gate(AdvertiseWhen.FORWARDING)
    assert tried.judge(NO_CACHES, 0.0).advertise
    tried.reconfigure(POLICY)
    assert tried.judge(NO_CACHES, 1.0).advertise, "not before fail_seconds are over"
    assert tried.judge(NO_CACHES, 4.0).advertise is False
    tried.reconfigure(replace(POLICY, when=AdvertiseWhen.FORWARDING, recover_seconds=0))
    assert tried.judge(NO_CACHES, 5.0).advertise
