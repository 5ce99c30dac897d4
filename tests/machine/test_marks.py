"""A finished file knows its job as long as nobody changes it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from self2self.machine.files import atomic_write
from self2self.machine.marks import Mark, mark_file, read_mark

pytestmark = pytest.mark.skipif(not hasattr(os, "setxattr"), reason="the system keeps no attributes of files")


def test_a_mark_names_the_job_and_its_result(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"content", mark=Mark("job", {"passes": 3}))
    assert read_mark(path, "job") == Mark("job", {"passes": 3})
    assert read_mark(path, "other") is None
    assert read_mark(path, "") is None
    assert read_mark(tmp_path / "none", "job") is None


def test_a_result_without_room_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"content", mark=Mark("job", {"pages": ["long"] * 100_000}))
    assert read_mark(path, "job") == Mark("job")


def test_a_file_that_has_changed_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"content", mark=Mark("job"))
    with path.open("r+b") as file:
        file.write(b"C")
    assert read_mark(path, "job") is None


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b"\xff", b'{"job": "job"}'])
def test_a_damaged_mark_is_none(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"content")
    os.setxattr(path, "user.self2self", value)
    assert read_mark(path, "job") is None


def test_where_attributes_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    path = tmp_path / "x"
    path.write_bytes(b"content")
    mark_file(path, Mark("job", {}))
    assert read_mark(path, "job") is None


def test_a_copy_without_attributes_is_nobodys(tmp_path: Path) -> None:
    atomic_write(tmp_path / "x", b"content", mark=Mark("job"))
    shutil.copyfile(tmp_path / "x", tmp_path / "y")
    assert read_mark(tmp_path / "y", "job") is None
