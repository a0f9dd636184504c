"""The words of an explanation, and what a mark says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gre.tunnel import ObservedGre, redirect_device
from tests.support.plans import (
    BY_DESTINATION,
    BY_SOURCE,
    CACHES,
    FIRST,
    SECOND,
    evenly,
    packet,
    plan,
    service,
)
from wccpd.plan.compile import Facts, compile_state
from wccpd.plan.decide import Packet, Pin, decide
from wccpd.plan.diff import ObservedTable
from wccpd.plan.explain import (
    _EXEMPTIONS,
    _MODES,
    _REASONS,
    Explanation,
    Known,
    document,
    explain,
    header_words,
)
from wccpd.plan.hashes import xor_bucket
from wccpd.plan.held import GONE, Held, Way, differences, flow_mark, pin_of
from wccpd.plan.policy import KernelSettings, Policy, RedirectList, ServicePolicy
from wccpd.plan.redirect import (
    HashAssignment,
    LostFlows,
    MaskAssignment,
    MaskFields,
    MaskSet,
    Mode,
    Path,
    RedirectPlan,
)
from wccpd.plan.verdict import Exemption, Reason
from wccpd.protocol.view import RouterView
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import ForwardingMethod, ServiceType

GRE = ForwardingMethod.GRE
SETTINGS = KernelSettings(services=("web-cache", "70"))
FLAGGED = HashAssignment(BY_DESTINATION, evenly(*CACHES), BY_SOURCE, frozenset(range(256)))


def told(made: RedirectPlan, about: Packet, *, pinned: Pin | None = None, leased: bool = True) -> Explanation:
    policy = Policy(
        made.router_id,
        tuple(
            ServicePolicy(
                ServiceKey(ServiceType.DYNAMIC if each.dynamic else ServiceType.STANDARD, each.service_id),
                redirect_list=RedirectList(each.acl, tuple(range(len(each.acl))), tuple(map(str, each.acl))),
            )
            for each in made.services
        ),
    )
    decision = decide(made, about, hash_function=xor_bucket, leased=leased, pinned=pinned)
    return explain(made, about, decision, Known(policy, RouterView(()), leased=leased, pinned=pinned))


def words(explanation: Explanation, step: str) -> str:
    return " | ".join(each.words for each in explanation.steps if each.step == step)


def test_the_octets_of_a_redirect_header_are_told_with_what_they_say() -> None:
    assert header_words(0x01460011) == "01 46 00 11 (dynamic service 70, bucket 17)"
    assert header_words(0x02000511) == "02 00 05 11 (standard service 0, bucket 17, alternate bucket 5)"


def test_a_bucket_with_the_a_flag_shows_both_buckets() -> None:
    made = plan(service("web-cache", *CACHES, forwarding=GRE, assignment=FLAGGED))
    said = told(made, packet())
    assert (said.bucket, said.alternate_bucket) == (
        xor_bucket(BY_DESTINATION, packet().fields),
        xor_bucket(BY_SOURCE, packet().fields),
    )
    assert "A flag" in words(said, "hash")
    assert f"alternate bucket {said.alternate_bucket}" in words(said, "header")


def test_a_value_of_a_mask_is_told() -> None:
    value = MaskFields(0, 1, 0, 0)
    masks = MaskAssignment((MaskSet(MaskFields(0, 3, 0, 0), {value: FIRST, MaskFields(0, 2, 0, 0): None}),))
    made = plan(service("web-cache", FIRST, assignment=masks))
    for last, said in ((1, "equals value 0x0/0x1/0x0/0x0 of set 0"), (3, "equals no value of any mask")):
        about = packet(type(FIRST)(f"203.0.113.{last}"))
        assert said in words(told(made, about), "mask")


@pytest.mark.parametrize(
    ("mode", "said"), [(Mode.OPEN, "FORWARDED"), (Mode.CLOSED, "DROPPED"), (Mode.REJECT, "REJECTED")]
)
def test_without_a_lease_the_mode_decides(mode: Mode, said: str) -> None:
    explanation = told(plan(service("web-cache", FIRST, mode=mode)), packet(), leased=False)
    assert words(explanation, "verdict").startswith(said)
    assert explanation.reason == "lapsed"


def test_a_lost_connection_is_told() -> None:
    made = plan(service("web-cache", FIRST, lost_flows=LostFlows.RESET))
    explanation = told(made, packet(), pinned=Pin("web-cache", GONE, 7))
    assert words(explanation, "pin") == "the flow was pinned to a cache that is gone"
    assert explanation.reason == "lost"


@pytest.mark.parametrize("assignment", [FLAGGED, replace(FLAGGED, alternate_buckets=frozenset())])
def test_the_mark_of_a_flow_says_what_it_is_pinned_to(assignment: HashAssignment) -> None:
    made = plan(service("70", *CACHES, forwarding=GRE, assignment=assignment))
    decision = decide(made, packet(), hash_function=xor_bucket)
    assert pin_of(flow_mark(made, decision, SETTINGS), made, SETTINGS) == decision.pin


def test_marks_of_others_and_of_paths_that_are_gone_are_read_as_such() -> None:
    made = plan(service("web-cache", FIRST))
    assert pin_of(0xFF000000, made, SETTINGS) is None
    assert pin_of(SETTINGS.marks.mark(page=1), made, SETTINGS) == Pin("web-cache")
    assert pin_of(SETTINGS.marks.mark(slot=250, page=1), made, SETTINGS) == Pin("web-cache", GONE)


def test_a_gre_device_that_is_down_or_another_is_named() -> None:
    made = plan(service("web-cache", FIRST, SECOND, forwarding=GRE))
    about = packet()
    decision = decide(made, about, hash_function=xor_bucket)
    assert decision.path is not None
    compiled = compile_state(made, (), SETTINGS, Facts())
    nft = compiled.state.nft
    assert nft is not None
    table = ObservedTable(
        maps={each.name: each.elements or {} for each in nft.maps},
        chains={each.name: tuple(rule.comment for rule in each.rules) for each in nft.chains},
    )
    wanted = redirect_device("wccp-", made.router_id, decision.path.cache)
    present = ObservedGre(
        wanted.name, 9, wanted.local, wanted.remote, wanted.ttl, wanted.output_key, 1472, True,
        wanted.addresses, wanted.sysctls, 0, 0, 0, 0,
    )  # fmt: skip

    def found(device: ObservedGre | None) -> list[str]:
        held = Held(
            table,
            frozenset(compiled.state.rules),
            {} if device is None else {device.name: device},
            Way(wanted.name),
        )
        return [str(each) for each in differences(made, about, decision, compiled, SETTINGS, held)]

    assert found(present) == []
    assert found(None) == [f"device {wanted.name}: should be GRE to {decision.path.cache}, is not there"]
    assert found(replace(present, up=False)) == [f"device {wanted.name}: should be up, is down"]
    (said,) = found(replace(present, output_key=None))
    assert "key None" in said
    assert decision.path == Path(decision.path.cache, GRE)


def test_every_reason_and_exemption_has_words() -> None:
    assert set(_EXEMPTIONS) == set(Exemption)
    assert set(_REASONS) == set(Reason)
    assert set(_MODES) == set(Mode)


def test_the_keys_of_the_json_are_stable() -> None:
    made = plan(service("web-cache", FIRST, forwarding=GRE))
    answer = document(told(made, packet()), {"dataplane": "netlink"})
    assert sorted(answer) == [
        "acl_line", "alternate_bucket", "bucket", "cache", "dataplane", "destination", "destination_port", "device",
        "differences", "forwarding", "header", "mtu_bytes", "protocol", "reason", "service", "source", "source_port",
        "steps", "verdict", "version",
    ]  # fmt: skip
    assert (answer["verdict"], answer["cache"], answer["forwarding"]) == ("redirected", str(FIRST), "gre")
    assert answer["header"] == f"{answer['bucket']:08x}", "standard service 0"
    json.dumps(answer)
