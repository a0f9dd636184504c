"""The main job, with stock Squid, BIRD and gobgpd around the daemon."""

import signal
import time

import pytest

from lab.errors import LabError, wait_until
from lab.laboratory import Lab
from lab.topology import SPOKES

pytestmark = [pytest.mark.gre, pytest.mark.lab]

ROUTER = "router1"
DAEMON = "wccpd-router1"
ORIGIN = "203.0.113.10"


def serving_proxy(lab: Lab, spoke: str, name: str) -> str:
    """Fetch a page of its own name over HTTP; the proxy whose access log shows it."""
    page = lab.fetch(spoke, f"http://{ORIGIN}/{name}")
    assert (page.status, page.body) == (200, f"the page at /{name}\n"), page.error
    return lab.wait_access(f"/{name}")[0]


def kernel_handles(lab: Lab) -> set[str]:
    """What stays the same as long as a kernel object lives: interface indexes and nftables handles."""
    links = [line.split(":")[0:2] for line in lab.run(ROUTER, ["ip", "-o", "link", "show"]).splitlines()]
    tables = lab.run(ROUTER, ["nft", "-a", "-s", "list", "tables"]).splitlines()
    chains = lab.run(ROUTER, ["nft", "-a", "-s", "list", "chains"]).splitlines()
    return {":".join(link) for link in links} | {line.strip() for line in tables + chains if "handle" in line}


def test_stock_squids_with_a_password_join_both_services_and_all_256_buckets_are_assigned(lab: Lab) -> None:
    status = lab.status(ROUTER)
    joined = {(c["service"], c["address"]): c for c in status["caches"]}
    expected = {(s, str(p.address)) for s in ("web-cache", "70") for p in lab.topology.proxies}
    assert set(joined) == expected
    for cache in joined.values():
        assert cache["state"] == "usable", cache["reason"]
        assert cache["buckets"] == 128
    for service in status["services"]:
        assert (service["caches_usable"], service["buckets_assigned"]) == (2, 256)
    assert status["reasons"] == []


def test_the_router_advertises_the_default_on_both_sessions_and_learns_the_spokes_alone(lab: Lab) -> None:
    status = lab.wait_status(
        ROUTER,
        lambda s: (
            [p["state"] for p in s["bgp"]["peers"]] == ["established"] * 2 and len(s["bgp"]["routes"]) == 2
        ),
        "two sessions and two routes",
        60,
    )
    assert status["bgp"]["advertising"] is True
    assert {route["prefix"] for route in status["bgp"]["routes"]} == {"10.1.0.0/24", "10.2.0.0/24"}
    assert lab.tgw_default_devices() == [frozenset({"gre-router1"})] * 2
    for spoke in SPOKES:
        assert status["tunnels"][0]["device"] in lab.run(ROUTER, ["ip", "route", "get", str(spoke.address)])


@pytest.mark.parametrize("spoke", SPOKES, ids=lambda spoke: spoke.name)
def test_a_page_fetched_from_a_spoke_is_in_a_squids_access_log_with_the_spokes_address(
    lab: Lab, spoke
) -> None:
    path = f"from-{spoke.name}"
    page = lab.fetch(spoke.name, f"http://{ORIGIN}/{path}")
    assert (page.status, page.body) == (200, f"the page at /{path}\n"), page.error
    _, access = lab.wait_access(f"/{path}")
    assert access.client == spoke.address


def test_both_squids_pass_the_probe_through_the_gre_redirect(lab: Lab) -> None:
    lab.wait_status(
        ROUTER,
        lambda s: (
            [c["probe"].split(" for ")[0] for c in s["caches"] if c["service"] == "70"] == ["passing"] * 2
        ),
        "both pass",
        60,
    )


def test_a_page_larger_than_any_packet_comes_through_whole(lab: Lab) -> None:
    page = lab.fetch("spoke1", f"http://{ORIGIN}/bytes/300000")
    assert (page.status, len(page.body)) == (200, 300000), page.error


