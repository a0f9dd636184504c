"""Counting tracked connections: only what the kernel answers to this very question counts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from tests.support.namespaces import Namespace
from wccpd.dataplane.conntrack import Conntrack
from wccpd.dataplane.nfnetlink import NetfilterSocket
from wccpd.errors import KernelError

pytestmark = pytest.mark.netns

PINNED = "add table ip t; add chain ip t o { type route hook output priority -150; }; add rule ip t o ct mark set 7"
FLOWS = 3000


class Bench:
    """Connections of our own, all with mark 7."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        namespace.run("nft", PINNED)
        self.conntrack = namespace.call(Conntrack)

    def open(self, flows: int) -> None:
        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for port in range(10000, 10000 + flows):
                    sock.sendto(b"x", ("127.0.0.9", port))

        self.namespace.call(send)

    def forget(self) -> None:
        self.namespace.call(_flush)

    def count(self) -> dict[int, int]:
        return self.namespace.call(lambda: self.conntrack.count(0xFF, any_of=0xFF))


def _flush() -> None:
    """Delete all connections, as `conntrack -F` does: IPCTNL_MSG_CT_DELETE without an address."""
    flusher = NetfilterSocket("conntrack")
    flusher._send(b"\x14\0\0\0" + (1 << 8 | 2).to_bytes(2, "little") + b"\x05\0" + b"\x01\0\0\0" + b"\0" * 8)
    flusher._socket.recv(4096)
    flusher.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Namespace("tracked") as namespace:
        made = Bench(namespace)
        yield made
        made.conntrack.close()


def test_connections_are_counted_by_their_mark(bench: Bench) -> None:
    assert bench.count() == {}
    bench.open(FLOWS)
    assert bench.count() == {7: FLOWS}
    assert bench.namespace.call(lambda: bench.conntrack.count(0xFF, any_of=0x8)) == {}


def test_what_is_left_of_an_earlier_question_is_not_taken_for_the_answer(bench: Bench) -> None:
    bench.open(FLOWS)
    unfinished = bench.namespace.call(bench.conntrack._marks)
    assert bench.namespace.call(lambda: next(unfinished)) == 7
    bench.forget()
    assert bench.count() == {}
    bench.open(5)
    assert bench.count() == {7: 5}


def test_a_kernel_that_refuses_is_an_error_and_the_next_question_is_answered(bench: Bench) -> None:
    sock = bench.namespace.call(lambda: NetfilterSocket("things"))
    with pytest.raises(KernelError, match="list things"):
        list(sock.dump(99 << 8, 0, b"\0\0\0\0"))
    with pytest.raises(KernelError, match="change things") as caught:
        sock.commit([(10 << 8 | 14, b"\x02\0\0\0")])
    assert caught.value.errno == errno.EINVAL
    assert list(sock.dump(10 << 8 | 1, 10 << 8, b"\x02\0\0\0")), "the table of this test"
    sock.close()
