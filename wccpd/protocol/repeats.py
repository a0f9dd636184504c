"""HERE_I_AMs that say nothing new: the octets of the last one, but for digest and Receive ID.

That is what a joined cache sends for the rest of its life, and reading it anew costs more than all the rest of
answering it. Octets that are the same mean the same, so what was read from the last one is taken again; digest
and Receive ID are looked at each time. Knows no group and no state: it remembers readings, not decisions.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NamedTuple

from wccpd.wire.enums import DIGEST_OCTETS, ComponentType, SecurityOption
from wccpd.wire.framing import read_frame
from wccpd.wire.security import digest, exact_key

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from wccpd.wire.elements import ServiceKey
    from wccpd.wire.messages import HereIAm

MAX_READINGS = 4096
"""32 caches in 64 groups are half of it. When it is full everything is forgotten and read again."""
_OPTION_OCTETS = 4
_ROUTER_ROWS_OFFSET = 8
"""In the body of Web-Cache View Info: change number and router count come before (draft 5.6.6)."""
_ROUTER_ROW_OCTETS = 8
_RECEIVE_ID_OCTETS = 4


class Places(NamedTuple):
    """Where in a datagram the octets are that differ from one HERE_I_AM to the next."""

    digest: int
    """0 in a message without one."""
    receive_id: int

    def rest(self, datagram: bytes) -> bytes:
        """Everything else."""
        digest, receive_id = self
        after = digest + DIGEST_OCTETS if digest else 0
        return datagram[:digest] + datagram[after:receive_id] + datagram[receive_id + _RECEIVE_ID_OCTETS :]


class Reading(NamedTuple):
    """What a HERE_I_AM was found to mean."""

    message: HereIAm
    service: ServiceKey
    """Its group."""
    source: int
    """The 32 bits of its address, which compare quicker."""
    places: Places


class Repeats:
    """What was read from the last HERE_I_AM of each cache in each group."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], Places] = {}
        """By source and length: where such a datagram's changing octets were the last time."""
        self._readings: dict[bytes, Reading] = {}
        """By all the other octets, of which the cache's address is a part."""

    def find(self, datagram: bytes, source: IPv4Address) -> Reading | None:
        """What these octets mean, digest and Receive ID aside; None if they are new."""
        number = int(source)
        places = self._places.get((number, len(datagram)))
        if places is None:
            return None
        reading = self._readings.get(places.rest(datagram))
        return reading if reading is not None and reading.source == number else None

    def remember(self, datagram: bytes, source: IPv4Address, message: HereIAm, row: int) -> None:
        """Keep a reading.

        Args:
            datagram: The octets, nothing behind the message.
            source: Who sent them.
            message: What they mean.
            row: Which row of its Cache View names this router.
        """
        if len(self._readings) >= MAX_READINGS:
            self._places.clear()
            self._readings.clear()
        frame = read_frame(datagram)
        if frame.header.end != len(datagram):
            return
        _, security, _ = frame.first[ComponentType.SECURITY_INFO]
        _, view, _ = frame.first[ComponentType.WC_VIEW_INFO]
        signed = message.security.option is SecurityOption.MD5
        places = Places(
            digest=security + _OPTION_OCTETS if signed else 0,
            receive_id=view + _ROUTER_ROWS_OFFSET + row * _ROUTER_ROW_OCTETS + 4,
        )
        if places.digest > places.receive_id:
            return
        number = int(source)
        self._places[number, len(datagram)] = places
        self._readings[places.rest(datagram)] = Reading(message, message.service.key, number, places)


def signers(datagram: bytes, places: Places, passwords: tuple[bytes, ...]) -> tuple[bytes | None, ...]:
    """Which of the passwords the digest is right for, none if it is wrong; a group without any wants no digest."""
    if not passwords:
        return () if places.digest else (None,)
    if not places.digest:
        return ()
    sent = datagram[places.digest : places.digest + DIGEST_OCTETS]
    for password in passwords:
        if hmac.compare_digest(sent, digest(datagram, places.digest, exact_key(password))):
            return (password,)
    return ()


def receive_id(datagram: bytes, places: Places) -> int:
    """The Receive ID at its place."""
    return int.from_bytes(datagram[places.receive_id : places.receive_id + _RECEIVE_ID_OCTETS], "big")
