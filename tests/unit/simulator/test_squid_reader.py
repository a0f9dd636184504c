"""The broken Squids go wrong where the originals do, and read the dual-valid form all the same."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from wccpd.simulator.octets import ReadError
from wccpd.simulator.squid_reader import SquidReader
from wccpd.wire.assignments import AssignmentMap
from wccpd.wire.components import Capabilities, RouterIdentity, RouterView, ServiceInfo
from wccpd.wire.elements import AssignmentKey, TimerScale, TransmitT
from wccpd.wire.enums import (
    AssignmentMethod,
    CapabilityType,
    ForwardingMethod,
    IdentityFlags,
    PacketReturnMethod,
    ServiceFlags,
)
from wccpd.wire.identity import HashAssignment, MaskAssignment, WebCacheIdentity
from wccpd.wire.masks import Mask, MaskValueSet
from wccpd.wire.messages import ISeeYou, encode_message

ROUTER = IPv4Address("10.0.0.1")
ZERO = IPv4Address(0)
CACHES = tuple(IPv4Address("10.0.1.1") + number for number in range(32))
OFFER = Capabilities(
    forwarding=ForwardingMethod.GRE | ForwardingMethod.L2,
    assignment=AssignmentMethod.HASH,
    packet_return=PacketReturnMethod.GRE,
)
HTTPS = ServiceInfo.dynamic(70, 240, 6, ServiceFlags.SOURCE_IP_HASH, (443,))
HASH, MASK = AssignmentMethod.HASH, AssignmentMethod.MASK


def reader(
    header_octets: int, *, inverted: bool = False, service_id: int = 0, method: AssignmentMethod = HASH
) -> SquidReader:
    """Squid to 4.16 and 5.1 with a header of 4 octets, the later ones with 8."""
    return SquidReader(service_id, method, header_octets, header_octets == 8, inverted)


def i_see_you(*caches: WebCacheIdentity, **details: object) -> ISeeYou:
    view = RouterView(8, AssignmentKey(CACHES[0], 3), (ROUTER,) if caches else (), caches)
    identity = RouterIdentity(ROUTER, 102, ROUTER, (CACHES[0],))
    defaults: dict[str, object] = {"service": ServiceInfo.web_cache(), "capabilities": OFFER}
    return ISeeYou(identity=identity, view=view, **{**defaults, **details})


def hash_elements(count: int) -> tuple[WebCacheIdentity, ...]:
    return tuple(
        WebCacheIdentity(cache, HashAssignment(weight=100 + number))
        for number, cache in enumerate(CACHES[:count])
    )


@pytest.mark.parametrize("password", [None, b"secret"])
@pytest.mark.parametrize("count", [0, 1, 2, 32])
def test_the_dual_valid_form_says_the_same_to_a_right_and_to_a_wrong_reader(
    password: bytes | None, count: int
) -> None:
    message = i_see_you(*hash_elements(count))
    standard = encode_message(message, password=password)
    dual_valid = encode_message(message, password=password, dual_valid=True)
    right = reader(4).read(standard)
    assert right.receive_id == 102
    assert right.view is not None
    assert [each.address for each in right.view.caches] == list(CACHES[:count])
    assert reader(4).read(dual_valid) == right
    assert reader(8).read(dual_valid) == right


@pytest.mark.parametrize("password", [None, b"secret"])
@pytest.mark.parametrize("count", [0, 1, 2, 32])
@pytest.mark.parametrize(
    ("service", "complaint"),
    [(ServiceInfo.web_cache(), "duplicate security definition"), (HTTPS, "truncated record")],
    ids=["web-cache", "dynamic"],
)
def test_a_wrong_stride_gets_nothing_out_of_the_standard_form(
    password: bytes | None, count: int, service: ServiceInfo, complaint: str
) -> None:
    standard = encode_message(i_see_you(*hash_elements(count), service=service), password=password)
    with pytest.raises(ReadError, match=complaint):
        reader(8, service_id=service.service_id).read(standard)


def test_a_dual_valid_answer_of_a_dynamic_service_is_read() -> None:
    dual_valid = encode_message(i_see_you(*hash_elements(2), service=HTTPS), dual_valid=True)
    assert reader(8, service_id=70).read(dual_valid).view is not None


def test_timers_of_2_01_in_the_offer_do_no_harm() -> None:
    offer = Capabilities(
        forwarding=ForwardingMethod.GRE,
        transmit_t=TransmitT(60000, 500),
        timer_scale=TimerScale(5, 1, 5, 1),
    )
    dual_valid = encode_message(i_see_you(*hash_elements(1), capabilities=offer), dual_valid=True)
    heard = reader(8).read(dual_valid)
    assert heard.offer == {CapabilityType.FORWARDING_METHOD: 1}
    assert heard.view is not None


def test_the_inverted_check_still_lets_the_receive_id_through_but_no_view() -> None:
    dual_valid = encode_message(i_see_you(*hash_elements(1)), dual_valid=True)
    heard = reader(8, inverted=True).read(dual_valid)
    assert (heard.router_id, heard.receive_id) == (ROUTER, 102)
    assert heard.offer == {
        CapabilityType.FORWARDING_METHOD: 3,
        CapabilityType.ASSIGNMENT_METHOD: 1,
        CapabilityType.PACKET_RETURN_METHOD: 1,
    }
    assert heard.view is None
    assert heard.fault


def test_without_the_empty_elements_a_wrong_stride_would_trip_over_the_capabilities() -> None:
    dual_valid = bytearray(encode_message(i_see_you(*hash_elements(1)), dual_valid=True))
    start = dual_valid.index(b"\0\x08\0\x2c\0\x01\0\x04")
    elements = b"".join(dual_valid[start + 4 + 12 * i : start + 12 + 12 * i] for i in range(3))
    plain = dual_valid[:start] + b"\0\x08\0\x18" + elements + dual_valid[start + 48 :]
    plain[6:8] = (len(plain) - 8).to_bytes(2, "big")
    heard = reader(8).read(bytes(plain))
    assert heard.view is None
    assert "capability element" in heard.fault
    assert reader(4).read(bytes(plain)).view is not None


def test_in_mask_mode_an_element_is_32_octets_with_u_and_16_without() -> None:
    own_set = MaskValueSet(Mask(ZERO, IPv4Address(0x1741), 0, 0))
    unassigned = WebCacheIdentity(CACHES[0], MaskAssignment((own_set,)), IdentityFlags.UNASSIGNED)
    assigned = WebCacheIdentity(CACHES[1], MaskAssignment())
    for elements in ((unassigned, assigned, unassigned), (assigned, assigned), (assigned, unassigned)):
        for dual_valid in (False, True):
            datagram = encode_message(
                i_see_you(*elements, assignment_map=AssignmentMap((own_set,))), dual_valid=dual_valid
            )
            heard = reader(8 if dual_valid else 4, method=MASK).read(datagram)
            assert heard.view is not None
            assert [each.address for each in heard.view.caches] == [each.address for each in elements]


def test_any_other_element_in_mask_mode_shifts_what_follows() -> None:
    with_set = WebCacheIdentity(CACHES[0], MaskAssignment((MaskValueSet(Mask(ZERO, ZERO, 0, 0)),)))
    datagram = encode_message(i_see_you(with_set, WebCacheIdentity(CACHES[1], MaskAssignment())))
    heard = reader(4, method=MASK).read(datagram)
    assert heard.view is not None
    assert heard.view.caches[1].address != CACHES[1]


def test_a_squid_that_gets_its_strides_right_and_keeps_its_checks_reads_the_dual_valid_form() -> None:
    dual_valid = encode_message(i_see_you(*hash_elements(1)), dual_valid=True)
    heard = SquidReader(0, HASH, 4, checks=True).read(dual_valid)
    assert heard.receive_id == 102
    assert heard.view is not None


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_short_datagram_is_refused(cut: int) -> None:
    datagram = encode_message(i_see_you())
    with pytest.raises(ReadError):
        reader(4).read(datagram[:-cut])


def test_the_service_is_found_by_its_id_alone() -> None:
    with pytest.raises(ReadError, match="unknown service"):
        reader(4, service_id=90).read(encode_message(i_see_you()))


@pytest.mark.parametrize("password", [None, b"secret"])
@pytest.mark.parametrize(
    "offer",
    [
        None,
        Capabilities(forwarding=ForwardingMethod.GRE),
        OFFER,
        Capabilities(
            ForwardingMethod.GRE, HASH, PacketReturnMethod.GRE, TransmitT(0, 500), TimerScale(0, 1, 0, 1)
        ),
    ],
    ids=["no offer", "one element", "three", "five"],
)
def test_every_kind_of_squid_reads_the_same_from_the_dual_valid_form_whatever_is_offered(
    password: bytes | None, offer: Capabilities | None
) -> None:
    datagram = encode_message(
        i_see_you(*hash_elements(3), capabilities=offer), password=password, dual_valid=True
    )
    unchecked = SquidReader(0, HASH, 4, checks=False).read(datagram)
    assert unchecked.view is not None
    assert len(unchecked.view.caches) == 3
    assert SquidReader(0, HASH, 4, checks=True).read(datagram) == unchecked
    assert SquidReader(0, HASH, 8, checks=True).read(datagram) == unchecked
