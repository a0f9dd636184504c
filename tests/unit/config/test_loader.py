"""Files a person writes, good and bad: what is read, and in which words and where a fault is reported."""

from __future__ import annotations

import json
import os
import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

import config
from tests.support.broken_config import GOOD

EXAMPLES = Path(config.__file__).parent / "examples"


def problems_of(text: str, directory: Path | None = None) -> list[str]:
    """The lines an operator would see."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, file="r.yaml", directory=directory)
    return str(caught.value).splitlines()


def only_problem_of(text: str, directory: Path | None = None) -> str:
    lines = problems_of(text, directory)
    assert len(lines) == 1, lines
    return lines[0]


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_commented_example_names_every_key_with_its_default() -> None:
    written = (EXAMPLES / "commented.yaml").read_text()

    def without_default(section: dict[str, object]) -> list[str]:
        words = {True: "true", False: "false"}
        lines = [
            f"{key}:" if value is None else f"{key}: {words[value] if isinstance(value, bool) else value}"
            for key, value in section.items()
            if not isinstance(value, list)
        ]
        return [line for line in lines if not re.search(rf"# *{re.escape(line)}\s", written)]

    plain = json.loads(json.dumps(config.redacted(config.load(EXAMPLES / "one-router.yaml"))))
    del plain["bgp"]["asn"], plain["bgp"]["peer_asn"]
    for name in ("bgp", "redirect", "control", "kernel", "log"):
        assert without_default(plain[name]) == []
    service = {key: value for key, value in plain["services"][0].items() if value is not None}
    del service["service"], service["interop"], service["prefer_zone"]
    assert without_default(service) == []
    assert [
        key for key in config.Service.model_fields if "password" not in key and f"{key}:" not in written
    ] == [
        "group_address",
        "interop",
    ]
    assert without_default({"state_directory": plain["state_directory"]}) == []
    assert without_default({"ttl": 255, "mtu_bytes": 8476, "mode": "open", "assignment": "auto"}) == []


def test_addresses_of_a_tunnel_follow_from_its_inside_block() -> None:
    settings = config.parse(GOOD)
    tunnel = settings.tunnels[0]
    assert tunnel.inside_interface == IPv4Interface("169.254.6.1/29")
    assert tunnel.bgp_neighbors == (IPv4Address("169.254.6.2"), IPv4Address("169.254.6.3"))
    assert settings.device_name(tunnel) == "wccp-tgw-a"


def test_settings_are_frozen() -> None:
    settings = config.parse(GOOD)
    with pytest.raises(Exception, match="frozen"):
        settings.router.id = IPv4Address("10.0.0.1")  # type: ignore[misc]


def test_a_router_without_tunnels_needs_no_bgp() -> None:
    text = (
        GOOD[: GOOD.index("tunnels:")] + GOOD[GOOD.index("services:") :] + "redirect:\n  interfaces: [ens6]\n"
    )
    settings = config.parse(text)
    assert (settings.bgp, settings.tunnels, settings.redirect.interfaces) == (None, (), ("ens6",))


def test_all_problems_of_a_file_come_at_once_in_the_order_of_its_lines() -> None:
    lines = problems_of(
        """\
router:
  id: 127.0.0.1
tunnels:
  - name: tgw-a
    remote: 10.99.0.1
    inside: 169.254.6.1/29
    ttl: 0
  - name: tgw-b
    remote: 10.99.0.2
    inside: 169.254.5.0/29
    mtu: 8476
bgp:
  asn: 64512
  peer_asn: 64512
  keepalive_seconds: 20
servces: []
services:
  - service: webcache
    mode: shut
    group_list: [10.0.0.0/8]
  - service: 80
    assignment: rooter
  - service: 90
log:
  level:
