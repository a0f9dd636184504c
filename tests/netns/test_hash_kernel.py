"""Our jhash against the one of this machine's kernel, through real nftables rules.

Random UDP packets leave by `lo`; a rule per kind of key hashes each, and notes the bucket beside the packet's
identification in a set, which is read back.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.namespaces import Namespace
from wccpd.plan.hashes import HASH_SEED, FlowFields, jhash_bucket
from wccpd.plan.redirect import HashFields

pytestmark = pytest.mark.netns

KEYS = {
    "ip daddr": HashFields(destination_address=True),
    "ip saddr": HashFields(source_address=True),
    "ip saddr . ip daddr": HashFields(True, True),
    "ip saddr . ip daddr . th sport . th dport": HashFields(True, True, True, True),
    "ip saddr . ip daddr . th dport": HashFields(True, True, False, True),
    "ip daddr . th sport": HashFields(False, True, True, False),
    "th sport . th dport": HashFields(False, False, True, True),
    "th sport": HashFields(source_port=True),
    "th dport": HashFields(destination_port=True),
}
PACKETS = 500


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("hash") as made:
        made.run("ip", "route", "add", "default", "dev", "lo")
        yield made


def test_our_jhash_puts_every_packet_into_the_bucket_of_the_kernel(namespace: Namespace) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    flows = {number: random_flow(chance) for number in range(1, PACKETS + 1)}
    namespace.run("nft", ruleset())
    namespace.call(lambda: send(flows))
    for index, (text, fields) in enumerate(KEYS.items()):
        buckets = noted(namespace, f"noted-{index}")
        assert buckets == {number: jhash_bucket(fields, flow) for number, flow in flows.items()}, text


def ruleset() -> str:
    sets, rules = [], []
    for index, text in enumerate(KEYS):
        sets.append(f"set noted-{index} {{ typeof ip id . meta mark; size 65535; flags dynamic; }}")
        rules.append(f"meta mark set jhash {text} mod 256 seed {HASH_SEED:#x}")
        rules.append(f"add @noted-{index} {{ ip id . meta mark }}")
    chain = "\n".join(("type filter hook output priority 0;", "ip protocol != udp return", *rules))
    return "\n".join(("table ip noted {", *sets, "chain out {", chain, "}", "}"))


def random_flow(chance: random.Random) -> FlowFields:
    return FlowFields(
        chance.randrange(0x01000000, 0xE0000000),
        chance.randrange(0x01000000, 0xE0000000),
        chance.randrange(0x10000),
        chance.randrange(0x10000),
    )


def send(flows: dict[int, FlowFields]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for number, flow in flows.items():
            addresses = struct.pack("!II", flow.source_address, flow.destination_address)
            header = struct.pack("!BBHHHBBH", 0x45, 0, 28, number, 0, 64, socket.IPPROTO_UDP, 0) + addresses
            udp = struct.pack("!HHHH", flow.source_port, flow.destination_port, 8, 0)
            sock.sendto(header + udp, (socket.inet_ntoa(addresses[4:]), 0))


def noted(namespace: Namespace, name: str) -> dict[int, int]:
    listing = json.loads(namespace.run("nft", "-j", "list", "set", "ip", "noted", name))
    (found,) = (item["set"] for item in listing["nftables"] if "set" in item)
    return dict(element["concat"] for element in found["elem"])
