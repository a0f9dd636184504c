"""Each kind of cache of the field on its way into a group, told as it happens."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.scenario.scene import ROUTER, A, B, Scene
from wccpd.protocol.view import Rung
from wccpd.simulator.profiles import (
    OPENNOP,
    SQUID_4_12,
    SQUID_4_13,
    SQUID_5_1,
    SQUID_5_7,
    SQUID_7_6,
    STRICT,
    TRAFFIC_SERVER_9_2,
    Profile,
)
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ForwardingMethod, PacketReturnMethod, ServiceFlags

EVERYTHING = ServiceInfo.dynamic(0, 0, 0, ServiceFlags(0xF))
"""What OpenNOP calls its service: on a little-endian machine its ID becomes 0."""
HTTPS = ServiceInfo.dynamic(70, 100, 6, ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED, (443, 8443))


@pytest.mark.parametrize("profile", [STRICT, SQUID_5_1, TRAFFIC_SERVER_9_2], ids=lambda each: each.name)
@pytest.mark.parametrize("service", [ServiceInfo.web_cache(), HTTPS], ids=["web-cache", "dynamic"])
def test_a_cache_that_reads_standard_answers_joins_in_ten_seconds_and_assigns_fifteen_later(
    profile: Profile, service: ServiceInfo
) -> None:
    scene = Scene(service=service)
    scene.start(A, profile)
    assert scene.until(120) == [
        "0 s: 10.0.1.1 seen",
        "10 s: 10.0.1.1 usable",
        "25 s: 256 buckets assigned by cache, 256 moved",
    ]
    assert scene.group().designated == A


def test_a_squid_7_6_joins_by_the_dual_valid_form_and_assigns() -> None:
    scene = Scene()
    scene.start(A, SQUID_7_6)
    assert scene.until(120) == [
        "0 s: 10.0.1.1 seen",
        "20 s: 10.0.1.1 gets the dual-valid form",
        "30 s: 10.0.1.1 usable",
        "45 s: 256 buckets assigned by cache, 256 moved",
    ]


@pytest.mark.parametrize("service", [ServiceInfo.web_cache(), HTTPS], ids=["web-cache", "dynamic"])
def test_a_squid_5_7_joins_by_the_dual_valid_form_and_the_router_assigns(service: ServiceInfo) -> None:
    scene = Scene(service=service)
    scene.start(A, SQUID_5_7)
    assert scene.until(120) == [
        "0 s: 10.0.1.1 seen",
        "20 s: 10.0.1.1 gets the dual-valid form",
        "30 s: 10.0.1.1 usable",
        "57 s: 256 buckets assigned by router, 256 moved",
    ]
    assert scene.group().caches[0].rung is Rung.ROUTER_ASSIGNS


def test_an_opennop_joins_and_its_bet_on_the_next_receive_id_comes_off() -> None:
    scene = Scene(
        service=EVERYTHING,
        passwords=(),
        forwarding=ForwardingMethod.GRE | ForwardingMethod.L2,
        packet_return=PacketReturnMethod.GRE | PacketReturnMethod.L2,
    )
    scene.start(A, OPENNOP)
    assert scene.until(60) == [
        "0 s: 10.0.1.1 seen",
        "10 s: 10.0.1.1 usable",
        "10 s: 10.0.1.1 refused, stale_change_number",
        "20 s: 256 buckets assigned by cache, 256 moved",
    ]


def test_an_opennop_in_a_group_that_offers_no_l2_is_told_so_and_not_used() -> None:
    scene = Scene(service=EVERYTHING, passwords=())
    scene.start(A, OPENNOP)
    assert scene.until(25) == [
        "0 s: 10.0.1.1 seen",
        "10 s: 10.0.1.1 incompatible, it asks for forwarding L2, this group offers GRE",
        "10 s: 10.0.1.1 refused, not_a_usable_cache",
        "20 s: 10.0.1.1 refused, not_a_usable_cache",
    ]


def test_a_squid_whose_method_is_not_offered_stops_for_good() -> None:
    scene = Scene(forwarding=ForwardingMethod.L2)
    scene.start(A, SQUID_5_1)
    assert scene.until(90) == [
        "0 s: 10.0.1.1 seen",
        "0 s: a cache stopped, the router does not offer what it selected",
        "30 s: 10.0.1.1 lost, no valid HERE_I_AM for 30 s",
    ]


def test_the_password_of_an_old_squid_counts_seven_characters() -> None:
    short = Scene(passwords=(b"sesame",))
    short.start(A, SQUID_4_12)
    short.until(120)
    assert short.shares() == {"1": 256}
    full = Scene(passwords=(b"sesame88",))
    full.start(A, SQUID_4_12)
    assert full.until(1) == ["0 s: 10.0.1.1 refused, authentication_wrong"]


def test_a_squid_4_13_digests_a_key_that_nobody_else_has() -> None:
    scene = Scene()
    scene.start(A, SQUID_4_13)
    assert scene.until(1) == ["0 s: 10.0.1.1 refused, authentication_wrong"]
    refused = scene.happened[-1].output
    assert "4.13" in refused.detail


def test_caches_follow_a_router_whose_id_is_not_the_address_that_they_asked() -> None:
    asked = IPv4Address("10.0.0.9")
    scene = Scene()
    scene.start_router(ROUTER, addresses=(ROUTER, asked))
    server = scene.start(A, TRAFFIC_SERVER_9_2, routers=(asked,))
    scene.start(B, SQUID_5_1, routers=(asked,))
    scene.until(120)
    assert set(scene.shares()) == {"1", "2"}
    assert [nexus.router_id for nexus in server.nexuses] == [ROUTER]
    assert scene.destinations(A)[-1] == ROUTER
    assert scene.destinations(B)[-1] == asked
