"""Between GoBGP's messages and our own values; no message class leaves the package.

The two API generations differ in how attributes are packed (Any or oneof) and in enum values; both differences
end here. Addresses become `ipaddress` objects on the way in and text on the way out. What a neighbour sent and
we cannot read becomes a `PathUnreadable`, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from bgp.events import (
    MULTIHOP_TTL,
    Advertisement,
    IPAddress,
    IPNetwork,
    Origin,
    PathAttributes,
    PathEvent,
    PathLearned,
    PathUnreadable,
    PathWithdrawn,
    PeerSpec,
    PeerStateChanged,
    SessionState,
    SpeakerSpec,
)
from bgp.schema import PACKAGE, Api, DynamicMessage, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

_AFI = {4: 1, 6: 2}
_SAFI_UNICAST = 1
_UNSPECIFIED = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a next hop, GoBGP's word for "my own address"


@dataclass(frozen=True, slots=True)
class RunningGlobal:
    """What gobgpd says it is."""

    asn: int
    """0: not configured yet."""
    router_id: str
    listen_port: int


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """One peer that gobgpd has, configuration and state."""

    address: IPAddress
    asn: int
    local_address: str
    hold_time_seconds: int
    keepalive_seconds: int
    passive: bool
    remote_port: int
    families: frozenset[int]
    """IP versions whose unicast prefixes are exchanged."""
    state: SessionState
    admin_up: bool
    received: int
    accepted: int
    advertised: int
    flops: int
    negotiated_hold_time_seconds: int
    up_since_epoch_seconds: int


class Converter:
    """Builds requests and reads answers for one API generation."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.numbers = schema.numbers
        self._v3 = schema.api is Api.V3
        self._type_url = f"type.googleapis.com/{PACKAGE[schema.api]}."

    def request(self, name: str, /, **fields: object) -> DynamicMessage:
        """The message `name` with these fields; nested messages as dicts."""
        return self.schema.message(name)(**fields)

    def family(self, version: int) -> dict[str, int]:
        """Unicast of an IP version, as a `Family`."""
        return {"afi": _AFI[version], "safi": _SAFI_UNICAST}

    def start_request(self, spec: SpeakerSpec) -> DynamicMessage:
        """StartBgp for `spec`."""
        return self.request(
            "StartBgpRequest",
            **{
                "global": {
                    "asn": spec.asn,
                    "router_id": str(spec.router_id),
                    "listen_port": spec.listen_port,
                    "listen_addresses": [str(each) for each in spec.listen_addresses],
                }
            },
        )

    def add_peer_request(self, peer: PeerSpec) -> DynamicMessage:
        """AddPeer for `peer`."""
        versions = (4, 6) if peer.ipv6_unicast else (4,)
        return self.request(
            "AddPeerRequest",
            peer={
                "conf": {
                    "neighbor_address": str(peer.address),
                    "peer_asn": peer.asn,
                    "description": peer.description,
                },
                "ebgp_multihop": {"enabled": True, "multihop_ttl": MULTIHOP_TTL},
                "timers": {
                    "config": {
                        "connect_retry": peer.connect_retry_seconds,
                        "hold_time": peer.hold_time_seconds,
                        "keepalive_interval": peer.keepalive_seconds,
                        "idle_hold_time_after_reset": peer.idle_hold_after_reset_seconds,
                    }
                },
                "transport": {
                    "local_address": str(peer.local_address),
                    "passive_mode": peer.passive,
                    "remote_port": peer.remote_port,
                },
                "afi_safis": [
                    {"config": {"family": self.family(version), "enabled": True}} for version in versions
                ],
            },
        )

    def own_path(self, advertisement: Advertisement, asn: int) -> DynamicMessage:
        """A path that we originate, next hop unspecified: each session then sends its own local address."""
        prefix = advertisement.prefix
        nlri = {"prefix_len": prefix.prefixlen, "prefix": str(prefix.network_address)}
        attributes: list[tuple[str, dict[str, Any]]] = [("origin", {"origin": Origin.IGP.value})]
        if advertisement.prepend:
            segment = {"type": self.numbers.segment_sequence, "numbers": [asn] * advertisement.prepend}
            attributes.append(("as_path", {"segments": [segment]}))
        if advertisement.med is not None:
            attributes.append(("multi_exit_disc", {"med": advertisement.med}))
        if prefix.version == 4:
            attributes.append(("next_hop", {"next_hop": _UNSPECIFIED[4]}))
        else:
            reach = {
                "family": self.family(6),
                "next_hops": [_UNSPECIFIED[6]],
                "nlris": [self._pack_nlri(nlri)],
            }
            attributes.append(("mp_reach", reach))
        return self.request(
            "Path",
            nlri=self._pack_nlri(nlri),
            pattrs=[self._pack_attribute(name, fields) for name, fields in attributes],
            family=self.family(prefix.version),
        )

    def _pack_nlri(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._any("IPAddressPrefix", fields) if self._v3 else {"prefix": fields}

    def _pack_attribute(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        return self._any(_V3_ATTRIBUTES[name], fields) if self._v3 else {name: fields}

    def _any(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        value = self.request(name, **fields).SerializeToString()
        return {"type_url": self._type_url + name, "value": value}

    def path_events(self, paths: DynamicMessage) -> Iterator[PathEvent]:
        """The events of a table event's paths; our own paths are left out."""
        for path in paths:
            if path.neighbor_ip in {"", "<nil>"}:
                continue
            try:
                yield self._path_event(path)
            except (ValueError, DecodeError) as error:
                yield PathUnreadable(f"{path.neighbor_ip}: {error}")

    def _path_event(self, path: DynamicMessage) -> PathLearned | PathWithdrawn:
        neighbour = read_address(path.neighbor_ip)
        prefix = self._read_prefix(path.nlri)
        if path.is_withdraw:
            return PathWithdrawn(neighbour, prefix)
        return PathLearned(neighbour, prefix, self._read_attributes(path.pattrs))

    def _read_prefix(self, nlri: DynamicMessage) -> IPNetwork:
        if self._v3:
            if nlri.type_url != self._type_url + "IPAddressPrefix":
                raise ValueError(f"not a unicast prefix: {nlri.type_url}")
            plain: DynamicMessage = self.schema.message("IPAddressPrefix").FromString(nlri.value)
        elif nlri.HasField("prefix"):
            plain = nlri.prefix
        else:
            raise ValueError("not a unicast prefix")
        return read_prefix(plain.prefix, plain.prefix_len)

    def _read_attributes(self, pattrs: DynamicMessage) -> PathAttributes:
        as_path: list[int] = []
        length = 0
        med: int | None = None
        for name, attribute in self._known_attributes(pattrs):
            if name == "as_path":
                for segment in attribute.segments:
                    as_path.extend(segment.numbers)
                    length += self._segment_length(segment)
            else:
                med = attribute.med
        return PathAttributes(tuple(as_path), length, med)

    def _segment_length(self, segment: DynamicMessage) -> int:
        if segment.type == self.numbers.segment_sequence:
            return len(segment.numbers)
        return int(segment.type == self.numbers.segment_set)

    def _known_attributes(self, pattrs: DynamicMessage) -> Iterator[tuple[str, DynamicMessage]]:
        for packed in pattrs:
            if self._v3:
                name = _READ_V3.get(packed.type_url.removeprefix(self._type_url))
                if name is not None:
                    yield name, self.schema.message(_V3_ATTRIBUTES[name]).FromString(packed.value)
            else:
                for name in _READ_V3.values():
                    if packed.HasField(name):
                        yield name, getattr(packed, name)

    def peer_event(self, event: DynamicMessage) -> PeerStateChanged | None:
        """A peer event, None for one without a usable peer (the end of the snapshot)."""
        if event.type == self.numbers.peer_event_end_of_init:
            return None
        try:
            neighbour = read_address(event.peer.state.neighbor_address or event.peer.conf.neighbor_address)
        except ValueError:
            return None
        return PeerStateChanged(neighbour, read_session_state(event.peer.state.session_state))

    def running_peer(self, peer: DynamicMessage) -> RunningPeer:
        """One peer of ListPeer's answer.

        Raises:
            ValueError: Its address is none (a peer group's, an interface's): not one of ours.
        """
        states = [each.state for each in peer.afi_safis]
        return RunningPeer(
            address=read_address(peer.conf.neighbor_address or peer.state.neighbor_address),
            asn=peer.conf.peer_asn,
            local_address=peer.transport.local_address,
            hold_time_seconds=peer.timers.config.hold_time,
            keepalive_seconds=peer.timers.config.keepalive_interval,
            passive=peer.transport.passive_mode,
            remote_port=peer.transport.remote_port,
            families=frozenset(
                version
                for version, afi in _AFI.items()
                for each in peer.afi_safis
                if each.config.family.afi == afi and each.config.family.safi == _SAFI_UNICAST
            ),
            state=read_session_state(peer.state.session_state),
            admin_up=peer.state.admin_state == self.numbers.admin_up,
            received=sum(each.received for each in states),
            accepted=sum(each.accepted for each in states),
            advertised=sum(each.advertised for each in states),
            flops=peer.state.flops,
            negotiated_hold_time_seconds=peer.timers.state.negotiated_hold_time,
            up_since_epoch_seconds=peer.timers.state.uptime.seconds,
        )


_V3_ATTRIBUTES = {
    "origin": "OriginAttribute",
    "as_path": "AsPathAttribute",
    "next_hop": "NextHopAttribute",
    "multi_exit_disc": "MultiExitDiscAttribute",
    "mp_reach": "MpReachNLRIAttribute",
}

_READ_V3 = {"AsPathAttribute": "as_path", "MultiExitDiscAttribute": "multi_exit_disc"}
"""The attributes that the choice among paths looks at."""


@lru_cache(maxsize=65536)
def read_prefix(address: str, length: int) -> IPNetwork:
    """A prefix; the same object each time, since four sessions announce the same thousands.

    Raises:
        ValueError: It is none.
    """
    network: IPNetwork = ip_network((address, length))
    return network


@lru_cache(maxsize=4096)
def read_address(text: str) -> IPAddress:
    """An address in GoBGP's spelling.

    Raises:
        ValueError: It is none.
    """
    address: IPv4Address | IPv6Address = ip_address(text)
    return address


def read_session_state(number: int) -> SessionState:
    """A session's state; a number we do not know is UNKNOWN, which is not established."""
    try:
        return SessionState(number)
    except ValueError:
        return SessionState.UNKNOWN
