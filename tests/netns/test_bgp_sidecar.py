"""Speaker, table and kernel routes against a real gobgpd, with two BIRD instances as the transit gateway.

The topology is drawn in tests/support/bgp_lab.py. Speaker and table run in the test's process, gobgpd and the
routes are in the router's namespace.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from bgp.events import (
    Advertisement,
    NextHop,
    PeerSpec,
    PrefixRule,
    SessionState,
    SpeakerSpec,
    SpeakerState,
)
from bgp.rib import RefusalReason, Rib, RibPolicy
from bgp.speaker import Speaker
from tests.support.bgp_lab import ROUTER_ASN, TGW_ASN, TUNNELS, Lab, gobgpds, missing_tools
from wccpd.dataplane.routes import KernelRoutes

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "nothing is missing"),
]

DEFAULT = "0.0.0.0/0"
SPOKES = ("10.1.0.0/16", "10.2.0.0/16")
BOTH = frozenset(NextHop(tunnel) for tunnel in TUNNELS)
PROTOCOL = 118


@pytest.fixture(params=gobgpds().values(), ids=gobgpds().keys())
def program(request: pytest.FixtureRequest) -> str:
    """Each gobgpd that is here: Debian's own, and those of other releases."""
    return str(request.param)


@pytest.fixture
def lab(program: str) -> Iterator[Lab]:
    with Lab(passive=False, gobgpd=program) as lab:
        lab.announce(SPOKES)
        yield lab


def spec_for(lab: Lab) -> SpeakerSpec:
    return SpeakerSpec(
        asn=ROUTER_ASN,
        router_id=IPv4Address("192.0.2.1"),
        peers=tuple(
            PeerSpec(bird.address(tunnel), TGW_ASN, IPv4Address(f"169.254.{third}.1"), tunnel)
            for tunnel, third in TUNNELS.items()
            for bird in lab.birds
        ),
        advertisements=(Advertisement(IPv4Network(DEFAULT)),),
        accepted=(PrefixRule(IPv4Network("10.0.0.0/8"), 8, 28),),
    )


class Router:
    """What the daemon does: the newest routes go to the kernel whenever the flag is up."""

    def __init__(self, lab: Lab, spec: SpeakerSpec | None = None, max_prefixes: int = 10_000) -> None:
        self.lab = lab
        self.dirty = asyncio.Event()
        spec = spec or spec_for(lab)
        self.policy = RibPolicy(spec.accepted, max_prefixes, settle_seconds=1.0)
        self.rib = Rib(self.policy, spec.next_hops())
        self.speaker = Speaker(spec, lab.socket, self.rib, self.dirty.set)
        self.kernel = lab.router.call(KernelRoutes)
        self.rib.adopt(self.kernel.observe().route_set(), time.monotonic())

    async def write_routes(self) -> None:
        while True:
            await self.dirty.wait()
            await asyncio.sleep(0.05)  # changes come one by one: batch them, as the daemon does
            self.dirty.clear()
            result = await asyncio.to_thread(self.kernel.sync, self.rib.route_set(), verify=False)
            assert not result.errors

    def in_kernel(self) -> set[str]:
        shown = self.lab.router.run("ip", "route", "show", "proto", str(PROTOCOL))
        return {line.split()[0] for line in shown.splitlines() if not line[0].isspace()}

    def devices(self, prefix: str) -> set[str]:
        shown = self.lab.router.run("ip", "route", "show", prefix).split()
        return {shown[index + 1] for index, word in enumerate(shown) if word == "dev"}

    def all_up(self) -> bool:
        return all(each.state is SessionState.ESTABLISHED for each in self.speaker.view().sessions)

    def default_seen(self) -> bool:
        return all(bird.sees(DEFAULT) for bird in self.lab.birds)

    def default_gone(self) -> bool:
        return not any(bird.sees(DEFAULT) for bird in self.lab.birds)


@asynccontextmanager
async def running(
    lab: Lab, spec: SpeakerSpec | None = None, max_prefixes: int = 10_000
) -> AsyncIterator[Router]:
    router = Router(lab, spec, max_prefixes)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(router.speaker.run(), name="speaker")
            writer = group.create_task(router.write_routes(), name="routes")
            try:
                yield router
            finally:
                await router.speaker.close()
                writer.cancel()
    finally:
        router.kernel.close()


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


