"""What we send: order, sizes, the dual-valid form, and what cannot be sent."""

from __future__ import annotations

import dataclasses
import struct
from ipaddress import IPv4Address

import pytest

from tests.unit.wire.samples import (
    CACHE,
    CACHE_6,
    HASH_IDENTITY,
    HERE_I_AM,
    I_SEE_YOU,
    KEY,
    MASK,
    MASK_IDENTITY,
    REDIRECT_ASSIGN,
    REMOVAL_QUERY,
    ROUTER,
    SERVICE,
    SET,
)
from tests.unit.wire.vectors import HASH_HERE_I_AM
from wccpd.wire import messages
from wccpd.wire.addresses import AddressTable
from wccpd.wire.assignments import AlternateAssignment, AssignmentMap, HashBuckets
from wccpd.wire.components import Capabilities, CommandExtension, RouterView, ServiceInfo
from wccpd.wire.elements import Command, RouterAssignment, UnknownElement
from wccpd.wire.enums import AddressFamily, CommandType, ServiceFlags
from wccpd.wire.framing import read_frame
from wccpd.wire.identity import MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import MaskValueSet, Value
from wccpd.wire.messages import (
    HereIAm,
    ISeeYou,
    Message,
    RedirectAssign,
    UnknownComponent,
    decode_message,
    encode_message,
    peek_service,
)

ALL = [HERE_I_AM, I_SEE_YOU, REDIRECT_ASSIGN, REMOVAL_QUERY]
SHUTDOWN_RESPONSE = CommandExtension((Command(CommandType.SHUTDOWN_RESPONSE, CACHE),))
FULL_I_SEE_YOU = dataclasses.replace(
    I_SEE_YOU,
    assignment_map=AssignmentMap((SET,)),
    commands=SHUTDOWN_RESPONSE,
    unknown=(UnknownComponent(99, b"abcd"),),
)


def sizes(message: Message) -> dict[int, int]:
    """Octets of each component, header included."""
    frame = read_frame(encode_message(message))
    return {number: end - offset + 4 for number, offset, end in frame.spans}


@pytest.mark.parametrize("message", [*ALL, FULL_I_SEE_YOU], ids=str)
def test_a_message_survives_encoding_and_decoding(message: Message) -> None:
    octets = encode_message(message)
    assert decode_message(octets) == message
    assert len(octets) == 8 + struct.unpack_from("!H", octets, 6)[0]


@pytest.mark.parametrize("message", ALL, ids=str)
def test_a_message_names_itself_and_its_service(message: Message) -> None:
    assert str(message) == f"{message.TYPE.name} 2.00 dynamic 80"


def test_components_are_sent_in_the_order_in_which_the_drafts_draw_them() -> None:
    frame = read_frame(encode_message(FULL_I_SEE_YOU))
    assert [number for number, _, _ in frame.spans] == [0, 1, 2, 4, 14, 8, 15, 99]


def test_component_sizes_are_those_of_the_drafts() -> None:
    here_i_am, i_see_you = sizes(HERE_I_AM), sizes(I_SEE_YOU)
    assert (here_i_am[0], here_i_am[1], here_i_am[3], here_i_am[8]) == (8, 28, 4 + 44, 4 + 8 * 3)
    assert here_i_am[5] == 16 + 8 * 1 + 4 * 1
    assert (i_see_you[2], i_see_you[4]) == (20 + 4 * 1, 24 + 4 * 1 + 44)
    assert sizes(REDIRECT_ASSIGN)[6] == 276 + 12 * 1 + 4 * 2
    assert sizes(REMOVAL_QUERY)[7] == 20
    assert sizes(FULL_I_SEE_YOU)[14] == 8 + 16 + 16 * 1
    signed = read_frame(encode_message(HERE_I_AM, password=b"x"))
    assert signed.first[0] == (0, 12, 32)


def test_a_mask_identity_element_has_32_octets_with_an_empty_set_and_16_without() -> None:
    assert sizes(dataclasses.replace(HERE_I_AM, identity=MASK_IDENTITY))[3] == 4 + 32
    assert sizes(dataclasses.replace(HERE_I_AM, identity=MASK_IDENTITY.as_assigned_mask()))[3] == 4 + 16


def test_a_redirect_assign_of_64_mask_values_has_the_size_that_squid_sends() -> None:
    values = tuple(Value(IPv4Address(0), IPv4Address(number), 0, 0, CACHE) for number in range(64))
    body = AssignmentMap((MaskValueSet(MASK, values),))
    assignment = AlternateAssignment(KEY, (RouterAssignment(ROUTER, 1, 1),), body)
    message = RedirectAssign(service=SERVICE, alternate_assignment=assignment)
    assert len(encode_message(message)) == 1120
    assert len(encode_message(message, password=b"x")) == 1136
    assert len(encode_message(dataclasses.replace(I_SEE_YOU, assignment_map=body))) > 1048
    assert decode_message(encode_message(message)) == message


