"""The binding to libbpf against this machine's kernel, with programs compiled on the spot.

here: device `left` --- veth --- device `right`, in a namespace of the test's own
"""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.packets.compiler import compile_program
from tests.support.namespaces import Namespace
from wccpd.dataplane.bpf.hooks import (
    Direction,
    XdpMode,
    attach_tc,
    attach_xdp,
    attached_tc,
    attached_xdp,
    detach_tc,
    detach_xdp,
    remove_clsact,
)
from wccpd.dataplane.bpf.libbpf import LibBpf, VerifierError
from wccpd.dataplane.bpf.maps import BpfMap, MapKind, Write
from wccpd.dataplane.bpf.objects import BpfObject
from wccpd.dataplane.bpf.programs import BpfProgram
from wccpd.errors import KernelError

pytestmark = pytest.mark.netns

SAMPLE = """
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
    table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u32); }
    seen SEC(".maps");
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u32); };
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 1); __type(key, __u32);
         __array(values, struct inner); } current SEC(".maps");

/* Writes the current table's first value over the packet's last octet of the destination MAC. */
SEC("tc") int stamp(struct __sk_buff *packet)
{
    __u32 zero = 0, *count = bpf_map_lookup_elem(&seen, &zero), *value;
    void *inner = bpf_map_lookup_elem(&current, &zero);
    __u8 *octets = (void *)(long)packet->data;

    if (count) (*count)++;
    if (inner && (value = bpf_map_lookup_elem(inner, &zero)) && octets + 6 <= (__u8 *)(long)packet->data_end)
        octets[5] = *value;
    packet->mark = 7;
    return TC_ACT_SHOT;
}
SEC("tc") int other(struct __sk_buff *packet) { return TC_ACT_OK; }
SEC("xdp") int pass(struct xdp_md *context) { return XDP_PASS; }
char LICENSE[] SEC("license") = "GPL";
"""
BAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int careless(struct __sk_buff *packet) { return *(__u8 *)(long)packet->data; }
char LICENSE[] SEC("license") = "GPL";
"""
ZERO, ONE = struct.pack("=I", 0), struct.pack("=I", 1)
FRAME = bytes(12) + b"\x08\x00" + bytes(46)
MARK_OFFSET = 8
"""Of `mark` in struct __sk_buff."""


@pytest.fixture(scope="module")
def library() -> LibBpf:
    return LibBpf()


@pytest.fixture(scope="module")
def sample_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("bpf"), SAMPLE)


@pytest.fixture
def sample(library: LibBpf, sample_path: Path) -> Iterator[BpfObject]:
    with BpfObject(library, sample_path) as opened:
        opened.load()
        yield opened


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own."""
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace("bpf") as namespace:
        namespace.connect("left", "10.0.0.1/24", namespace, "right", "10.0.1.1/24")
        yield namespace


def built(folder: Path, text: str) -> Path:
    source, made = folder / "program.bpf.c", folder / "program.bpf.o"
    source.write_text(text)
    compile_program(source, made)
    return made


def index(namespace: Namespace, device: str) -> int:
    return namespace.call(lambda: socket.if_nametoindex(device))


def test_an_entry_is_written_read_listed_and_deleted(sample: BpfObject) -> None:
    table = sample.map("table")
    assert (table.name, table.key_octets, table.value_octets, table.max_entries) == ("table", 4, 8, 4)
    assert table.get(ONE) is None
    table.update(ONE, b"12345678")
    assert table.get(ONE) == b"12345678"
    assert list(table.items()) == [(ONE, b"12345678")]
    assert table.delete(ONE)
    assert not table.delete(ONE)
    assert list(table.items()) == []


def test_a_batch_is_written_in_one_call(sample: BpfObject) -> None:
    wanted = {struct.pack("=I", key): struct.pack("=Q", key * key) for key in range(4)}
    sample.map("table").update_batch(wanted.items())
    assert dict(sample.map("table").items()) == wanted


def test_a_map_of_more_entries_than_a_batch_is_listed_whole(library: LibBpf) -> None:
    for kind in (MapKind.HASH, MapKind.ARRAY, MapKind.LRU_HASH):
        with BpfMap.create(library, kind, "large", 4, 4, 10_000) as large:
            wanted = {struct.pack("=I", key): struct.pack("=I", key) for key in range(9_000)}
            large.update_batch(wanted.items())
            listed = dict(large.items())
            assert wanted.items() <= listed.items(), kind
            assert len(listed) == (10_000 if kind is MapKind.ARRAY else 9_000)


