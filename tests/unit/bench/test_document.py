"""What `make bench` writes and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bench.__main__ as bench_main
from bench.__main__ import document, line
from bench.case import Case

MET = Case("wire_x", "us", 12.34, "under 15 us", True, "wire_y", 2.5, figures={"rounds": 9})
MISSED = Case("netlink_x", "kpps", 400.0, "at least 0.9 x", False, "packet_forward_64", 0.35, "netlink")
FAILED = Case("ebpf_x", "kpps", None, "at least 0.95 x", plane="ebpf", reason="no clang")


def test_the_document_has_the_form_that_the_others_read() -> None:
    written = json.loads(json.dumps(document([MET, MISSED, FAILED])))
    assert written.keys() == {"machine", "kernel", "cases"}
    for case in written["cases"]:
        assert case.keys() >= {"name", "plane", "unit", "value", "ratio_to", "ratio", "goal", "met", "reason"}
    assert [case["met"] for case in written["cases"]] == [True, False, None]
    assert (written["cases"][2]["value"], written["cases"][2]["reason"]) == (None, "no clang")


def test_a_line_says_what_was_measured_against_what_and_whether_it_is_enough() -> None:
    assert " ".join(line(MET).split()) == "wire_x 12.3 us 2.5 x wire_y (goal: under 15 us) met [rounds 9]"
    assert line(MISSED).endswith("0.35 x packet_forward_64  (goal: at least 0.9 x)  NOT MET")
    assert "not measured: no clang" in line(FAILED)


@pytest.mark.parametrize(("cases", "status"), [([MET, MISSED], 0), ([MET, FAILED], 1)])
def test_the_exit_status_says_whether_all_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cases: list[Case], status: int
) -> None:
    monkeypatch.setattr(bench_main, "PARTS", {"part": lambda: iter(cases)})
    monkeypatch.setattr(bench_main, "OUTPUT", tmp_path / "build" / "bench.json")
    monkeypatch.setattr("sys.argv", ["bench"])
    assert bench_main.main() == status
    assert len(json.loads((tmp_path / "build" / "bench.json").read_text())["cases"]) == 2


def test_an_unknown_part_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "wire", "nope"])
    assert bench_main.main() == 2
    assert "no such part: nope" in capsys.readouterr().err