def test_the_i_see_you_of_the_recorded_mask_session_has_its_sizes() -> None:
    """128 octets after the header with an empty view, 164 with one unassigned cache, 148 plus the map later."""
    empty = dataclasses.replace(I_SEE_YOU, view=RouterView(1, KEY, (), ()))
    unassigned = dataclasses.replace(
        I_SEE_YOU, view=RouterView(1, KEY, (ROUTER,), (MASK_IDENTITY.as_unassigned(),))
    )
    assigned = dataclasses.replace(
        I_SEE_YOU, view=RouterView(1, KEY, (ROUTER,), (MASK_IDENTITY.as_assigned_mask(),))
    )
    lengths = [len(encode_message(each, password=b"x")) - 8 for each in (empty, unassigned, assigned)]
    assert lengths == [128, 164, 148]


def test_an_unassigned_cache_is_shown_with_its_own_data_and_u() -> None:
    for identity, flags in ((HASH_IDENTITY, 1), (MASK_IDENTITY, 3)):
        shown = identity.as_unassigned()
        assert shown.is_unassigned
        assert shown.assignment == identity.assignment
        assert encoded_flags(shown) == flags


def test_an_assigned_cache_is_shown_without_u() -> None:
    vector = bytes(range(32))
    by_hash = HASH_IDENTITY.as_unassigned().as_assigned_hash(vector)
    by_mask = MASK_IDENTITY.as_unassigned().as_assigned_mask()
    assert (by_hash.assignment.buckets, by_hash.weight, by_hash.status) == (vector, 10000, 3)
    assert by_mask.assignment == MaskAssignment((), 10000, 3)
    assert [encoded_flags(each) for each in (by_hash, by_mask)] == [0, 2]


def encoded_flags(identity: WebCacheIdentity) -> int:
    octets = encode_message(dataclasses.replace(HERE_I_AM, identity=identity))
    _, offset, _ = read_frame(octets).first[3]
    return int(struct.unpack_from("!H", octets, offset + 6)[0])


def test_u_is_accepted_in_either_place() -> None:
    octets = bytearray(HASH_HERE_I_AM)
    _, offset, _ = read_frame(HASH_HERE_I_AM).first[3]
    octets[offset + 6] = 0x80
    message = decode_message(bytes(octets))
    assert isinstance(message, HereIAm)
    assert message.identity.is_unassigned
    assert not message.identity.as_assigned_hash(bytes(32)).is_unassigned


def test_the_dual_valid_form_has_a_filler_after_every_component_and_capability() -> None:
    octets = encode_message(I_SEE_YOU, dual_valid=True)
    frame = read_frame(octets)
    assert [number for number, _, _ in frame.spans] == [0, 0x7FFF, 1, 0x7FFF, 2, 0x7FFF, 4, 0x7FFF, 8, 0x7FFF]
    _, offset, end = frame.first[8]
    empty = bytes.fromhex("7fff0000")
    forwarding, assignment, packet_return = (
        struct.pack("!HHI", number, 4, bits) for number, bits in ((1, 3), (2, 1), (3, 1))
    )
    last = bytes.fromhex("7fff0008 7fff0000 00000000")
    assert octets[offset:end] == forwarding + empty + assignment + empty + packet_return + last
    assert len(octets) == len(encode_message(I_SEE_YOU)) + 4 * (5 + 3) + 8


def test_the_dual_valid_form_means_the_same_to_a_correct_reader() -> None:
    message = decode_message(encode_message(I_SEE_YOU, dual_valid=True))
    assert isinstance(message, ISeeYou)
    assert message.capabilities is not None
    known = dataclasses.replace(message.capabilities, unknown=())
    assert dataclasses.replace(message, unknown=(), capabilities=known) == I_SEE_YOU
    assert message.tolerated == ()


def test_a_reader_that_steps_8_octets_per_header_finds_every_component_of_the_dual_valid_form() -> None:
    """How Squid 4.17 to 7.6 walks: the length of the body plus 8, where 4 would be right."""
    octets = encode_message(I_SEE_YOU, password=b"secret", dual_valid=True)
    found, offset = [], 8
    while offset < len(octets):
        number, length = struct.unpack_from("!HH", octets, offset)
        found.append(number)
        offset += length + 8
    assert found == [0, 1, 2, 4, 8]
    assert offset == len(octets)


def test_the_bucket_table_is_found_in_either_component() -> None:
    info = REDIRECT_ASSIGN.assignment
    assert info is not None
    alternate = AlternateAssignment(info.key, info.routers, HashBuckets(info.caches, info.buckets))
    message = RedirectAssign(service=SERVICE, alternate_assignment=alternate)
    assert REDIRECT_ASSIGN.hash_assignment == message.hash_assignment == info
    by_mask = dataclasses.replace(alternate, body=AssignmentMap((SET,)))
    assert RedirectAssign(service=SERVICE, alternate_assignment=by_mask).hash_assignment is None


def test_the_service_is_read_without_the_rest_of_the_message() -> None:
    octets = encode_message(HERE_I_AM)
    _, offset, _ = read_frame(octets).first[3]
    broken = octets[: offset + 4] + b"\xff" * (len(octets) - offset - 4)
    assert peek_service(broken) == SERVICE