async def settled(router: Router) -> None:
    await eventually(router.all_up, "all four sessions are up")
    await eventually(lambda: router.in_kernel() == set(SPOKES), "the spokes are in the kernel")
    await eventually(lambda: router.devices(SPOKES[0]) == set(TUNNELS), "both tunnels carry them")


@pytest.mark.parametrize("passive", [True, False], ids=["gateway listens", "gateway dials too"])
async def test_sessions_come_up_and_routes_go_both_ways(passive: bool, program: str) -> None:
    with Lab(passive=passive, gobgpd=program) as lab:
        lab.announce([*SPOKES, DEFAULT, "10.3.0.0/30", "192.0.2.0/24"], looped=["10.9.0.0/16"])
        lab.start_gobgpd()
        async with running(lab) as router:
            assert await router.speaker.advertise(True, 10)
            await settled(router)
            assert router.rib.route_set().routes == {IPv4Network(each): BOTH for each in SPOKES}
            await eventually(router.default_seen, "both speakers see our default")
            assert await router.speaker.withdraw()
            await eventually(router.default_gone, "no speaker sees our default", 5)
            assert await router.speaker.withdraw(), "a second withdrawal changes nothing"
            assert router.all_up()


async def test_gobgpd_started_by_its_unit_comes_up_beside_a_socket_that_a_killed_one_left() -> None:
    with Lab(passive=False) as lab:
        lab.announce(SPOKES)
        lab.start_gobgpd_as_its_unit_does()
        await eventually(lab.socket.exists, "it offers its API")
        lab.kill_gobgpd()
        assert lab.socket.exists()
        lab.start_gobgpd_as_its_unit_does()
        async with running(lab) as router:
            assert await router.speaker.advertise(True, 10)
            await settled(router)
            await eventually(router.default_seen, "both speakers see our default")


