"""A web-cache as the router sees it: sends what it is told to, remembers what it could read of the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from wccpd.protocol.outputs import Send
from wccpd.wire.assignments import AlternateAssignment, AlternateSets, AssignmentInfo, AssignmentMap
from wccpd.wire.components import CacheView, Capabilities, CommandExtension, ServiceInfo
from wccpd.wire.elements import AssignmentKey, Command, RouterAssignment, RouterIdReceiveId
from wccpd.wire.enums import (
    AssignmentMethod,
    CommandType,
    ComponentType,
    ForwardingMethod,
    IdentityFlags,
    PacketReturnMethod,
)
from wccpd.wire.identity import HashAssignment, MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import AlternateMaskValueSet, Mask, MaskValueSet, NumberedValues, value_sequence_number
from wccpd.wire.messages import HereIAm, ISeeYou, RedirectAssign, RemovalQuery, decode_message, encode_message
from wccpd.wire.security import check_digest, peek_security

GRE_HASH_GRE = Capabilities(
    forwarding=ForwardingMethod.GRE, assignment=AssignmentMethod.HASH, packet_return=PacketReturnMethod.GRE
)


@dataclass
class ScriptedCache:
    """One cache in one group. `reads_standard` is False for Squid 4.17 to 7.6."""

    address: IPv4Address
    router_address: IPv4Address
    service: ServiceInfo = field(default_factory=ServiceInfo.web_cache)
    password: bytes | None = None
    weight: int = 10000
    capabilities: Capabilities | None = GRE_HASH_GRE
    mask: Mask | None = None
    """With a mask it asks for mask assignment, showing one set without values as Squid does."""
    minor_version: int = 0
    flags: IdentityFlags = IdentityFlags(0)
    reads_standard: bool = True
    reads_dual_valid: bool = True
    last: ISeeYou | None = None
    """The last I_SEE_YOU that it could read."""
    queried: RemovalQuery | None = None

    def hear(self, send: Send) -> None:
        """Take what the router sent, unless it is signed otherwise than the cache would."""
        signed = peek_security(send.datagram)
        if signed if self.password is None else not check_digest(send.datagram, self.password):
            return
        message = decode_message(send.datagram)
        if isinstance(message, RemovalQuery):
            self.queried = message
            return
        assert isinstance(message, ISeeYou)
        dual_valid = any(each.component_type == ComponentType.EMPTY for each in message.unknown)
        if self.reads_dual_valid if dual_valid else self.reads_standard:
            self.last = message

    def here_i_am(self, *, receive_id: int | None = None, shutdown: bool = False) -> bytes:
        """A HERE_I_AM that echoes the last answer, or the Receive ID given."""
        if receive_id is None:
            receive_id = self.last.identity.receive_id if self.last else 0
        router = self.last.identity.router_id if self.last else self.router_address
        command = CommandExtension((Command(CommandType.SHUTDOWN, self.address),)) if shutdown else None
        data = HashAssignment(weight=self.weight)
        message = HereIAm(
            service=self.service,
            minor_version=self.minor_version,
            identity=WebCacheIdentity(
                self.address,
                data if self.mask is None else MaskAssignment((MaskValueSet(self.mask),), self.weight),
                self.flags,
            ),
            view=CacheView.of(1, (RouterIdReceiveId(router, receive_id),), ()),
            capabilities=self.capabilities,
            commands=command,
        )
        return encode_message(message, password=self.password)

    def redirect_assign_sets(self, *sets: MaskValueSet, alternate: bool = False) -> bytes:
        """A mask assignment; `alternate` writes it in the form of 2.01, with numbers for values."""
        assert self.last is not None
        row = RouterAssignment(
            self.last.identity.router_id, self.last.identity.receive_id, self.last.view.change_number
        )
        body: AssignmentMap | AlternateSets = AssignmentMap(sets)
        if alternate:
            body = AlternateSets(
                tuple(
                    AlternateMaskValueSet(
                        each.mask,
                        tuple(
                            NumberedValues(
                                cache,
                                tuple(
                                    value_sequence_number(each.mask, value)
                                    for value in each.values
                                    if value.cache == cache
                                ),
                            )
                            for cache in sorted({value.cache for value in each.values}, key=int)
                        ),
                    )
                    for each in sets
                )
            )
        message = RedirectAssign(
            service=self.service,
            minor_version=self.minor_version,
            alternate_assignment=AlternateAssignment(AssignmentKey(self.address, 1), (row,), body),
        )
        return encode_message(message, password=self.password)

    def redirect_assign(
        self,
        caches: tuple[IPv4Address, ...],
        *,
        receive_id: int | None = None,
        change_number: int | None = None,
    ) -> bytes:
        """An assignment that deals the buckets out to `caches` in turn."""
        assert self.last is not None
        row = RouterAssignment(
            self.last.identity.router_id,
            self.last.identity.receive_id if receive_id is None else receive_id,
            self.last.view.change_number if change_number is None else change_number,
        )
        message = RedirectAssign(
            service=self.service,
            assignment=AssignmentInfo(
                key=AssignmentKey(self.address, 1),
                routers=(row,),
                caches=caches,
                buckets=bytes(bucket % len(caches) for bucket in range(256)),
            ),
        )
        return encode_message(message, password=self.password)
