"""The speaker against a fake gobgpd of both API generations.

A GoBGP 4 is not packaged for the systems that we test on: here its place is taken by a server made from our own
table, which proves that the speaker works over that API as we understand it, and no more. GoBGP 3 is tested for
real in tests/netns/test_bgp_sidecar.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from bgp.client import Client
from bgp.errors import SidecarIncompatible, SidecarRefused, SidecarTimedOut, SidecarUnreachable
from bgp.events import Advertisement, PeerSpec, PrefixRule, SessionState, SpeakerSpec, SpeakerState
from bgp.rib import Rib, RibPolicy
from bgp.schema import Api
from bgp.speaker import Speaker, SpeakerTiming
from tests.unit.bgp.fake_gobgpd import FakeGobgpd

ACCEPTED = (PrefixRule(IPv4Network("10.0.0.0/8"), 8, 28),)
PEERS = tuple(
    PeerSpec(IPv4Address(f"169.254.6.{host}"), 64512, IPv4Address("169.254.6.1"), "tun-a") for host in (2, 3)
)
SPEC = SpeakerSpec(
    64513, IPv4Address("192.0.2.1"), PEERS, (Advertisement(IPv4Network("0.0.0.0/0")),), ACCEPTED
)
TIMING = SpeakerTiming(
    first_backoff_seconds=0.02, longest_backoff_seconds=0.1, probe_seconds=0.1, deadline_seconds=0.4
)


@pytest.fixture(params=list(Api), ids=lambda api: api.value)
async def gobgpd(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FakeGobgpd]:
    fake = FakeGobgpd(request.param, tmp_path / "api.sock")
    await fake.start()
    yield fake
    fake.answer()
    await fake.stop()


@asynccontextmanager
async def speaking(
    gobgpd: FakeGobgpd, spec: SpeakerSpec = SPEC, timing: SpeakerTiming = TIMING
) -> AsyncIterator[tuple[Speaker, Rib]]:
    rib = Rib(RibPolicy(ACCEPTED, max_prefixes=100_000), spec.next_hops())
    speaker = Speaker(spec, gobgpd.socket, rib, lambda: None, timing=timing)
    async with asyncio.TaskGroup() as group:
        group.create_task(speaker.run(), name="speaker")
        try:
            yield speaker, rib
        finally:
            gobgpd.answer()
            await speaker.close()


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)


def is_running(speaker: Speaker) -> bool:
    return speaker.view().state is SpeakerState.RUNNING


async def test_an_empty_gobgpd_is_configured_policies_before_peers(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(
            lambda: all(each.state is SessionState.ESTABLISHED for each in speaker.view().sessions)
        )
        view = speaker.view()
        assert (view.state, view.reason, view.api) == (SpeakerState.RUNNING, "", gobgpd.api.value)
        assert view.configured == 1
    assert (gobgpd.running.asn, gobgpd.running.router_id, gobgpd.running.listen_port) == (
        64513,
        "192.0.2.1",
        179,
    )
    assert gobgpd.verbs[0] == "StartBgp"
    assert gobgpd.verbs[-2:] == ["AddPeer", "AddPeer"]
    assert not gobgpd.paths, "nothing is advertised before somebody decides"


async def test_the_policies_admit_local_routes_and_accepted_ranges_and_nothing_else(
    gobgpd: FakeGobgpd,
) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
    numbers = gobgpd.convert.numbers
    for direction in (numbers.direction_import, numbers.direction_export):
        assert gobgpd.assignments[direction].default_action == numbers.reject
    (imports,) = (
        gobgpd.policies[each.name] for each in gobgpd.assignments[numbers.direction_import].policies
    )
    local, spokes = imports.statements
    assert local.conditions.route_type == numbers.route_local
    (entry,) = gobgpd.sets[spokes.conditions.prefix_set.name].prefixes
    assert (entry.ip_prefix, entry.mask_length_min, entry.mask_length_max) == ("10.0.0.0/8", 8, 28)
    (exports,) = (
        gobgpd.policies[each.name] for each in gobgpd.assignments[numbers.direction_export].policies
    )
    (only,) = exports.statements
    (entry,) = gobgpd.sets[only.conditions.prefix_set.name].prefixes
    assert (entry.ip_prefix, entry.mask_length_min, entry.mask_length_max) == ("0.0.0.0/0", 0, 0)
    assert {each.actions.route_action for each in (local, spokes, only)} == {numbers.accept}


async def test_a_configured_gobgpd_is_adopted_without_a_change(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        assert await speaker.advertise(True)
    gobgpd.verbs.clear()
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
        await eventually(lambda: speaker.view().sessions[0].state is SessionState.ESTABLISHED)
    assert gobgpd.verbs == []
    assert len(gobgpd.paths) == 1, "what it advertised it still advertises"


async def test_deciding_advertises_and_withdraws_and_may_be_repeated(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        for _ in range(2):
            assert await speaker.advertise(True)
            assert len(gobgpd.paths) == 1
        for _ in range(2):
            assert await speaker.withdraw()
            assert not gobgpd.paths
        assert (speaker.view().wanted, speaker.view().advertised) == (False, False)


async def test_a_gobgpd_restarted_empty_is_told_again_what_is_wanted(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        assert await speaker.advertise(True)
        await gobgpd.stop()
        await eventually(lambda: speaker.view().state is SpeakerState.UNREACHABLE)
        assert "is not there" in speaker.view().reason
        gobgpd.forget()
        await gobgpd.start()
        await eventually(lambda: len(gobgpd.peers) == 2 and len(gobgpd.paths) == 1)
        await eventually(lambda: is_running(speaker))
        assert speaker.view().configured == 2


async def test_a_gobgpd_emptied_behind_an_unbroken_connection_is_told_again(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        assert await speaker.advertise(True)
        gobgpd.forget()
        await eventually(lambda: len(gobgpd.peers) == 2 and len(gobgpd.paths) == 1)
        assert speaker.view().configured == 2


async def test_a_gobgpd_that_lost_a_peer_gets_it_back(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: len(gobgpd.peers) == 2)
        await eventually(lambda: is_running(speaker))
        gobgpd.peers.popitem()
        await eventually(lambda: len(gobgpd.peers) == 2)


async def test_a_foreign_peer_is_removed_and_a_changed_one_replaced(gobgpd: FakeGobgpd) -> None:
    foreign = replace(PEERS[0], address=IPv4Address("169.254.99.2"))
    slow = replace(PEERS[0], hold_time_seconds=90)
    async with speaking(gobgpd, replace(SPEC, peers=(foreign, slow, PEERS[1]))) as (speaker, _):
        await eventually(lambda: is_running(speaker))
    gobgpd.verbs.clear()
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
    assert gobgpd.verbs == ["DeletePeer", "DeletePeer", "AddPeer"]
    assert gobgpd.peers["169.254.6.2"].timers.config.hold_time == 30


async def test_other_ranges_replace_the_policies_and_leave_no_old_ones(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
        old = set(gobgpd.policies)
        gobgpd.verbs.clear()
        speaker.reconfigure(replace(SPEC, accepted=(PrefixRule(IPv4Network("10.8.0.0/16"), 16, 28),)))
        await eventually(lambda: "ResetPeer" in gobgpd.verbs)
        assert len(gobgpd.policies) == 2
        assert len(gobgpd.policies.keys() - old) == 1
        assert len(gobgpd.sets) == 2
        assert is_running(speaker)


async def test_no_longer_advertised_prefixes_are_withdrawn(gobgpd: FakeGobgpd) -> None:
    two = (Advertisement(IPv4Network("0.0.0.0/1")), Advertisement(IPv4Network("128.0.0.0/1")))
    async with speaking(gobgpd, replace(SPEC, advertisements=two)) as (speaker, _):
        assert await speaker.advertise(True)
        assert len(gobgpd.paths) == 2
        speaker.reconfigure(replace(SPEC, advertisements=two[:1]))
        await eventually(lambda: len(gobgpd.paths) == 1)
        await eventually(lambda: speaker.view().advertised is True)


async def test_a_speaker_settles_when_gobgpd_has_taken_another_specification(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
        assert await speaker.settled() == ""
        speaker.reconfigure(replace(SPEC, peers=PEERS[:1]))
        assert await speaker.settled() == ""
        assert len(gobgpd.peers) == 1


async def test_a_speaker_that_cannot_settle_says_why(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
        gobgpd.hang()
        speaker.reconfigure(replace(SPEC, peers=PEERS[:1]))
        assert "does not answer" in await speaker.settled()


async def test_a_hung_gobgpd_is_noticed_and_used_again(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
        gobgpd.hang()
        await eventually(lambda: speaker.view().state is SpeakerState.UNREACHABLE, 2)
        assert "does not answer" in speaker.view().reason
        assert not await speaker.advertise(True, 0.1), "nobody confirmed"
        gobgpd.answer()
        await eventually(lambda: len(gobgpd.paths) == 1)


async def test_a_refused_configuration_is_said_in_words_and_tried_again(gobgpd: FakeGobgpd) -> None:
    gobgpd.refuses = {"StartBgp"}
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: speaker.view().state is SpeakerState.REFUSED)
        assert speaker.view().reason == "gobgpd refuses StartBgp: some prose"
        gobgpd.refuses = set()
        await eventually(lambda: is_running(speaker))


async def test_a_refused_peer_does_not_stop_the_rest(gobgpd: FakeGobgpd) -> None:
    gobgpd.refuses = {"AddPeer"}
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
        assert "refuses the peer 169.254.6.2" in speaker.view().reason
        assert await speaker.advertise(True)
        gobgpd.refuses = set()
        await eventually(lambda: speaker.view().reason == "")
        assert len(gobgpd.peers) == 2


async def test_another_asn_restarts_gobgp_3_and_asks_for_a_restart_of_gobgp_4(gobgpd: FakeGobgpd) -> None:
    async with speaking(gobgpd) as (speaker, _):
        await eventually(lambda: is_running(speaker))
    async with speaking(gobgpd, replace(SPEC, asn=64999)) as (speaker, _):
        if gobgpd.api is Api.V3:
            await eventually(lambda: is_running(speaker))
            assert gobgpd.running.asn == 64999
        else:
            await eventually(lambda: speaker.view().state is SpeakerState.REFUSED)
            assert "gobgpd runs as AS 64513" in speaker.view().reason
            assert "restart gobgpd" in speaker.view().reason


async def test_a_snapshot_beyond_grpcs_own_limit_is_taken_whole(gobgpd: FakeGobgpd) -> None:
    for number in range(45_000):
        path = gobgpd.convert.own_path(
            Advertisement(IPv4Network((0x0A000000 + (number << 8), 24)), 0, 10), 64512
        )
        path.neighbor_ip = str(PEERS[0].address)
        gobgpd.snapshot.append(path)
    whole = gobgpd.convert.request("WatchEventResponse", table={"paths": gobgpd.snapshot})
    assert whole.ByteSize() > 4 * 1024 * 1024
    # The fake packs it in this very event loop, where no call is answered meanwhile: deadlines as the daemon has them.
    async with speaking(gobgpd, timing=SpeakerTiming(deadline_seconds=10.0)) as (_, rib):
        await eventually(lambda: rib.announced_by(PEERS[0].address) == 45_000, 20)
        assert len(rib.route_set().routes) == 45_000


async def test_each_way_to_fail_has_its_own_error(gobgpd: FakeGobgpd, tmp_path: Path) -> None:
    with pytest.raises(SidecarUnreachable):
        await Client.connect(tmp_path / "nobody.sock", 0.5)
    client = await Client.connect(gobgpd.socket, 0.2)
    gobgpd.refuses = {"StopBgp"}
    with pytest.raises(SidecarRefused, match="StopBgp: refused \\(some prose\\)"):
        await client.stop()
    gobgpd.hang()
    with pytest.raises(SidecarTimedOut):
        await client.running_global()
    await client.close()
    gobgpd.answer()


async def test_a_server_of_neither_api_is_incompatible(tmp_path: Path) -> None:
    stranger = FakeGobgpd(Api.V3, tmp_path / "api.sock")
    stranger.service = lambda _: None  # type: ignore[method-assign]
    await stranger.start()
    try:
        with pytest.raises(SidecarIncompatible, match="neither GoBGP 3 nor GoBGP 4"):
            await Client.connect(stranger.socket, 1.0)
    finally:
        await stranger.stop()


async def test_closing_ends_the_task_while_gobgpd_is_away(tmp_path: Path) -> None:
    speaker = Speaker(SPEC, tmp_path / "nobody.sock", Rib(RibPolicy(ACCEPTED), {}), lambda: None)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(speaker.run(), name="speaker")
        await eventually(lambda: speaker.view().failures > 1)
        await speaker.close()
    assert speaker.view().state is SpeakerState.CLOSED