async def test_a_killed_gobgpd_is_configured_anew_while_the_kernel_keeps_the_routes(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        await router.speaker.advertise(True)
        await settled(router)
        lab.kill_gobgpd()
        await eventually(lambda: router.speaker.view().state is SpeakerState.UNREACHABLE, "loss noticed", 2)
        await eventually(router.default_gone, "the gateway sees the loss", 5)
        lab.announce(SPOKES[:1])
        lab.start_gobgpd()
        deadline = time.monotonic() + 30
        while not (router.all_up() and router.default_seen() and router.in_kernel() == {SPOKES[0]}):
            assert router.devices(SPOKES[0]) == set(TUNNELS), "the route was gone or lost a tunnel meanwhile"
            assert time.monotonic() < deadline, "not as before within 30 s"
            await asyncio.sleep(0.05)
        view = router.speaker.view()
        assert (view.state, view.configured) == (SpeakerState.RUNNING, 2)
        assert router.rib.view().stale_paths == 0


async def test_a_withdrawn_default_stays_withdrawn_after_a_restart_of_gobgpd(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        assert await router.speaker.advertise(True, 10)
        await eventually(router.default_seen, "both speakers see our default")
        assert await router.speaker.withdraw()
        lab.kill_gobgpd()
        lab.start_gobgpd()
        await eventually(lambda: router.speaker.view().configured == 2, "configured anew")
        await eventually(
            lambda: bool(router.speaker.view().advertised is False), "told again to advertise nothing"
        )
        await eventually(router.all_up, "all four sessions are up")
        assert router.default_gone()


async def test_a_hung_gobgpd_is_found_within_five_seconds_and_used_again(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        await settled(router)
        lab.signal_gobgpd(signal.SIGSTOP)
        try:
            await eventually(
                lambda: router.speaker.view().state is SpeakerState.UNREACHABLE, "hang noticed", 5
            )
            assert "does not answer" in router.speaker.view().reason
            assert router.in_kernel() == set(SPOKES)
        finally:
            lab.signal_gobgpd(signal.SIGCONT)
        await eventually(lambda: router.speaker.view().state is SpeakerState.RUNNING, "running again", 10)
        assert router.speaker.view().configured == 1, "it was not restarted, so nothing was configured anew"


async def test_a_new_life_of_ours_adopts_gobgpd_and_the_kernel_without_a_flap(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as first:
        assert await first.speaker.advertise(True, 10)
        await settled(first)
        await eventually(first.default_seen, "both speakers see our default")
    async with running(lab) as second:
        assert second.rib.route_set().routes == {IPv4Network(each): BOTH for each in SPOKES}
        await eventually(second.all_up, "the sessions are known to be up", 5)
        assert second.default_seen(), "undecided means: left as found"
        assert second.speaker.view().configured == 0
        await eventually(lambda: not second.rib.view().relearning, "the tables are in", 10)
        assert second.in_kernel() == set(SPOKES)
        await eventually(lambda: all(each.received for each in second.speaker.view().sessions), "probed", 5)
        assert {each.flops for each in second.speaker.view().sessions} == {0}


async def test_another_router_id_makes_gobgpd_start_anew(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        await settled(router)
        router.speaker.reconfigure(replace(spec_for(lab), router_id=IPv4Address("192.0.2.2")))
        if router.speaker.view().api == "GoBGP 4":
            await eventually(
                lambda: "restart gobgpd" in router.speaker.view().reason, "the operator is told", 10
            )
            lab.kill_gobgpd()
            lab.start_gobgpd()
        await eventually(lambda: router.speaker.view().configured == 2, "started anew", 10)
        await settled(router)


async def test_reconfiguring_peers_and_ranges_takes_effect_without_touching_other_sessions(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        await settled(router)
        before = spec_for(lab)
        after = replace(
            before, peers=before.peers[:3], accepted=(PrefixRule(IPv4Network("10.1.0.0/16"), 16, 28),)
        )
        router.rib.reconfigure(replace(router.policy, accepted=after.accepted), after.next_hops())
        router.speaker.reconfigure(after)
        await eventually(lambda: router.in_kernel() == {SPOKES[0]}, "only the narrower range is left", 5)
        await eventually(lambda: router.lab.birds[1].established() == 1, "the fourth session is gone")
        assert router.all_up()
        router.rib.reconfigure(router.policy, before.next_hops())
        router.speaker.reconfigure(before)
        await settled(router)


async def test_prepending_and_med_reach_the_gateway(lab: Lab) -> None:
    lab.start_gobgpd()
    second_choice = Advertisement(IPv4Network(DEFAULT), med=50, prepend=2)
    async with running(lab, replace(spec_for(lab), advertisements=(second_choice,))) as router:
        await router.speaker.advertise(True)
        await eventually(router.default_seen, "both speakers see our default")
        seen = lab.birds[0].ask(f"show route {DEFAULT} all")
        assert f"BGP.as_path: {ROUTER_ASN} {ROUTER_ASN} {ROUTER_ASN}\n" in seen
        assert "BGP.med: 50" in seen


async def test_losing_the_sessions_of_one_tunnel_moves_all_routes_to_the_other(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        await settled(router)
        lab.birds[0].ask("disable tun_a")
        await eventually(lambda: lab.birds[0].established() == 1, "one session down", 5)
        assert router.devices(SPOKES[0]) == set(TUNNELS), (
            "the tunnel's other session still carries the routes"
        )
        lab.birds[1].ask("disable tun_a")
        await eventually(lambda: router.devices(SPOKES[0]) == {"tun-b"}, "only the other tunnel is used", 5)
        assert router.in_kernel() == set(SPOKES)


async def test_an_upgrade_of_gobgpd_from_3_to_4_is_noticed_and_costs_no_route() -> None:
    newer = [program for version, program in gobgpds().items() if version.startswith("4.")]
    if not newer:
        pytest.skip("no GoBGP 4 here: setup/other-gobgpds fetches one where apt reaches Debian unstable")
    with Lab(passive=False) as lab:
        lab.announce(SPOKES)
        lab.start_gobgpd()
        async with running(lab) as router:
            await router.speaker.advertise(True)
            await settled(router)
            assert router.speaker.view().api == "GoBGP 3"
            lab.kill_gobgpd()
            lab.program = newer[0]
            lab.start_gobgpd()
            started = time.monotonic()
            await eventually(lambda: router.speaker.view().configured == 2, "configured anew", 5)
            assert time.monotonic() - started < 5
            while not (router.all_up() and router.default_seen() and not router.rib.view().relearning):
                assert router.in_kernel() == set(SPOKES)
                assert router.devices(SPOKES[0]) == set(TUNNELS)
                assert time.monotonic() - started < 30
                await asyncio.sleep(0.05)
            assert router.speaker.view().api == "GoBGP 4"


async def test_ipv6_prefixes_come_and_go_in_the_same_sessions(program: str) -> None:
    six, default = "2001:db8:1::/48", "::/0"
    with Lab(passive=False, ipv6=True, gobgpd=program) as lab:
        lab.announce([*SPOKES, six])
        lab.start_gobgpd()
        spec = spec_for(lab)
        inside = {
            str(peer.local_address): f"fd00:{str(peer.local_address).split('.')[2]}::1" for peer in spec.peers
        }
        spec = replace(
            spec,
            peers=tuple(replace(p, local_ipv6=IPv6Address(inside[str(p.local_address)])) for p in spec.peers),
            advertisements=(*spec.advertisements, Advertisement(IPv6Network(default))),
            accepted=(*spec.accepted, PrefixRule(IPv6Network("2001:db8::/32"), 32, 64)),
        )
        async with running(lab, spec) as router:
            assert await router.speaker.advertise(True, 10)
            await settled(router)

            def shown() -> str:
                return lab.router.run("ip", "-6", "route", "show", six)

            await eventually(lambda: all(tunnel in shown() for tunnel in TUNNELS), "both tunnels carry it")
            await eventually(lambda: all(bird.sees(default) for bird in lab.birds), "the gateway sees ::/0")
            assert lab.birds[0].next_hops(default) == {"fd00:6::1", "fd00:7::1"}, (
                "each tunnel has its own next hop"
            )
            assert await router.speaker.withdraw()
            await eventually(lambda: not any(bird.sees(default) for bird in lab.birds), "and that it goes", 5)


async def test_what_a_neighbour_must_not_send_is_left_out_with_its_reason(lab: Lab) -> None:
    lab.announce([*SPOKES, DEFAULT, "192.0.2.0/24"], looped=["10.9.0.0/16"])
    lab.start_gobgpd()
    async with running(lab) as router:
        await settled(router)
        await eventually(
            lambda: all(
                (each.received - each.accepted, each.sends_default, each.not_accepted) == (1, True, 1)
                for each in router.speaker.view().sessions
            ),
            "our own ASN, a default and a foreign range are told for each session",
            15,
        )
        assert router.in_kernel() == set(SPOKES)


async def test_20000_prefixes_stop_at_the_limit_and_the_daemon_goes_on(program: str) -> None:
    with Lab(passive=False, gobgpd=program) as lab:
        lab.announce([str(IPv4Network((0x0A000000 + (number << 8), 24))) for number in range(20_000)])
        lab.start_gobgpd()
        async with running(lab, max_prefixes=2_000) as router:
            deadline = time.monotonic() + 60
            # In the event loop: the table changes while it is read by nobody else.
            while router.rib.view().refused_total.get(RefusalReason.TOO_MANY, 0) < 4 * 18_000:
                assert time.monotonic() < deadline, "not all that is too much was refused within 60 s"
                await asyncio.sleep(0.5)
            assert {router.rib.announced_by(each.neighbour) for each in router.speaker.view().sessions} == {
                2_000
            }
            await eventually(lambda: 2_000 <= len(router.in_kernel()) <= 8_000, "the rest is in the kernel")
            assert router.all_up()


async def test_a_session_and_a_prefix_that_flap_every_second_end_in_the_right_state(lab: Lab) -> None:
    lab.start_gobgpd()
    async with running(lab) as router:
        await settled(router)
        for number in range(6):
            lab.birds[0].ask("disable tun_a" if number % 2 == 0 else "enable tun_a")
            lab.announce(SPOKES[:1] if number % 2 == 0 else SPOKES)
            assert router.devices(SPOKES[0]) == set(TUNNELS), (
                "the tunnel's other session carries it all the time"
            )
            await asyncio.sleep(1)
        await settled(router)
        (fallen,) = {e.neighbour for e in router.speaker.view().sessions if e.falls_lately}
        assert fallen == lab.birds[0].address("tun-a")
