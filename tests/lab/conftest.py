"""One lab for all tests of this folder; building it anew for each would take minutes in a VM."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.errors import wait_until
from lab.laboratory import Lab

ROUTER = "router1"
PROXIES = ("proxy1", "proxy2")
JOIN_TIMEOUT_SECONDS = 240


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab with everything but the router's own programs."""
    directory: Path = tmp_path_factory.mktemp("lab")
    # Squid and tcpdump run as users of their own and must get through pytest's private folders.
    for folder in (directory.parent.parent, directory.parent):
        folder.chmod(0o755)
    with Lab(directory) as lab:
        for proxy in PROXIES:
            lab.start_proxy(proxy, wait=False)
        yield lab
        if lab.programs.running(f"wccpd-{ROUTER}"):
            lab.kill(f"wccpd-{ROUTER}", signal.SIGTERM)


@pytest.fixture(scope="session")
def baseline(surroundings: Lab) -> frozenset[str]:
    """The router's kernel before wccpd first ran there."""
    return surroundings.kernel_state(ROUTER)


@pytest.fixture(scope="session")
def put_in_order(surroundings: Lab, baseline: frozenset[str]) -> Callable[[], Lab]:
    """Start again what is missing in the lab and wait until traffic is inspected and the default advertised."""
    assert baseline

    def put() -> Lab:
        for proxy in PROXIES:
            if not surroundings.programs.running(f"squid-{proxy}"):
                surroundings.start_proxy(proxy, wait=False)
        if not surroundings.programs.running(f"gobgpd-{ROUTER}"):
            surroundings.start_router(ROUTER)
        elif not surroundings.programs.running(f"wccpd-{ROUTER}"):
            surroundings.start_wccpd(ROUTER)
        for proxy in PROXIES:
            surroundings.wait_proxy(proxy)
        wait_for_inspection(surroundings)
        return surroundings

    return put


@pytest.fixture
def lab(put_in_order: Callable[[], Lab]) -> Lab:
    """The lab in working order, whatever the test before has ended."""
    return put_in_order()


def wait_for_inspection(lab: Lab) -> None:
    lab.wait_status(
        ROUTER,
        lambda status: (
            status["inspecting"]
            and all(s["caches_usable"] == 2 and s["buckets_assigned"] == 256 for s in status["services"])
        ),
        "inspection with two usable caches in each service",
        JOIN_TIMEOUT_SECONDS,
    )
    wait_until(lambda: all(lab.tgw_default_devices()), "default route on the Transit Gateway", 90)
