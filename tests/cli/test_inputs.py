"""Folders as inputs and outputs, stdin and stdout, and errors that name their file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner, Result

from self2self.cli import app
from tests.commands import FAST, parse_json, picture, run_cli, write_noisy

PASSES = ["--passes", "1"]


def model_of(work: Path) -> str:
    return next(work.glob("runs/*/model.onnx")).as_posix()


def piped(*arguments: str, data: bytes, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=data)
    assert result.exit_code == expect, (result.stderr, result.exception)
    return result


@pytest.mark.parametrize("output", ["results", "results/", "deep/er/results"])
def test_the_folder_for_several_results_is_made(work: Path, output: str) -> None:
    write_noisy(work / "b.png", seed=1)
    run_cli("infer", model_of(work), "noisy.png", "b.png", "-o", output, *PASSES)
    assert sorted(path.name for path in (work / output).iterdir()) == ["b.denoised.png", "noisy.denoised.png"]


def test_a_slash_makes_a_folder_for_one_result(work: Path) -> None:
    run_cli("infer", model_of(work), "noisy.png", "-o", "results/", *PASSES)
    assert (work / "results" / "noisy.denoised.png").is_file()
    run_cli("denoise", "noisy.png", "-o", "others/", *FAST, *PASSES)
    assert (work / "others" / "noisy.denoised.png").is_file()


def test_no_folder_is_made_for_images_that_cannot_be_read(work: Path) -> None:
    run_cli("denoise", "none.png", "-o", "results/", *FAST, expect=3)
    assert not (work / "results").exists()


def test_the_images_of_a_folder_are_taken_and_the_rest_is_named(work: Path) -> None:
    scans = work / "scans"
    scans.mkdir()
    (scans / "deeper").mkdir()
    write_noisy(scans / "b.png", seed=1)
    write_noisy(scans / "a.jpg", seed=2)
    (scans / "notes.txt").write_text("what was done")
    (scans / ".hidden.png").write_bytes((scans / "b.png").read_bytes())
    result = run_cli("infer", model_of(work), "scans", "noisy.png", "-o", "results", *PASSES, "--json")
    assert [item["image"] for item in parse_json(result)["images"]] == ["scans/a.jpg", "scans/b.png", "noisy.png"]
    assert (
        "note: scans: 2 images are taken; left out: deeper/, notes.txt; for the images in folders: --recursive\n"
        in result.stderr
    )
    again = run_cli("denoise", "scans", *FAST, *PASSES)
    assert "scans/b.denoised.png: written" in again.stdout
    # The results of the first time are no images to denoise.
    assert "0 of 2 images written, 2 skipped" in run_cli("denoise", "scans", *FAST, *PASSES).stderr


def test_a_folder_with_one_image_writes_into_a_folder(work: Path) -> None:
    (work / "scans").mkdir()
    write_noisy(work / "scans" / "a.png")
    run_cli("infer", "scans/", "-o", "results", *PASSES)
    assert (work / "results" / "a.denoised.png").is_file()


def test_stdin_is_denoised_to_stdout(work: Path) -> None:
    data = (work / "noisy.png").read_bytes()
    run_cli("infer", model_of(work), "noisy.png", "-o", "file.png", *PASSES)
    before = sorted(work.iterdir())
    for output in ([], ["-o", "-"]):
        result = piped("infer", model_of(work), "-", *output, *PASSES, data=data)
        assert result.stdout_bytes == (work / "file.png").read_bytes()
        assert "-: sent to stdout; removed: " in result.stderr
        assert "/tmp" not in result.stderr
    assert sorted(work.iterdir()) == before
    assert piped("infer", model_of(work), "-", "--quiet", *PASSES, data=data).stderr == ""


def test_a_file_goes_to_stdout_in_its_own_format(work: Path) -> None:
    counts = np.random.default_rng(0).poisson(300, (64, 64)).astype(np.uint16)
    tifffile.imwrite("cells.tif", counts)
    result = piped("denoise", "cells.tif", "-o", "-", *FAST, *PASSES, data=b"")
    written = tifffile.imread(io.BytesIO(result.stdout_bytes))
    assert (written.dtype, written.shape) == (np.uint16, (64, 64))


def test_stdin_may_go_to_a_file(work: Path) -> None:
    result = piped("denoise", "-", "-o", "out.png", *FAST, *PASSES, data=(work / "noisy.png").read_bytes())
    assert result.stdout.startswith("out.png: written")
    assert picture(work / "out.png").shape == (64, 70, 3)


def test_nothing_goes_to_stdout_if_stdin_is_no_image(work: Path) -> None:
    result = piped("denoise", "-", *FAST, data=b"no image at all", expect=3)
    assert result.stdout_bytes == b""
    assert result.stderr.startswith("error: stdin: is of an unknown format")


def test_every_error_among_several_images_names_its_file(work: Path) -> None:
    # No start weights are for CMYK, and without steps there is no fit from scratch.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(noise, "CMYK").save("cmyk.jpg")
    write_noisy(work / "b.png", seed=1)
    result = run_cli("denoise", "cmyk.jpg", "b.png", "--steps", "0", *PASSES, expect=2)
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: cmyk.jpg: ")
    result = run_cli("denoise", "noisy.png", "b.png", "--init", "scratch", "--steps", "0", "--json", expect=2)
    # A wrong option is one error, not one for each image.
    assert "--steps is 0" in parse_json(result)["error"]["message"]


def test_the_hint_for_float_data_proposes_what_holds_floats(work: Path) -> None:
    tifffile.imwrite("float.tif", np.random.default_rng(0).random((64, 70, 3)).astype(np.float32), photometric="rgb")
    for name in ("out", "out.xyz"):
        error = run_cli("infer", model_of(work), "float.tif", "-o", name, expect=2).stderr
        assert "expected .tif" in error
        assert ".png" not in error
    error = run_cli("infer", model_of(work), "float.tif", "-o", "out.jpg", expect=2).stderr
    assert "JPEG cannot hold float32 values. Use the extension .tif" in error
