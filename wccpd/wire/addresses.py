"""Address Table (2.01, 4.7 and 5.1.5): how a 4-octet field can stand for an IPv6 address.

    0: address family (2); 2: octets per entry (2); 4: n (4); 8: n entries, numbered from 1

With a table, every address and address mask of the message is an index into it, 0 being the unspecified
address. Without one they are IPv4. A table has one family; it is illegal in 2.00.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import TYPE_CHECKING

from wccpd.wire.enums import AddressFamily
from wccpd.wire.errors import WireReason

if TYPE_CHECKING:
    from wccpd.wire.reader import IPAddress, Reader
    from wccpd.wire.writer import Writer

_FAMILY_ENTRY = Struct("!HH")
_OCTETS = {AddressFamily.IPV4: 4, AddressFamily.IPV6: 16}
_ADDRESS: dict[AddressFamily, type[IPv4Address] | type[IPv6Address]] = {
    AddressFamily.IPV4: IPv4Address,
    AddressFamily.IPV6: IPv6Address,
}


@dataclass(frozen=True, slots=True)
class AddressTable:
    """The table of one message; layout on top of this module."""

    family: AddressFamily
    addresses: tuple[IPAddress, ...]
    entry_octets: int
    """Size of an entry; a multiple of 4, at least what the family needs, the rest zero and ignored."""

    @classmethod
    def of_family(cls, family: AddressFamily) -> AddressTable:
        """An empty table with entries no larger than needed."""
        return cls(family, (), _OCTETS[family])

    def resolve(self, field: int) -> IPAddress:
        """The address that a field stands for.

        Raises:
            LookupError: The field points past the table.
        """
        return self.addresses[field - 1] if field else _ADDRESS[self.family](0)

    @classmethod
    def decode(cls, reader: Reader) -> AddressTable:
        """Read the body.

        Raises:
            WireError: ADDRESS_FAMILY, ADDRESS_ENTRY_SIZE, COUNT_PAST_COMPONENT, COMPONENT_TOO_SHORT.
        """
        number, entry_octets = reader.unpack(_FAMILY_ENTRY)
        if number not in _OCTETS:
            raise reader.fail(WireReason.ADDRESS_FAMILY, f"address family {number}")
        family = AddressFamily(number)
        octets = _OCTETS[family]
        if entry_octets % 4 or entry_octets < octets:
            raise reader.fail(
                WireReason.ADDRESS_ENTRY_SIZE, f"table entries of {entry_octets} octets for {family.name}"
            )
        address = _ADDRESS[family]
        count = reader.count(entry_octets)
        addresses = tuple(address(reader.octets(entry_octets)[:octets]) for _ in range(count))
        return cls(family, addresses, entry_octets)

    def encode(self, writer: Writer) -> None:
        """Write the body."""
        writer.pack(_FAMILY_ENTRY, self.family, self.entry_octets)
        writer.uint32(len(self.addresses))
        for address in self.addresses:
            writer.octets(address.packed.ljust(self.entry_octets, b"\0"))


class TableBuilder:
    """Numbers the addresses of a message while it is written."""

    def __init__(self, template: AddressTable) -> None:
        """Start from a table whose family, entry size and order are to be kept."""
        self._template = template
        self._indices: dict[IPAddress, int] = {}
        self._addresses = list(template.addresses)
        for index, address in enumerate(template.addresses, start=1):
            self._indices.setdefault(address, index)

    def field(self, address: IPAddress) -> int:
        """The index of an address, a new one if need be; 0 for the unspecified address of either family.

        Raises:
            ValueError: The address is of another family than the message.
        """
        if int(address) == 0:
            return 0
        if not isinstance(address, _ADDRESS[self._template.family]):
            raise ValueError(f"{address} in a message of {self._template.family.name} addresses")
        index = self._indices.get(address)
        if index is None:
            self._addresses.append(address)
            index = self._indices[address] = len(self._addresses)
        return index

    def table(self) -> AddressTable:
        """The table so far."""
        return AddressTable(self._template.family, tuple(self._addresses), self._template.entry_octets)
