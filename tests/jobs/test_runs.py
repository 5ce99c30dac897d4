"""What `self2self runs` lists, removes and leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from self2self.jobs.export import PLAIN_FORMATS
from self2self.jobs.observer import Observer
from self2self.jobs.runs import list_runs, removable_runs, remove_runs
from self2self.machine.files import remove_folder
from self2self.train.run_folder import Run, cached_runs
from tests.commands import ROOT, parse_json, run_cli
from tests.train.test_run_folder import config_of

HOLD = """
import sys
from pathlib import Path
from self2self.train.run_folder import Run
run = Run(Path(sys.argv[1]))
with getattr(run, sys.argv[2])():
    print("held", flush=True)
    sys.stdin.read()
"""


def make_run(name: str, days: float = 0.0) -> Run:
    run = Run(cached_runs() / name)
    run.create(config_of())
    run.model_path.write_bytes(b"12345")
    moment = time.time() - days * 86400
    for path in run.folder.iterdir():
        os.utime(path, (moment, moment))
    return run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELF2SELF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_the_list_has_size_age_and_image_of_each_run_and_runs_of_earlier_versions(tmp_path: Path) -> None:
    old, new = make_run("old", days=40), make_run("new")
    here = Run(Path("runs/here"))
    here.create(config_of())
    (new.folder / "engines").mkdir()
    (new.folder / "engines" / "a.engine").write_bytes(b"123")
    listed = parse_json(run_cli("runs", "list", "--json"))
    assert {run["run"] for run in listed["runs"]} == {str(run.folder) for run in (old, new, here)}
    assert listed["runs"][-1]["run"] == str(old.folder), "the latest come first"
    sizes = {run["run"]: run["bytes"] for run in listed["runs"]}
    assert sizes[str(new.folder)] == new.config_path.stat().st_size + 5 + 3
    assert listed["bytes"] == sum(sizes.values())
    assert "used 40 days ago" in run_cli("runs", "list").stdout


def test_only_runs_that_were_not_used_for_long_go_and_all_only_by_all() -> None:
    old, new = make_run("old", days=40), make_run("new")
    named = Run(Path("runs/named"))
    named.create(config_of())
    refused = run_cli("runs", "clean", expect=2)
    assert "1 run, " in refused.stderr
    assert "--yes" in refused.stderr
    assert old.is_fitted()
    assert parse_json(run_cli("runs", "clean", "--yes", "--json"))["removed"][0]["run"] == str(old.folder)
    assert not old.folder.exists()
    assert "nothing to remove" in run_cli("runs", "clean", "--older-than", "1", "--yes").stdout
    assert "removed 1 run" in run_cli("runs", "clean", "--all", "--yes").stdout
    assert not new.folder.exists()
    assert named.config_path.is_file()


@pytest.mark.parametrize("file_format", PLAIN_FORMATS)
def test_exports_belong_to_their_run(file_format: str) -> None:
    run = make_run("exported")
    path = run.package_path_for(file_format) if file_format != "onnx" else run.plain_onnx_path_for("fp32")
    path.write_bytes(b"model")
    assert run.foreign_files() == []
    assert [stored.run for stored in remove_runs(removable_runs(0), Observer())] == [run]
    assert not run.folder.exists()


def test_nothing_but_runs_is_removed(cache: Path, tmp_path: Path) -> None:
    diary, mixed, elsewhere = cache / "runs" / "diary", make_run("mixed"), Run(tmp_path / "elsewhere")
    diary.mkdir()
    (diary / "config.json").write_text('{"format": 1}')
    (mixed.folder / "notes.txt").write_text("mine")
    elsewhere.create(config_of())
    (cache / "runs" / "link").symlink_to(elsewhere.folder)
    (cache / "runs" / "loose.txt").write_text("mine")
    notes: list[str] = []
    assert remove_runs(removable_runs(0), Observer(note=notes.append)) == []
    assert sorted(path.name for path in (cache / "runs").iterdir()) == ["diary", "link", "loose.txt", "mixed"]
    assert elsewhere.config_path.is_file()
    assert any("notes.txt" in note for note in notes)


@pytest.mark.parametrize("way", ["locked", "in_use"])
def test_a_run_in_which_a_process_works_stays(way: str) -> None:
    pytest.importorskip("fcntl")
    busy, idle = make_run("busy"), make_run("idle")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(busy.folder), way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        notes: list[str] = []
        removed = remove_runs(removable_runs(0), Observer(note=notes.append))
        assert [stored.run for stored in removed] == [idle]
        assert notes == [f"{busy.folder}: is in use, so it stays."]
        process.kill()
    assert [stored.run for stored in remove_runs(removable_runs(0), Observer())] == [busy]
    assert list_runs() == []


def test_two_processes_may_use_a_run_at_once() -> None:
    run = make_run("shared")
    with run.in_use(), run.in_use(), run.locked():
        pass


def test_what_a_killed_removal_left_is_removed_by_the_next(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    first = make_run("first")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: None)
        remove_folder(first.folder)
    assert len(list((cache / "runs").iterdir())) == 1
    make_run("second")
    remove_runs(removable_runs(0), Observer())
    assert list((cache / "runs").iterdir()) == []
