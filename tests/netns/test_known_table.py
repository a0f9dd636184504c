"""What is believed of our nftables table, what tells that somebody else touched it, and what changes by itself."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest

from tests.support.daemon import wait_for
from tests.support.namespaces import Namespace
from wccpd.dataplane.known_table import LISTING_SHARE, KnownTable
from wccpd.dataplane.nfnetlink import LeaseSocket
from wccpd.dataplane.nft import Nft
from wccpd.dataplane.watch import TableWatch
from wccpd.errors import KernelError
from wccpd.plan.diff import nft_transaction
from wccpd.plan.model import LAYOUT, NftChain, NftMap, NftRule, NftSet, NftTable

pytestmark = pytest.mark.netns

HOOK = "type filter hook output priority 0; policy accept;"
WANTED = NftTable(
    "wccpd",
    counters=frozenset({"seen", "unseen"}),
    sets=(NftSet("never", "type ipv4_addr; flags interval;", frozenset({"198.51.100.0/24"})),),
    maps=(
        NftMap("lease", "type ifname : verdict; flags timeout;", None),
        NftMap("owners", "typeof meta length : verdict;", {"1": "goto fresh", "2": "goto fresh"}),
        NftMap("hosts", "typeof ip daddr : verdict; counter;", {"127.0.0.9": "goto fresh"}),
    ),
    chains=(
        NftChain(LAYOUT),
        NftChain("fresh", rules=(NftRule("counter name seen accept", "seen"),)),
        NftChain("outgoing", HOOK, (NftRule("ip daddr vmap @hosts", "hosts"),)),
    ),
)


class Bench:
    """A table in a namespace of its own, and a clock that a test turns."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.now = 1000.0
        self.nft = Nft("wccpd")
        self.lease = LeaseSocket("wccpd")
        watch = TableWatch("wccpd", (self.nft.sender(), self.lease.port))
        self.table = KnownTable(self.nft, watch, lambda: self.now)

    def close(self) -> None:
        self.table.close()
        self.lease.close()

    def make(self, wanted: NftTable = WANTED) -> None:
        self.table.change(nft_transaction(wanted, self.table.look()), wanted)

    def listings(self) -> int:
        """How many more listings two looks need."""
        before = self.table.listings
        self.table.look()
        self.table.count(["hosts"])
        return self.table.listings - before


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("table") as made:
        yield made


@pytest.fixture
def bench(namespace: Namespace) -> Iterator[Bench]:
    made = namespace.call(lambda: Bench(namespace))
    namespace.call(made.make)
    yield made
    made.close()


def test_a_table_that_nobody_else_touches_is_not_listed_again(bench: Bench) -> None:
    assert bench.listings() == 0
    bench.lease.renew(["spokes"], 30)
    bench.make(NftTable("wccpd", chains=(NftChain(LAYOUT), NftChain("fresh"), NftChain("more"))))
    assert bench.listings() == 0


def test_what_is_believed_is_what_a_listing_says(bench: Bench) -> None:
    believed = bench.table.look()
    bench.table.forget()
    assert bench.listings() == 1
    listed = bench.table.look()
    assert listed is not None
    assert believed is not None
    assert (believed.sets, believed.maps, believed.chains) == (listed.sets, listed.maps, listed.chains)
    assert believed.counters.keys() == listed.counters.keys()
    assert nft_transaction(WANTED, believed) == nft_transaction(WANTED, listed) == ""


@pytest.mark.parametrize(
    "touch",
    [
        "flush ruleset",
        "delete table ip wccpd",
        "flush chain ip wccpd outgoing",
        "insert rule ip wccpd outgoing accept",
        "delete element ip wccpd owners { 2 }",
        "add element ip wccpd never { 192.0.2.0/24 }",
        "flush map ip wccpd lease; add element ip wccpd lease { x : goto fresh }",
        "add counter ip wccpd theirs",
        "add table ip other; add chain ip other c; add chain ip wccpd theirs",
    ],
)
def test_whatever_somebody_else_does_to_it_is_seen_at_the_next_look(bench: Bench, touch: str) -> None:
    bench.namespace.run("nft", touch)
    assert bench.listings() == 1
    assert bench.listings() == 0, "once is enough"
    bench.make()
    assert nft_transaction(WANTED, bench.table.look()) == ""


def test_what_somebody_does_elsewhere_costs_no_listing(bench: Bench) -> None:
    bench.namespace.run(
        "nft", "add table ip other; add chain ip other c; add table ip6 wccpd; add table inet w"
    )
    bench.namespace.run("nft", "delete table ip6 wccpd")
    assert bench.listings() == 0


