"""Redirect lists as look-ups: form of keys, order, and where each line is counted."""

from __future__ import annotations

from ipaddress import IPv4Network

from wccpd.plan.acl import AclObjects, LineCounter, acl_objects
from wccpd.plan.redirect import EVERY_PORT, AclLine, Action, PacketMatch, PortRange

WEB = PacketMatch(6, (80,))


def compiled(*lines: AclLine, match: PacketMatch = WEB) -> AclObjects:
    return acl_objects("web-cache", match, lines, "permitted-web-cache", "denied-web-cache")


def line(
    action: Action,
    destination: str = "0.0.0.0/0",
    protocol: int | None = None,
    ports: PortRange = EVERY_PORT,
    source: str = "0.0.0.0/0",
) -> AclLine:
    return AclLine(action, IPv4Network(source), IPv4Network(destination), protocol, destination_ports=ports)


def test_hosts_are_an_exact_map_and_the_final_permit_a_rule() -> None:
    made = compiled(
        line(Action.DENY, "203.0.113.1/32"), line(Action.DENY, "203.0.113.2/32"), line(Action.PERMIT)
    )
    (hosts,) = made.maps
    assert hosts.declaration == "typeof ip daddr : verdict; counter;"
    assert hosts.elements == {
        "203.0.113.1": "goto denied-web-cache",
        "203.0.113.2": "goto denied-web-cache",
    }
    assert [
        rule.text.replace(made.counters[2].counter, "COUNTER") for rule in made.rules if made.counters[2]
    ] == [
        f"ip daddr vmap @{hosts.name}",
        "counter name COUNTER goto permitted-web-cache",
        "goto denied-web-cache",
    ]
    assert made.counters[:2] == (
        LineCounter(map=hosts.name, key="203.0.113.1"),
        LineCounter(map=hosts.name, key="203.0.113.2"),
    )


def test_ranges_of_one_field_get_a_second_one_so_that_the_kernel_does_not_take_its_slow_tree() -> None:
    (nets,) = compiled(line(Action.DENY, "10.0.0.0/8"), line(Action.PERMIT, "192.0.2.0/24")).maps
    assert nets.declaration == "typeof ip daddr . meta l4proto : verdict; flags interval; counter;"
    assert set(nets.elements or {}) == {"10.0.0.0/8 . 0-255", "192.0.2.0/24 . 0-255"}


def test_only_fields_that_some_line_restricts_are_in_the_key() -> None:
    (made,) = compiled(
        line(Action.DENY, "10.0.0.0/8", 6, (8000, 8099)), line(Action.DENY, "192.0.2.7/32")
    ).maps
    assert "typeof ip daddr . th dport :" in made.declaration
    assert set(made.elements or {}) == {"10.0.0.0/8 . 8000-8099", "192.0.2.7 . 0-65535"}


def test_a_line_of_another_protocol_than_the_service_is_left_out_and_counts_nothing() -> None:
    made = compiled(line(Action.DENY, protocol=17), line(Action.PERMIT, protocol=6))
    assert made.counters[0] is None
    assert made.rules[0].text.startswith("counter name acl-web-cache-")


def test_a_service_of_every_protocol_compares_the_protocol() -> None:
    made = compiled(line(Action.DENY, protocol=17, ports=(53, 53)), match=PacketMatch(None))
    assert made.rules[0].text.startswith("meta l4proto 17 th dport 53 counter name ")


def test_a_repeated_line_counts_nothing() -> None:
    made = compiled(line(Action.DENY, "192.0.2.0/24"), line(Action.PERMIT, "192.0.2.0/24"))
    assert made.counters[1] is None
    assert len(made.rules) == 2


def test_a_counter_keeps_its_name_when_lines_before_it_come_and_go() -> None:
    alone = compiled(line(Action.PERMIT)).counters[0]
    behind = compiled(line(Action.DENY, "10.0.0.0/8"), line(Action.PERMIT)).counters[1]
    assert alone == behind


def test_a_map_whose_key_has_another_form_has_another_name() -> None:
    exact = compiled(line(Action.DENY, "192.0.2.1/32"), line(Action.DENY, "192.0.2.2/32")).maps[0]
    ranges = compiled(line(Action.DENY, "192.0.2.0/31"), line(Action.DENY, "192.0.2.2/32")).maps[0]
    assert exact.name != ranges.name
