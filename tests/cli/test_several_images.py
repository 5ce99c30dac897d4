"""Several images in one command: paths of the results, skipped images, and bad images."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from self2self.jobs.manifest import read_manifest
from tests.commands import FAST, parse_json, picture, run_cli, write_noisy


def test_of_several_images_those_that_are_done_are_skipped(work: Path) -> None:
    for name in ("a.png", "b.png"):
        write_noisy(work / name)
    (work / "out").mkdir()
    (work / "out" / "a.denoised.png").write_bytes(b"kept")
    several = ("infer", next(iter(work.glob("runs/*"))).as_posix(), "a.png", "b.png", "-o", "out", "--passes", "1")
    result = run_cli(*several, "--json")
    values = parse_json(result)
    assert [item["image"] for item in values["images"]] == ["b.png"]
    assert (values["skipped"], values["failed"]) == (["a.png"], [])
    assert "out/a.denoised.png: exists already, so a.png is skipped. To replace it: --force" in result.stderr
    assert (work / "out" / "a.denoised.png").read_bytes() == b"kept"
    again = run_cli(*several)
    assert again.stdout == ""
    assert again.stderr.count("is skipped") == 2
    assert "note: 0 of 2 images written, 2 skipped\n" in again.stderr
    run_cli("denoise", "a.png", "b.png", "-o", "out", *FAST, "--passes", "1")
    assert list(work.glob("runs/a-*")) == [], "nothing is fitted for what is done"
    run_cli(*several, "--force")
    assert picture(work / "out" / "a.denoised.png").shape == (64, 70, 3)
    single = run_cli("infer", *several[1:3], "-o", "out/a.denoised.png", expect=2)
    assert "exists already" in single.stderr


def test_two_images_are_not_written_to_one_file(work: Path) -> None:
    (work / "other").mkdir()
    write_noisy(work / "other" / "noisy.png")
    result = run_cli("denoise", "noisy.png", "other/noisy.png", "-o", "other", expect=2)
    assert "noisy.png and other/noisy.png would both be written to other/noisy.denoised.png" in result.stderr
    result = run_cli("denoise", "noisy.png", "noisy.png", "-o", "other", expect=2)
    assert "noisy.png is given twice" in result.stderr


def test_several_images_go_into_a_folder_and_a_bad_one_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    write_noisy(tmp_path / "c.png", seed=1)
    (tmp_path / "out").mkdir()
    images = ["a.png", "b.png", "c.png"]
    result = run_cli("denoise", *images, "-o", "out", *FAST, "--passes", "1", "--json", expect=3)
    assert "b.png" in result.stderr
    assert [Path(entry["output"]).name for entry in parse_json(result)["images"]] == [
        "a.denoised.png",
        "c.denoised.png",
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.denoised.png", "c.denoised.png"]
    (failed,) = parse_json(result)["failed"]
    assert [line for line in result.stderr.splitlines() if line.startswith("image ")] == [
        "image 1 of 3: a.png",
        "image 2 of 3: b.png",
        "image 3 of 3: c.png",
    ]
    assert (failed["image"], failed["exit_code"]) == ("b.png", 3)
    assert failed["message"] in result.stderr


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an image without permission to read it, even for root."""
    path = write_noisy(tmp_path / "secret.png")
    access, opened = os.access, Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(
        os, "access", lambda file, *rest, **more: str(file) != str(path) and access(file, *rest, **more)
    )
    monkeypatch.setattr(Path, "open", refuse)
    return path


def test_an_image_that_may_not_be_read_stops_no_other(work: Path, secret: Path) -> None:
    model = next(work.glob("runs/*/model.onnx")).as_posix()
    for command in (["infer", model, "--passes", "1"], ["denoise", *FAST, "--passes", "1", "--force"]):
        result = run_cli(*command, str(secret), "noisy.png", expect=3)
        assert f"error: {secret}: may not be read." in result.stderr
        assert "noisy.denoised.png: written" in result.stdout
    assert "may not be read" in run_cli("fit", str(secret), expect=3).stderr
    assert "may not be read" in run_cli("fit", "noisy.png", "-o", "r", "--reference", str(secret), expect=3).stderr


