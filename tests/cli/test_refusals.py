"""Bad input: one line with the problem and the remedy, the right exit code, and no file."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.commands import FAST, ROOT, run_cli, write_noisy
from tests.interrupted import interrupt
from tests.permissions import permissions_that_count


def truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def encoded(path: Path) -> bytes:
    write_noisy(path)
    return path.read_bytes()


def noisy_tiff(path: Path, pixels: np.ndarray, **options: object) -> None:
    tifffile.imwrite(path, pixels, **options)  # type: ignore[arg-type]


UNIFORM = np.random.default_rng(0).random((64, 64)).astype(np.float32)

BAD_IMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("bad.png", lambda path: None, "bad.png"),
    "directory": ("bad.png", lambda path: path.mkdir(), "folder"),
    "empty": ("bad.png", lambda path: path.write_bytes(b""), "empty"),
    "text": ("bad.png", lambda path: path.write_text("this is no image\n" * 20), "bad.png"),
    "truncated png": ("bad.png", lambda path: truncated(path, encoded(path)), "bad.png"),
    "truncated jpeg": ("bad.jpg", lambda path: truncated(path, encoded(path)), "bad.jpg"),
    "truncated tiff": ("bad.tif", lambda path: truncated(path, encoded(path)), "bad.tif"),
    "too small": ("bad.png", lambda path: write_noisy(path, (7, 40)), "expected at least 8x8"),
    "5 channels": (
        "bad.tif",
        lambda path: noisy_tiff(path, np.zeros((64, 64, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
        "5 channels",
    ),
    "complex": ("bad.tif", lambda path: noisy_tiff(path, UNIFORM.astype(np.complex64)), "complex"),
    "gif": ("bad.gif", lambda path: Image.new("L", (64, 64)).save(path), "bad.gif"),
}


@pytest.mark.parametrize("command", ["fit", "denoise"])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_in_one_line(
    case: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, text = BAD_IMAGES[case]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    error = run_cli(command, name, *FAST, expect=3).stderr
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert text.lower() in error.lower(), error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["fit", "noisy.png", "--drop-rate", "-0.1", "-o", "new"], 2, "drop rate is -0.1; expected"),
        (["fit", "noisy.png", "--drop-rate", "1.2", "-o", "new"], 2, "drop rate is 1.2; expected"),
        (["fit", "noisy.png", "--steps", "-1", "-o", "new"], 2, "--steps is -1; expected at least 0"),
        (
            ["fit", "noisy.png", "--init", "scratch", "--steps", "0", "-o", "new"],
            2,
            "--steps is 0; expected at least 1",
        ),
        (["fit", "noisy.png", "--seed", "-1", "-o", "new"], 2, "--seed is -1; expected 0 to"),
        (["fit", "noisy.png", "--recipe", "best", "-o", "new"], 2, "expected one of: fast, paper"),
        (["fit", "noisy.png", "--init", "nowhere", "-o", "new"], 3, "--init nowhere is no run folder"),
        (["fit", "noisy.png", "--device", "abacus", "-o", "new"], 2, "expected auto, cpu or cuda"),
        (["fit", "noisy.png", "--device", "cuda", "-o", "new"], 4, "Use --device cpu"),
        (["fit", "noisy.png", "--resume", "-o", "new"], 3, "is not a run folder"),
        (["infer", "--passes", "0"], 2, "--passes is 0; expected at least 1"),
        (["infer", "--passes", "many"], 2, "--passes is 'many'; expected auto or a number"),
        (["infer", "--tolerance", "-1"], 2, "--tolerance is -1; expected more than 0"),
        (["infer", "--passes", "5", "--tolerance", "1"], 2, "leave out --passes 5"),
        (["infer", "--masks", "fair"], 2, "--masks is 'fair'; expected balanced or independent"),
        (["infer", "--batch", "many"], 2, "--batch is 'many'; expected auto or a number"),
        (["infer", "--batch", "0"], 2, "--batch is 0; expected at least 1"),
        (["infer", "--engine", "steam"], 2, "--engine is 'steam'; expected one of: auto, trt"),
        (["infer", "-o", "nowhere/out.png"], 2, "nowhere"),
        (["infer", "-o", "noisy.png/"], 2, "noisy.png: cannot be written"),
        (["infer", "-", "-o", "-", "--json"], 2, "--json writes its document to stdout"),
        (["denoise", "-", "-"], 2, "- is given twice"),
        (["denoise", "noisy.png", "cli.png", "-o", "-"], 2, "stdout takes one image, and 2 are given"),
        (["denoise", "runs"], 3, "runs: has no images; expected"),
        (["infer", "-o", "out.xyz"], 2, "out.xyz"),
        (["infer", "-o", "noisy.png", "--force"], 2, "is the input itself"),
        (["infer", "missing.onnx", "noisy.png"], 3, "no such model"),
        (["infer", "runs/nothere", "noisy.png"], 3, "runs/nothere: no such model"),
        (["infer", "runs/nothere"], 3, "runs/nothere: no such model"),
        (["infer", "noisy.onnx"], 2, "which image?"),
        (["export", "nowhere"], 3, "is not a run folder"),
        (["export", "-o", "nowhere/m.onnx"], 2, "nowhere"),
        (["export", "--size", "big", "-o", "m.onnx"], 2, "expected HEIGHTxWIDTH"),
        (["export", "--size", "100x100", "-o", "m.onnx"], 2, "multiple"),
        (["export", "--engine", "steam"], 2, "export builds one of: trt, trt-rtx"),
        (["export", "--engine", "trt", "-o", "m.onnx"], 2, "engines are kept in RUN/engines"),
        (["export", "--min", "64x64"], 2, "add --engine trt"),
        (["export", "--engine", "trt", "--max", "big"], 2, "--max is 'big'; expected HEIGHTxWIDTH"),
        (["export", "--engine", "trt", "--batch", "8"], 2, "expected three numbers"),
        (["export", "--engine", "trt"], 4, "builds an engine on the GPU that is to run it"),
        (["denoise", "noisy.png", "noisy.png", "-o", "out.png"], 2, "has to be a folder"),
        (["denoise", "noisy.png", "--passes", "-5"], 2, "--passes is -5"),
    ],
)
def test_wrong_options(arguments: list[str], code: int, text: str, work: Path) -> None:
    before = sorted(work.rglob("*"))
    error = run_cli(*arguments, expect=code).stderr
    assert text in error, error
    assert len(error.splitlines()) == 1
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("engine", ["ort-cuda", "ort-trt", "trt", "trt-rtx"])
def test_engine_that_does_not_work_here(engine: str, work: Path) -> None:
    before = sorted(work.rglob("*"))
    error = run_cli("infer", "--engine", engine, expect=4).stderr
    assert engine in error
    assert len(error.splitlines()) == 1
    assert sorted(work.rglob("*")) == before


def test_damaged_and_foreign_models(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx"))
    whole = model.read_bytes()
    for data in (whole[: len(whole) // 2], b"not a model", b"", whole[:200] + b"\0" * 100 + whole[300:]):
        model.write_bytes(data)
        error = run_cli("infer", "--passes", "1", expect=6).stderr
        assert "export" in error
        assert len(error.splitlines()) == 1
    assert not (work / "noisy.denoised.png").exists()


def test_model_of_another_channel_count(work: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save("grey.png")
    error = run_cli("infer", "grey.png", "--passes", "1", expect=3).stderr
    assert "has 1 channel (grey)" in error
    assert "fitted on 3 channels (RGB)" in error
    assert len(error.splitlines()) == 1
    assert not Path("grey.denoised.png").exists()


def test_run_folder_without_a_model(work: Path) -> None:
    run = next(work.glob("runs/*"))
    (run / "model.onnx").unlink()
    assert "self2self export" in run_cli("infer", expect=3).stderr
    (run / "model.safetensors").unlink()
    assert "--resume" in run_cli("export", expect=3).stderr


def test_no_run_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("infer", "export"):
        assert "self2self fit IMAGE" in run_cli(command, expect=3).stderr


def test_image_of_the_run_has_gone(work: Path) -> None:
    (work / "noisy.png").unlink()
    assert "noisy.png" in run_cli("infer", "--passes", "1", expect=3).stderr


def test_folder_that_is_not_a_run_is_never_cleared(work: Path) -> None:
    (work / "precious").mkdir()
    (work / "precious" / "thesis.txt").write_text("years of work")
    assert "is not empty and not a run folder" in run_cli("fit", "noisy.png", *FAST, "-o", "precious", expect=2).stderr
    assert (work / "precious" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("command", [("fit", "-o"), ("denoise", "--run")])
def test_a_file_is_no_run_folder(command: tuple[str, str], work: Path) -> None:
    before = Path("noisy.png").read_bytes()
    name, option = command
    error = run_cli(name, "noisy.png", *FAST, option, "noisy.png", expect=2).stderr
    assert "noisy.png: is not a folder; choose another run folder (--run RUN)" in error
    assert Path("noisy.png").read_bytes() == before


def test_read_only_folder(work: Path) -> None:
    locked = work / "locked"
    locked.mkdir(mode=0o555)
    commands = [["infer", "--passes", "1", "-o", "locked/out.png"], ["fit", "noisy.png", *FAST, "-o", "locked/run"]]
    with permissions_that_count():
        for command in commands:
            assert "cannot be written (Permission denied)" in run_cli(*command, expect=2).stderr
    assert list(locked.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from self2self.cli import main
sys.argv = ["self2self", *sys.argv[1:]]
main()
"""


def test_disk_full_while_writing_the_image(work: Path) -> None:
    pytest.importorskip("resource")
    shutil.copy("noisy.png", "kept.png")
    before = sorted(work.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "infer", "--passes", "1", "--engine", "ort", "-o", "kept.png", "--force"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 5, done.stderr
    assert "no space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(work.rglob("*")) == before
    assert (work / "kept.png").read_bytes() == (work / "noisy.png").read_bytes()


def test_interrupted_passes_leave_no_file(work: Path) -> None:
    code, error = interrupt("infer", "--passes", "100000", folder=work, after_seconds=6)
    assert code == 130, error
    # An estimate of the time may stand before it.
    assert error.splitlines()[-1].startswith("error: interrupted")
    assert all(line.startswith("note: ") for line in error.splitlines()[:-1])
    assert not (work / "noisy.denoised.png").exists()
