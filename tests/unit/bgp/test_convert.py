"""Messages and values, for both API generations.

The bytes below are written out by hand from the field numbers, so that a wrong number in the table shows. For
GoBGP 4 no daemon is at hand: its encoding is checked against these bytes and a server of the same table only.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from bgp.convert import Converter
from bgp.events import (
    Advertisement,
    PathAttributes,
    PathLearned,
    PathUnreadable,
    PathWithdrawn,
    PeerSpec,
    PeerStateChanged,
    SessionState,
)
from bgp.schema import NUMBERS, Api, schema_for

DEFAULT = Advertisement(IPv4Network("0.0.0.0/0"))
NEIGHBOUR = "169.254.6.2"


@pytest.fixture(params=list(Api), ids=lambda api: api.value)
def convert(request: pytest.FixtureRequest) -> Converter:
    return Converter(schema_for(request.param))


def field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


def number(which: int, value: int) -> bytes:
    return bytes([which << 3, value])


def test_gobgp_3_gets_attributes_packed_by_type_name() -> None:
    def packed(name: str, value: bytes) -> bytes:
        url = field(1, b"type.googleapis.com/apipb." + name.encode())
        return url + field(2, value) if value else url

    expected = (
        field(1, packed("IPAddressPrefix", field(2, b"0.0.0.0")))
        + field(2, packed("OriginAttribute", b""))
        + field(2, packed("MultiExitDiscAttribute", number(1, 50)))
        + field(2, packed("NextHopAttribute", field(1, b"0.0.0.0")))
        + field(9, number(1, 1) + number(2, 1))
    )
    path = Converter(schema_for(Api.V3)).own_path(Advertisement(DEFAULT.prefix, med=50), 64513)
    assert path.SerializeToString(deterministic=True) == expected


def test_gobgp_4_gets_attributes_in_fields_of_their_own() -> None:
    expected = (
        field(1, field(1, field(2, b"0.0.0.0")))
        + field(2, field(2, b""))
        + field(2, field(5, number(1, 50)))
        + field(2, field(4, field(1, b"0.0.0.0")))
        + field(9, number(1, 1) + number(2, 1))
    )
    path = Converter(schema_for(Api.V4)).own_path(Advertisement(DEFAULT.prefix, med=50), 64513)
    assert path.SerializeToString(deterministic=True) == expected


def test_nearly_every_enum_value_moved_up_by_one_in_gobgp_4() -> None:
    three, four = NUMBERS[Api.V3], NUMBERS[Api.V4]
    moved = ("table_global", "filter_post_policy", "match_any", "defined_prefix", "admin_up", "reset_both")
    assert [getattr(four, each) - getattr(three, each) for each in moved] == [1] * len(moved)
    kept = ("accept", "reject", "direction_import", "direction_export", "route_local", "segment_sequence")
    assert [getattr(four, each) for each in kept] == [getattr(three, each) for each in kept]


def path_from(convert: Converter, advertisement: Advertisement, neighbour: str = NEIGHBOUR) -> object:
    path = convert.own_path(advertisement, 64512)
    path.neighbor_ip = neighbour
    return path


def test_a_path_reads_back_as_learned(convert: Converter) -> None:
    path = path_from(convert, Advertisement(IPv4Network("10.1.0.0/16"), med=7, prepend=3))
    assert list(convert.path_events([path])) == [
        PathLearned(
            IPv4Address(NEIGHBOUR),
            IPv4Network("10.1.0.0/16"),
            PathAttributes((64512,) * 3, as_path_length=3, med=7),
        )
    ]


def test_an_ipv6_path_reads_back_as_learned(convert: Converter) -> None:
    (event,) = convert.path_events([path_from(convert, Advertisement(IPv6Network("2001:db8::/32")))])
    assert event == PathLearned(IPv4Address(NEIGHBOUR), IPv6Network("2001:db8::/32"), PathAttributes())


def test_a_set_counts_once_and_confederations_not_at_all(convert: Converter) -> None:
    path = path_from(convert, Advertisement(IPv4Network("10.1.0.0/16"), prepend=1))
    segments = [{"type": 2, "numbers": [1, 2]}, {"type": 1, "numbers": [3, 4]}, {"type": 3, "numbers": [5]}]
    del path.pattrs[:]
    path.pattrs.add(**convert._pack_attribute("as_path", {"segments": segments}))
    (event,) = convert.path_events([path])
    assert event.attributes == PathAttributes((1, 2, 3, 4, 5), as_path_length=3)


def test_a_withdrawal_reads_back_as_withdrawn(convert: Converter) -> None:
    path = path_from(convert, DEFAULT)
    path.is_withdraw = True
    assert list(convert.path_events([path])) == [PathWithdrawn(IPv4Address(NEIGHBOUR), DEFAULT.prefix)]


@pytest.mark.parametrize("own", ["", "<nil>"])
def test_our_own_paths_are_left_out(convert: Converter, own: str) -> None:
    assert not list(convert.path_events([path_from(convert, DEFAULT, own)]))


def test_what_cannot_be_read_is_reported_and_the_rest_is_not_lost(convert: Converter) -> None:
    no_nlri = convert.request("Path", neighbor_ip=NEIGHBOUR)
    no_address = path_from(convert, DEFAULT, "peer-7")
    host_bits = path_from(convert, DEFAULT)
    host_bits.nlri.CopyFrom(
        type(host_bits.nlri)(**convert._pack_nlri({"prefix_len": 8, "prefix": "10.0.0.1"}))
    )
    events = list(convert.path_events([no_nlri, no_address, host_bits, path_from(convert, DEFAULT)]))
    assert [type(each) for each in events] == [PathUnreadable, PathUnreadable, PathUnreadable, PathLearned]


def test_a_peer_event_reads_as_the_sessions_state(convert: Converter) -> None:
    peer = {"state": {"neighbor_address": NEIGHBOUR, "session_state": 6}}
    event = convert.request("WatchEventResponse", peer={"type": 3, "peer": peer}).peer
    assert convert.peer_event(event) == PeerStateChanged(IPv4Address(NEIGHBOUR), SessionState.ESTABLISHED)


@pytest.mark.parametrize(
    "content", [{"type": 2}, {"type": 3, "peer": {"state": {"neighbor_address": "eth0"}}}]
)
def test_a_peer_event_without_a_peer_tells_nothing(convert: Converter, content: dict[str, object]) -> None:
    assert convert.peer_event(convert.request("WatchEventResponse", peer=content).peer) is None


def test_a_session_state_of_the_future_is_not_established(convert: Converter) -> None:
    peer = {"state": {"neighbor_address": NEIGHBOUR, "session_state": 42}}
    event = convert.peer_event(convert.request("WatchEventResponse", peer={"type": 3, "peer": peer}).peer)
    assert event is not None
    assert event.state is SessionState.UNKNOWN


def test_a_peer_is_asked_for_as_the_transit_gateway_wants_it(convert: Converter) -> None:
    spec = PeerSpec(
        IPv4Address(NEIGHBOUR),
        64512,
        IPv4Address("169.254.6.1"),
        "tun-a",
        local_ipv6=IPv6Address("fd00:6::1"),
    )
    peer = convert.add_peer_request(spec).peer
    assert (peer.ebgp_multihop.enabled, peer.ebgp_multihop.multihop_ttl) == (True, 2)
    timers = peer.timers.config
    assert (timers.hold_time, timers.keepalive_interval, timers.connect_retry) == (30, 10, 5)
    assert timers.idle_hold_time_after_reset == 5
    assert (peer.transport.local_address, peer.transport.passive_mode) == ("169.254.6.1", False)
    assert [(each.config.family.afi, each.config.family.safi) for each in peer.afi_safis] == [(1, 1), (2, 1)]
    running = convert.running_peer(peer)
    assert (running.address, running.asn, running.families) == (spec.address, 64512, {4, 6})