redirect: 5
"""
    )
    places = [tuple(map(int, line.split(":")[1:3])) for line in lines]
    assert places == sorted(places)
    assert [line.split(": ")[1] for line in lines] == [
        "router.id",
        "tunnels[0].inside",
        "tunnels[0].ttl",
        "tunnels[1].inside",
        "tunnels[1].mtu",
        "bgp.asn",
        "bgp.keepalive_seconds",
        "servces",
        "services[0].service",
        "services[0].mode",
        "services[1].assignment",
        "services[2]",
        "log.level",
        "redirect",
    ]


def dynamic(setting: str) -> str:
    """A good file with a second service that has one more setting."""
    return GOOD + f"  - service: 90\n    group_list: [10.100.1.0/24]\n    {setting}\n"


VALUE_FAULTS = {
    "misspelt key": (
        replaced("services:", "servces:"),
        "r.yaml:10:1: servces: is not a known key; allowed: router, tunnels, bgp, services, redirect, caches, "
        "control, kernel, log, state_directory; did you mean 'services'?",
    ),
    "host bits": (
        replaced("169.254.6.0/29", "169.254.6.1/29"),
        "r.yaml:6:13: tunnels[0].inside: must have no bits set after the prefix length, "
        "found '169.254.6.1/29'; did you mean '169.254.6.0/29'?",
    ),
    "reserved by AWS": (replaced("169.254.6.0/29", "169.254.5.0/29"), "must not be a range AWS reserves"),
    "last range reserved by AWS": (
        replaced("169.254.6.0/29", "169.254.169.248/29"),
        "must not be a range AWS",
    ),
    "inside of the wrong size": (
        replaced("169.254.6.0/29", "169.254.6.0/30"),
        "allowed: a /29 in 169.254.0.0/16",
    ),
    "inside from elsewhere": (
        replaced("169.254.6.0/29", "10.0.0.0/29"),
        "must be the Connect peer's inside CIDR",
    ),
    "IPv6": (replaced("10.100.1.10", "'2001:db8::1'"), "IPv6 is not supported here"),
    "multicast": (replaced("10.100.1.10", "224.0.0.1"), "must be an IPv4 unicast address"),
    "number for an address": (
        replaced("10.100.1.10", "5"),
        "must be an IPv4 address such as 10.100.1.10, found 5",
    ),
    "truth for a number": (
        replaced("asn: 65010", "asn: true"),
        "must be an autonomous system number, found true",
    ),
    "text for a number": (
        GOOD + "kernel:\n  mark_shift: '8'\n",
        "r.yaml:14:15: kernel.mark_shift: must be a whole number, found '8'",
    ),
    "octal": (GOOD + "kernel:\n  mark_shift: 010\n", "must be a whole number, found '010'"),
    "over the range": (GOOD + "kernel:\n  mark_shift: 9\n", "kernel.mark_shift: must be at most 8, found 9"),
    "truth as a service": (
        replaced("web-cache", "true"),
        "services[0].service: must name a service group, found true",
    ),
    "service 256": (replaced("web-cache", "256"), "must name a service group, found 256"),
    "mode that nobody has": (
        GOOD + "    mode: shut\n",
        "services[0].mode: must be one of the words allowed, found 'shut'; allowed: open, closed, reject",
    ),
    "protocol of no number": (
        dynamic("match: {protocol: ftp}"),
        "match.protocol: must be an IP protocol, found 'ftp'; allowed: any, icmp, tcp, udp, or a number 0 to 255",
    ),
    "ports of a protocol without": (dynamic("match: {protocol: icmp, ports: [8]}"), "must be tcp or udp"),
    "port 0": (dynamic("match: {ports: [0]}"), "must be a port, found 0; allowed: 1 to 65535"),
    "nine ports": (dynamic("match: {ports: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"), "services[1].match.ports: must"),
    "line without action": (
        dynamic("redirect_list: [{protocol: tcp}]"),
        "redirect_list[0].action: is missing",
    ),
    "line with ports of everything": (
        dynamic("redirect_list: [{action: permit, destination_ports: [80]}]"),
        "redirect_list[0]: must have `protocol: tcp` or `udp`, since it names ports",
    ),
    "range the wrong way": (
        dynamic("redirect_list: [{action: permit, protocol: tcp, destination_ports: [90-80]}]"),
        "must begin with the lower port, found '90-80'; did you mean 80-90?",
    ),
    "range of words": (
        dynamic("redirect_list: [{action: permit, protocol: tcp, source_ports: [http]}]"),
        "must be a port or a range of ports, found 'http'; allowed: such as 443 or 8000-8099",
    ),
    "no method at all": (dynamic("forwarding: []"), "services[1].forwarding: must"),
    "method of nobody": (dynamic("packet_return: [l3]"), "found 'l3'; allowed: gre, l2"),
    "zone of blanks": (GOOD + "caches: [{network: 10.1.0.0/24, zone: ' '}]\n", "must be the name of a zone"),
    "lease too short": (GOOD + "redirect: {lease_seconds: 2}\n", "must be at least 3, found 2"),
    "misspelt word": (GOOD + "    assignment: rooter\n", "did you mean 'router'?"),
    "ASN the gateway cannot have": (
        replaced("64512", "65535"),
        "must not be a reserved autonomous system number",
    ),
    "public ASN for the gateway": (
        replaced("64512", "3356"),
        "allowed: 64512 to 65534, or 4200000000 to 4294967294",
    ),
    "accepting the default": (
        replaced("64512", "64512\n  accept: [0.0.0.0/0]"),
        "bgp.accept[0]: must not be the default route",
    ),
    "no service": (
        GOOD[: GOOD.index("services:")] + "services: []\n",
        "services: must not be empty, found an empty list",
    ),
    "a mapping for a list": (
        replaced("  - name: tgw-a\n    ", "    "),
        "tunnels: must be a list, found a mapping",
    ),
    "text for a section": (
        GOOD + "log: loud\n",
        "log: must be a mapping of 'key: value' lines, found 'loud'",
    ),
    "missing key": (
        replaced("    remote: 10.99.0.1\n", ""),
        "r.yaml:4:5: tunnels[0].remote: is missing; allowed: IPv4 or IPv6 address; for example 'remote: 10.99.0.1': ",
    ),
    "tunnel name": (replaced("tgw-a", "TGW_A"), "tunnels[0].name: must be a short name, found 'TGW_A'"),
    "another daemon's routes": (GOOD + "kernel:\n  route_protocol: 188\n", "found 188; 188 is ospf"),
    "relative socket": (GOOD + "control:\n  socket: run/x\n", "must be an absolute path, beginning with '/'"),
    "socket path too long": (GOOD + f"control:\n  socket: /{'x' * 107}\n", "at most 107 octets long"),
    "tunnel named like the device of a cache": (
        replaced("tgw-a", "0a640115"),
        "tunnels[0].name: must not be 8 hexadecimal digits: the device towards the cache 10.100.1.21 has that name",
    ),
    "interface name": (
        GOOD + "redirect:\n  interfaces: ['a b']\n",
        "must be the name of a network interface, found 'a b'; "
        "allowed: a letter, then up to 14 letters, digits, '.', '_' or '-'",
    ),
    "wait that is text": (
        GOOD + "    assignment_wait_seconds: '9'\n",
        "services[0].assignment_wait_seconds: must be a whole number, found '9'",
    ),
    "wait that is a fraction": (
        GOOD + "    assignment_wait_seconds: 9.5\n",
        "services[0].assignment_wait_seconds: must be a whole number",
    ),
    "wait of no time": (
        GOOD + "    assignment_wait_seconds: 0\n",
        "services[0].assignment_wait_seconds: must be at least 1, found 0",
    ),
    "table name": (GOOD + "kernel:\n  nft_table: 'a b'\n", "must be the name of an nftables table"),
    "device prefix": (GOOD + "kernel:\n  device_prefix: ''\n", "must be the beginning of a device name"),
    "device prefix that leaves no room for a cache": (
        GOOD + "kernel:\n  device_prefix: eightchr\n",
        "allowed: 2 to 7 of a-z, 0-9 and '-', beginning with a letter; "
        "the device of a cache adds 8 digits, and a name has at most 15 octets",
    ),
    "empty file name": (GOOD + "state_directory: ''\n", "state_directory: must be a file name, found ''"),
    "no network": (
        replaced("[10.100.1.0/24]", "[caches]"),
        "must be an IPv4 network such as 10.0.0.0/8, found 'caches'",
    ),
    "number for a network": (
        replaced("[10.100.1.0/24]", "[10]"),
        "must be an IPv4 network such as 10.0.0.0/8, found 10",
    ),
}


@pytest.mark.parametrize(("text", "expected"), VALUE_FAULTS.values(), ids=VALUE_FAULTS)
def test_a_wrong_value_is_reported_at_its_place(text: str, expected: str) -> None:
    assert expected in only_problem_of(text)


SECOND_TUNNEL = "  - name: {name}\n    remote: {remote}\n    inside: {inside}\nbgp:"

RULES = {
    "closed before anybody said what it is": (
        dynamic("mode: closed"),
        "services[1].mode: 'closed' must hold before any cache has said what the service is; "
        "add 'match', e.g. {protocol: tcp, ports: [443]}",
    ),
    "another web-cache": (
        GOOD + "    match: {ports: [8080]}\n",
        "services[0].match: web-cache is TCP port 80 by definition",
    ),
    "list that permits nothing": (
        dynamic("redirect_list: [{action: deny, sources: [10.1.0.0/16]}]"),
        "services[1].redirect_list: nothing would ever be redirected",
    ),
    "line twice": (
        dynamic("redirect_list: [{action: permit}, {action: permit}]"),
        "redirect_list[1]: is already in the list, at redirect_list[0]",
    ),
    "list beyond measure": (
        dynamic(
            "redirect_list: [{action: permit, sources: ["
            + ", ".join(f"10.{number // 256}.{number % 256}.0/24" for number in range(101))
            + "], destinations: ["
            + ", ".join(f"198.51.{number}.0/24" for number in range(100))
            + "]}]"
        ),
        "services[1].redirect_list: its lines enumerate 10100 combinations of networks and ports, 10000 are possible",
    ),
    "reset without affinity": (
        dynamic("affinity: false\n    lost_flows: reset"),
        "services[1].lost_flows: 'reset' needs affinity",
    ),
    "zone of a router without": (dynamic("prefer_zone: true"), "the router is in no zone; set router.zone"),
    "excluding what is no tunnel": (
        GOOD + "redirect: {exclude_interfaces: [ens6]}\n",
        "redirect.exclude_interfaces[0]: 'ens6' is no device of a tunnel",
    ),
    "tunnel name twice": (
        replaced("bgp:", SECOND_TUNNEL.format(name="tgw-a", remote="10.99.0.2", inside="169.254.7.0/29")),
        "r.yaml:7:11: tunnels[1].name: tunnels[0] already has this name",
    ),
    "tunnel pair twice": (
        replaced("bgp:", SECOND_TUNNEL.format(name="tgw-b", remote="10.99.0.1", inside="169.254.7.0/29")),
        "r.yaml:8:13: tunnels[1].remote: tunnels[0] already joins these two addresses",
    ),
    "inside block twice": (
        replaced("bgp:", SECOND_TUNNEL.format(name="tgw-b", remote="10.99.0.2", inside="169.254.6.0/29")),
        "tunnels[1].inside: tunnels[0] already has this inside CIDR block",
    ),
    "remote is ourselves": (replaced("10.99.0.1", "10.100.1.10"), "this router's own address"),
    "device name too long": (
        replaced("tgw-a", "transit-gate"),
        "its device 'wccp-transit-gate' has 17 octets: the kernel takes 15",
    ),
    "address twice": (
        replaced("10.100.1.10", "10.100.1.10\n  addresses: [10.100.1.10]"),
        "r.yaml:3:15: router.addresses[0]: 10.100.1.10 is already an address of this router",
    ),
    "iBGP": (replaced("65010", "64512"), "bgp.asn: 64512 is also peer_asn, which makes the sessions iBGP"),
    "hold time": (
        replaced("64512", "64512\n  hold_time_seconds: 29"),
        "bgp.hold_time_seconds: three keepalives of 10 s exceed the hold time, 29 s",
    ),
    "accept overlaps": (
        replaced("64512", "64512\n  accept: [10.1.0.0/16, 10.0.0.0/8]"),
        "bgp.accept[1]: 10.1.0.0/16 already lies in 10.0.0.0/8",
    ),
    "accept too narrow": (
        replaced("64512", "64512\n  accept: [10.1.1.1/32]"),
        "nothing in 10.1.1.1/32 can be accepted: accept_max_length is 28",
    ),
    "advertise twice": (
        replaced("64512", "64512\n  advertise: [10.0.0.0/8, 10.0.0.0/8]"),
        "bgp.advertise[1]: 10.0.0.0/8 is in the list twice",
    ),
    "tunnels without bgp": (
        GOOD.replace("bgp:\n  asn: 65010\n  peer_asn: 64512\n", ""),
        "tunnels: tunnels need a bgp section",
    ),
    "bgp without tunnels": (
        GOOD[: GOOD.index("tunnels:")] + GOOD[GOOD.index("bgp:") :] + "redirect:\n  interfaces: [ens6]\n",
        "bgp: there are no tunnels",
    ),
    "service twice": (
        GOOD + "  - service: web-cache\n    group_list: [10.0.0.0/8]\n",
        "services[1].service: services[0] already is this service group",
    ),
    "anyone could join": (
        GOOD + "  - service: 70\n",
        "services[1]: anyone could join this service group and be sent the traffic: no password, no list; "
        "add password_file or group_list",
    ),
    "wait without auto": (
        GOOD + "    assignment: cache\n    assignment_wait_seconds: 9\n",
        "services[0].assignment_wait_seconds: has no meaning with 'assignment: cache'",
    ),
    "group list overlaps": (
        replaced("[10.100.1.0/24]", "[10.100.1.0/24, 10.100.1.7]"),
        "services[0].group_list[1]: 10.100.1.7/32 already lies in 10.100.1.0/24",
    ),
    "never redirect twice": (
        GOOD + "redirect:\n  never: [10.0.0.0/8, 10.0.0.0/8]\n",
        "redirect.never[1]: 10.0.0.0/8 is in the list twice",
    ),
    "never redirect anything": (
        GOOD + "redirect:\n  never: [0.0.0.0/0]\n",
        "redirect.never: nothing would ever be redirected",
    ),
    "never redirect anything, in two halves": (
        GOOD + "redirect:\n  never: [0.0.0.0/1, 128.0.0.0/1]\n",
        "r.yaml:14:10: redirect.never: nothing would ever be redirected",
    ),
    "interface twice": (
        GOOD + "redirect:\n  interfaces: [ens6, ens6]\n",
        "redirect.interfaces[1]: is already in the list, at interfaces[0]",
    ),
    "interface of our own": (
        GOOD + "redirect:\n  interfaces: [wccp-tgw-a]\n",
        "'wccp-tgw-a' is a device of our own",
    ),
    "no ingress": (
        GOOD[: GOOD.index("tunnels:")] + GOOD[GOOD.index("services:") :],
        "r.yaml:1:1: no traffic can come in: there are neither tunnels nor redirect.interfaces",
    ),
    "one socket for two": (
        GOOD + "control:\n  socket: /run/wccpd/gobgpd.sock\n",
        "control.socket: is the same as bgp.gobgp_socket",
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES)
def test_a_rule_between_values_is_reported_at_its_place(text: str, expected: str) -> None:
    assert expected in only_problem_of(text)


@pytest.mark.parametrize(
    "name", ["eth*", 'a"b;c', "0x1", "eth0@if3", "-eth0", ".", "..", "1", "éth0", "a/b", "a:b", "x" * 16]
)
def test_an_interface_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    line = only_problem_of(GOOD + f"redirect:\n  interfaces: ['{name}']\n")
    assert "redirect.interfaces[0]: must be the name of a network interface" in line


def test_interface_names_of_every_usual_kind_are_taken() -> None:
    settings = config.parse(GOOD + "redirect:\n  interfaces: [eth0, ens6.100, br-a1b2, wg_0, enp0s31f6, x]\n")
    assert settings.redirect.interfaces == ("eth0", "ens6.100", "br-a1b2", "wg_0", "enp0s31f6", "x")


def test_the_longest_device_prefix_leaves_room_for_the_device_of_a_cache() -> None:
    settings = config.parse(GOOD + "kernel:\n  device_prefix: sevenc-\n")
    assert len(settings.kernel.device_prefix + "0a640115") == 15


@pytest.mark.parametrize("name", ["0a64011", "0a6401155", "0a64-115", "tgw-aaaa", "0a64011g"])
def test_a_tunnel_name_that_no_cache_can_have_is_taken(name: str) -> None:
    assert config.parse(replaced("tgw-a", name)).tunnels[0].name == name


def services_of(count: int) -> str:
    items = "".join(f"  - {{service: {number}, group_list: [10.0.0.0/8]}}\n" for number in range(count))
    return GOOD[: GOOD.index("services:")] + "services:\n" + items


def test_there_are_at_most_as_many_services_as_slots() -> None:
    assert len(config.parse(services_of(255)).services) == 255
    line = only_problem_of(services_of(256))
    assert "services: must have at most 255 entries" in line


def test_the_wait_for_an_assignment_is_left_to_the_timers_unless_written() -> None:
    assert config.parse(GOOD).services[0].assignment_wait_seconds is None
    written = config.parse(GOOD + "    assignment_wait_seconds: 40\n")
    assert written.services[0].assignment_wait_seconds == 40


def test_a_wrong_router_id_is_not_reported_again_for_tunnels_that_take_it_over() -> None:
    assert "router.id" in only_problem_of(replaced("10.100.1.10", "nonsense"))


def test_a_password_is_read_without_its_newline_and_stays_out_of_sight(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"hunter22\n")
    settings = config.parse(GOOD + "    password_file: pw\n", directory=tmp_path)
    service = settings.services[0]
    assert service.password is not None
    assert service.password.get_secret_value() == b"hunter22"
    assert service.password_file == tmp_path / "pw"
    dumps = repr(settings), str(settings), json.dumps(config.redacted(settings)), settings.model_dump_json()
    assert not any("hunter22" in dump for dump in dumps)
    assert "password_file" in dumps[2]


def test_a_changed_password_makes_different_settings(tmp_path: Path) -> None:
    text = GOOD + "    password_file: pw\n"
    (tmp_path / "pw").write_text("one")
    first = config.parse(text, directory=tmp_path)
    (tmp_path / "pw").write_text("two")
    assert config.parse(text, directory=tmp_path) != first


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty: a password has 1 to 8 octets"),
        (b"\r\n", "is empty"),
        (b"123456789", "holds more than 8 octets"),
        (b"a\nb", "holds a control character"),
        (b"abc \n", "a blank at one of its ends"),
        (b"abc\0", "holds a control character"),
    ],
)
def test_an_unusable_password_is_refused_without_being_shown(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (tmp_path / "pw").write_bytes(content)
    line = only_problem_of(GOOD + "    password_file: pw\n", tmp_path)
    assert line.startswith("r.yaml:13:20: services[0].password_file: ")
    assert expected in line
    assert "12345678" not in line


def test_a_missing_password_file_is_reported_at_its_name(tmp_path: Path) -> None:
    line = only_problem_of(GOOD + "    password_file: nowhere\n", tmp_path)
    assert line.startswith("r.yaml:13:20: services[0].password_file: ")
    assert line.endswith(
        "nowhere' cannot be read: no such file or directory; write the password into it, 1 to 8 octets"
    )


def test_a_pipe_as_password_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pw")
    assert "is not a regular file" in only_problem_of(GOOD + "    password_file: pw\n", tmp_path)


@pytest.mark.parametrize("key", ["password_file", "previous_password_file", "password_environment"])
def test_a_password_of_digits_in_place_of_a_name_is_not_repeated(key: str) -> None:
    assert "12345678" not in "".join(problems_of(GOOD + f"    {key}: 12345678\n"))


def test_a_password_file_that_is_taken_for_the_configuration_is_not_shown() -> None:
    assert only_problem_of("hunter22\n") == (
        "r.yaml:1:1: must be a mapping of 'key: value' lines, found one word or number"
    )


@pytest.mark.parametrize("key", ["password", "pasword", "Password"])
def test_a_password_written_in_the_file_is_refused_and_not_repeated(key: str) -> None:
    line = only_problem_of(GOOD + f"    {key}: hunter22\n")
    assert f"services[0].{key}: " in line
    assert "hunter22" not in line


def test_an_exception_for_a_bad_file_carries_nothing_of_the_password() -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.parse(GOOD + "    password: [hunter22]\n")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter22" not in repr(error) + str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "{file}: the file is empty"),
        (b"# only a comment\n", "{file}: the file is empty"),
        (b"router:\n  id: \xff\n", "{file}:2:7: octet 0xff is not UTF-8; save the file as UTF-8"),
        (b"x" * 300_000, "{file}: is larger than 262144 bytes"),
        (b"- 1\n", "{file}:1:1: must be a mapping of 'key: value' lines, found a list"),
    ],
)
def test_a_file_that_is_no_configuration_says_so(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "wccpd.yaml"
    path.write_bytes(content)
    with pytest.raises(config.ConfigError) as caught:
        config.load(path)
    assert str(caught.value) == expected.format(file=path)


def test_a_missing_file_and_a_directory_are_configuration_errors(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "no such file or directory"), (tmp_path, "is a directory")):
        with pytest.raises(config.ConfigError) as caught:
            config.load(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "wccpd.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert config.load(path) == config.parse(GOOD)


def test_redacted_settings_are_plain_values_that_load_again() -> None:
    settings = config.parse(GOOD)
    plain = config.redacted(settings)
    assert config.Config.model_validate(json.loads(json.dumps(plain))) == settings
    assert plain["redirect"] == {
        "interfaces": [],
        "exclude_interfaces": [],
        "never": [],
        "lease_seconds": 30,
        "clamp_mss": True,
        "clear_df": False,
        "dataplane": "netlink",
    }
    assert settings.bgp is not None
    assert settings.bgp.advertise == (IPv4Network("0.0.0.0/0"),)


def test_the_previous_password_is_read_beside_the_present_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"sesame")
    (tmp_path / "old").write_bytes(b"mustard\n")
    text = GOOD + "    password_file: new\n    previous_password_file: old\n"
    (service,) = config.parse(text, directory=tmp_path).services
    assert service.previous_password is not None
    assert service.previous_password.get_secret_value() == b"mustard"
    assert "mustard" not in repr(service)


def test_a_previous_password_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"mustard")
    line = only_problem_of(GOOD + "    previous_password_file: old\n", tmp_path)
    assert "services[0].previous_password_file: there is no present password" in line


def test_a_group_address_must_be_multicast(tmp_path: Path) -> None:
    line = only_problem_of(GOOD + "    group_address: 10.0.0.1\n", tmp_path)
    assert "services[0].group_address: must be an IPv4 multicast address" in line


def test_the_disputed_points_can_be_set_and_are_checked(tmp_path: Path) -> None:
    text = GOOD + "    interop:\n      accepted_receive_ids: 2\n      minor_version: 0\n"
    (service,) = config.parse(text, directory=tmp_path).services
    assert (service.interop.accepted_receive_ids, service.interop.minor_version) == (2, 0)
    line = only_problem_of(GOOD + "    interop:\n      accepted_receive_ids: 9\n", tmp_path)
    assert "services[0].interop.accepted_receive_ids" in line
