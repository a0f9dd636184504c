"""What is written for proxies, and what is refused."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from wccpd.proxy_config import generic, linux, squid
from wccpd.proxy_config.side import CannotError, Chosen, ServiceSide, Side, side_of
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

CACHE = IPv4Address("10.100.1.21")
ROUTERS = IPv4Address("10.100.1.10"), IPv4Address("10.100.2.10")
CLIENTS = (IPv4Network("10.0.0.0/8"),)
GRE, L2 = ForwardingMethod.GRE, ForwardingMethod.L2
GRE_BACK, L2_BACK = PacketReturnMethod.GRE, PacketReturnMethod.L2
HTTPS = ServiceInfo.dynamic(
    70, 231, 6, ServiceFlags.SOURCE_IP_HASH | ServiceFlags.DESTINATION_PORT_ALTERNATE_HASH | ServiceFlags.PORTS_DEFINED,
    (443,),
)  # fmt: skip
WEB = ServiceSide("web-cache", ServiceInfo.web_cache(), True, GRE, GRE_BACK, AssignmentMethod.HASH)
TLS = ServiceSide(
    "70", HTTPS, False, GRE | L2, GRE_BACK | L2_BACK, AssignmentMethod.HASH | AssignmentMethod.MASK
)


def side(
    *services: ServiceSide, routers: tuple[IPv4Address, ...] = ROUTERS[:1], chosen: Chosen | None = None
) -> Side:
    return side_of(CACHE, routers, services or (WEB, TLS), CLIENTS, chosen)


def is_shell(text: str) -> bool:
    return subprocess.run(["sh", "-n"], input=text, text=True, check=False, timeout=10).returncode == 0


def test_squids_lines_say_what_the_router_has() -> None:
    text = squid.script(side())
    assert is_shell(text)
    lines = text.splitlines()
    for line in (
        "wccp2_router 10.100.1.10",
        "wccp2_address 10.100.1.21",
        "wccp2_forwarding_method gre",
        "wccp2_return_method gre",
        "wccp2_assignment_method hash",
        "wccp2_service standard 0 password=${WCCP_PASSWORD_WEB_CACHE}",
        "wccp2_service dynamic 70",
        "wccp2_service_info 70 protocol=tcp flags=src_ip_hash,dst_port_alt_hash priority=231 ports=443",
        "acl wccp_clients src 10.0.0.0/8",
    ):
        assert line in lines, line


def test_by_gre_each_router_has_a_device_a_mark_and_a_way_back() -> None:
    text = linux.script(side(routers=ROUTERS))
    assert is_shell(text)
    for number, router in enumerate(ROUTERS, 1):
        assert f"ip link add wccp{number} type gre local {CACHE} remote {router} ttl 255" in text
        assert f'iifname "wccp{number}" ct mark set {18000 + number}' in text
        assert f"ip route replace default dev wccp{number} table {18000 + number}" in text
    assert "ct direction reply ct mark 18001-18002 meta mark set ct mark" in text
    assert f"tcp dport {{ 80 }} dnat to {CACHE}:$HTTP_PORT" in text
    assert f"tcp dport {{ 443 }} dnat to {CACHE}:$TLS_PORT" in text


def test_by_l2_answers_leave_by_way_of_the_router() -> None:
    made = side(replace(WEB, forwarding=L2, packet_return=L2_BACK))
    text = linux.script(made)
    assert is_shell(text)
    assert "type gre" not in text
    assert 'ip route replace default via 10.100.1.10 dev "$DEVICE" table 18001' in text
    assert "TLS_PORT" not in text, "no service of TLS"


def test_a_cache_that_has_joined_keeps_the_methods_that_work() -> None:
    assert side(TLS).forwarding is GRE, "the drafts' default"
    made = side(TLS, chosen=Chosen(L2, L2_BACK))
    assert (made.forwarding, made.packet_return) == (L2, L2_BACK)
    assert side(WEB, TLS, chosen=Chosen(L2, L2_BACK)).forwarding is GRE, "web-cache does not offer L2"


def test_the_same_way_there_and_back_is_taken_if_it_can_be_had() -> None:
    assert side(replace(TLS, forwarding=L2)).packet_return is L2_BACK
    assert side(replace(TLS, forwarding=L2, packet_return=GRE_BACK)).packet_return is GRE_BACK


def test_what_people_read_names_every_point_that_must_agree() -> None:
    text = generic.text(
        side_of(CACHE, ROUTERS, (WEB, TLS), CLIENTS, remarks=("service 90: not in its group_list",))
    )
    for said in (
        "to UDP port 2048 of 10.100.1.10, 10.100.2.10",
        "forwarding        GRE",
        "redirects         tcp to port 443",
        "priority          231",
        "hash              source address",
        "flags             0x0811",
        "password          as in its password_file: MD5",
        "Left out: service 90: not in its group_list",
        "protocol 47 both ways",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("info", "ports"),
    [
        (ServiceInfo.dynamic(90, 1, 6, ServiceFlags.PORTS_DEFINED | ServiceFlags.PORTS_SOURCE, (80,)), ()),
        (ServiceInfo.dynamic(90, 1, 17, ServiceFlags.PORTS_DEFINED, (53,)), ()),
        (ServiceInfo.dynamic(90, 1, 6, ServiceFlags(0)), (80, 443)),
        (ServiceInfo.dynamic(90, 1, 0, ServiceFlags(0)), (80, 443)),
    ],
)
def test_only_what_a_proxy_can_take_in_is_intercepted(info: ServiceInfo, ports: tuple[int, ...]) -> None:
    assert replace(TLS, info=info).ports == ports


def test_methods_that_do_not_meet_are_refused() -> None:
    with pytest.raises(CannotError, match="no forwarding in common"):
        side(WEB, replace(TLS, forwarding=L2))
    with pytest.raises(CannotError, match=r"no service takes 10\.100\.1\.21"):
        side_of(CACHE, ROUTERS, (), CLIENTS)
