"""GoBGP's gRPC messages as a table of our own, turned into protobuf classes at run time.

One table serves both API generations: GoBGP 3 (package `apipb`, service `GobgpApi`) and GoBGP 4 (package
`api`, service `GoBgpService`). It lists only the fields that we use; protobuf skips the others. Enums are
declared as uint32, which is the same on the wire, and their values are in `Numbers`, because nearly all of
them moved up by one in GoBGP 4. Well-known types (Any, Timestamp, Empty) are declared in our package too:
same bytes, and no second descriptor pool to keep in step.

A contract test compares every number and type with the .proto files of the GoBGP that Debian ships.
Knows nothing of gRPC, and nothing of what the messages are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from google.protobuf.message import Message

DynamicMessage: TypeAlias = Any
"""A message whose class was built at run time: the type checker knows none of its fields."""


class Api(StrEnum):
    """The two generations of GoBGP's API."""

    V3 = "GoBGP 3"
    V4 = "GoBGP 4"


PACKAGE: Final = {Api.V3: "apipb", Api.V4: "api"}
SERVICE: Final = {Api.V3: "apipb.GobgpApi", Api.V4: "api.GoBgpService"}

# Name of the message as GoBGP nests it -> fields as "name number type", `*` for repeated.
_COMMON: Final[dict[str, str]] = {
    "Empty": "",
    "Timestamp": "seconds 1 int64, nanos 2 int32",
    "Family": "afi 1 uint32, safi 2 uint32",
    "StartBgpRequest": "global 1 Global",
    "StopBgpRequest": "",
    "GetBgpRequest": "",
    "GetBgpResponse": "global 1 Global",
    "Global": "asn 1 uint32, router_id 2 string, listen_port 3 int32, listen_addresses 4 string*,"
    " use_multiple_paths 6 bool",
    "AddPeerRequest": "peer 1 Peer",
    "DeletePeerRequest": "address 1 string",
    "ListPeerRequest": "address 1 string, enable_advertised 2 bool",
    "ListPeerResponse": "peer 1 Peer",
    "ResetPeerRequest": "address 1 string, communication 2 string, soft 3 bool, direction 4 uint32",
    "Peer": "conf 2 PeerConf, ebgp_multihop 3 EbgpMultihop, state 5 PeerState, timers 6 Timers,"
    " transport 7 Transport, afi_safis 10 AfiSafi*",
    "PeerConf": "description 2 string, neighbor_address 4 string, peer_asn 5 uint32, admin_down 15 bool",
    "EbgpMultihop": "enabled 1 bool, multihop_ttl 2 uint32",
    "Timers": "config 1 TimersConfig, state 2 TimersState",
    "TimersConfig": "connect_retry 1 uint64, hold_time 2 uint64, keepalive_interval 3 uint64,"
    " idle_hold_time_after_reset 5 uint64",
    "TimersState": "negotiated_hold_time 5 uint64, uptime 6 Timestamp",
    "Transport": "local_address 1 string, passive_mode 4 bool, remote_port 6 uint32",
    "AfiSafi": "config 2 AfiSafiConfig, state 3 AfiSafiState",
    "AfiSafiConfig": "family 1 Family, enabled 2 bool",
    "AfiSafiState": "received 3 uint64, accepted 4 uint64, advertised 5 uint64",
    "PeerState": "neighbor_address 5 string, peer_asn 6 uint32, session_state 13 uint32,"
    " admin_state 15 uint32, flops 17 uint32, router_id 20 string",
    "AddPathRequest": "table_type 1 uint32, path 3 Path",
    "AddPathResponse": "uuid 1 bytes",
    "DeletePathRequest": "table_type 1 uint32, family 3 Family, path 4 Path",
    "ListPathRequest": "table_type 1 uint32, name 2 string, family 3 Family, prefixes 4 TableLookupPrefix*",
    "ListPathResponse": "destination 1 Destination",
    "TableLookupPrefix": "prefix 1 string",
    "Destination": "prefix 1 string, paths 2 Path*",
    "IPAddressPrefix": "prefix_len 1 uint32, prefix 2 string",
    "OriginAttribute": "origin 1 uint32",
    "AsPathAttribute": "segments 1 AsSegment*",
    "AsSegment": "type 1 uint32, numbers 2 uint32*",
    "NextHopAttribute": "next_hop 1 string",
    "MultiExitDiscAttribute": "med 1 uint32",
    "WatchEventRequest": "peer 1 WatchEventRequest.Peer, table 2 WatchEventRequest.Table",
    "WatchEventRequest.Peer": "",
    "WatchEventRequest.Table": "filters 1 WatchEventRequest.Table.Filter*",
    "WatchEventRequest.Table.Filter": "type 1 uint32, init 2 bool",
    "WatchEventResponse": "peer 2 WatchEventResponse.PeerEvent, table 3 WatchEventResponse.TableEvent",
    "WatchEventResponse.PeerEvent": "type 1 uint32, peer 2 Peer",
    "WatchEventResponse.TableEvent": "paths 2 Path*",
    "DefinedSet": "defined_type 1 uint32, name 2 string, list 3 string*, prefixes 4 Prefix*",
    "Prefix": "ip_prefix 1 string, mask_length_min 2 uint32, mask_length_max 3 uint32",
    "Policy": "name 1 string, statements 2 Statement*",
    "Statement": "name 1 string, conditions 2 Conditions, actions 3 Actions",
    "Conditions": "prefix_set 1 MatchSet, neighbor_set 2 MatchSet, route_type 8 uint32",
    "MatchSet": "type 1 uint32, name 2 string",
    "Actions": "route_action 1 uint32, nexthop 6 NexthopAction",
    "NexthopAction": "address 1 string",
    "PolicyAssignment": "name 1 string, direction 2 uint32, policies 4 Policy*, default_action 5 uint32",
    "AddDefinedSetRequest": "defined_set 1 DefinedSet",
    "DeleteDefinedSetRequest": "defined_set 1 DefinedSet, all 2 bool",
    "ListDefinedSetRequest": "defined_type 1 uint32, name 2 string",
    "ListDefinedSetResponse": "defined_set 1 DefinedSet",
    "AddPolicyRequest": "policy 1 Policy",
    "DeletePolicyRequest": "policy 1 Policy, preserve_statements 2 bool, all 3 bool",
    "ListPolicyRequest": "name 1 string",
    "ListPolicyResponse": "policy 1 Policy",
    "ListPolicyAssignmentRequest": "name 1 string, direction 2 uint32",
    "ListPolicyAssignmentResponse": "assignment 1 PolicyAssignment",
    "SetPolicyAssignmentRequest": "assignment 1 PolicyAssignment",
}

