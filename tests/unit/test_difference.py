"""What another configuration would change, in the operator's words, and what a running daemon cannot take."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from config import Config
from wccpd.difference import Action, Kind, difference

TEXT = """\
router: {id: 10.100.1.10}
tunnels:
  - {name: a, remote: 10.99.0.1, inside: 169.254.6.0/29}
  - {name: b, remote: 10.99.0.2, inside: 169.254.7.0/29}
bgp: {asn: 65010, peer_asn: 64512}
services:
  - service: web-cache
    password_file: wccp.password
    redirect_list:
      - {action: deny, sources: [10.1.9.0/24]}
      - {action: permit}
  - {service: 70, group_list: [10.100.1.0/24]}
"""


@pytest.fixture(autouse=True)
def password(tmp_path: Path) -> None:
    (tmp_path / "wccp.password").write_text("sesame\n")


def made(directory: Path, *edits: tuple[str, str]) -> Config:
    text = TEXT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return config.parse(text, directory=directory)


def changes(directory: Path, *edits: tuple[str, str]) -> list[tuple[Kind, Action, str, str]]:
    found = difference(made(directory), made(directory, *edits)).changes
    return [(each.kind, each.action, each.what, each.detail) for each in found]


def test_the_same_file_changes_nothing(tmp_path: Path) -> None:
    found = difference(made(tmp_path), made(tmp_path))
    assert (found.changes, found.refusals) == ((), ())


def test_a_tunnel_that_goes_takes_its_two_peers_along(tmp_path: Path) -> None:
    line = "  - {name: b, remote: 10.99.0.2, inside: 169.254.7.0/29}\n"
    assert changes(tmp_path, (line, "")) == [
        (Kind.TUNNEL, Action.REMOVE, "b", ""),
        (Kind.PEER, Action.REMOVE, "169.254.7.2", ""),
        (Kind.PEER, Action.REMOVE, "169.254.7.3", ""),
    ]


def test_a_tunnel_with_another_end_says_that_its_device_is_made_anew(tmp_path: Path) -> None:
    (found,) = changes(tmp_path, ("10.99.0.2", "10.99.0.9"))
    assert found[3] == (
        "remote 10.99.0.2 -> 10.99.0.9; its device is made anew, what runs through it is interrupted"
    )
    (found,) = changes(tmp_path, ("inside: 169.254.7.0/29", "inside: 169.254.7.0/29, mtu_bytes: 1400"))
    assert found[3] == "mtu_bytes 8476 -> 1400"


def test_timers_restart_sessions_and_the_retry_time_does_not(tmp_path: Path) -> None:
    found = changes(tmp_path, ("peer_asn: 64512", "peer_asn: 64512, hold_time_seconds: 60"))
    peers = [each[3] for each in found if each[0] is Kind.PEER]
    assert peers == ["hold_time_seconds 30 -> 60; its session starts anew"] * 4
    found = changes(tmp_path, ("peer_asn: 64512", "peer_asn: 64512, connect_retry_seconds: 9"))
    assert all("its session stays" in each[3] for each in found if each[0] is Kind.PEER)


def test_advertisements_are_named_by_their_prefix(tmp_path: Path) -> None:
    bgp = "peer_asn: 64512"
    assert changes(tmp_path, (bgp, f"{bgp}, advertise: [10.9.0.0/16], med: 50")) == [
        (Kind.ADVERTISEMENT, Action.REMOVE, "0.0.0.0/0", ""),
        (Kind.ADVERTISEMENT, Action.ADD, "10.9.0.0/16", "MED 50, our ASN prepended 0 times"),
    ]
    assert changes(tmp_path, (bgp, f"{bgp}, prepend: 2")) == [
        (Kind.ADVERTISEMENT, Action.CHANGE, "0.0.0.0/0", "MED none, our ASN prepended 2 times")
    ]


def test_lines_of_a_redirect_list_come_and_go_one_by_one(tmp_path: Path) -> None:
    added = "      - {action: deny, protocol: udp}\n      - {action: permit}\n"
    assert changes(
        tmp_path,
        ("      - {action: deny, sources: [10.1.9.0/24]}\n", ""),
        ("      - {action: permit}\n", added),
    ) == [
        (Kind.ACL, Action.REMOVE, "web-cache", "line 1: deny ip 10.1.9.0/24 any"),
        (Kind.ACL, Action.ADD, "web-cache", "line 1: deny udp any any"),
    ]


def test_passwords_are_compared_and_never_shown(tmp_path: Path) -> None:
    before = made(tmp_path)
    (tmp_path / "wccp.password").write_text("tahini\n")
    (found,) = difference(before, made(tmp_path)).changes
    assert (found.kind, found.what, found.detail) == (Kind.PASSWORD, "web-cache", "the password")
    assert "sesame" not in str(found)
    assert "tahini" not in str(found)


def test_services_settings_and_their_order_are_named(tmp_path: Path) -> None:
    line = "  - {service: 70, group_list: [10.100.1.0/24]}\n"
    assert changes(tmp_path, (line, "")) == [(Kind.SERVICE, Action.REMOVE, "70", "")]
    more = "  - {service: 70, group_list: [10.100.1.0/24], affinity: false, forwarding: [gre, l2]}\n"
    assert changes(tmp_path, (line, more)) == [
        (Kind.SERVICE, Action.CHANGE, "70", "forwarding gre -> gre, l2; affinity true -> false")
    ]
    assert changes(tmp_path, (line, ""), ("services:\n", f"services:\n{line}")) == [
        (Kind.SETTING, Action.CHANGE, "services", "order: 70, web-cache")
    ]


def test_every_other_key_is_shown_by_its_path(tmp_path: Path) -> None:
    assert changes(
        tmp_path, ("services:\n", "redirect: {interfaces: [eth1], lease_seconds: 60}\nservices:\n")
    ) == [
        (Kind.SETTING, Action.CHANGE, "redirect.interfaces", "none -> eth1"),
        (Kind.SETTING, Action.CHANGE, "redirect.lease_seconds", "30 -> 60"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("id: 10.100.1.10", "id: 10.100.1.11", "router.id"),
        ("asn: 65010", "asn: 65011", "bgp.asn"),
        ("asn: 65010", "asn: 65010, listen_port: 1790", "bgp.listen_port"),
        ("asn: 65010", "asn: 65010, gobgp_socket: /run/other.sock", "bgp.gobgp_socket"),
        ("services:\n", "control: {socket: /run/other.sock}\nservices:\n", "control.socket"),
        ("services:\n", "state_directory: /srv/wccpd\nservices:\n", "state_directory"),
        ("services:\n", "kernel: {table_base: 20000}\nservices:\n", "kernel.table_base"),
        ("services:\n", "redirect: {dataplane: auto}\nservices:\n", "redirect.dataplane"),
    ],
)
def test_what_a_running_daemon_cannot_change_is_refused_with_a_remedy(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    (refusal,) = difference(made(tmp_path), made(tmp_path, (old, new))).refusals
    assert refusal.key == key
    assert "systemctl restart" in refusal.remedy


def test_a_tunnel_under_another_name_takes_two_reloads(tmp_path: Path) -> None:
    (refusal,) = difference(made(tmp_path), made(tmp_path, ("name: b", "name: c"))).refusals
    assert str(refusal) == (
        "tunnels[1]: c has the addresses of b, and the kernel has one device for a pair; "
        "take it in two reloads, the first without it"
    )
    swapped = (("10.99.0.1", "10.99.0.9"), ("10.99.0.2", "10.99.0.1"))
    (refusal,) = difference(made(tmp_path), made(tmp_path, *swapped)).refusals
    assert refusal.key == "tunnels[1]"
    assert not difference(made(tmp_path), made(tmp_path, ("10.99.0.2", "10.99.0.9"))).refusals


def test_bgp_as_a_whole_cannot_come_or_go(tmp_path: Path) -> None:
    tunnels = TEXT[TEXT.index("tunnels:") : TEXT.index("services:")]
    redirect = "redirect: {interfaces: [eth1]}\n"
    (refusal,) = difference(made(tmp_path), made(tmp_path, (tunnels, redirect))).refusals
    assert refusal.key == "bgp"
