"""The examples: each can be used as it is, once its passwords are there, and says what its comments say."""

from __future__ import annotations

import json
import re
import shutil
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

import config
from config.schema import FILE as SCHEMA
from wccpd import assemble
from wccpd.plan.redirect import Mode
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod

EXAMPLES = Path(config.__file__).parent / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every password that an example names, where it is looked for."""
    for name in ("web-cache.password", "proxies.password", "wccp-password"):
        (tmp_path / name).write_text("s3cret\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def loaded(name: str, folder: Path) -> config.Loaded:
    shutil.copy(EXAMPLES / name, folder)
    return config.load_with_warnings(folder / name)


def test_there_is_an_example_for_every_usual_set_up() -> None:
    assert NAMES == [
        "closed.yaml",
        "commented.yaml",
        "commercial-proxy.yaml",
        "fleet.yaml",
        "http-and-https.yaml",
        "one-router.yaml",
        "two-zones-a.yaml",
        "two-zones-b.yaml",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_loads_and_every_part_takes_it(name: str, credentials: Path) -> None:
    settings = loaded(name, credentials).config
    engine = assemble.engine_settings(settings, 1)
    assert [service.key for service in engine.services] == [
        service.key for service in assemble.policy(settings).services
    ]
    speaker = assemble.speaker_spec(settings)
    assert speaker is not None
    assert len(speaker.peers) == 2 * len(settings.tunnels) >= 2
    assert assemble.kernel_settings(settings).device_prefix == "wccp-"
    assert assemble.rib_policy(settings).refusal(IPv4Network("10.1.0.0/16")) is None


@pytest.mark.parametrize("name", NAMES)
def test_an_example_warns_of_nothing_but_the_password_that_the_smallest_lacks(
    name: str, credentials: Path
) -> None:
    lacking = {
        "one-router.yaml": [("services", 0, "group_list")],
        "commented.yaml": [("services", 1, "group_list"), ("bgp", "advertise_when")],
    }
    warned = {warning.path for warning in loaded(name, credentials).warnings}
    assert warned == set(lacking.get(name, []))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_commented_and_names_the_schema_that_is_beside_it(name: str) -> None:
    first, second, *_ = (EXAMPLES / name).read_text().splitlines()
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert schema is not None
    assert (EXAMPLES / schema[1]).resolve() == SCHEMA.resolve()
    assert second.startswith("# ")
    assert "id" in json.loads(SCHEMA.read_text())["$defs"]["Router"]["properties"]


def test_the_smallest_example_is_under_30_lines_and_has_all_of_the_architecture(credentials: Path) -> None:
    assert len((EXAMPLES / "one-router.yaml").read_text().splitlines()) < 30
    settings = loaded("one-router.yaml", credentials).config
    assert settings.tunnels[0].local == settings.router.id == IPv4Address("10.100.1.10")
    speaker = assemble.speaker_spec(settings)
    assert speaker is not None
    assert [str(each.prefix) for each in speaker.advertisements] == ["0.0.0.0/0"]
    assert assemble.policy(settings).ingress == ("wccp-tgw-a",)
    assert [str(service.key) for service in assemble.engine_settings(settings, 1).services] == ["web-cache"]


def test_the_two_routers_differ_in_the_lines_marked_own_alone() -> None:
    first, second = (
        [line for line in (EXAMPLES / name).read_text().splitlines() if line[:1] != "#"]
        for name in ("two-zones-a.yaml", "two-zones-b.yaml")
    )
    differing = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    assert len(differing) == 5
    assert all(line.endswith("# own") for pair in differing for line in pair)


def test_each_of_the_two_routers_prefers_the_caches_of_its_own_zone(credentials: Path) -> None:
    for name, near in (("two-zones-a.yaml", "10.100.1.21"), ("two-zones-b.yaml", "10.100.2.21")):
        policy = assemble.policy(loaded(name, credentials).config)
        assert policy.zone_of(IPv4Address(near)) == policy.zone != ""
        assert policy.services[0].prefer_zone


def test_the_commercial_proxy_is_offered_masks_and_layer_2(credentials: Path) -> None:
    (service,) = assemble.engine_settings(loaded("commercial-proxy.yaml", credentials).config, 1).services
    assert AssignmentMethod.MASK in service.assignment
    assert ForwardingMethod.L2 in service.forwarding


def test_in_the_closed_example_no_service_is_open_and_the_quorum_decides_what_is_advertised(
    credentials: Path,
) -> None:
    settings = loaded("closed.yaml", credentials).config
    modes = {service.mode for service in assemble.policy(settings).services}
    assert modes == {Mode.CLOSED, Mode.REJECT}
    assert assemble.advertise_policy(settings).quorum == 2


def test_the_fleet_has_its_password_from_systemd(credentials: Path) -> None:
    settings = loaded("fleet.yaml", credentials).config
    assert {service.passwords for service in assemble.engine_settings(settings, 1).services} == {(b"s3cret",)}
