"""The engine against real Squids of this Debian, control plane only: every method, with and without MD5.

    squid-a, -b   web-cache and dynamic 81: hash, GRE, MD5       one namespace, an address each
    squid-c       dynamic 82: mask, L2, MD5
    squid-d       dynamic 83: mask, GRE, no password
    squid-e       dynamic 84: hash, L2, no password

All start at once and are watched together: a Squid says HERE_I_AM every ten seconds, and one that cannot read a
standard I_SEE_YOU needs four of them.
"""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.support.namespaces import Namespace
from wccpd.protocol.outputs import Output, Refused, Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import EngineSettings, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState, GroupView
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceType

pytestmark = pytest.mark.netns

ROUTER_ID = IPv4Address("10.100.1.10")
NETWORK = IPv4Network("10.100.1.0/24")
PASSWORD = b"sesame"
JOIN_SECONDS = 120
WEB_CACHE = ServiceKey(ServiceType.STANDARD, 0)


def dynamic(number: int) -> ServiceKey:
    return ServiceKey(ServiceType.DYNAMIC, number)


@dataclass(frozen=True)
class Proxy:
    """One Squid and what it is configured for."""

    name: str
    address: IPv4Address
    service: int
    assignment: str
    method: str
    password: bool
    web_cache: bool = False

    def configuration(self, directory: Path) -> str:
        secret = f" password={PASSWORD.decode()}" if self.password else ""
        return f"""\
http_port {self.address}:3128
http_access deny all
cache deny all
cache_mem 8 MB
max_filedescriptors 256
cache_effective_user proxy
pid_filename {directory}/squid.pid
access_log none
cache_log {directory}/cache.log
coredump_dir {directory}
dns_nameservers 127.0.0.1
pinger_enable off
shutdown_lifetime 1 second
wccp2_router {ROUTER_ID}
wccp2_address {self.address}
wccp2_forwarding_method {self.method}
wccp2_return_method {self.method}
wccp2_assignment_method {self.assignment}
{f"wccp2_service standard 0{secret}" if self.web_cache else ""}
wccp2_service dynamic {self.service}{secret}
wccp2_service_info {self.service} protocol=tcp flags=src_ip_hash priority=100 ports=80
"""


PROXIES = (
    Proxy("squid-a", NETWORK[21], 81, "hash", "gre", password=True, web_cache=True),
    Proxy("squid-b", NETWORK[22], 81, "hash", "gre", password=True, web_cache=True),
    Proxy("squid-c", NETWORK[23], 82, "mask", "l2", password=True),
    Proxy("squid-d", NETWORK[24], 83, "mask", "gre", password=False),
    Proxy("squid-e", NETWORK[25], 84, "hash", "l2", password=False),
)


