"""A configuration that was kept comes back as it was, whatever became of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import config
from config.kept import KeptError, keep, restore

EXAMPLES = sorted((Path(config.__file__).parent / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_comes_back_with_its_passwords_after_its_files_are_gone(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "wccpd.yaml"
    file.write_text(example.read_text())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in re.findall(r"password_(?:file|credential): (\S+)", example.read_text()):
        (tmp_path / name).write_text("sesame\n")
    text = config.read(file)
    loaded = config.parse(text, file=str(file), directory=tmp_path)
    kept = json.loads(json.dumps(keep(loaded, text)))
    for each in tmp_path.iterdir():
        each.unlink()
    restored = restore(kept)
    assert restored == loaded
    assert [each.password for each in restored.services] == [each.password for each in loaded.services]


@pytest.mark.parametrize(
    "damage",
    [
        {"text": "router: ["},
        {"text": "router: {id: 10.0.0.1}"},
        {"text": "a list"},
        {"passwords": []},
        {"passwords": [{"password": "no hexadecimal"}]},
        {"passwords": None},
        {"text": None},
    ],
    ids=str,
)
def test_what_is_damaged_is_refused_without_showing_a_password(damage: dict[str, object]) -> None:
    text = "router: {id: 10.0.0.1}\nredirect: {interfaces: [eth0]}\n"
    text += "services: [{service: 70, group_list: [10.0.0.0/8]}]\n"
    kept = {**keep(config.parse(text), text), **damage}
    with pytest.raises(KeptError) as refused:
        restore(kept)
    assert "hexadecimal" not in str(refused.value)
