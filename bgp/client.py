"""One connection to a gobgpd over its unix socket: calls with deadlines, streams, errors of our own.

Which of the two API generations answers is found out at run time: GetBgp under GoBGP 4's service name is
UNIMPLEMENTED in GoBGP 3, and the reverse. A `Client` lives as long as its connection; the next one detects
anew, because gobgpd may have been upgraded in between. Retrying is `bgp.speaker`'s business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import grpc
import grpc.aio

from bgp.convert import Converter, RunningGlobal, RunningPeer
from bgp.errors import SidecarError, SidecarIncompatible, SidecarRefused, SidecarTimedOut, SidecarUnreachable
from bgp.policy import NAME_PREFIX
from bgp.schema import METHODS, STREAMS, Api, DynamicMessage, schema_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bgp.events import (
        Advertisement,
        IPAddress,
        IPNetwork,
        PathEvent,
        PeerSpec,
        PeerStateChanged,
        SpeakerSpec,
    )
    from bgp.policy import PolicyPlan, PrefixSet

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A snapshot is one message per neighbour, 2.8 MB at 10,000 paths; gRPC's own limit of 4 MB kills the stream."""

CALL_DEADLINE_SECONDS: Final = 2.0

_CHUNK_PATHS: Final = 250
"""Paths decoded before the event loop gets its turn: a snapshot must not stall the daemon."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the old one's connection backoff
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
)


class Client:
    """A gobgpd that answered. Made by `connect`, ended by `close`; every call may raise `SidecarError`."""

    def __init__(
        self, channel: grpc.aio.Channel, api: Api, deadline_seconds: float = CALL_DEADLINE_SECONDS
    ) -> None:
        self.api = api
        self._channel = channel
        self._deadline_seconds = deadline_seconds
        self._convert = Converter(schema_for(api))

    @classmethod
    async def connect(cls, socket_path: Path, deadline_seconds: float = CALL_DEADLINE_SECONDS) -> Self:
        """Connect and find out the API generation.

        Args:
            socket_path: gobgpd's unix socket, an absolute path.
            deadline_seconds: How long any one call may take.

        Raises:
            SidecarUnreachable: Nobody listens on the socket.
            SidecarTimedOut: Somebody does, and does not answer.
            SidecarIncompatible: It speaks neither API.
        """
        channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=_OPTIONS)
        try:
            for api in (Api.V4, Api.V3):
                client = cls(channel, api, deadline_seconds)
                try:
                    await client.running_global()
                except SidecarIncompatible:
                    continue
                return client
            raise SidecarIncompatible("GetBgp", "neither GoBGP 3 nor GoBGP 4")
        except BaseException:
            await channel.close(None)
            raise

    async def close(self) -> None:
        """End the connection; streams in progress end with it."""
        await self._channel.close(None)

    async def running_global(self) -> RunningGlobal:
        """What gobgpd says it is; asn 0 if it is not configured."""
        answer = await self._call("GetBgp")
        found = getattr(answer, "global")
        return RunningGlobal(found.asn, found.router_id, found.listen_port)

    async def start(self, spec: SpeakerSpec) -> None:
        """Give an empty gobgpd its ASN, router id and listening port."""
        await self._send("StartBgp", self._convert.start_request(spec))

    async def stop(self) -> None:
        """Make gobgpd forget everything. GoBGP 4 must be restarted afterwards; GoBGP 3 can be started anew."""
        await self._call("StopBgp")

    async def peers(self) -> tuple[RunningPeer, ...]:
        """All peers with an address of their own."""
        request = self._convert.request("ListPeerRequest", enable_advertised=True)
        found = []
        for answer in await self._list("ListPeer", request):
            try:
                found.append(self._convert.running_peer(answer.peer))
            except ValueError:
                continue
        return tuple(found)

    async def add_peer(self, peer: PeerSpec) -> None:
        """Add a peer that gobgpd does not have."""
        await self._send("AddPeer", self._convert.add_peer_request(peer))

    async def delete_peer(self, address: IPAddress) -> None:
        """Close a peer's session and forget it."""
        await self._call("DeletePeer", address=str(address))

    async def soft_reset(self) -> None:
        """Judge all routes of all peers anew, both ways, without closing a session."""
        await self._call("ResetPeer", address="", soft=True, direction=self._convert.numbers.reset_both)

    async def advertise(self, advertisement: Advertisement, asn: int) -> None:
        """Originate a prefix; harmless if it is originated already, new attributes take effect."""
        path = self._convert.own_path(advertisement, asn)
        await self._call("AddPath", table_type=self._convert.numbers.table_global, path=path)

    async def withdraw(self, advertisement: Advertisement, asn: int) -> None:
        """Stop originating a prefix; harmless if it is not originated."""
        path = self._convert.own_path(advertisement, asn)
        await self._call(
            "DeletePath",
            table_type=self._convert.numbers.table_global,
            family=self._convert.family(advertisement.prefix.version),
            path=path,
        )

    async def assigned_policies(self, direction: int) -> tuple[tuple[str, ...], int]:
        """Names of the policies in force in a direction, and the default action's number."""
        answers = await self._list(
            "ListPolicyAssignment",
            self._convert.request("ListPolicyAssignmentRequest", name="global", direction=direction),
        )
        for answer in answers:
            if answer.assignment.direction == direction:
                names = tuple(each.name for each in answer.assignment.policies)
                return names, answer.assignment.default_action
        return (), 0

    async def ensure_policies(self, imports: PolicyPlan, exports: PolicyPlan) -> bool:
        """Put the two policies in force, default reject, and remove older ones of ours.

        Returns:
            Whether anything had to change; the caller then resets the sessions softly.
        """
        numbers = self._convert.numbers
        wanted = ((imports, numbers.direction_import), (exports, numbers.direction_export))
        changed = False
        for plan, direction in wanted:
            if await self.assigned_policies(direction) != ((plan.name,), numbers.reject):
                await self._assign(plan, direction)
                changed = True
        if changed:
            await self._remove_old_policies({imports.name, exports.name})
        return changed

    async def _assign(self, plan: PolicyPlan, direction: int) -> None:
        numbers = self._convert.numbers
        await self._ensure_sets(
            numbers.defined_prefix, {each.name: {"prefixes": _entries(each)} for each in plan.sets}
        )
        neighbours = {each.set_name: {"list": [f"{each.neighbour}/32"]} for each in plan.next_hops}
        await self._ensure_sets(numbers.defined_neighbor, neighbours)
        policies = {answer.policy.name for answer in await self._list("ListPolicy")}
        if plan.name not in policies:
            await self._call("AddPolicy", policy={"name": plan.name, "statements": self._statements(plan)})
        await self._call(
            "SetPolicyAssignment",
            assignment={
                "name": "global",
                "direction": direction,
                "policies": [{"name": plan.name}],
                "default_action": numbers.reject,
            },
        )

    async def _ensure_sets(self, kind: int, wanted: dict[str, dict[str, Any]]) -> None:
        if not wanted:
            return
        request = self._convert.request("ListDefinedSetRequest", defined_type=kind)
        present = {answer.defined_set.name for answer in await self._list("ListDefinedSet", request)}
        for name, content in wanted.items():
            if name not in present:
                await self._call("AddDefinedSet", defined_set={"defined_type": kind, "name": name, **content})

    def _statements(self, plan: PolicyPlan) -> list[dict[str, Any]]:
        numbers = self._convert.numbers
        accept = {"route_action": numbers.accept}
        statements: list[dict[str, Any]] = []
        if plan.accept_local:
            local = {"route_type": numbers.route_local}
            statements.append({"name": f"{plan.name}-local", "conditions": local, "actions": accept})
        for each in plan.sets:
            condition = {"prefix_set": {"type": numbers.match_any, "name": each.name}}
            if each.version == 4 or not plan.next_hops:
                statements.append({"name": each.name, "conditions": condition, "actions": accept})
                continue
            statements += [
                {
                    "name": f"{rule.set_name}-v6",
                    "conditions": condition
                    | {"neighbor_set": {"type": numbers.match_any, "name": rule.set_name}},
                    "actions": accept | {"nexthop": {"address": str(rule.next_hop)}},
                }
                for rule in plan.next_hops
            ]
        return statements

    async def _remove_old_policies(self, keep: set[str]) -> None:
        for answer in await self._list("ListPolicy"):
            name = answer.policy.name
            if name.startswith(NAME_PREFIX) and name not in keep:
                await self._call("DeletePolicy", policy={"name": name}, all=True)
        for kind in (self._convert.numbers.defined_prefix, self._convert.numbers.defined_neighbor):
            request = self._convert.request("ListDefinedSetRequest", defined_type=kind)
            for answer in await self._list("ListDefinedSet", request):
                name = answer.defined_set.name
                if name.startswith(NAME_PREFIX) and name.rpartition("-")[0] not in keep:
                    await self._call(
                        "DeleteDefinedSet", defined_set={"defined_type": kind, "name": name}, all=True
                    )

    async def announces(self, neighbour: IPAddress, prefix: IPNetwork) -> bool:
        """Whether a neighbour announces a prefix, whatever our import policy makes of it."""
        request = self._convert.request(
            "ListPathRequest",
            table_type=self._convert.numbers.table_adj_in,
            name=str(neighbour),
            family=self._convert.family(prefix.version),
            prefixes=[{"prefix": str(prefix)}],
        )
        return any(len(answer.destination.paths) > 0 for answer in await self._list("ListPath", request))

    async def watch_sessions(self) -> AsyncIterator[PeerStateChanged]:
        """Every session's state, then its changes. Ends only by `SidecarError` or by being closed."""
        async for answer in self._watch(self._convert.request("WatchEventRequest", peer={})):
            event = self._convert.peer_event(answer.peer) if answer.HasField("peer") else None
            if event is not None:
                yield event

    async def watch_paths(self) -> AsyncIterator[tuple[PathEvent, ...]]:
        """Every neighbour's paths after policy, then their changes, in portions. Ends as `watch_sessions`."""
        post_policy = {"type": self._convert.numbers.filter_post_policy, "init": True}
        async for answer in self._watch(
            self._convert.request("WatchEventRequest", table={"filters": [post_policy]})
        ):
            paths = answer.table.paths
            for start in range(0, len(paths), _CHUNK_PATHS):
                yield tuple(self._convert.path_events(paths[start : start + _CHUNK_PATHS]))
                if len(paths) > _CHUNK_PATHS:
                    await asyncio.sleep(0)

    async def _watch(self, request: DynamicMessage) -> AsyncIterator[DynamicMessage]:
        call = self._stream("WatchEvent")(request)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            _translate("WatchEvent", error)
        finally:
            call.cancel()
        raise SidecarUnreachable("WatchEvent", "gobgpd ended the stream")

    async def _call(self, verb: str, **fields: object) -> DynamicMessage:
        return await self._send(verb, self._convert.request(METHODS[verb][0], **fields))

    async def _send(self, verb: str, request: DynamicMessage) -> DynamicMessage:
        schema = self._convert.schema
        call = self._channel.unary_unary(
            schema.method_path(verb),
            request_serializer=schema.message(METHODS[verb][0]).SerializeToString,
            response_deserializer=schema.message(METHODS[verb][1]).FromString,
        )
        try:
            return await call(request, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            _translate(verb, error)

    async def _list(self, verb: str, request: DynamicMessage = None) -> tuple[DynamicMessage, ...]:
        if request is None:
            request = self._convert.request(STREAMS[verb][0])
        try:
            return tuple([each async for each in self._stream(verb)(request, timeout=self._deadline_seconds)])
        except grpc.aio.AioRpcError as error:
            _translate(verb, error)

    def _stream(self, verb: str) -> grpc.aio.UnaryStreamMultiCallable[DynamicMessage, DynamicMessage]:
        schema = self._convert.schema
        return self._channel.unary_stream(
            schema.method_path(verb),
            request_serializer=schema.message(STREAMS[verb][0]).SerializeToString,
            response_deserializer=schema.message(STREAMS[verb][1]).FromString,
        )


def _entries(chosen: PrefixSet) -> list[dict[str, Any]]:
    return [
        {"ip_prefix": str(prefix), "mask_length_min": low, "mask_length_max": high}
        for prefix, low, high in chosen.entries
    ]


_KINDS: Final[dict[grpc.StatusCode, type[SidecarError]]] = {
    grpc.StatusCode.UNAVAILABLE: SidecarUnreachable,
    grpc.StatusCode.CANCELLED: SidecarUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: SidecarTimedOut,
    grpc.StatusCode.UNIMPLEMENTED: SidecarIncompatible,
}


def _translate(verb: str, error: grpc.aio.AioRpcError) -> NoReturn:
    """Raise gRPC's error as ours; whatever is not about the connection is gobgpd's refusal."""
    raise _KINDS.get(error.code(), SidecarRefused)(verb, str(error.details() or "")) from error
