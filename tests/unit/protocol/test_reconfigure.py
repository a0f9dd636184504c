"""New settings for a running engine: what stays, who leaves and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.scripted_cache import ScriptedCache
from wccpd.protocol.outputs import CacheLost, Output, Refused, Send
from wccpd.protocol.reconfigure import Change, GroupChange, changes
from wccpd.protocol.record import take
from wccpd.protocol.router import Router
from wccpd.protocol.settings import AssignmentPolicy, EngineSettings, ServiceSettings
from wccpd.protocol.view import AssignedBy, CacheState, GroupView
from wccpd.wire.components import Capabilities, ServiceInfo
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags

ROUTER, SECOND_ADDRESS = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
FIRST, SECOND = IPv4Address("10.0.1.1"), IPv4Address("10.0.1.2")
WEB = ServiceInfo.web_cache()
HTTPS = ServiceInfo.dynamic(70, 200, 6, ServiceFlags.SOURCE_IP_HASH | ServiceFlags.PORTS_DEFINED, (443,))
L2 = Capabilities(
    forwarding=ForwardingMethod.L2, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.L2
)
EITHER = {
    "forwarding": ForwardingMethod.GRE | ForwardingMethod.L2,
    "packet_return": PacketReturnMethod.GRE | PacketReturnMethod.L2,
}


class Scene:
    """A router whose two groups have two caches each."""

    def __init__(self) -> None:
        self.settings = EngineSettings(
            ROUTER,
            (ROUTER, SECOND_ADDRESS),
            (
                ServiceSettings(WEB.key, (b"old",), policy=AssignmentPolicy.ROUTER, **EITHER),  # type: ignore[arg-type]
                ServiceSettings(HTTPS.key, policy=AssignmentPolicy.ROUTER),
            ),
            first_number=100,
        )
        self.router = Router(self.settings)
        self.now = 0.0
        self.caches = {
            (WEB.key, FIRST): ScriptedCache(FIRST, ROUTER, WEB, b"old"),
            (WEB.key, SECOND): ScriptedCache(SECOND, ROUTER, WEB, b"old", capabilities=L2),
            (HTTPS.key, FIRST): ScriptedCache(FIRST, ROUTER, HTTPS),
            (HTTPS.key, SECOND): ScriptedCache(SECOND, ROUTER, HTTPS),
        }
        for _ in range(2):
            self.everybody_speaks()

    def everybody_speaks(self) -> list[Output]:
        self.now += 5.0
        return [output for cache in self.caches.values() for output in self.speak(cache)]

    def speak(self, cache: ScriptedCache) -> tuple[Output, ...]:
        outputs = self.router.receive(cache.here_i_am(), cache.address, 2048, ROUTER, self.now)
        for output in outputs:
            if isinstance(output, Send):
                cache.hear(output)
        return outputs

    def wanted(self, service: ServiceInfo = WEB, /, **changed: object) -> EngineSettings:
        return replace(
            self.settings,
            services=tuple(
                replace(each, **changed) if each.key == service.key else each
                for each in self.settings.services
            ),
        )

    def foretold(self, wanted: EngineSettings) -> tuple[GroupChange, ...]:
        return changes(self.router.groups, self.settings, wanted)

    def reconfigure(self, wanted: EngineSettings) -> tuple[Output, ...]:
        self.settings = wanted
        return self.router.reconfigure(wanted, self.now)

    def group(self, service: ServiceInfo = WEB) -> GroupView:
        return next(each for each in self.router.view().groups if each.key == service.key)

    def usable(self, service: ServiceInfo = WEB) -> list[IPv4Address]:
        return [each.address for each in self.group(service).caches if each.state is CacheState.USABLE]


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    assert made.usable() == made.usable(HTTPS) == [FIRST, SECOND]
    return made


def test_the_same_settings_change_nothing(scene: Scene) -> None:
    before = scene.router.view()
    assert scene.foretold(scene.settings) == ()
    assert scene.reconfigure(scene.settings) == ()
    assert scene.router.view() == before
    assert not any(isinstance(each, Refused) for each in scene.everybody_speaks())


def test_a_password_is_rotated_without_losing_anybody(scene: Scene) -> None:
    before = scene.group()
    wanted = scene.wanted(passwords=(b"new", b"old"))
    assert scene.foretold(wanted) == (GroupChange(WEB.key, Change.CHANGED, ("passwords",)),)
    assert scene.reconfigure(wanted) == ()
    assert scene.group() == before
    first = scene.caches[WEB.key, FIRST]
    answer = next(each for each in scene.speak(first) if isinstance(each, Send))
    assert first.last is not None, "it has heard"
    first.password = b"new"
    assert not any(isinstance(each, Refused) for each in scene.speak(first))
    assert answer
    scene.reconfigure(scene.wanted(passwords=(b"new",)))
    (refused,) = scene.speak(scene.caches[WEB.key, SECOND])
    assert isinstance(refused, Refused), "the old password is gone, whatever was read under it before"
    assert scene.usable() == [FIRST, SECOND], "its silence is not over yet"


def test_who_is_not_in_the_group_list_any_more_leaves_with_the_reason_and_the_others_have_its_buckets(
    scene: Scene,
) -> None:
    wanted = scene.wanted(group_list=(IPv4Network("10.0.1.1/32"),))
    reason = "it is not in the group list any more"
    assert scene.foretold(wanted) == (
        GroupChange(WEB.key, Change.CHANGED, ("group_list",), {SECOND: reason}),
    )
    before = scene.group().change_number
    assert CacheLost(WEB.key, SECOND, reason) in scene.reconfigure(wanted)
    assert scene.usable() == [FIRST]
    assert set(scene.group().bucket_owners) == {FIRST}
    assert scene.group().change_number > before
    assert scene.usable(HTTPS) == [FIRST, SECOND], "the other group is not concerned"


def test_a_method_that_is_not_offered_any_more_costs_only_those_who_have_it(scene: Scene) -> None:
    wanted = scene.wanted(forwarding=ForwardingMethod.GRE)
    (change,) = scene.foretold(wanted)
    assert change.leaving == {SECOND: "it asks for forwarding L2, this group offers GRE"}
    scene.reconfigure(wanted)
    assert scene.usable() == [FIRST]
    scene.everybody_speaks()
    scene.everybody_speaks()
    (second,) = (each for each in scene.group().caches if each.address == SECOND)
    assert (second.state, second.reason) == (
        CacheState.INCOMPATIBLE,
        "it asks for forwarding L2, this group offers GRE",
    )


def test_l2_ends_where_the_segment_does(scene: Scene) -> None:
    wanted = replace(scene.settings, adjacent=(IPv4Network("10.0.2.0/24"),))
    assert [list(each.leaving) for each in scene.foretold(wanted)] == [[SECOND]]


def test_another_definition_is_another_service_and_everybody_joins_anew(scene: Scene) -> None:
    other = replace(HTTPS, ports=(8443, *HTTPS.ports[1:]))
    wanted = scene.wanted(HTTPS, definition=other)
    (change,) = scene.foretold(wanted)
    assert set(change.leaving) == {FIRST, SECOND}
    assert change.leaving[FIRST].startswith("the configuration defines the service as ")
    scene.reconfigure(wanted)
    assert (scene.group(HTTPS).caches, scene.group(HTTPS).definition) == ((), other)
    assert any(isinstance(each, Refused) for each in scene.everybody_speaks())


def test_the_definition_that_the_caches_gave_may_be_written_down_and_taken_away_again(scene: Scene) -> None:
    for definition in (HTTPS, None):
        wanted = scene.wanted(HTTPS, definition=definition)
        assert scene.foretold(wanted)[0].leaving == {}
        scene.reconfigure(wanted)
        assert scene.usable(HTTPS) == [FIRST, SECOND]
        assert scene.group(HTTPS).definition == HTTPS


def test_a_removed_service_loses_its_caches_and_goes_on_with_its_numbers_when_it_comes_back(
    scene: Scene,
) -> None:
    complete, before = scene.settings, scene.group(HTTPS)
    last = scene.caches[HTTPS.key, FIRST].last
    assert last is not None
    wanted = replace(complete, services=complete.services[:1])
    (change,) = scene.foretold(wanted)
    assert (change.change, list(change.leaving)) == (Change.REMOVED, [FIRST, SECOND])
    lost = scene.reconfigure(wanted)
    assert [each.cache for each in lost if isinstance(each, CacheLost)] == [FIRST, SECOND]
    assert [each.key for each in scene.router.view().groups] == [WEB.key]
    refused = [each for each in scene.everybody_speaks() if isinstance(each, Refused)]
    assert {each.reason.value for each in refused} == {"unknown_service"}
    assert scene.foretold(complete) == (GroupChange(HTTPS.key, Change.ADDED),)
    scene.reconfigure(complete)
    assert scene.group(HTTPS).change_number > before.change_number
    scene.everybody_speaks()
    again = scene.caches[HTTPS.key, FIRST].last
    assert again is not None
    assert again.identity.receive_id > last.identity.receive_id


def test_another_router_id_is_another_router(scene: Scene) -> None:
    wanted = replace(scene.settings, router_id=SECOND_ADDRESS)
    assert [set(each.leaving) for each in scene.foretold(wanted)] == [{FIRST, SECOND}] * 2
    scene.reconfigure(wanted)
    assert scene.usable() == []
    for _ in range(2):
        scene.everybody_speaks()
    assert scene.usable() == [FIRST, SECOND]
    last = scene.caches[WEB.key, FIRST].last
    assert last is not None
    assert last.identity.router_id == SECOND_ADDRESS


@pytest.mark.parametrize("policy", [AssignmentPolicy.AUTO, AssignmentPolicy.CACHE])
def test_buckets_that_the_router_gave_stay_until_whoever_may_now_assigns(
    scene: Scene, policy: AssignmentPolicy
) -> None:
    owners = scene.group().bucket_owners
    scene.reconfigure(scene.wanted(policy=policy))
    assert scene.group().bucket_owners == owners
    first = scene.caches[WEB.key, FIRST]
    scene.speak(first)
    assignment = first.redirect_assign((FIRST,))
    scene.router.receive(assignment, FIRST, 2048, ROUTER, scene.now)
    assert set(scene.group().bucket_owners) == {FIRST}
    assert scene.group().assigned_by is AssignedBy.CACHE
    scene.reconfigure(scene.wanted(policy=AssignmentPolicy.ROUTER))
    assert scene.group().assigned_by is AssignedBy.ROUTER
    assert set(scene.group().bucket_owners) == {FIRST, SECOND}


def test_a_prospect_is_what_reconfigure_makes_and_touches_nothing() -> None:
    asked = Scene()
    for wanted in (
        asked.wanted(group_list=(IPv4Network("10.0.1.2/32"),)),
        asked.wanted(forwarding=ForwardingMethod.L2, packet_return=PacketReturnMethod.L2),
        asked.wanted(policy=AssignmentPolicy.CACHE),
        asked.wanted(definition=WEB),
        replace(asked.settings, services=asked.settings.services[1:]),
        replace(asked.settings, router_id=SECOND_ADDRESS),
    ):
        scene, twin = Scene(), Scene()
        before = scene.router.view(), take(scene.router), scene.router.next_deadline()
        prospect = scene.router.prospect(wanted, scene.now)
        twin.router.reconfigure(wanted, twin.now)
        assert prospect == twin.router.view()
        assert (scene.router.view(), take(scene.router), scene.router.next_deadline()) == before
        assert not any(isinstance(each, Refused | CacheLost) for each in scene.everybody_speaks())