def test_only_short_components_are_remembered() -> None:
    def capabilities(octets: int) -> bytes:
        unknown = (UnknownElement(900, bytes(octets)),)
        return encode_message(dataclasses.replace(HERE_I_AM, capabilities=Capabilities(unknown=unknown)))

    messages._recurring.cache_clear()
    decode_message(capabilities(40))
    remembered = messages._recurring.cache_info().currsize
    decode_message(capabilities(4000))
    assert remembered == messages._recurring.cache_info().currsize == 3, "service, identity, capabilities"


def test_the_same_octets_of_an_identity_mean_another_cache_under_another_address_table() -> None:
    def of(address: str) -> bytes:
        identity = dataclasses.replace(HASH_IDENTITY, address=IPv4Address(address))
        table = AddressTable.of_family(AddressFamily.IPV4)
        return encode_message(
            dataclasses.replace(HERE_I_AM, minor_version=1, identity=identity, address_table=table)
        )

    for address in ("10.1.1.1", "10.1.1.2", "10.1.1.1"):
        message = decode_message(of(address))
        assert isinstance(message, HereIAm)
        assert message.identity.address == IPv4Address(address)


def test_commands_are_found_by_their_kind() -> None:
    asked = dataclasses.replace(HERE_I_AM, commands=CommandExtension((Command(CommandType.SHUTDOWN, CACHE),)))
    assert asked.shutdown == CACHE
    assert HERE_I_AM.shutdown is None
    assert FULL_I_SEE_YOU.shutdown_response == CACHE
    assert I_SEE_YOU.shutdown_response is None
    assert dataclasses.replace(HERE_I_AM, commands=SHUTDOWN_RESPONSE).shutdown is None


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (dataclasses.replace(HERE_I_AM, minor_version=256), "out of range"),
        (dataclasses.replace(HERE_I_AM, service=dataclasses.replace(SERVICE, ports=(1,))), "out of range"),
        (dataclasses.replace(HERE_I_AM, service=dataclasses.replace(SERVICE, priority=300)), "out of range"),
        (dataclasses.replace(HERE_I_AM, identity=HASH_IDENTITY.as_assigned_hash(b"short")), "32 octets"),
        (RedirectAssign(service=SERVICE), "without an assignment"),
        (dataclasses.replace(HERE_I_AM, unknown=(UnknownComponent(99, bytes(65536)),)), "do not fit"),
        (dataclasses.replace(HERE_I_AM, unknown=(UnknownComponent(99, bytes(65532)),)), "do not fit"),
        (
            dataclasses.replace(HERE_I_AM, identity=dataclasses.replace(HASH_IDENTITY, address=CACHE_6)),
            "2.00",
        ),
        (dataclasses.replace(I_SEE_YOU, view=RouterView(1, KEY, (CACHE_6,), ())), "needs an Address Table"),
    ],
)
def test_a_message_that_cannot_be_written_is_our_own_fault(message: Message, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_message(message)


def test_wrong_numbers_of_buckets_or_digest_octets_are_our_own_fault() -> None:
    info = REDIRECT_ASSIGN.assignment
    assert info is not None
    with pytest.raises(ValueError, match="256"):
        encode_message(
            dataclasses.replace(REDIRECT_ASSIGN, assignment=dataclasses.replace(info, buckets=bytes(255)))
        )
    security = HERE_I_AM.security._replace(digest=bytes(16))
    message = dataclasses.replace(HERE_I_AM, security=security)
    with pytest.raises(ValueError, match="digest"):
        encode_message(message)


def test_a_service_says_what_it_matches() -> None:
    web_cache = ServiceInfo.web_cache()
    assert (web_cache.effective_priority, web_cache.effective_protocol, web_cache.effective_ports) == (
        240,
        6,
        (80,),
    )
    assert (SERVICE.effective_priority, SERVICE.effective_protocol, SERVICE.effective_ports) == (
        240,
        6,
        (80, 8080),
    )
    everything = ServiceInfo.dynamic(90, 1, 0, ServiceFlags.PORTS_DEFINED, (80,))
    assert everything.effective_ports == ()
    any_port = ServiceInfo.dynamic(90, 1, 6, ServiceFlags(0), (80,))
    assert any_port.effective_ports == ()
    full = ServiceInfo.dynamic(90, 1, 17, ServiceFlags.PORTS_DEFINED, tuple(range(1, 9)))
    assert full.effective_ports == tuple(range(1, 9))


def test_a_service_is_readable() -> None:
    assert str(ServiceInfo.web_cache()) == "web-cache"
    assert str(SERVICE.key) == "dynamic 80"
    assert str(SERVICE) == "dynamic 80: protocol 6, destination ports 80, 8080, priority 240, flags 0x11"
    backwards = dataclasses.replace(SERVICE, flags=ServiceFlags.PORTS_SOURCE)
    assert str(backwards) == "dynamic 80: protocol 6, all ports, priority 240, flags 0x20"
    assert str(dataclasses.replace(ServiceInfo.web_cache(), service_id=5).key) == "standard 5"