def test_notices_that_find_no_room_count_as_a_change(bench: Bench) -> None:
    numbers = ", ".join(map(str, range(40_000)))
    bench.namespace.run("nft", "add table ip other; add set ip other big { typeof meta length; }")
    bench.namespace.call(lambda: bench.nft._context.cmd(f"add element ip other big {{ {numbers} }}"))
    assert bench.listings() == 0, "the same sender is us"
    listed = bench.table.listings
    text = f"flush set ip other big\nadd element ip other big {{ {numbers} }}\n"
    stranger = bench.namespace.call(lambda: Nft("other"))
    bench.namespace.call(lambda: stranger.run(text))
    bench.table.look()
    assert bench.table.listings == listed + 1


def test_a_transaction_that_is_refused_ends_all_belief(bench: Bench) -> None:
    with pytest.raises(KernelError, match="nft table wccpd"):
        bench.table.change("add chain ip wccpd x\ndelete map ip wccpd hosts\n", WANTED)
    assert bench.listings() == 1


def test_a_part_of_a_change_is_listed(bench: Bench) -> None:
    bench.table.change("add chain ip wccpd x\n", None)
    assert bench.listings() == 1
    table = bench.table.look()
    assert table is not None
    assert "x" in table.chains


def test_belief_is_checked_as_often_as_its_share_of_the_time_allows(bench: Bench) -> None:
    took = 0.25
    listing = bench.nft.observe

    def slowly() -> object:
        bench.now += took
        return listing()

    bench.nft.observe = slowly  # type: ignore[assignment,method-assign]
    bench.table.forget()
    assert bench.listings() == 1
    bench.now += took / LISTING_SHARE - 0.01
    assert bench.listings() == 0
    bench.now += 0.02
    assert bench.listings() == 1


def test_belief_is_not_checked_while_others_change_what_is_theirs(bench: Bench) -> None:
    bench.namespace.run("nft", "add table ip other")
    bench.now += 1000
    bench.table.look()
    assert bench.table.listings == 1
    bench.table.look()
    assert bench.table.listings == 2


def test_what_was_believed_stays_until_others_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    believed, listed = bench.table.look(), bench.table.listings
    with monkeypatch.context() as busy:
        busy.setattr(TableWatch, "hears_within", lambda *_: True)
        bench.namespace.run("nft", "add chain ip wccpd theirs")
        assert bench.table.look() == believed
        assert (bench.table.in_doubt, bench.table.listings) == (True, listed)
        bench.table.forget()
        with pytest.raises(KernelError, match="nft monitor"):
            bench.table.look()
    table = bench.table.look()
    assert table is not None
    assert "theirs" in table.chains
    assert not bench.table.in_doubt


def test_counters_are_as_of_now(bench: Bench) -> None:
    bench.namespace.run("ping", "-c2", "-i0.01", "127.0.0.9")
    assert bench.listings() == 0
    table = bench.table.count(["hosts", "no such map"])
    assert table is not None
    assert {name: count.packets for name, count in table.counters.items()} == {"seen": 2, "unseen": 0}
    assert table.counters["seen"].octets == 2 * 84
    assert {key: count.packets for key, count in table.element_counters["hosts"].items()} == {"127.0.0.9": 2}


# --- the lease


def lease(bench: Bench) -> dict[str, tuple[str, float]]:
    """What libnftables lists: device to verdict and timeout."""
    output = json.loads(bench.namespace.run("nft", "-j", "list", "map", "ip", "wccpd", "lease"))
    (body,) = (item["map"] for item in output["nftables"] if "map" in item)
    return {
        key["elem"]["val"]: (verdict["goto"]["target"], key["elem"]["timeout"])
        for key, verdict in body.get("elem", [])
    }


def test_the_lease_is_what_it_was_renewed_to_last(bench: Bench) -> None:
    assert not bench.table.is_leased()
    bench.lease.renew(["spokes", "wccp-0123456789"], 30)
    assert lease(bench) == {"spokes": ("fresh", 30), "wccp-0123456789": ("fresh", 30)}
    assert bench.table.is_leased()
    bench.lease.renew(["spokes"], 90)
    assert lease(bench) == {"spokes": ("fresh", 90)}
    bench.lease.renew([], 30)
    assert lease(bench) == {}
    assert not bench.table.is_leased()


def test_a_lease_runs_out_by_itself(bench: Bench) -> None:
    bench.lease.renew(["spokes"], 0.2)
    assert bench.table.is_leased()
    wait_for(lambda: not bench.table.is_leased(), "the lease runs out")


def test_a_lease_without_a_table_is_refused_and_can_be_had_when_there_is_one(bench: Bench) -> None:
    bench.namespace.run("nft", "flush ruleset")
    with pytest.raises(KernelError, match="change lease of nft table wccpd") as caught:
        bench.lease.renew(["spokes"], 30)
    assert caught.value.errno == errno.ENOENT
    assert not bench.table.is_leased()
    bench.make()
    bench.lease.renew(["spokes"], 30)
    assert bench.table.is_leased()
