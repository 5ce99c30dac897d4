"""The settings of the last run come back, and a file that is damaged does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from self2self.napari_plugin import settings as module
from self2self.napari_plugin.settings import Settings, load_settings, save_settings, settings_file

OTHERS = Settings("each", uncertainty=True, strength=0.5, passes=40, scratch=True, seed=7)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "self2self" / "napari.json"
    monkeypatch.setattr(module, "settings_file", lambda: path)
    return path


def test_what_was_saved_is_loaded(file: Path) -> None:
    assert load_settings() == Settings()
    save_settings(OTHERS)
    assert load_settings() == OTHERS
    assert [path.name for path in file.parent.iterdir()] == ["napari.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"\x00" * 20])
def test_a_damaged_file_is_as_none(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert load_settings() == Settings()
    save_settings(OTHERS)
    assert load_settings() == OTHERS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scope", "everything"),
        ("scope", ["plane"]),
        ("strength", 2.5),
        ("strength", "1"),
        ("strength", float("nan")),
        ("strength", True),
        ("passes", -1),
        ("passes", 2.5),
        ("uncertainty", 1),
        ("seed", 2**40),
        ("seed", None),
        ("of another version", 1),
    ],
)
def test_a_wrong_value_is_the_usual_one_and_the_others_count(file: Path, name: str, value: object) -> None:
    file.parent.mkdir(parents=True)
    right = {"scope": "planes", "passes": 3} if name not in ("scope", "passes") else {"seed": 5}
    file.write_text(json.dumps({**right, name: value}))
    assert load_settings() == Settings(**right)


def test_a_whole_number_is_a_strength(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text('{"strength": 2}')
    assert load_settings().strength == 2.0


def test_a_folder_that_cannot_be_made_is_no_error(file: Path) -> None:
    file.parent.parent.write_text("a file where the folder should be")
    save_settings(OTHERS)
    assert load_settings() == Settings()


def test_the_file_is_in_the_folder_for_configurations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda name, appauthor: tmp_path / name)
    assert settings_file() == tmp_path / "self2self" / "napari.json"
