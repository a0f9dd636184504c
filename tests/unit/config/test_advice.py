"""Warnings: what is allowed and yet seldom meant, each at its place, and none of a plain file."""

from __future__ import annotations

from pathlib import Path

import pytest

import config

PLAIN = """\
router:
  id: 10.100.1.10
  zone: a
tunnels:
  - name: tgw-a
    remote: 10.99.0.1
    inside: 169.254.6.0/29
bgp:
  asn: 65010
  peer_asn: 64512
services:
  - service: web-cache
    password_file: w
"""


def warnings_of(text: str, folder: Path) -> list[str]:
    (folder / "w").write_text("s3cret")
    (folder / "w").chmod(0o600)
    path = folder / "r.yaml"
    path.write_text(text)
    return [str(each).removeprefix(f"{folder}/") for each in config.load_with_warnings(path).warnings]


def test_a_plain_file_has_no_warnings(tmp_path: Path) -> None:
    assert warnings_of(PLAIN, tmp_path) == []


def replaced(old: str, new: str) -> str:
    assert PLAIN.count(old) == 1
    return PLAIN.replace(old, new)


HTTPS = "  - service: 70\n    password_file: w\n    match: {protocol: tcp, ports: [443]}\n"
UNUSUAL = {
    "no password": (
        replaced("password_file: w", "group_list: [10.100.1.0/24]"),
        "r.yaml:13:17: services[0].group_list: without a password any host in group_list can pass as a cache",
    ),
    "no password, for everybody": (
        replaced("password_file: w", "group_list: [0.0.0.0/0]"),
        "services[0].group_list: without a password any host can pass as a cache",
    ),
    "small MTU": (
        replaced("    inside", "    mtu_bytes: 1476\n    inside"),
        "r.yaml:7:16: tunnels[0].mtu_bytes: 1476 is less than the 1500 bytes of usual packets",
    ),
    "hold time above the other's": (
        replaced("64512", "64512\n  hold_time_seconds: 90"),
        "bgp.hold_time_seconds: 90 has no effect: the Transit Gateway offers 30, and the lower counts",
    ),
    "port that the Transit Gateway does not know": (
        replaced("64512", "64512\n  listen_port: 1179"),
        "bgp.listen_port: the Transit Gateway connects to 179, never to 1179",
    ),
    "closed, and drawing traffic": (
        PLAIN + "    mode: closed\n",
        "bgp.advertise_when: 'forwarding' keeps drawing traffic to this router while it has no cache for web-cache",
    ),
    "line behind the one that takes all": (
        PLAIN
        + "    redirect_list:\n      - {action: permit}\n      - {action: deny, sources: [10.1.0.0/16]}\n",
        "r.yaml:16:9: services[0].redirect_list[1]: no packet gets to this line: redirect_list[0] matches all",
    ),
    "same packets twice": (
        PLAIN + HTTPS + HTTPS.replace("70", "71"),
        "services[2].match: these packets are those of services[1] too",
    ),
    "web-cache by another number": (
        PLAIN + HTTPS.replace("443", "80"),
        "services[1].match: these packets are those of services[0] too",
    ),
    "zone of no cache": (
        PLAIN + "    prefer_zone: true\ncaches: [{network: 10.100.2.0/24, zone: b}]\n",
        "services[0].prefer_zone: no caches are in the router's zone 'a', so flows go to all of them",
    ),
    "zones for nobody": (
        PLAIN + "caches: [{network: 10.100.2.0/24, zone: b}]\n",
        "r.yaml:14:9: caches: zones have no effect: no service has prefer_zone",
    ),
    "DF and any plane": (
        PLAIN + "redirect: {dataplane: auto, clear_df: true}\n",
        "redirect.dataplane: 'auto' takes netlink, since only that can do clear_df",
    ),
    "every tunnel excluded": (
        PLAIN + "redirect: {exclude_interfaces: [wccp-tgw-a]}\n",
        "redirect.exclude_interfaces: all tunnels are listed, so no traffic is redirected at all",
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_seldom_meant_is_warned_about_at_its_place(name: str, tmp_path: Path) -> None:
    text, expected = UNUSUAL[name]
    (warning,) = warnings_of(text, tmp_path)
    assert expected in warning


def test_the_same_packets_twice_are_meant_where_one_falls_through(tmp_path: Path) -> None:
    assert warnings_of(PLAIN + HTTPS + "    fallthrough: true\n" + HTTPS.replace("70", "71"), tmp_path) == []