def test_a_full_map_and_a_wrong_write_are_refused_by_name(sample: BpfObject) -> None:
    table = sample.map("table")
    for key in range(4):
        table.update(struct.pack("=I", key), bytes(8))
    with pytest.raises(KernelError, match="write map table") as caught:
        table.update(struct.pack("=I", 4), bytes(8))
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(KernelError) as caught:
        table.update(ONE, bytes(8), Write.CREATE)
    assert caught.value.errno == errno.EEXIST
    table.delete(ONE)
    with pytest.raises(KernelError) as caught:
        table.update(ONE, bytes(8), Write.REPLACE)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(("key", "value"), [(b"123", bytes(8)), (b"1234", bytes(7)), (b"1234", bytes(9))])
def test_octets_of_another_length_never_reach_the_kernel(sample: BpfObject, key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="of table has"):
        sample.map("table").update(key, value)
    with pytest.raises(ValueError, match="of table has"):
        sample.map("table").update_batch([(key, value)])


def test_a_per_cpu_value_is_read_for_each_cpu(library: LibBpf, sample: BpfObject) -> None:
    seen = sample.map("seen")
    assert seen.per_cpu
    seen.update(ONE, struct.pack("=I", 9))
    assert seen.get_per_cpu(ONE) == (struct.pack("=I", 9),) * library.cpus
    sample.program("stamp").run(FRAME, repeat=5)
    assert sum(struct.unpack("=I", each)[0] for each in seen.get_per_cpu(ZERO)) == 5


def test_a_trial_run_returns_verdict_packet_and_context(library: LibBpf, sample: BpfObject) -> None:
    with BpfMap.create(library, MapKind.ARRAY, "inner", 4, 4, 2) as inner:
        inner.update(ZERO, struct.pack("=I", 0xAB))
        sample.map("current").update(ZERO, struct.pack("=I", inner.fd))
    run = sample.program("stamp").run(FRAME, context=bytes(64))
    assert run.verdict == 2
    assert run.packet == FRAME[:5] + b"\xab" + FRAME[6:]
    assert struct.unpack_from("=I", run.context, MARK_OFFSET) == (7,)


def test_an_inner_table_is_swapped_whole(library: LibBpf, sample: BpfObject) -> None:
    for value in (1, 2):
        with BpfMap.create(library, MapKind.ARRAY, "inner", 4, 4, 2) as inner:
            inner.update(ZERO, struct.pack("=I", value))
            sample.map("current").update(ZERO, struct.pack("=I", inner.fd))
        assert sample.program("stamp").run(FRAME).packet[5] == value


def test_a_program_that_the_verifier_refuses_says_why(library: LibBpf, tmp_path: Path) -> None:
    with (
        BpfObject(library, built(tmp_path, BAD)) as opened,
        pytest.raises(VerifierError, match=r"load BPF object program\.bpf\.o") as caught,
    ):
        opened.load()
    assert any("invalid access to packet" in line for line in caught.value.verifier)
    assert caught.value.errno == errno.EACCES
    assert 1 < len(caught.value.verifier) <= 12


def test_a_file_that_is_absent_or_no_object_is_refused(library: LibBpf, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"open BPF object none\.o: No such file"):
        BpfObject(library, tmp_path / "none.o")
    (tmp_path / "text.o").write_text("not an object")
    with pytest.raises(KernelError, match=r"open BPF object text\.o: refused \("):
        BpfObject(library, tmp_path / "text.o")


def test_what_a_file_does_not_hold_is_named(sample: BpfObject) -> None:
    with pytest.raises(KernelError, match="map nowhere") as caught:
        sample.map("nowhere")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(KernelError, match="program nothing"):
        sample.program("nothing")


def test_a_closed_object_is_refused_rather_than_followed(library: LibBpf, sample_path: Path) -> None:
    opened = BpfObject(library, sample_path)
    opened.close()
    opened.close()
    for use in (opened.load, lambda: opened.map("table"), lambda: opened.program("stamp")):
        with pytest.raises(ValueError, match="is closed"):
            use()


def test_only_the_programs_that_are_wanted_are_loaded(library: LibBpf, sample_path: Path) -> None:
    with BpfObject(library, sample_path) as opened:
        opened.load_only(["other"])
        opened.load()
        assert opened.program("other").name == "other"
        with pytest.raises(KernelError, match="program stamp"):
            opened.program("stamp")


def test_a_map_is_resized_before_the_load_and_not_after(library: LibBpf, sample_path: Path) -> None:
    with BpfObject(library, sample_path) as opened:
        opened.resize("table", 99)
        opened.load()
        assert opened.map("table").max_entries == 99
        with pytest.raises(KernelError, match="resize"):
            opened.resize("table", 100)


