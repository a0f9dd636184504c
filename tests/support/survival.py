"""What codec and engine owe to any octets whatever; shared by the property tests and the fuzzer."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from wccpd.protocol.outputs import Refusal, Refused, Send
from wccpd.protocol.router import Router
from wccpd.protocol.settings import EngineSettings, ServiceSettings
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod
from wccpd.wire.errors import WireError, WireReason
from wccpd.wire.messages import HereIAm, Message, decode_message, encode_message, peek_service
from wccpd.wire.security import check_digest, matching_key_variant, peek_security

ROUTER = IPv4Address("10.0.0.1")
STRANGER = IPv4Address("192.0.2.66")


def attempt(read: Callable[[bytes], object], octets: bytes) -> object:
    """What was read, or the refusal; any other exception goes through."""
    try:
        return read(octets)
    except WireError as error:
        return error


def survive(octets: bytes) -> None:
    """Every way in either works or raises `WireError`; what was read can be shown and written again."""
    assert peek_security(octets) in {True, False}
    assert check_digest(octets, b"abcdefgh") is (matching_key_variant(octets, b"abcdefgh") == "exact")
    service, message = attempt(peek_service, octets), attempt(decode_message, octets)
    for refusal in (service, message):
        if isinstance(refusal, WireError):
            assert refusal.reason in WireReason
            assert 0 <= refusal.offset <= max(len(octets), 8)
            assert str(refusal)
    if isinstance(message, Message):
        assert message.service == service
        assert str(message)
        assert repr(message)
        assert decode_message(encode_message(message)) == message


def engine_survives(octets: bytes) -> None:
    """A router without password takes or refuses the octets with a reason; what it answers can be read."""
    try:
        message = decode_message(octets)
    except WireError:
        message = None
    keys = () if message is None else (message.service.key,)
    services = tuple(
        ServiceSettings(
            key,
            forwarding=ForwardingMethod(3),
            assignment=AssignmentMethod(3),
            packet_return=PacketReturnMethod(3),
        )
        for key in keys
    )
    router = Router(EngineSettings(ROUTER, (ROUTER,), services, 7))
    source = STRANGER
    if isinstance(message, HereIAm) and isinstance(message.identity.address, IPv4Address):
        source = message.identity.address
    for now in (0.0, 1.0):
        for output in router.receive(octets, source, 2048, ROUTER, now):
            match output:
                case Send(datagram, _, remote, _):
                    assert remote == source
                    decode_message(datagram)
                case Refused(reason, _, _, detail):
                    assert isinstance(reason, Refusal | WireReason)
                    assert detail
                case _:
                    assert str(output)
    router.view()
    router.tick(60.0)
