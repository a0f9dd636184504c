"""The table of paths on a clock of the test's own."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from math import inf

import pytest

from bgp.events import (
    NextHop,
    PathAttributes,
    PathLearned,
    PathUnreadable,
    PathWithdrawn,
    PeerStateChanged,
    PrefixRule,
    RouteSet,
    SessionState,
)
from bgp.rib import RefusalReason, Rib, RibPolicy

A1, A2, B1, B2 = (IPv4Address(each) for each in ("169.254.6.2", "169.254.6.3", "169.254.7.2", "169.254.7.3"))
STRANGER = IPv4Address("169.254.8.2")
TUN_A, TUN_B = NextHop("tun-a"), NextHop("tun-b")
NEXT_HOPS = {A1: TUN_A, A2: TUN_A, B1: TUN_B, B2: TUN_B}
TEN_ONE, TEN_TWO = IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16")
POLICY = RibPolicy(
    accepted=(PrefixRule(IPv4Network("10.0.0.0/8"), 8, 28), PrefixRule(IPv4Network("100.64.0.0/10"), 10, 28)),
)
SHORT = PathAttributes((64512,), 1)
LONG = PathAttributes((64512, 65001), 2)


def fresh(policy: RibPolicy = POLICY) -> Rib:
    return Rib(policy, NEXT_HOPS)


def learn(
    rib: Rib,
    *where: IPv4Address,
    prefix: IPv4Network = TEN_ONE,
    path: PathAttributes = SHORT,
    at: float = 0.0,
):
    for neighbour in where:
        rib.handle(PathLearned(neighbour, prefix, path), at)


def state(rib: Rib, neighbour: IPv4Address, now: SessionState, at: float = 0.0) -> None:
    rib.handle(PeerStateChanged(neighbour, now), at)


def all_up(rib: Rib, at: float = 0.0) -> None:
    for neighbour in NEXT_HOPS:
        state(rib, neighbour, SessionState.ESTABLISHED, at)


def hops(rib: Rib, prefix: IPv4Network = TEN_ONE) -> set[NextHop]:
    return set(rib.route_set().routes.get(prefix, ()))


def test_two_sessions_of_one_tunnel_are_one_way_out() -> None:
    rib = fresh()
    learn(rib, A1, A2)
    assert hops(rib) == {TUN_A}
    learn(rib, B1)
    assert hops(rib) == {TUN_A, TUN_B}


def test_the_shorter_as_path_wins_over_the_lower_med() -> None:
    rib = fresh()
    learn(rib, A1, path=PathAttributes((64512,), 1, med=500))
    learn(rib, B1, path=PathAttributes((64512, 65001), 2, med=0))
    assert hops(rib) == {TUN_A}


def test_among_equal_paths_the_lower_med_wins_and_none_counts_as_zero() -> None:
    rib = fresh()
    learn(rib, A1, path=PathAttributes((64512,), 1, med=100))
    learn(rib, B1, path=PathAttributes((64512,), 1))
    assert hops(rib) == {TUN_B}
    learn(rib, A1, path=PathAttributes((64512,), 1, med=0))
    assert hops(rib) == {TUN_A, TUN_B}


def test_a_withdrawal_leaves_the_next_best() -> None:
    rib = fresh()
    learn(rib, A1, path=SHORT)
    learn(rib, B1, path=LONG)
    rib.handle(PathWithdrawn(A1, TEN_ONE), 1.0)
    assert hops(rib) == {TUN_B}
    rib.handle(PathWithdrawn(B1, TEN_ONE), 1.0)
    assert TEN_ONE not in rib.route_set().routes


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (IPv4Network("0.0.0.0/0"), RefusalReason.DEFAULT_ROUTE),
        (IPv6Network("::/0"), RefusalReason.DEFAULT_ROUTE),
        (IPv4Network("192.0.2.0/24"), RefusalReason.NOT_ACCEPTED),
        (IPv4Network("10.1.1.0/30"), RefusalReason.NOT_ACCEPTED),
        (IPv6Network("2001:db8::/32"), RefusalReason.NOT_ACCEPTED),
    ],
    ids=str,
)
def test_a_prefix_that_may_not_be_learned_is_refused_with_its_reason(prefix, reason: RefusalReason) -> None:
    rib = fresh()
    learn(rib, A1, prefix=prefix)
    view = rib.view()
    assert not view.routes
    assert [(each.prefix, each.neighbour, each.reason) for each in view.refused] == [(prefix, A1, reason)]
    assert view.refused_total == {reason: 1}
    rib.handle(PathWithdrawn(A1, prefix), 1.0)
    assert not rib.view().refused
    assert rib.view().refused_total == {reason: 1}


def test_a_neighbour_that_we_do_not_know_teaches_us_nothing() -> None:
    rib = fresh()
    learn(rib, STRANGER)
    state(rib, STRANGER, SessionState.ESTABLISHED)
    rib.handle(PathWithdrawn(STRANGER, TEN_TWO), 0.0)
    assert not rib.route_set().routes
    assert rib.view().refused_total == {RefusalReason.UNKNOWN_NEIGHBOUR: 1}


def test_an_unreadable_path_is_counted() -> None:
    rib = fresh()
    rib.handle(PathUnreadable("neighbour: what"), 0.0)
    assert rib.view().refused_total == {RefusalReason.UNREADABLE: 1}


def test_a_neighbour_can_fill_only_its_own_share_of_the_table() -> None:
    rib = fresh(RibPolicy(POLICY.accepted, max_prefixes=2))
    for third in range(4):
        learn(rib, A1, prefix=IPv4Network(f"10.9.{third}.0/24"))
    learn(rib, B1)
    learn(rib, A1, prefix=IPv4Network("10.9.0.0/24"), path=LONG)
    assert len(rib.route_set().routes) == 3
    assert rib.view().refused_total == {RefusalReason.TOO_MANY: 2}


def test_refused_prefixes_are_remembered_in_a_bounded_number() -> None:
    rib = fresh()
    for number in range(1200):
        learn(rib, A1, prefix=IPv4Network((0xC0000000 + (number << 8), 24)))
    assert len(rib.view().refused) == 1000
    assert rib.view().refused_total == {RefusalReason.NOT_ACCEPTED: 1200}


def test_a_lost_session_counts_at_once_before_its_withdrawals_come() -> None:
    rib = fresh()
    all_up(rib)
    learn(rib, A1, A2, B1)
    state(rib, A1, SessionState.IDLE)
    assert hops(rib) == {TUN_A, TUN_B}
    state(rib, A2, SessionState.ACTIVE)
    assert hops(rib) == {TUN_B}
    state(rib, B1, SessionState.IDLE)
    assert not rib.route_set().routes


def test_a_late_report_of_the_loss_does_not_cost_the_paths_of_the_new_session() -> None:
    rib = fresh()
    all_up(rib)
    learn(rib, A1)
    rib.handle(PathWithdrawn(A1, TEN_ONE), 1.0)
    learn(rib, A1, at=2.0)
    state(rib, A1, SessionState.IDLE, 3.0)
    state(rib, A1, SessionState.ESTABLISHED, 3.0)
    assert hops(rib) == {TUN_A}


def test_routes_outlive_the_stream_and_are_swept_when_all_tables_are_in() -> None:
    rib = fresh()
    all_up(rib)
    learn(rib, A1, B1)
    learn(rib, A1, prefix=TEN_TWO)
    rib.stream_lost(100.0)
    assert rib.view().stale_paths == 3
    rib.stream_opened(110.0)
    for neighbour in NEXT_HOPS:
        state(rib, neighbour, SessionState.IDLE, 110.0)
    assert hops(rib, TEN_TWO) == {TUN_A}, "a session that is not up yet is no loss"
    all_up(rib, 115.0)
    learn(rib, A1, B1, at=116.0)
    assert rib.next_deadline() == 121.0
    rib.tick(120.9)
    assert hops(rib, TEN_TWO) == {TUN_A}
    rib.tick(121.0)
    assert rib.route_set().routes.keys() == {TEN_ONE}
    assert (rib.view().stale_paths, rib.next_deadline()) == (0, inf)


def test_relearning_the_same_paths_changes_nothing_on_the_way() -> None:
    rib = fresh()
    learn(rib, A1, A2, B1, B2)
    before = rib.route_set()
    rib.stream_lost(1.0)
    rib.stream_opened(2.0)
    for neighbour in NEXT_HOPS:
        state(rib, neighbour, SessionState.ESTABLISHED, 3.0)
        learn(rib, neighbour, at=3.0)
        assert rib.route_set() is before


def test_a_neighbour_that_does_not_return_delays_the_sweep_only_so_long() -> None:
    rib = fresh()
    learn(rib, A1, B1)
    rib.stream_lost(100.0)
    rib.stream_opened(110.0)
    state(rib, A1, SessionState.ESTABLISHED, 111.0)
    learn(rib, A1, at=111.0)
    assert rib.next_deadline() == 170.0
    rib.tick(170.0)
    assert hops(rib) == {TUN_A}


def test_without_gobgpd_the_routes_go_after_a_bounded_time() -> None:
    rib = fresh()
    learn(rib, A1)
    rib.stream_lost(100.0)
    rib.stream_lost(200.0)
    assert rib.next_deadline() == 400.0
    rib.tick(400.0)
    assert not rib.route_set().routes


def test_a_second_loss_after_everything_was_relearned_has_its_full_time() -> None:
    rib = fresh()
    learn(rib, A1)
    rib.stream_lost(100.0)
    rib.stream_opened(110.0)
    learn(rib, A1, at=111.0)
    rib.stream_lost(1000.0)
    assert rib.next_deadline() == 1300.0


def test_a_session_lost_while_paths_are_stale_takes_them_along() -> None:
    rib = fresh()
    learn(rib, A1, B1)
    rib.stream_lost(1.0)
    rib.stream_opened(2.0)
    state(rib, A1, SessionState.ESTABLISHED, 3.0)
    state(rib, A1, SessionState.IDLE, 4.0)
    assert hops(rib) == {TUN_B}
    rib.stream_lost(5.0)
    learn(rib, B1, at=6.0)
    assert hops(rib) == {TUN_B}, "and they do not come back with the next break of the stream"


def test_routes_adopted_from_the_kernel_stay_as_they_are_until_the_tables_are_in() -> None:
    rib = fresh()
    foreign = NextHop("eth9")
    found = {
        TEN_ONE: frozenset({TUN_A, TUN_B}),
        TEN_TWO: frozenset({TUN_A, foreign}),
        IPv4Network("192.0.2.0/24"): frozenset({TUN_A}),
    }
    rib.adopt(RouteSet.of(found), 0.0)
    assert rib.route_set().routes == {TEN_ONE: {TUN_A, TUN_B}, TEN_TWO: {TUN_A}}
    assert all(each.stale for each in rib.view().routes)
    rib.stream_opened(1.0)
    all_up(rib, 1.0)
    learn(rib, A1, at=1.0)
    assert hops(rib) == {TUN_A, TUN_B}, "half a table is no reason to move"
    rib.tick(6.0)
    assert rib.route_set().routes == {TEN_ONE: {TUN_A}}


def test_an_adopted_route_leaves_a_tunnel_whose_sessions_are_lost() -> None:
    rib = fresh()
    rib.adopt(RouteSet.of({TEN_ONE: frozenset({TUN_A, TUN_B})}), 0.0)
    rib.stream_opened(0.0)
    all_up(rib)
    state(rib, A1, SessionState.IDLE)
    state(rib, A2, SessionState.IDLE)
    assert hops(rib) == {TUN_B}


def test_reconfiguring_drops_what_is_no_longer_allowed_and_moves_what_is_mapped_anew() -> None:
    rib = fresh()
    learn(rib, A1, B1)
    learn(rib, A1, prefix=IPv4Network("100.64.1.0/24"))
    moved = NextHop("tun-c")
    rib.reconfigure(RibPolicy((PrefixRule(IPv4Network("10.0.0.0/8"), 8, 28),)), {A1: moved})
    assert rib.route_set().routes == {TEN_ONE: {moved}}
    learn(rib, B1)
    assert hops(rib) == {moved}


def test_an_unchanged_table_gives_the_same_object() -> None:
    rib = fresh()
    learn(rib, A1)
    before = rib.route_set()
    assert not rib.changed()
    learn(rib, A1)
    assert not rib.changed()
    state(rib, B1, SessionState.ESTABLISHED)
    state(rib, B1, SessionState.IDLE)
    assert rib.changed(), "a loss makes it choose anew, with the same outcome"
    assert rib.route_set() is before


def test_random_events_leave_what_a_plain_recount_gives() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rib = fresh()
    all_up(rib)
    truth: dict[tuple[IPv4Network, IPv4Address], PathAttributes] = {}
    prefixes = [IPv4Network(f"10.{number}.0.0/16") for number in range(5)]
    for step in range(3000):
        neighbour, prefix = chance.choice(tuple(NEXT_HOPS)), chance.choice(prefixes)
        if chance.random() < 0.6:
            path = PathAttributes((), chance.randrange(1, 4), chance.choice([None, 0, 10]))
            truth[prefix, neighbour] = path
            learn(rib, neighbour, prefix=prefix, path=path, at=float(step))
        else:
            truth.pop((prefix, neighbour), None)
            rib.handle(PathWithdrawn(neighbour, prefix), float(step))
        expected = {}
        for each in prefixes:
            paths = {
                who: (path.as_path_length, path.med or 0)
                for (what, who), path in truth.items()
                if what == each
            }
            if paths:
                expected[each] = {
                    NEXT_HOPS[who] for who, rank in paths.items() if rank == min(paths.values())
                }
        assert rib.route_set().routes == expected
