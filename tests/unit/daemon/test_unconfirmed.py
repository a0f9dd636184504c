"""The rule for a start after a reload on trial: its content is not taken from the file again."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from wccpd.daemon.unconfirmed import Content, Unconfirmed

TEXT = """\
router: {id: 10.0.0.1}
redirect: {interfaces: [eth0]}
services:
  - {service: 70, password_file: wccp.password, mode: open, match: {}}
"""


def content(directory: Path, mode: str = "open", password: str = "sesame") -> Content:
    (directory / "wccp.password").write_text(f"{password}\n")
    text = TEXT.replace("mode: open", f"mode: {mode}")
    return Content(config.parse(text, directory=directory), text)


@pytest.fixture
def kept(tmp_path: Path) -> Unconfirmed:
    return Unconfirmed(tmp_path / "state")


def test_without_a_trial_the_file_is_taken(kept: Unconfirmed, tmp_path: Path) -> None:
    file = content(tmp_path)
    assert kept.at_start(file) is file


def test_content_on_trial_is_not_taken_again_and_what_was_before_is(
    kept: Unconfirmed, tmp_path: Path
) -> None:
    before, trial = content(tmp_path), content(tmp_path, "closed")
    kept.write(before, trial)
    for _ in range(2):
        started = kept.at_start(content(tmp_path, "closed"))
        assert started == before
    assert kept.path.stat().st_mode & 0o777 == 0o600


def test_a_rotated_password_alone_makes_another_content(kept: Unconfirmed, tmp_path: Path) -> None:
    before, trial = content(tmp_path), content(tmp_path, password="tahini")
    assert before.text == trial.text
    kept.write(before, trial)
    started = kept.at_start(content(tmp_path, password="tahini"))
    secret = started.config.services[0].password
    assert secret is not None
    assert secret.get_secret_value() == b"sesame"


def test_any_other_content_is_taken_and_ends_the_matter(kept: Unconfirmed, tmp_path: Path) -> None:
    kept.write(content(tmp_path), content(tmp_path, "closed"))
    third = content(tmp_path, "reject")
    assert kept.at_start(third) is third
    assert not kept.path.exists()


@pytest.mark.parametrize("octets", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_a_note_that_cannot_be_read_leaves_the_file(kept: Unconfirmed, tmp_path: Path, octets: bytes) -> None:
    kept.path.parent.mkdir()
    kept.path.write_bytes(octets)
    file = content(tmp_path)
    assert kept.at_start(file) is file


def test_a_write_can_be_taken_back(kept: Unconfirmed, tmp_path: Path) -> None:
    before, trial, other = content(tmp_path), content(tmp_path, "closed"), content(tmp_path, "reject")
    kept.put_back(kept.read())
    assert not kept.path.exists()
    kept.write(before, trial)
    noted = kept.read()
    kept.write(before, other)
    kept.put_back(noted)
    assert kept.at_start(content(tmp_path, "closed")) == before
