"""A gobgpd without BGP: it keeps what it is told, over the same table that the client uses.

It stands in for GoBGP 4, which Debian does not ship, and for faults that the real one does not show on demand.
Being made from our own table it proves consistency, not that GoBGP 4 agrees with the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bgp.convert import Converter
from bgp.schema import METHODS, SERVICE, STREAMS, Api, schema_for


class FakeGobgpd(grpc.GenericRpcHandler):
    """State and behaviour; `start` and `stop` are its process."""

    def __init__(self, api: Api, socket: Path) -> None:
        self.api = api
        self.convert = Converter(schema_for(api))
        self.socket = socket
        self._answering = asyncio.Event()
        self._answering.set()
        self.refuses: set[str] = set()
        """RPCs answered with an error."""
        self.verbs: list[str] = []
        """Changing RPCs in order."""
        self.snapshot: list[Any] = []
        """Paths told to whoever watches."""
        self.running: Any = None
        self.peers: dict[str, Any] = {}
        self.sets: dict[str, Any] = {}
        self.policies: dict[str, Any] = {}
        self.assignments: dict[int, Any] = {}
        self.paths: dict[str, Any] = {}
        self.adj_in: set[tuple[str, str]] = set()
        """Neighbour and prefix that it announces, whatever the import policy makes of it."""
        self._server: grpc.aio.Server | None = None
        self.forget()

    def forget(self) -> None:
        self.running = self.convert.request("Global")
        for each in (self.peers, self.sets, self.policies, self.assignments, self.paths):
            each.clear()

    def hang(self) -> None:
        """Take calls and answer none, until `answer`."""
        self._answering.clear()

    def answer(self) -> None:
        self._answering.set()

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def service(self, handler_call_details: Any) -> Any:
        service, _, verb = handler_call_details.method.strip("/").partition("/")
        if service != SERVICE[self.api]:
            return None
        schema = self.convert.schema
        if verb in METHODS:
            asks, gives = (schema.message(name) for name in METHODS[verb])

            async def unary(request: Any, context: Any) -> Any:
                return await self._answer(verb, request, context) or gives()

            return grpc.unary_unary_rpc_method_handler(unary, asks.FromString, gives.SerializeToString)
        asks, gives = (schema.message(name) for name in STREAMS[verb])

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._answering.wait()
            async for answer in getattr(self, f"_{verb.lower()}")(request):
                yield answer

        return grpc.unary_stream_rpc_method_handler(stream, asks.FromString, gives.SerializeToString)

    async def _answer(self, verb: str, request: Any, context: Any) -> Any:
        await self._answering.wait()
        if verb in self.refuses:
            await context.abort(grpc.StatusCode.UNKNOWN, "some prose")
        if verb == "GetBgp":
            return self.convert.request("GetBgpResponse", **{"global": self.running})
        self.verbs.append(verb)
        getattr(self, f"_{verb.lower()}")(request)
        return None

    def _startbgp(self, request: Any) -> None:
        self.running = getattr(request, "global")

    def _stopbgp(self, _: Any) -> None:
        self.forget()

    def _addpeer(self, request: Any) -> None:
        assert len(self.assignments) == 2, "a peer before the policies"
        self.peers[request.peer.conf.neighbor_address] = request.peer

    def _deletepeer(self, request: Any) -> None:
        del self.peers[request.address]

    def _resetpeer(self, request: Any) -> None:
        assert (request.soft, request.direction) == (True, self.convert.numbers.reset_both)

    def _addpath(self, request: Any) -> None:
        assert request.table_type == self.convert.numbers.table_global
        self.paths[request.path.nlri.SerializeToString()] = request.path

    def _deletepath(self, request: Any) -> None:
        self.paths.pop(request.path.nlri.SerializeToString(), None)

    def _adddefinedset(self, request: Any) -> None:
        self.sets[request.defined_set.name] = request.defined_set

    def _deletedefinedset(self, request: Any) -> None:
        del self.sets[request.defined_set.name]

    def _addpolicy(self, request: Any) -> None:
        self.policies[request.policy.name] = request.policy

    def _deletepolicy(self, request: Any) -> None:
        del self.policies[request.policy.name]

    def _setpolicyassignment(self, request: Any) -> None:
        self.assignments[request.assignment.direction] = request.assignment

    async def _listpeer(self, _: Any) -> AsyncIterator[Any]:
        for peer in tuple(self.peers.values()):
            yield self.convert.request("ListPeerResponse", peer=peer)

    async def _listpath(self, request: Any) -> AsyncIterator[Any]:
        assert request.table_type == self.convert.numbers.table_adj_in
        (wanted,) = (each.prefix for each in request.prefixes)
        if (request.name, wanted) in self.adj_in:
            yield self.convert.request("ListPathResponse", destination={"prefix": wanted, "paths": [{}]})

    async def _listdefinedset(self, request: Any) -> AsyncIterator[Any]:
        for each in tuple(self.sets.values()):
            if each.defined_type == request.defined_type:
                yield self.convert.request("ListDefinedSetResponse", defined_set=each)

    async def _listpolicy(self, _: Any) -> AsyncIterator[Any]:
        for each in tuple(self.policies.values()):
            yield self.convert.request("ListPolicyResponse", policy=each)

    async def _listpolicyassignment(self, request: Any) -> AsyncIterator[Any]:
        if request.direction in self.assignments:
            found = self.assignments[request.direction]
            yield self.convert.request("ListPolicyAssignmentResponse", assignment=found)

    async def _watchevent(self, request: Any) -> AsyncIterator[Any]:
        if request.HasField("table"):
            (chosen,) = request.table.filters
            assert (chosen.type, chosen.init) == (self.convert.numbers.filter_post_policy, True)
            yield self.convert.request("WatchEventResponse", table={"paths": self.snapshot})
        else:
            for peer in tuple(self.peers.values()):
                state = {"neighbor_address": peer.conf.neighbor_address, "session_state": 6}
                yield self.convert.request("WatchEventResponse", peer={"type": 1, "peer": {"state": state}})
        await asyncio.Event().wait()
