"""What a specification may not say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from bgp.events import Advertisement, NextHop, PeerSpec, PrefixRule, SpeakerSpec

PEER = PeerSpec(IPv4Address("169.254.6.2"), 64512, IPv4Address("169.254.6.1"), "tun-a")
TWIN = replace(PEER, address=IPv4Address("169.254.6.3"))


def spec(*peers: PeerSpec) -> SpeakerSpec:
    return SpeakerSpec(64513, IPv4Address("192.0.2.1"), peers, (), ())


def test_both_sessions_of_a_tunnel_lead_to_one_next_hop() -> None:
    assert set(spec(PEER, TWIN).next_hops().values()) == {NextHop("tun-a")}


@pytest.mark.parametrize(
    ("peers", "complaint"),
    [
        ((PEER, PEER), "twice"),
        ((replace(PEER, asn=64513),), "our own ASN"),
        ((PEER, replace(TWIN, gateway=IPv4Address("169.254.6.4"))), "two gateways"),
    ],
)
def test_a_contradictory_specification_is_refused(peers: tuple[PeerSpec, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        spec(*peers)


@pytest.mark.parametrize(("low", "high"), [(7, 28), (16, 15), (16, 33)])
def test_a_rule_whose_bounds_admit_nothing_sensible_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="has a length"):
        PrefixRule(IPv4Network("10.0.0.0/8"), low, high)


def test_no_rule_can_admit_the_default_route() -> None:
    with pytest.raises(ValueError, match="default route"):
        PrefixRule(IPv4Network("0.0.0.0/0"), 0, 32)
    assert not PrefixRule(IPv4Network("0.0.0.0/0"), 1, 32).admits(IPv4Network("0.0.0.0/0"))


@pytest.mark.parametrize(
    ("prefix", "admitted"),
    [
        (IPv4Network("10.0.0.0/8"), True),
        (IPv4Network("10.255.255.240/28"), True),
        (IPv4Network("10.0.0.0/29"), False),
        (IPv4Network("8.0.0.0/6"), False),
        (IPv4Network("11.0.0.0/16"), False),
        (IPv6Network("a00::/16"), False),
    ],
    ids=str,
)
def test_a_rule_admits_what_is_inside_its_range_and_bounds(prefix: IPv4Network, admitted: bool) -> None:
    assert PrefixRule(IPv4Network("10.0.0.0/8"), 8, 28).admits(prefix) is admitted


def test_prepending_is_bounded() -> None:
    with pytest.raises(ValueError, match="prepend"):
        Advertisement(IPv4Network("0.0.0.0/0"), prepend=11)
