"""The kept corpus, and a bounded run of the coverage-guided fuzzer from it.

WCCPD_FUZZ_SECONDS sets the time (10 by default), WCCPD_FUZZ_SEED the seed. `make fuzz` hunts longer.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.hunt import command, fault
from tests.support.survival import engine_survives, survive
from tests.unit.wire.vectors import VECTORS

SECONDS = int(os.environ.get("WCCPD_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("WCCPD_FUZZ_SEED", "20010423"))


def test_codec_and_engine_survive_every_datagram_of_the_kept_corpus() -> None:
    datagrams = corpus.load()
    assert len(datagrams) > 100
    for datagram in datagrams:
        survive(datagram)
        engine_survives(datagram)


def test_codec_and_engine_survive_what_real_caches_and_routers_sent() -> None:
    for vector in VECTORS:
        engine_survives(vector.datagram)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine"
)
def test_codec_and_engine_survive_a_coverage_guided_hunt_from_the_kept_corpus(tmp_path: Path) -> None:
    known, new = corpus.unpack(tmp_path / "known"), tmp_path / "new"
    new.mkdir()
    hunt = subprocess.run(
        command(f"-max_total_time={SECONDS}", f"-seed={SEED}", f"-artifact_prefix={tmp_path}/", new, known),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    tail = "\n".join(hunt.stdout.splitlines()[-40:])
    assert hunt.returncode == 0, f"seed {SEED}, datagram {fault(tmp_path)}\n{tail}"
    assert "INITED" in hunt.stdout, "it never began"