_PATH_TAIL: Final = "is_withdraw 5 bool, family 9 Family, neighbor_ip 15 string"

_V3: Final[dict[str, str]] = {
    "Any": "type_url 1 string, value 2 bytes",
    "Path": f"nlri 1 Any, pattrs 2 Any*, {_PATH_TAIL}",
    "MpReachNLRIAttribute": "family 1 Family, next_hops 2 string*, nlris 3 Any*",
}

_V4: Final[dict[str, str]] = {
    "Path": f"nlri 1 NLRI, pattrs 2 Attribute*, {_PATH_TAIL}",
    "NLRI": "prefix 1 IPAddressPrefix",
    "Attribute": "origin 2 OriginAttribute, as_path 3 AsPathAttribute, next_hop 4 NextHopAttribute,"
    " multi_exit_disc 5 MultiExitDiscAttribute, mp_reach 12 MpReachNLRIAttribute",
    "MpReachNLRIAttribute": "family 1 Family, next_hops 2 string*, nlris 3 NLRI*",
}

METHODS: Final[dict[str, tuple[str, str]]] = {
    "StartBgp": ("StartBgpRequest", "Empty"),
    "StopBgp": ("StopBgpRequest", "Empty"),
    "GetBgp": ("GetBgpRequest", "GetBgpResponse"),
    "AddPeer": ("AddPeerRequest", "Empty"),
    "DeletePeer": ("DeletePeerRequest", "Empty"),
    "ResetPeer": ("ResetPeerRequest", "Empty"),
    "AddPath": ("AddPathRequest", "AddPathResponse"),
    "DeletePath": ("DeletePathRequest", "Empty"),
    "AddDefinedSet": ("AddDefinedSetRequest", "Empty"),
    "DeleteDefinedSet": ("DeleteDefinedSetRequest", "Empty"),
    "AddPolicy": ("AddPolicyRequest", "Empty"),
    "DeletePolicy": ("DeletePolicyRequest", "Empty"),
    "SetPolicyAssignment": ("SetPolicyAssignmentRequest", "Empty"),
}
"""Unary RPCs: request and response message."""

