"""Passwords from files, variables and credentials: read, refused, warned about, and never seen."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

import config
from wccpd import check

GOOD = """\
router: {id: 10.100.1.10}
redirect: {interfaces: [ens6]}
services:
  - service: web-cache
"""
SECRET = "hunter22"
PLACES = ("password_file: w", "password_environment: WCCP_W", "password_credential: w")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same password in all three places."""
    (tmp_path / "w").write_text(f"{SECRET}\n")
    (tmp_path / "w").chmod(0o600)
    monkeypatch.setenv("WCCP_W", SECRET)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def load(folder: Path, *lines: str, needed: bool = True) -> config.Loaded:
    path = folder / "r.yaml"
    path.write_text(GOOD + "".join(f"    {line}\n" for line in lines))
    return config.load_with_warnings(path, passwords_needed=needed)


def refusal(folder: Path, *lines: str, needed: bool = True) -> str:
    with pytest.raises(config.ConfigError) as caught:
        load(folder, *lines, needed=needed)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("which", ["", "previous_"])
def test_a_password_is_read_from_each_place(place: str, which: str, places: Path) -> None:
    lines = [f"{which}{place}"] if not which else ["password_file: w", f"{which}{place}"]
    (service,) = load(places, *lines).config.services
    secret = service.previous_password if which else service.password
    assert secret is not None
    assert secret.get_secret_value() == SECRET.encode()


@pytest.mark.parametrize("place", PLACES)
def test_a_password_is_in_nothing_that_can_be_shown(place: str, places: Path) -> None:
    loaded = load(places, place)
    shown = (
        repr(loaded),
        str(loaded.config),
        json.dumps(config.redacted(loaded.config)),
        loaded.config.model_dump_json(),
        repr(loaded.config.model_dump()),
        check.text("r.yaml", loaded),
        json.dumps(check.good_document("r.yaml", loaded)),
    )
    assert [text for text in shown if SECRET in text] == []
    assert SECRET in pickle.dumps(loaded.config.services[0].password).decode("latin1"), (
        "the search can find it"
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "x" * 9,
            "holds more than 8 octets: a WCCP password has 1 to 8, the room that the protocol has for it",
        ),
        (" zq7", "holds a control character, or a blank at one of its ends"),
        ("", "is empty: a password has 1 to 8 octets"),
    ],
)
def test_a_password_that_nobody_could_use_is_refused_with_the_reason_and_unseen(
    place: str, content: str, expected: str, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "w").write_text(content)
    monkeypatch.setenv("WCCP_W", content)
    words = refusal(places, place)
    assert expected in words
    assert words.startswith(f"r.yaml:5:{7 + place.index(':')}: services[0].{place.partition(':')[0]}: ")
    assert not content.strip() or content.strip() not in words


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o600, ""),
        (0o640, ""),
        (0o644, "every user of this host can read"),
        (0o666, "every user of this host can write"),
    ],
)
def test_a_file_that_others_may_read_is_warned_about(mode: int, words: str, places: Path) -> None:
    (places / "w").chmod(mode)
    warnings = load(places, "password_file: w").warnings
    assert [warning.path for warning in warnings] == [("services", 0, "password_file")] * bool(words)
    assert all(
        words in warning.message and warning.hint == f"chmod go= {places / 'w'}" for warning in warnings
    )


def test_only_the_running_service_must_have_its_variables_and_credentials(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WCCP_W")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    for place in PLACES[1:]:
        assert "not set" in refusal(places, place)
        (warning,) = load(places, place, needed=False).warnings
        assert warning.message.startswith("not checked: ")


def test_a_credential_that_systemd_did_not_pass_and_a_file_that_is_missing_are_faults_even_in_a_check(
    places: Path,
) -> None:
    (places / "w").unlink()
    assert "cannot be read: no such file" in refusal(places, "password_credential: w", needed=False)
    assert "cannot be read: no such file" in refusal(places, "password_file: w", needed=False)


def test_a_file_that_only_the_service_may_read_is_not_missed_in_a_check(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("config.passwords.os.open", refuse)
    assert "permission denied" in refusal(places, "password_file: w")
    (warning,) = load(places, "password_file: w", needed=False).warnings
    assert warning.message.startswith("not checked: ")
    assert warning.message.endswith("cannot be read: permission denied")


def test_what_stands_where_a_variables_or_credentials_name_belongs_is_not_repeated(
    places: Path,
) -> None:
    for line in (
        "password_environment: hunter-23",
        "password_environment: hunter23",
        "password_credential: a/hunter23",
    ):
        words = refusal(places, line)
        assert "services[0].password" in words
        assert "hunter" not in words