class Loop:
    """The least shell around an engine: one socket, one timer."""

    def __init__(self, router: Router, namespace: Namespace) -> None:
        self.router = router
        self.refused: list[Refused] = []
        self._socket = namespace.call(self._open)

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((str(ROUTER_ID), 2048))
        return sock

    def step(self) -> None:
        if select.select([self._socket], [], [], 0.2)[0]:
            datagram, (source, port) = self._socket.recvfrom(65535)
            self._carry_out(
                self.router.receive(datagram, IPv4Address(source), port, ROUTER_ID, time.monotonic())
            )
        self._carry_out(self.router.tick(time.monotonic()))

    def _carry_out(self, outputs: tuple[Output, ...]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self._socket.sendto(output.datagram, (str(output.remote), output.remote_port))
            elif isinstance(output, Refused):
                self.refused.append(output)

    def close(self) -> None:
        self._socket.close()


def settings() -> EngineSettings:
    def service(key: ServiceKey, *, password: bool) -> ServiceSettings:
        return ServiceSettings(
            key=key,
            passwords=(PASSWORD,) if password else (),
            group_list=(NETWORK,),
            assignment_wait_seconds=1.0,
            forwarding=ForwardingMethod.GRE | ForwardingMethod.L2,
            packet_return=PacketReturnMethod.GRE | PacketReturnMethod.L2,
            assignment=AssignmentMethod.HASH | AssignmentMethod.MASK,
        )

    secret = {proxy.service: proxy.password for proxy in PROXIES}
    services = (
        service(WEB_CACHE, password=True),
        *(service(dynamic(number), password=password) for number, password in secret.items()),
    )
    return EngineSettings(ROUTER_ID, (ROUTER_ID,), services, first_number=int(time.time()))


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """All Squids and an engine that has watched them join."""
    squid = shutil.which("squid")
    assert squid is not None, "make setup installs squid-openssl"
    with Namespace("router") as router, Namespace("squids") as squids:
        router.connect("eth0", f"{ROUTER_ID}/24", squids, "eth0", f"{PROXIES[0].address}/24")
        for proxy in PROXIES[1:]:
            squids.run("ip", "address", "add", f"{proxy.address}/24", "dev", "eth0")
        loop = Loop(Router(settings()), router)
        running = [start(squid, proxy, squids, tmp_path_factory.mktemp(proxy.name)) for proxy in PROXIES]
        try:
            deadline = time.monotonic() + JOIN_SECONDS
            while time.monotonic() < deadline and not all(
                is_settled(group) for group in loop.router.view().groups
            ):
                loop.step()
            yield loop
        finally:
            loop.close()
            for process in running:
                process.terminate()
            for process in running:
                process.wait(20)


def start(squid: str, proxy: Proxy, namespace: Namespace, directory: Path) -> subprocess.Popen[bytes]:
    # Squid gives up root and must get through pytest's private folders.
    for folder in (directory, directory.parent, directory.parent.parent):
        folder.chmod(0o777 if folder == directory else 0o755)
    file = directory / "squid.conf"
    file.write_text(proxy.configuration(directory))
    name = f"wt{proxy.service}{int(proxy.address) & 0xFF}{time.monotonic_ns() % 10**6}"
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace.name, squid, "-N", "-n", name, "-f", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def is_settled(group: GroupView) -> bool:
    expected = [proxy for proxy in PROXIES if is_member(proxy, group.key)]
    usable = [cache for cache in group.caches if cache.state is CacheState.USABLE]
    return len(usable) == len(expected) and all(cache.buckets for cache in group.caches)


def is_member(proxy: Proxy, key: ServiceKey) -> bool:
    return key == dynamic(proxy.service) or (proxy.web_cache and key == WEB_CACHE)


def group(loop: Loop, key: ServiceKey) -> GroupView:
    return next(each for each in loop.router.view().groups if each.key == key)


@pytest.mark.parametrize("key", [WEB_CACHE, *(dynamic(number) for number in (81, 82, 83, 84))], ids=str)
def test_every_squid_becomes_usable_with_the_methods_that_it_was_configured_for(
    farm: Loop, key: ServiceKey
) -> None:
    members = [proxy for proxy in PROXIES if is_member(proxy, key)]
    caches = group(farm, key).caches
    assert [cache.address for cache in caches] == [proxy.address for proxy in members]
    assert {cache.state for cache in caches} == {CacheState.USABLE}, [cache.reason for cache in caches]
    assert {cache.forwarding.name for cache in caches} == {members[0].method.upper()}


@pytest.mark.parametrize("key", [WEB_CACHE, dynamic(81), dynamic(84)], ids=str)
def test_all_buckets_of_a_hash_group_are_assigned_and_shared_equally(farm: Loop, key: ServiceKey) -> None:
    view = group(farm, key)
    assert view.assigned_by in {AssignedBy.CACHE, AssignedBy.ROUTER}
    share = 256 // len(view.caches)
    assert [cache.buckets for cache in view.caches] == [share] * len(view.caches)


@pytest.mark.parametrize("key", [dynamic(82), dynamic(83)], ids=str)
def test_all_64_values_of_a_mask_group_are_assigned_with_squids_own_mask(farm: Loop, key: ServiceKey) -> None:
    view = group(farm, key)
    (values,) = view.mask_sets
    assert values.mask.source_address == IPv4Address(0x1741)
    assert len(values.values) == view.values == 64
    assert {value.owner for value in values.values} == {view.caches[0].address}


def test_nothing_that_a_squid_sent_was_refused(farm: Loop) -> None:
    assert farm.refused == []
