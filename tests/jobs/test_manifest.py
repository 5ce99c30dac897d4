"""The manifest tells the state of every image, also after kills and with several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from self2self.errors import InputError, OutputError
from self2self.jobs.manifest import Manifest, read_manifest

IMAGES = [Path("a.png"), Path("b.png")]


def test_images_wait_until_they_are_done_and_the_last_line_counts(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "new" / "images.jsonl")
    manifest.begin(IMAGES)
    manifest.failed(IMAGES[0], InputError("a.png: is no image."), 0.25)
    found = read_manifest(manifest.path)
    assert {name: values["state"] for name, values in found.items()} == {"a.png": "failed", "b.png": "waiting"}
    assert (found["a.png"]["error"], found["a.png"]["exit_code"]) == ("a.png: is no image.", 3)
    manifest.begin(IMAGES)
    assert read_manifest(manifest.path)["a.png"]["state"] == "waiting"


def test_a_line_that_a_kill_has_cut_off_spoils_no_other(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "images.jsonl")
    manifest.begin(IMAGES)
    text = manifest.path.read_bytes()
    manifest.path.write_bytes(text[:-20])
    manifest.begin([IMAGES[1]])
    assert set(read_manifest(manifest.path)) == {"a.png", "b.png"}


def test_several_processes_share_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "images.jsonl"
    program = (
        "import sys; from pathlib import Path; from self2self.jobs.manifest import Manifest\n"
        "manifest = Manifest(Path(sys.argv[1]))\n"
        "for number in range(300): manifest.skipped(Path(f'{sys.argv[2]}-{number}' + 'x' * 200))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, path, name]) for name in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 900


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        Manifest(tmp_path).begin(IMAGES)