def test_a_pinned_map_outlives_its_object_and_serves_the_next(
    library: LibBpf, sample_path: Path, pins: Path
) -> None:
    with BpfObject(library, sample_path) as first:
        first.load()
        first.map("table").update(ONE, b"survived")
        first.map("table").pin(pins / "table")
        first.program("other").pin(pins / "other")
        tag = first.program("other").tag
    with BpfMap.pinned(library, pins / "table") as kept, BpfObject(library, sample_path) as second:
        second.reuse("table", kept)
        second.load()
        assert second.map("table").id == kept.id
        assert second.map("table").get(ONE) == b"survived"
    with BpfProgram.pinned(library, pins / "other") as program:
        assert (program.name, program.tag) == ("other", tag)


def test_a_pin_that_is_absent_or_taken_is_refused(library: LibBpf, sample: BpfObject, pins: Path) -> None:
    with pytest.raises(KernelError) as caught:
        BpfMap.pinned(library, pins / "table")
    assert caught.value.errno == errno.ENOENT
    sample.map("table").pin(pins / "table")
    with pytest.raises(KernelError, match="pin map table") as caught:
        sample.map("table").pin(pins / "table")
    assert caught.value.errno == errno.EEXIST


def test_a_map_of_another_layout_is_not_reused(library: LibBpf, sample_path: Path) -> None:
    with (
        BpfMap.create(library, MapKind.HASH, "table", 8, 8, 4) as foreign,
        BpfObject(library, sample_path) as opened,
        pytest.raises(KernelError, match=r"reuse .*of another kind or layout"),
    ):
        opened.reuse("table", foreign)


@pytest.mark.parametrize("direction", list(Direction))
def test_a_tc_program_is_attached_replaced_found_and_detached(
    library: LibBpf, sample: BpfObject, here: Namespace, direction: Direction
) -> None:
    device, other_side = index(here, "left"), Direction(3 - direction)

    def work() -> None:
        assert attached_tc(library, device, direction) is None
        for name in ("stamp", "other"):
            attach_tc(library, device, direction, sample.program(name))
            assert attached_tc(library, device, direction) == sample.program(name).id
        assert attached_tc(library, device, other_side) is None
        detach_tc(library, device, direction)
        detach_tc(library, device, direction)
        assert attached_tc(library, device, direction) is None
        remove_clsact(library, device)
        remove_clsact(library, device)

    here.call(work)
    assert "clsact" not in here.run("tc", "qdisc", "show", "dev", "left")


def test_an_attached_program_outlives_its_object_and_is_found_by_id(
    library: LibBpf, sample_path: Path, here: Namespace
) -> None:
    device = index(here, "left")
    with BpfObject(library, sample_path) as opened:
        opened.load()
        here.call(lambda: attach_tc(library, device, Direction.INGRESS, opened.program("other"), priority=5))
        tag = opened.program("other").tag
    found = here.call(lambda: attached_tc(library, device, Direction.INGRESS, priority=5))
    assert found is not None
    with BpfProgram.by_id(library, found) as program:
        assert program.tag == tag


def test_an_xdp_program_is_attached_found_and_detached(
    library: LibBpf, sample: BpfObject, here: Namespace
) -> None:
    device, program = index(here, "left"), sample.program("pass")

    def work() -> None:
        for mode in XdpMode:
            assert attached_xdp(library, device, mode) is None
            attach_xdp(library, device, program, mode)
            assert attached_xdp(library, device, mode) == program.id
            detach_xdp(library, device, mode)
            detach_xdp(library, device, mode)

    here.call(work)


def test_a_device_that_is_not_there_is_an_error_with_its_errno(
    library: LibBpf, sample: BpfObject, here: Namespace
) -> None:
    def attach() -> None:
        attach_tc(library, 9999, Direction.INGRESS, sample.program("other"))

    with pytest.raises(KernelError, match="device 9999") as caught:
        here.call(attach)
    assert caught.value.errno in {errno.ENODEV, errno.EINVAL}


def test_live_frames_go_into_the_stack_of_the_device(
    library: LibBpf, sample: BpfObject, here: Namespace
) -> None:
    device, seen = index(here, "left"), sample.map("seen")

    def work() -> None:
        attach_xdp(library, device, sample.program("pass"), XdpMode.NATIVE)
        attach_tc(library, device, Direction.INGRESS, sample.program("stamp"))
        sample.program("pass").run_live(FRAME, device_index=device, count=1000)

    before = sum(struct.unpack("=I", each)[0] for each in seen.get_per_cpu(ZERO))
    here.call(work)
    after = sum(struct.unpack("=I", each)[0] for each in seen.get_per_cpu(ZERO))
    assert after - before >= 1000  # the kernel's own announcements on the device are seen too
    with pytest.raises(ValueError, match="a batch has 1 to 256"):
        sample.program("pass").run_live(FRAME, device_index=device, count=1, batch=257)
