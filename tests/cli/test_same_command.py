"""The same command finishes the work: done work is known, half-done work is completed, other work is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.commands import FAST, parse_json, run_cli, run_program, unfinish
from tests.live.graphs import write as write_live

PASSES = ("--passes", "2", "--engine", "ort", "--batch", "1")

pytestmark = pytest.mark.skipif(not hasattr(os, "setxattr"), reason="the system keeps no attributes of files")


def infer(*arguments: str, expect: int = 0) -> str:
    result = run_cli("infer", "--uncertainty", "std.tif", *PASSES, *arguments, expect=expect)
    return result.stdout if expect == 0 else result.stderr


def test_finished_work_is_done_already(work: Path) -> None:
    first = parse_json(run_cli("infer", *PASSES, "--json"))
    written = (work / "noisy.denoised.png").stat()
    assert "noisy.denoised.png: done already" in run_cli("infer", *PASSES).stdout
    again = parse_json(run_cli("infer", *PASSES, "--json"))
    # The time of writing the file is not in what the file keeps.
    assert again.pop("seconds").keys() == first.pop("seconds").keys()
    assert again == {**first, "done_already": True}
    # Other batches give the same bits.
    assert "done already" in run_cli("infer", *PASSES[:-1], "2").stdout
    assert (work / "noisy.denoised.png").stat().st_mtime_ns == written.st_mtime_ns
    assert "written" in run_cli("infer", *PASSES, "--force").stdout
    names = {path.name for path in work.iterdir()}
    assert names == {"noisy.png", "noisy.denoised.png", "runs"}


def test_half_finished_work_is_completed_to_the_same_bytes(work: Path) -> None:
    infer()
    both = [work / "noisy.denoised.png", work / "std.tif"]
    whole = [path.read_bytes() for path in both]
    for missing in both:
        missing.unlink()
        assert "written" in infer()
        assert [path.read_bytes() for path in both] == whole
    assert "done already" in infer()


@pytest.mark.parametrize("other", [("--seed", "1"), ("--passes", "3"), ("--no-flips",)])
def test_the_result_of_other_settings_is_refused(other: tuple[str, ...], work: Path) -> None:
    infer()
    assert "noisy.denoised.png: exists already" in infer(*other, expect=2)


def test_a_result_that_someone_has_changed_is_theirs(work: Path) -> None:
    infer()
    with (work / "noisy.denoised.png").open("ab") as file:
        file.write(b"mine")
    changed = (work / "noisy.denoised.png").read_bytes()
    (work / "std.tif").unlink()
    assert "noisy.denoised.png: exists already" in infer(expect=2)
    assert (work / "noisy.denoised.png").read_bytes() == changed


def test_another_image_of_the_same_name_is_other_work(work: Path) -> None:
    infer()
    (work / "noisy.png").write_bytes((work / "noisy.png").read_bytes() + b"\0")
    assert "exists already" in infer(expect=2)


def test_a_result_of_other_options_is_refused_before_anything_slow_is_loaded(work: Path) -> None:
    options = ("--steps", "2", "--passes", "2")
    run_cli("denoise", "noisy.png", *options)
    told = run_cli("denoise", "noisy.png", *options, "--strength", "0.5", "--seed", "1", expect=2).stderr
    changed = "seed the default, asked for 1; strength the default, asked for 0.5"
    assert told.startswith(f"error: noisy.denoised.png: exists already, made with other options ({changed}).")
    (work / "noisy.denoised.png").write_bytes(b"of another program")
    code = """
import sys
from self2self.__main__ import main
sys.argv[1:] = ["denoise", "noisy.png"]
try:
    main()
except SystemExit as end:
    assert end.code == 2
