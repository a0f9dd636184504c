"""What the operator may say to `wccpctl simulate`."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from typer.testing import CliRunner

from wccpd import ctl
from wccpd.simulate import SpecError, parse_cache, parse_service
from wccpd.simulator.profiles import PROFILES, SQUID_5_7
from wccpd.wire.components import ServiceInfo
from wccpd.wire.enums import ServiceFlags


def test_a_cache_is_a_profile_at_an_address() -> None:
    assert parse_cache("squid-5.7@10.0.1.21") == (SQUID_5_7, IPv4Address("10.0.1.21"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("squid-9@10.0.1.21", "no profile 'squid-9', only strict, strict-2.01"),
        ("strict", "write PROFILE@ADDRESS, e.g. strict@10.0.1.21"),
        ("strict@nowhere", "write PROFILE@ADDRESS"),
    ],
)
def test_what_is_no_cache_is_refused_with_a_hint(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        parse_cache(text)


def test_a_service_is_web_cache_or_a_number_with_protocol_and_ports() -> None:
    source = ServiceFlags.SOURCE_IP_HASH
    assert parse_service("web-cache") == ServiceInfo.web_cache()
    assert parse_service("90") == ServiceInfo.dynamic(90, 240, 6, source)
    assert parse_service("90/udp") == ServiceInfo.dynamic(90, 240, 17, source)
    ports = source | ServiceFlags.PORTS_DEFINED
    assert parse_service("70/tcp/443,8443") == ServiceInfo.dynamic(70, 240, 6, ports, (443, 8443))


@pytest.mark.parametrize(
    "text",
    ["", "256", "-1", "70/sctp", "70/tcp/0", "70/tcp/65536", "70/tcp/1,2,3,4,5,6,7,8,9", "70/tcp/80/x"],
)
def test_what_is_no_service_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(SpecError, match="NUMBER/PROTOCOL/PORTS"):
        parse_service(text)


def test_the_help_names_every_profile() -> None:
    shown = CliRunner().invoke(ctl.app, ["simulate", "--help"]).output
    assert all(name in shown for name in PROFILES)