STREAMS: Final[dict[str, tuple[str, str]]] = {
    "ListPeer": ("ListPeerRequest", "ListPeerResponse"),
    "ListDefinedSet": ("ListDefinedSetRequest", "ListDefinedSetResponse"),
    "ListPolicy": ("ListPolicyRequest", "ListPolicyResponse"),
    "ListPolicyAssignment": ("ListPolicyAssignmentRequest", "ListPolicyAssignmentResponse"),
    "ListPath": ("ListPathRequest", "ListPathResponse"),
    "WatchEvent": ("WatchEventRequest", "WatchEventResponse"),
}
"""RPCs whose answer is a stream of messages."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Enum values as one API generation numbers them, and those that both share."""

    table_global: int
    """TableType GLOBAL."""
    table_adj_in: int
    """TableType ADJ_IN."""
    filter_post_policy: int
    """WatchEventRequest.Table.Filter.Type POST_POLICY."""
    match_any: int
    """MatchSet.Type ANY."""
    defined_prefix: int
    """DefinedType PREFIX."""
    defined_neighbor: int
    """DefinedType NEIGHBOR."""
    admin_up: int
    """PeerState.AdminState UP."""
    reset_both: int
    """ResetPeerRequest direction BOTH."""
    accept: int = 1
    """RouteAction ACCEPT."""
    reject: int = 2
    """RouteAction REJECT."""
    direction_import: int = 1
    """PolicyDirection IMPORT."""
    direction_export: int = 2
    """PolicyDirection EXPORT."""
    route_local: int = 3
    """Conditions.RouteType LOCAL."""
    segment_set: int = 1
    """AsSegment.Type AS_SET."""
    segment_sequence: int = 2
    """AsSegment.Type AS_SEQUENCE."""
    peer_event_end_of_init: int = 2
    """WatchEventResponse.PeerEvent.Type END_OF_INIT."""


NUMBERS: Final = {
    Api.V3: Numbers(
        table_global=0,
        table_adj_in=2,
        filter_post_policy=2,
        match_any=0,
        defined_prefix=0,
        defined_neighbor=1,
        admin_up=0,
        reset_both=2,
    ),
    Api.V4: Numbers(
        table_global=1,
        table_adj_in=3,
        filter_post_policy=3,
        match_any=1,
        defined_prefix=1,
        defined_neighbor=2,
        admin_up=1,
        reset_both=3,
    ),
}

_SCALARS: Final = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the table."""

    name: str
    number: int
    kind: str
    """A scalar's name, or a message's as GoBGP nests it."""
    repeated: bool


def field_table(api: Api) -> dict[str, tuple[Field, ...]]:
    """The messages of one API generation, by the name that GoBGP gives them, nesting shown by dots."""
    tables = _COMMON | (_V3 if api is Api.V3 else _V4)
    return {
        name: tuple(_parse_field(each) for each in text.split(",") if each) for name, text in tables.items()
    }


def _parse_field(text: str) -> Field:
    name, number, kind = text.split()
    return Field(name, int(number), kind.removesuffix("*"), kind.endswith("*"))


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _file_descriptor(api: Api) -> descriptor_pb2.FileDescriptorProto:
    package = PACKAGE[api]
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in field_table(api).items():
        message = file.message_type.add(name=_flat(name))
        for each in fields:
            field = message.field.add(name=each.name, number=each.number)
            field.label = field.LABEL_REPEATED if each.repeated else field.LABEL_OPTIONAL
            scalar = _SCALARS.get(each.kind)
            if scalar is None:
                field.type = field.TYPE_MESSAGE
                field.type_name = f".{package}.{_flat(each.kind)}"
            else:
                field.type = scalar
    return file


class Schema:
    """Message classes and enum values of one API generation."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.numbers = NUMBERS[api]
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(_file_descriptor(api).SerializeToString())
        descriptors = pool.FindFileByName(f"{PACKAGE[api]}.proto").message_types_by_name
        self._classes: dict[str, type[Message]] = {
            name: message_factory.GetMessageClass(descriptors[_flat(name)]) for name in field_table(api)
        }

    def message(self, name: str) -> type[Message]:
        """The class of the message that GoBGP calls `name`.

        Raises:
            KeyError: The table has no such message.
        """
        return self._classes[name]

    def method_path(self, name: str) -> str:
        """The RPC's path on the wire, e.g. `/apipb.GobgpApi/AddPeer`."""
        return f"/{SERVICE[self.api]}/{name}"


@cache
def schema_for(api: Api) -> Schema:
    """The one `Schema` of an API generation, built at first use (about 2 ms)."""
    return Schema(api)