def test_https_passes_through_a_squid_and_still_shows_the_origins_own_certificate(lab: Lab) -> None:
    before = {p.name: len(lab.accesses(p.name)) for p in lab.topology.proxies}
    page = lab.fetch("spoke1", f"https://{ORIGIN}/secret")
    assert (page.status, page.body) == (200, "the page at /secret\n"), page.error

    def new_tunnels() -> list[str]:
        accesses = [a for name, count in before.items() for a in lab.accesses(name)[count:]]
        return [str(a.client) for a in accesses if a.method == "CONNECT" and a.url == f"{ORIGIN}:443"]

    assert wait_until(new_tunnels, "CONNECT line in an access log", 30) == ["10.1.0.10"]


def test_what_no_service_asks_for_goes_straight_to_the_firewall(lab: Lab) -> None:
    page = lab.fetch("spoke2", f"http://{ORIGIN}:8080/straight")
    assert (page.status, page.body) == (200, "the page at /straight\n"), page.error
    assert not [a for p in lab.topology.proxies for a in lab.accesses(p.name) if "/straight" in a.url]


def test_a_killed_daemon_leaves_no_gap_in_the_redirect_and_its_successor_adopts_the_kernels_objects(
    lab: Lab,
) -> None:
    handles = kernel_handles(lab)
    redirected = {s["service"]: s["packets_redirected"] for s in lab.status(ROUTER)["services"]}
    lab.kill(DAEMON, signal.SIGKILL)
    serving_proxy(lab, "spoke1", "while-dead")
    assert all(lab.tgw_default_devices())
    lab.start_wccpd(ROUTER)
    for number in range(5):
        serving_proxy(lab, "spoke1", f"while-starting-{number}")
    status = lab.wait_status(ROUTER, lambda s: s["inspecting"], "inspection after the restart", 120)
    serving_proxy(lab, "spoke1", "after-restart")
    assert kernel_handles(lab) >= handles
    assert all(lab.tgw_default_devices())
    counted = {s["service"]: s["packets_redirected"] for s in status["services"]}
    assert counted["web-cache"] >= redirected["web-cache"]


def test_a_stopped_daemon_withdraws_the_default_and_leaves_nothing_of_its_own_in_the_kernel(
    lab: Lab, baseline: frozenset[str]
) -> None:
    assert lab.kernel_state(ROUTER) != baseline
    lab.kill(DAEMON, signal.SIGTERM)
    wait_until(lambda: not any(lab.tgw_default_devices()), "withdrawn default", 10)
    assert lab.kernel_state(ROUTER) == baseline


def test_the_buckets_of_a_killed_squid_move_to_the_other_within_35_seconds(lab: Lab) -> None:
    victim = serving_proxy(lab, "spoke1", "before-the-loss")
    survivor = {"proxy1": "proxy2", "proxy2": "proxy1"}[victim]
    lab.kill(f"squid-{victim}", signal.SIGKILL)
    killed_at = time.monotonic()

    attempts: list[float] = []

    def served_again() -> bool:
        attempts.append(time.monotonic() - killed_at)
        return lab.fetch("spoke1", f"http://{ORIGIN}/after-the-loss", timeout_seconds=3).status == 200

    wait_until(served_again, "page after the loss of a proxy", 60)
    assert lab.wait_access("/after-the-loss")[0] == survivor
    assert attempts[-1] <= 35
    address = str(lab.topology.proxy(survivor).address)
    lab.wait_status(
        ROUTER,
        lambda s: all(c["buckets"] == (256 if c["address"] == address else 0) for c in s["caches"]),
        "all buckets at the survivor",
        30,
    )


def test_the_lab_refuses_a_second_lab_on_the_same_machine(lab: Lab) -> None:
    with pytest.raises(LabError, match="another lab is running"), Lab():
        pass
