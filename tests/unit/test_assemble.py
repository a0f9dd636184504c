"""From one configuration to the settings of each part: what is handed on, renamed, ordered or added."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import config
from bgp.rib import RefusalReason
from wccpd import assemble
from wccpd.plan.redirect import AclLine, Action, LostFlows, Mode
from wccpd.protocol.settings import AssignmentPolicy, OnLoss
from wccpd.wire.components import ServiceInfo
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags, ServiceType

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
router:
  id: 10.100.1.10
  addresses: [10.101.2.10]
tunnels:
  - name: tgw-a
    remote: 10.99.0.1
    inside: 169.254.6.0/29
  - name: tgw-b
    local: 10.102.3.10
    remote: 10.98.0.1
    inside: 169.254.7.0/29
bgp:
  asn: 65010
  peer_asn: 64512
redirect:
  interfaces: [ens6]
kernel:
  device_prefix: wx-
  mark_shift: 8
services:
  - service: web-cache
    group_list: [10.100.1.0/24]
  - service: 70
    group_list: [10.100.1.0/24]
    assignment: router
"""
FIRST_NUMBER = 7


def test_web_cache_is_standard_service_0_and_a_number_is_a_dynamic_service() -> None:
    settings = assemble.engine_settings(config.parse(TEXT), FIRST_NUMBER)
    assert [service.key for service in settings.services] == [
        ServiceKey(ServiceType.STANDARD, 0),
        ServiceKey(ServiceType.DYNAMIC, 70),
    ]


def test_service_0_by_number_is_not_the_web_cache() -> None:
    loaded = config.parse(TEXT.replace("service: 70", "service: 0"))
    assert len({assemble.service_key(service) for service in loaded.services}) == 2


def test_the_engine_gets_the_router_id_first_and_the_number_it_starts_at() -> None:
    settings = assemble.engine_settings(config.parse(TEXT), FIRST_NUMBER)
    assert settings.router_id == IPv4Address("10.100.1.10")
    assert settings.addresses == (IPv4Address("10.100.1.10"), IPv4Address("10.101.2.10"))
    assert settings.first_number == FIRST_NUMBER
    assert [service.policy for service in settings.services] == [
        AssignmentPolicy.AUTO,
        AssignmentPolicy.ROUTER,
    ]


def test_the_password_that_we_send_comes_before_the_previous_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"sesame\n")
    (tmp_path / "old").write_bytes(b"mustard\n")
    text = TEXT + "    previous_password_file: old\n    password_file: new\n"
    settings = assemble.engine_settings(config.parse(text, directory=tmp_path), FIRST_NUMBER)
    assert [service.passwords for service in settings.services] == [(), (b"sesame", b"mustard")]
    assert "sesame" not in repr(settings)
    assert "mustard" not in repr(settings)


def test_the_wait_for_an_assignment_is_left_to_the_timers_unless_written() -> None:
    text = TEXT.replace("    assignment: router\n", "    assignment_wait_seconds: 40\n")
    settings = assemble.engine_settings(config.parse(text), FIRST_NUMBER)
    assert [service.assignment_wait_seconds for service in settings.services] == [None, 40.0]


def test_the_plan_gets_services_in_their_order_and_marks_at_their_place() -> None:
    policy, settings = assemble.policy(config.parse(TEXT)), assemble.kernel_settings(config.parse(TEXT))
    keys = tuple(service.key for service in policy.services)
    assert keys == (ServiceKey(ServiceType.STANDARD, 0), ServiceKey(ServiceType.DYNAMIC, 70))
    assert settings.services == ("web-cache", "70")
    assert settings.marks.mask == 0xFFFFFF00


def test_tunnels_and_listed_interfaces_are_where_traffic_comes_in() -> None:
    policy = assemble.policy(config.parse(TEXT))
    assert policy.ingress == ("wx-tgw-a", "wx-tgw-b", "ens6")
    assert [(device.name, device.local) for device in policy.tunnels] == [
        ("wx-tgw-a", IPv4Address("10.100.1.10")),
        ("wx-tgw-b", IPv4Address("10.102.3.10")),
    ]


def test_there_are_two_sessions_for_each_tunnel_over_its_own_device() -> None:
    spec = assemble.speaker_spec(config.parse(TEXT))
    assert spec is not None
    assert [(str(peer.address), str(peer.local_address), peer.interface) for peer in spec.peers] == [
        ("169.254.6.2", "169.254.6.1", "wx-tgw-a"),
        ("169.254.6.3", "169.254.6.1", "wx-tgw-a"),
        ("169.254.7.2", "169.254.7.1", "wx-tgw-b"),
        ("169.254.7.3", "169.254.7.1", "wx-tgw-b"),
    ]


def test_the_far_ends_of_the_tunnels_and_the_local_networks_are_protected() -> None:
    text = TEXT.replace("bgp:\n", "bgp:\n  local_networks: [10.100.0.0/16]\n")
    loaded = config.parse(text)
    ends = {IPv4Network(tunnel.remote) for tunnel in loaded.tunnels}
    assert assemble.protected_networks(loaded) == ends | {IPv4Network("10.100.0.0/16")}