def test_infer_goes_on_after_a_bad_image_and_says_how_many_were_written(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx")).as_posix()
    (work / "bad.png").write_bytes(b"nothing")
    write_noisy(work / "other.png", seed=1)
    result = run_cli("infer", model, "bad.png", "noisy.png", "other.png", "--passes", "1", expect=3)
    lines = result.stderr.splitlines()
    assert lines[0] == "image 1 of 3: bad.png"
    assert lines[1].startswith("error: bad.png: ")
    assert "image 3 of 3: other.png" in lines
    quiet = run_cli("infer", model, "noisy.png", "other.png", "--passes", "1", "--force", "--quiet")
    assert quiet.stderr == ""
    single = run_cli("infer", model, "noisy.png", "--passes", "1", "--force")
    assert "image 1" not in single.stderr
    assert result.stderr.endswith("note: 2 of 3 images written, 1 failed: bad.png\n")
    assert result.stdout.count(": written; removed") == 2


def test_results_among_the_images_are_not_denoised_again(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx")).as_posix()
    (work / "noisy.png").rename(work / "photo")
    write_noisy(work / "b.png", seed=1)
    run_cli("infer", model, "photo", "b.png", "--passes", "1")
    # A shell expands * to results, too, when the command runs again.
    everything = ("b.denoised.png", "b.png", "photo", "photo.denoised.png")
    before = sorted(path.name for path in work.iterdir())
    result = run_cli("infer", model, *everything, "--passes", "1")
    assert "results of self2self are named like this: b.denoised.png, photo.denoised.png" in result.stderr
    assert "0 of 2 images written, 2 skipped" in result.stderr
    assert sorted(path.name for path in work.iterdir()) == before
    forced = run_cli("infer", model, *everything, "--passes", "1", "--force")
    assert forced.stdout.count(": written;") == 2
    assert sorted(path.name for path in work.iterdir()) == before


def test_folders_in_folders_keep_their_layout_and_a_manifest_tells_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shoot" / "night").mkdir(parents=True)
    write_noisy(tmp_path / "shoot" / "a.png")
    write_noisy(tmp_path / "shoot" / "night" / "a.png", seed=1)
    (tmp_path / "shoot" / "night" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ("denoise", "shoot", "-r", "-o", "out", *FAST, "--manifest", "images.jsonl")
    run_cli(*command, expect=3)
    results = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert results == ["out/a.denoised.png", "out/night/a.denoised.png"]
    found = read_manifest(tmp_path / "images.jsonl")
    assert {name: values["state"] for name, values in found.items()} == {
        "shoot/a.png": "written",
        "shoot/night/a.png": "written",
        "shoot/night/bad.png": "failed",
    }
    assert found["shoot/a.png"]["noise"]["sigma"] > 1
    assert found["shoot/a.png"]["output"] == "out/a.denoised.png"
    run_cli(*command, expect=3)
    assert read_manifest(tmp_path / "images.jsonl")["shoot/a.png"]["state"] == "skipped"


def test_parts_write_all_images_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for number in range(3):
        write_noisy(tmp_path / "scans" / f"{number}.png", seed=number)
    for part, expected in (("1/2", ["0", "2"]), ("2/2", ["1"])):
        values = parse_json(run_cli("denoise", "scans", "--part", part, "-o", f"out{part[0]}", *FAST, "--json"))
        assert [Path(item["image"]).stem for item in values["images"]] == expected
    assert "--part 3/2: expected K/N" in run_cli("denoise", "scans", "--part", "3/2", expect=2).stderr
    assert parse_json(run_cli("denoise", "scans", "--part", "9/9", *FAST, "--json"))["images"] == []


def test_a_series_has_one_fit_and_says_which_image_is_unlike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELF2SELF_CACHE", ".")
    for number in range(2):
        write_noisy(tmp_path / f"{number}.png", seed=number)
    Image.new("RGB", (70, 64), (90, 120, 30)).save(tmp_path / "flat.png")
    command = ("denoise", "0.png", "1.png", "flat.png", "--like", "1.png", "-o", "out", *FAST)
    result = run_cli(*command)
    assert [folder.name.partition("-")[0] for folder in (tmp_path / "runs").iterdir()] == ["1"]
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert re.search(r"^note: flat\.png: .* removed, and the noise of 1\.png is \d", result.stderr, re.M)
    assert "note: 0.png: " not in result.stderr
    assert "is not the image" not in result.stderr
    assert "--like makes one fit" in run_cli(*command, "--fit-pages", "each", expect=2).stderr
    assert "--neighbours 1: --like fits to a single page" in run_cli(*command, "--neighbours", "1", expect=2).stderr
    assert "holds nothing to denoise" in run_cli("denoise", "0.png", "--like", "flat.png", expect=3).stderr


def test_a_bright_image_of_a_series_has_the_noise_of_a_dark_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(3).normal(0, 10, (64, 70, 3))
    for name, low, high in (("dark", 20, 60), ("bright", 60, 190)):
        pixels = np.linspace(low, high, 70)[:, None] + noise
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(f"{name}.png")
    command = ("denoise", "dark.png", "bright.png", "--like", "dark.png", "--steps", "0", "--json")
    for item in parse_json(run_cli(*command))["images"]:
        assert item["range"] == [0, 255]
        assert 7 < item["residual"]["standard_deviation"] < 11


def test_a_report_of_several_images_is_one_page_about_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "a.png")
    (tmp_path / "<b>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ("denoise", "a.png", "<b>.png", *FAST, "--report", "all.html")
    run_cli(*command, expect=3)
    page = (tmp_path / "all.html").read_text()
    assert page.count("<img ") == 2
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    # What an earlier command has written is on the page, too.
    run_cli(*command, expect=3)
    assert (tmp_path / "all.html").read_text().count("<img ") == 2
    assert "written earlier" in (tmp_path / "all.html").read_text()
