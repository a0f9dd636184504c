"""What can be wrong with the octets of a peer.

Every refusal has a `WireReason`, which is also the metric label and the log field. Faults that the drafts
tell a receiver to live with (2.01, 4.1) do not refuse the message: they are listed in its `tolerated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WireReason(StrEnum):
    """Why octets are not a WCCPv2 message, or what had to be overlooked to read them as one."""

    DATAGRAM_TOO_SHORT = "datagram_too_short"
    """Fewer than the 8 octets of a message header."""
    WCCP_VERSION_1 = "wccp_version_1"
    """A WCCPv1 message: its first word is 7, 8 or 9."""
    MAJOR_VERSION = "major_version"
    """The major version is not 2."""
    MESSAGE_TYPE = "message_type"
    """None of HERE_I_AM, I_SEE_YOU, REDIRECT_ASSIGN, REMOVAL_QUERY."""
    MESSAGE_PAST_END = "message_past_end"
    """The header promises more octets than the datagram has."""
    STRAY_OCTETS = "stray_octets"
    """One to three octets after the last component; tolerated."""

    COMPONENT_PAST_END = "component_past_end"
    """A component runs past the end of the message; tolerated unless the component is mandatory."""
    COMPONENT_UNALIGNED = "component_unaligned"
    """A component length is not a multiple of 4."""
    COMPONENT_TOO_SHORT = "component_too_short"
    """A component ends before its fixed fields do."""
    COMPONENT_TRAILING_OCTETS = "component_trailing_octets"
    """A component is longer than its contents."""
    COMPONENT_MISSING = "component_missing"
    """A mandatory component is absent."""
    COMPONENT_DUPLICATE = "component_duplicate"
    """A component came twice; tolerated, the first one counts."""
    TOO_MANY_COMPONENTS = "too_many_components"
    """More components than any message needs."""

    COUNT_PAST_COMPONENT = "count_past_component"
    """A count promises more elements than the component has room for."""
    TOO_MANY_CACHES = "too_many_caches"
    """More than 32 web-caches."""
    TOO_MANY_ROUTERS = "too_many_routers"
    """More than 32 routers."""
    BUCKET_INDEX = "bucket_index"
    """A bucket names a web-cache past the end of the list; tolerated, such a bucket is nobody's."""

    ELEMENT_PAST_COMPONENT = "element_past_component"
    """A capability or command runs past the end of its component."""
    ELEMENT_DUPLICATE = "element_duplicate"
    """A capability came twice; tolerated, the first one counts."""
    TOO_MANY_ELEMENTS = "too_many_elements"
    """More capabilities or commands than any message needs."""
    CAPABILITY_LENGTH = "capability_length"
    """A known capability whose value is not 4 octets."""
    COMMAND_LENGTH = "command_length"
    """A known command whose data is not 4 octets."""
    TRANSMIT_T = "transmit_t"
    """TRANSMIT_T of zero, or an upper limit below the lower one."""
    TIMER_SCALE = "timer_scale"
    """A timer scale of zero, or an upper limit below the lower one."""

    ASSIGNMENT_TYPE = "assignment_type"
    """An Alternate Assignment of an unknown type: its contents cannot be read."""
    ASSIGNMENT_LENGTH = "assignment_length"
    """The inner length of an Alternate Assignment is not the component length less 4."""
    MASK_BITS = "mask_bits"
    """More than 32 bits set in the mask of an alternate set."""
    SEQUENCE_NUMBER_RANGE = "sequence_number_range"
    """A value sequence number that the mask cannot have."""
    SEQUENCE_NUMBER_DUPLICATE = "sequence_number_duplicate"
    """A value sequence number given twice."""

    SERVICE_TYPE = "service_type"
    """A service that is neither standard nor dynamic."""
    SECURITY_OPTION = "security_option"
    """A security option that is neither none nor MD5."""
    SECURITY_LENGTH = "security_length"
    """A Security Info whose length does not fit its option."""

    ADDRESS_TABLE_IN_2_00 = "address_table_in_2_00"
    """An Address Table in a message of version 2.00."""
    ADDRESS_FAMILY = "address_family"
    """An Address Table of a family other than IPv4 and IPv6."""
    ADDRESS_ENTRY_SIZE = "address_entry_size"
    """Address Table entries of a size that is no multiple of 4 or too small for the family."""
    ADDRESS_INDEX = "address_index"
    """An address field points past the Address Table."""


@dataclass(frozen=True, slots=True)
class Tolerated:
    """A fault that did not keep the message from being read."""

    reason: WireReason
    detail: str
    offset: int
    """Octets from the start of the datagram."""


class WireError(Exception):
    """A peer sent octets that cannot be read as a WCCPv2 message."""

    def __init__(self, reason: WireReason, detail: str, offset: int, component: int | None = None) -> None:
        super().__init__(reason, detail, offset, component)
        self.reason = reason
        self.detail = detail
        """One line for the operator."""
        self.offset = offset
        """Octets from the start of the datagram, where the fault was noticed."""
        self.component = component
        """Type of the component in which it was noticed; None for the message itself."""

    def __str__(self) -> str:
        where = "" if self.component is None else f" of component {self.component}"
        return f"{self.detail} (at octet {self.offset}{where})"