def test_a_summary_over_the_ends_of_the_tunnels_may_be_learnt() -> None:
    policy = assemble.rib_policy(config.parse(TEXT))
    assert policy.refusal(IPv4Network("10.0.0.0/8")) is None


def test_med_and_prepend_go_with_every_advertised_network_and_ipv6_into_each_session() -> None:
    text = TEXT.replace("bgp:\n", "bgp:\n  med: 50\n  prepend: 2\n  advertise: [0.0.0.0/0, '::/0']\n")
    text = text.replace("    inside:", "    inside_ipv6: fd00:6::/125\n    inside:", 1)
    loaded = config.parse(text)
    spec = assemble.speaker_spec(loaded)
    assert spec is not None
    assert {(str(each.prefix), each.med, each.prepend) for each in spec.advertisements} == {
        ("0.0.0.0/0", 50, 2),
        ("::/0", 50, 2),
    }
    assert {str(peer.local_ipv6) for peer in spec.peers if peer.ipv6_unicast} == {"fd00:6::1"}
    assert "fd00:6::1/125" in map(str, assemble.tunnel_device(loaded, loaded.tunnels[0]).addresses)


def test_a_spoke_beside_our_own_addresses_may_be_learnt() -> None:
    policy = assemble.rib_policy(config.parse(TEXT))
    assert policy.refusal(IPv4Network("10.100.2.0/24")) is None
    assert policy.refusal(IPv4Network("11.0.0.0/16")) is RefusalReason.NOT_ACCEPTED


def test_without_bgp_there_is_no_speaker_and_nothing_to_learn() -> None:
    text = TEXT[: TEXT.index("tunnels:")] + TEXT[TEXT.index("redirect:") :]
    loaded = config.parse(text)
    assert assemble.speaker_spec(loaded) is None
    assert assemble.rib_policy(loaded).refusal(IPv4Network("10.1.0.0/16")) is RefusalReason.NOT_ACCEPTED


SERVICE = """\
  - service: 90
    group_list: [10.100.1.0/24]
    mode: closed
    match: {protocol: tcp, ports: [443, 8443], priority: 210, hash: [source_ip], alternate_hash: [source_port]}
    forwarding: [gre, l2]
    packet_return: [l2]
    assignment_method: [mask]
    on_loss: leave
    lost_flows: reset
    fallthrough: true
    redirect_list:
      - {action: deny, protocol: tcp, destinations: [203.0.113.0/28, 198.51.100.7], destination_ports: [443, 8000-8099]}
      - {action: permit, sources: [10.1.0.0/24]}
"""


def test_what_the_operator_says_of_a_service_reaches_engine_and_plan() -> None:
    loaded = config.parse(TEXT.replace("services:\n", f"services:\n{SERVICE}"))
    engine = assemble.engine_settings(loaded, FIRST_NUMBER, (IPv4Network("10.100.1.0/24"),))
    service = engine.services[0]
    flags = ServiceFlags.SOURCE_IP_HASH | ServiceFlags.SOURCE_PORT_ALTERNATE_HASH | ServiceFlags.PORTS_DEFINED
    assert service.definition == ServiceInfo.dynamic(90, 210, 6, flags, (443, 8443))
    assert (service.forwarding, service.packet_return) == (ForwardingMethod(3), PacketReturnMethod.L2)
    assert (service.assignment, service.on_loss) == (AssignmentMethod.MASK, OnLoss.LEAVE)
    assert engine.adjacent == (IPv4Network("10.100.1.0/24"),)
    planned = assemble.policy(loaded).services[0]
    assert (planned.mode, planned.lost_flows, planned.fallthrough) == (Mode.CLOSED, LostFlows.RESET, True)


def test_a_line_that_enumerates_is_several_lines_of_one_origin() -> None:
    loaded = config.parse(TEXT.replace("services:\n", f"services:\n{SERVICE}"))
    made = assemble.policy(loaded).services[0].redirect_list
    first = IPv4Network("203.0.113.0/28")
    assert made.lines[:2] == (
        AclLine(Action.DENY, destination=first, protocol=6, destination_ports=(443, 443)),
        AclLine(Action.DENY, destination=first, protocol=6, destination_ports=(8000, 8099)),
    )
    assert made.origins == (0, 0, 0, 0, 1)
    assert made.words == (
        "deny tcp any 203.0.113.0/28,198.51.100.7/32 443,8000-8099",
        "permit ip 10.1.0.0/24 any",
    )


def test_a_tunnel_may_be_excluded_from_the_redirect_and_zones_are_handed_on() -> None:
    text = TEXT.replace("  interfaces: [ens6]\n", "  interfaces: [ens6]\n  exclude_interfaces: [wx-tgw-b]\n")
    text += "caches:\n  - {network: 10.100.1.0/24, zone: a}\n  - {network: 10.100.1.21, zone: b}\n"
    policy = assemble.policy(config.parse(text))
    assert policy.ingress == ("wx-tgw-a", "ens6")
    assert [policy.zone_of(IPv4Address(each)) for each in ("10.100.1.21", "10.100.1.22", "10.9.0.1")] == [
        "b",
        "a",
        "",
    ]