print(sorted({"torch", "onnx", "onnxruntime", "MNN", "PIL", "tifffile", "matplotlib"} & sys.modules.keys()))
"""
    done = run_program(code)
    assert done.stderr.startswith("error: noisy.denoised.png: exists already. Replace it with --force")
    assert done.stdout == "[]\n"


def test_a_fit_goes_on_without_resume_and_is_done_once(work: Path) -> None:
    run = unfinish(work)
    (run / "preview.png").unlink(missing_ok=True)
    result = run_cli("fit", "noisy.png", *FAST)
    assert f"continuing the interrupted fit in {run.relative_to(work)}" in result.stderr
    assert (run / "preview.png").is_file()
    assert "done already, in 2 steps" in run_cli("fit", "noisy.png", *FAST).stdout


def test_a_run_folder_with_leftovers_only_is_taken_over(work: Path) -> None:
    (work / "new").mkdir()
    (work / "new" / ".0123456789ab.partial.json").write_bytes(b"{")
    run_cli("fit", "noisy.png", *FAST, "-o", "new")
    assert not list((work / "new").glob(".*"))


def test_exporting_a_plain_model_again_writes_the_same_bytes(work: Path) -> None:
    command = ["export", "--plain", "--format", "bioimageio", "-o", "model.zip"]
    run_cli(*command)
    written = (work / "model.zip").read_bytes()
    run_cli(*command)
    assert (work / "model.zip").read_bytes() == written
    # Another format, a changed file and the weights of another fit are other work.
    assert "exists already" in run_cli("export", "--plain", "-o", "model.zip", expect=2).stderr
    with (work / "model.zip").open("ab") as file:
        file.write(b"mine")
    assert "exists already" in run_cli(*command, expect=2).stderr


def test_a_benchmark_is_done_already_and_its_missing_page_is_made(tmp_path: Path, tiny_onnx: Path) -> None:
    model, output, html = tmp_path / "tiny.onnx", tmp_path / "speed.json", tmp_path / "speed.html"
    shutil.copy(tiny_onnx, model)
    command = ["bench", str(model), "--size", "64", "--engine", "ort", "--batch", "1", "--rounds", "2", "--no-memory"]
    files = ["-o", str(output), "--html", str(html)]
    run_cli(*command, *files)
    measured, shown = output.read_bytes(), html.read_bytes()
    html.unlink()
    assert f"{output}: done already" in run_cli(*command, *files).stdout
    assert (output.read_bytes(), html.read_bytes()) == (measured, shown)
    assert parse_json(run_cli(*command, "--html", str(html), "--json"))["done_already"]
    # Other options and a file that someone has changed are other work.
    assert "exists already" in run_cli(*command, *files, "--passes", "5", expect=2).stderr
    output.write_bytes(measured + b"\n")
    assert "exists already" in run_cli(*command, *files, expect=2).stderr
    assert html.read_bytes() == shown


def test_a_prediction_is_done_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_live(tmp_path / "model.onnx")
    np.save("inputs.npy", np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))
    command = ["predict", "model.onnx", "inputs.npy", "--passes", "3", "-o", "out.npz"]
    first = parse_json(run_cli(*command, "--json"))
    written = Path("out.npz").read_bytes()
    (tmp_path / ".0123456789ab.partial.npz").write_bytes(b"of a killed process")
    assert "out.npz: done already" in run_cli(*command).stdout
    assert parse_json(run_cli(*command, "--json")) == {**first, "done_already": True}
    assert Path("out.npz").read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.npy", "model.onnx", "out.npz"]
    assert "exists already" in run_cli(*command, "--seed", "1", expect=2).stderr
    np.save("inputs.npy", np.zeros((2, 4), np.float32))
    assert "exists already" in run_cli(*command, expect=2).stderr
    assert Path("out.npz").read_bytes() == written


@pytest.mark.parametrize("stem", ["照" * 80, "a" * 242], ids=["three bytes a letter", "one byte a letter"])
def test_the_longest_name_whose_result_has_a_name_is_denoised(work: Path, stem: str) -> None:
    (work / "noisy.png").rename(work / f"{stem}.png")
    (run,) = (work / "runs").iterdir()
    command = ("infer", str(run), f"{stem}.png", *PASSES)
    assert "written" in run_cli(*command).stdout
    assert (work / f"{stem}.denoised.png").is_file()
    assert "done already" in run_cli(*command).stdout


def test_a_name_whose_result_would_have_none_is_refused_in_one_line(work: Path) -> None:
    stem = "b" * 250
    (work / "noisy.png").rename(work / f"{stem}.png")
    refused = run_cli("denoise", f"{stem}.png", expect=2).stderr
    assert refused.count("\n") == 1
    assert "name too long" in refused
    assert "-o" in refused
