"""Several images in one command: paths of the results, skipped images, and bad images."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

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
    assert "note: b.denoised.png: is the result of b.png, so it is skipped." in result.stderr
    assert "note: photo.denoised.png: is the result of photo, so it is skipped." in result.stderr
    assert "0 of 4 images written, 4 skipped" in result.stderr
    assert sorted(path.name for path in work.iterdir()) == before
    forced = run_cli("infer", model, *everything, "--passes", "1", "--force")
    assert "2 of 4 images written, 2 skipped" in forced.stderr
    assert sorted(path.name for path in work.iterdir()) == before
