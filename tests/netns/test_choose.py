"""Which data plane is taken, and that the other one leaves the redirect to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.namespaces import Namespace
from tests.support.plans import ROUTER_ID, plan, service
from wccpd.dataplane.choose import PlaneChoice, PlaneKind
from wccpd.dataplane.ebpf import kernel
from wccpd.dataplane.port import Wish
from wccpd.errors import KernelError
from wccpd.plan.policy import KernelSettings, Policy

pytestmark = pytest.mark.netns
SETTINGS = KernelSettings(services=("70",))
POLICY = Policy(router_id=ROUTER_ID, services=(), ingress=("spokes",))


@pytest.fixture
def router() -> Iterator[Namespace]:
    with Namespace("choose") as made:
        made.run("ip", "link", "add", "spokes", "type", "veth", "peer", "name", "there")
        yield made


def bring(router: Namespace, choice: PlaneChoice) -> None:
    def work() -> None:
        plane = choice()
        assert not plane.bring_to(Wish(plan(service("70")))).faults
        plane.close()

    router.call(work)


def remove(router: Namespace, choice: PlaneChoice) -> None:
    def work() -> None:
        plane = choice()
        plane.remove()
        plane.close()

    router.call(work)


def programs(router: Namespace) -> str:
    return router.run("tc", "filter", "list", "dev", "spokes", "ingress")


def test_auto_takes_the_ebpf_plane_where_it_loads(router: Namespace) -> None:
    choice = PlaneChoice(PlaneKind.AUTO, SETTINGS, POLICY)
    bring(router, choice)
    assert (choice.name, choice.hash_function, choice.reason) == ("ebpf", "xor", "")
    assert "wccp_ethernet" in programs(router)
    remove(router, choice)


def test_each_takes_over_from_the_other_and_leaves_nothing_of_it(router: Namespace) -> None:
    for _ in range(2):
        bring(router, PlaneChoice(PlaneKind.NETLINK, SETTINGS, POLICY))
        assert "wccp_ethernet" not in programs(router)
        assert "table ip wccpd" in router.run("nft", "list", "tables")
        bring(router, PlaneChoice(PlaneKind.EBPF, SETTINGS, POLICY))
        assert "wccp_ethernet" in programs(router)
        assert "table ip wccpd" not in router.run("nft", "list", "tables")
    remove(router, PlaneChoice(PlaneKind.EBPF, SETTINGS, POLICY))
    assert programs(router) == ""


def test_auto_says_why_it_does_not(
    router: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    choice = PlaneChoice(PlaneKind.AUTO, SETTINGS, replace(POLICY, clear_df=True))
    bring(router, choice)
    assert (choice.name, choice.hash_function) == ("netlink", "jhash")
    assert "clear_df" in choice.reason
    monkeypatch.setattr(kernel, "OBJECT", tmp_path / "redirect.bpf.o")
    choice = PlaneChoice(PlaneKind.AUTO, SETTINGS, POLICY)
    bring(router, choice)
    assert choice.name == "netlink"
    assert "redirect.bpf.o" in choice.reason
    with pytest.raises(KernelError, match=r"redirect\.bpf\.o"):
        router.call(PlaneChoice(PlaneKind.EBPF, SETTINGS, POLICY))
    remove(router, choice)


def test_a_program_that_the_verifier_refuses_is_told_with_its_last_words(
    router: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from bench.packets.compiler import compile_program

    source = (kernel.OBJECT.parent / "program" / "redirect.bpf.c").read_text()
    careless = source.replace(
        '#include "send.h"', f'#include "{kernel.OBJECT.parent}/program/send.h"'
    ).replace(
        "	struct packet packet = {};",
        "	struct packet packet = {};\n\tif (*(__u8 *)(long)context->data) return 0;",
    )
    (tmp_path / "redirect.bpf.c").write_text(careless)
    compile_program(tmp_path / "redirect.bpf.c", tmp_path / "redirect.bpf.o")
    monkeypatch.setattr(kernel, "OBJECT", tmp_path / "redirect.bpf.o")
    choice = PlaneChoice(PlaneKind.AUTO, SETTINGS, POLICY)
    bring(router, choice)
    assert choice.name == "netlink"
    assert "offset is outside of the packet" in choice.reason
    remove(router, choice)
