"""The commands as a user types them; in this process, because importing PyTorch takes seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from self2self.cli import app, main
from self2self.train.checkpoint import load_weights
from self2self.train.run_folder import Run

ROOT = Path(__file__).parents[1]
FAST = ["--steps", "2"]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def write_noisy(path: Path, size: tuple[int, int] = (64, 70), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    pixels = np.clip(120 + 40 * rng.standard_normal((*size, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and a run that is fitted and exported; copy it, do not use it."""
    folder = tmp_path_factory.mktemp("template")
    write_noisy(folder / "noisy.png")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in (["fit", "noisy.png", *FAST], ["export"]):
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 0, result.output
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def work(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `template`, and the current folder."""
    shutil.copytree(template, tmp_path / "work")
    config = next((tmp_path / "work").glob("runs/*/config.json"))
    config.write_text(config.read_text().replace(str(template), str(tmp_path / "work")))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run_cli(*arguments: str, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == expect, (result.stdout, result.stderr, result.exception)
    if expect not in (0, 1):
        assert isinstance(result.exception, SystemExit), result.exception
    return result


def parse_json(result: Result) -> Any:
    return json.loads(result.stdout)


def test_fit_export_infer_need_no_arguments_after_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "image.png")
    assert "fitted in 2 steps" in run_cli("fit", "image.png", *FAST).stdout
    assert "verified against PyTorch" in run_cli("export").stdout
    assert "image.denoised.png" in run_cli("infer", "--passes", "3").stdout
    assert picture(tmp_path / "image.denoised.png").shape == (64, 70, 3)


def test_denoise_does_it_in_one_go_and_tells_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "image.png")
    result = run_cli("denoise", "image.png", *FAST, "--passes", "3", "--uncertainty", "std.tif", "--json")
    values = parse_json(result)
    assert values["output"] == "image.denoised.png"
    assert (values["passes"], values["steps"], values["seed"], values["recipe"]) == (3, 2, 0, "fast")
    assert (values["engine"], values["provider"]) == ("mnn", "MNN CPU")
    assert set(values["seconds"]) == {"fit", "export", "prepare", "masks", "passes", "reduce", "total"}
    parts = sum(seconds for name, seconds in values["seconds"].items() if name != "total")
    assert parts <= values["seconds"]["total"] + 0.1
    assert values["loss"] > 0
    assert values["standard_error"] > 0
    assert values["passes_per_second"] > 0
    assert (values["tolerance"], values["masks"], values["flips"]) == (None, "balanced", True)
    assert values["peak_memory_bytes"] > 50e6
    assert result.stderr == ""
    assert (tmp_path / "std.tif").is_file()


def test_an_image_beyond_the_memory_is_cut_into_tiles(work: Path) -> None:
    write_noisy(work / "large.png", size=(150, 200))
    values = parse_json(run_cli("infer", "large.png", "--passes", "1", "--memory", "10MB", "--json", "--quiet"))
    assert (values["tile"], values["tiles"]) == ([128, 128], 6)
    assert picture(work / "large.denoised.png").shape == (150, 200, 3)
    whole = parse_json(run_cli("infer", "large.png", "--passes", "1", "-o", "whole.png", "--json", "--quiet"))
    assert (whole["tile"], whole["tiles"]) == (None, 1)
    result = run_cli("infer", "large.png", "--memory", "much", expect=2)
    assert "--memory is 'much'; expected a size such as 2GB" in result.stderr


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


def test_denoise_again_uses_the_finished_fit_and_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "image.png")
    run_cli("denoise", "image.png", *FAST, "--passes", "3")
    first = (tmp_path / "image.denoised.png").read_bytes()
    again = run_cli("denoise", "image.png", *FAST, "--passes", "3", "--batch", "2", "--force")
    assert "using the finished fit" in again.stderr
    assert (tmp_path / "image.denoised.png").read_bytes() == first


def test_denoise_replaces_a_fit_with_other_settings_only_by_force(work: Path) -> None:
    model = next(work.glob("runs/*/model.safetensors"))
    before = model.read_bytes()
    result = run_cli("denoise", "noisy.png", "--steps", "3", "--passes", "1", expect=2)
    assert "holds a fit with other settings (steps 2, asked for 3)" in result.stderr
    assert "--run" in result.stderr
    assert model.read_bytes() == before
    run_cli("denoise", "noisy.png", "--steps", "3", "--passes", "1", "--run", "runs/other")
    assert model.read_bytes() == before
    result = run_cli("denoise", "noisy.png", "--steps", "3", "--passes", "1", "--force")
    assert "note: replacing the fit in runs/noisy-" in result.stderr
    assert Run(model.parent).config().recipe.steps == 3
    assert load_weights(model)[2].steps == 3


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_denoise_fits_anew_where_a_run_is_damaged_but_only_by_force(work: Path, name: str) -> None:
    run = Run(next(work.glob("runs/*")))
    if name == "state.safetensors":
        run.model_path.unlink()
    damaged = run.folder / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    command = ("denoise", "noisy.png", *FAST, "--passes", "1")
    refused = run_cli(*command, expect=6)
    assert f"{name}: is damaged" in refused.stderr
    assert "--force" in refused.stderr
    again = run_cli(*command, "--force")
    assert "note: fitting anew: " in again.stderr
    assert run.is_fitted()
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)


def test_denoise_exports_again_what_is_damaged(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx"))
    model.write_bytes(model.read_bytes()[:1000])
    assert "note: exporting again: " in run_cli("denoise", "noisy.png", *FAST, "--passes", "1").stderr
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)


def test_who_interrupts_denoise_is_not_sent_to_an_option_that_it_lacks(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self2self.train import session

    @contextmanager
    def pressed() -> Iterator[threading.Event]:
        event = threading.Event()
        event.set()
        yield event

    with monkeypatch.context() as patched:
        patched.setattr(session, "interrupts", pressed)
        command = ("denoise", "noisy.png", "--steps", "3", "--passes", "1", "--run", "runs/cut")
        told = run_cli(*command, expect=130).stderr
        assert "interrupted after step 1 of 3; it is saved in runs/cut. The same command goes on." in told
        told = run_cli("fit", "noisy.png", "--steps", "3", "-o", "runs/fit", expect=130).stderr
        assert "--resume" in told
    assert "continuing the interrupted fit" in run_cli(*command).stderr


def test_denoise_continues_an_interrupted_fit(work: Path) -> None:
    run = Run(next(work.glob("runs/*")))
    run.model_path.unlink()
    run.onnx_path.unlink()
    result = run_cli("denoise", "noisy.png", *FAST, "--passes", "1")
    assert "continuing the interrupted fit" in result.stderr


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
    assert result.stdout.count(": written after") == 2


def test_results_among_the_images_are_not_denoised_again(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx")).as_posix()
    (work / "noisy.png").rename(work / "photo")
    write_noisy(work / "b.png", seed=1)
    run_cli("infer", model, "photo", "b.png", "--passes", "1")
    # What a shell makes of * the second time.
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


def test_who_interrupts_the_passes_of_denoise_is_told_that_the_fit_is_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self2self.jobs import inferring

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inferring, "infer_image", interrupted)
    told = run_cli("denoise", "noisy.png", *FAST, "--passes", "1", expect=130).stderr
    run = next(work.glob("runs/*")).relative_to(work).as_posix()
    assert f"error: interrupted; the fit is kept in {run}. The same command goes on." in told


def test_infer_asks_for_the_image_of_a_run_that_was_moved(work: Path) -> None:
    (work / "noisy.png").rename(work / "moved.png")
    told = run_cli("infer", "--passes", "1", expect=3).stderr
    run = next(work.glob("runs/*")).relative_to(work).as_posix()
    assert f"noisy.png: is not there any more, and {run} was fitted on it." in told
    assert f"Name the image: self2self infer {run} IMAGE" in told
    assert run_cli("infer", run, "moved.png", "--passes", "1").stderr == ""


def test_infer_on_another_image_says_so(work: Path) -> None:
    write_noisy(work / "other.png", seed=5)
    result = run_cli("infer", "other.png", "--passes", "1")
    assert "is not the image that" in result.stderr
    assert (work / "other.denoised.png").is_file()
    assert run_cli("infer", "noisy.png", "--passes", "1").stderr == ""


def test_infer_takes_a_model_file_a_run_folder_or_the_latest_run(work: Path) -> None:
    run = next(work.glob("runs/*"))
    shutil.copy(run / "model.onnx", work / "carried.onnx")
    results = []
    for index, model in enumerate((["carried.onnx", "noisy.png"], [str(run)], [str(run), "noisy.png"], [])):
        run_cli("infer", *model, "--passes", "2", "-o", f"{index}.png")
        results.append((work / f"{index}.png").read_bytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("engine", ["ort", "torch", "mnn", "auto"])
def test_every_engine_here_gives_the_same_image(work: Path, engine: str) -> None:
    run_cli("infer", "--passes", "2", "--engine", "ort", "-o", "reference.png")
    run_cli("infer", "--passes", "2", "--engine", engine, "-o", f"{engine}.png")
    difference = picture(work / f"{engine}.png").astype(int) - picture(work / "reference.png")
    assert np.abs(difference).max() <= 1


def test_passes_end_by_themselves(work: Path) -> None:
    values = parse_json(run_cli("infer", "--tolerance", "8", "-o", "auto.png", "--json"))
    assert values["standard_error"] <= values["tolerance"] == 8
    assert values["passes"] % 10 == 0
    plain = ["--passes", "3", "--masks", "independent", "--no-flips"]
    values = parse_json(run_cli("infer", *plain, "-o", "plain.png", "--json"))
    assert (values["tolerance"], values["masks"], values["flips"]) == (None, "independent", False)


def test_seed_changes_the_passes_and_batch_does_not(work: Path) -> None:
    for name, extra in {"a": [], "b": ["--batch", "3"], "c": ["--seed", "1"]}.items():
        run_cli("infer", "--passes", "5", "-o", f"{name}.png", *extra)
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
    assert (work / "a.png").read_bytes() != (work / "c.png").read_bytes()


def test_nothing_is_overwritten_without_force(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx"))
    (work / "noisy.denoised.png").write_bytes(b"mine")
    for command in (["infer", "--passes", "1"], ["denoise", "noisy.png", *FAST, "--passes", "1"]):
        assert "exists already" in run_cli(*command, expect=2).stderr
    assert (work / "noisy.denoised.png").read_bytes() == b"mine"
    before = model.read_bytes()
    assert "--force" in run_cli("export", expect=2).stderr
    assert "holds a finished fit" in run_cli("fit", "noisy.png", *FAST, expect=2).stderr
    assert model.read_bytes() == before
    run_cli("infer", "--passes", "1", "--force")
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)


def test_resume_of_a_finished_fit_keeps_it_and_of_other_settings_is_refused(work: Path) -> None:
    model = next(work.glob("runs/*/model.safetensors"))
    before = load_weights(model)[0]
    run_cli("fit", "noisy.png", *FAST, "--resume")
    after = load_weights(model)[0]
    assert all(np.array_equal(before[name], after[name]) for name in before)
    result = run_cli("fit", "noisy.png", "--steps", "5", "--resume", expect=2)
    assert "was fitted with other settings" in result.stderr
    assert "give one of them" in run_cli("fit", "noisy.png", "--resume", "--force", expect=2).stderr


def test_fit_from_an_earlier_run_and_from_scratch(work: Path) -> None:
    run = str(next(work.glob("runs/*")))
    values = parse_json(run_cli("fit", "noisy.png", "--init", run, *FAST, "-o", "second", "--json"))
    assert Path(values["init"]).name == Path(run).name
    values = parse_json(run_cli("fit", "noisy.png", "--init", "scratch", *FAST, "-o", "third", "--json"))
    assert values["init"] == "scratch"


def test_reference_is_scored(work: Path) -> None:
    values = parse_json(run_cli("fit", "noisy.png", *FAST, "-o", "r", "--reference", "noisy.png", "--json"))
    assert values["psnr"] > 5
    assert -1 <= values["ssim"] <= 1


def test_quiet_prints_nothing_and_json_errors_are_json(work: Path) -> None:
    result = run_cli("infer", "--passes", "1", "--quiet")
    assert (result.stdout, result.stderr) == ("", "")
    result = run_cli("infer", "--passes", "0", "--json", expect=2)
    assert parse_json(result)["error"]["exit_code"] == 2
    assert "--passes is 0" in parse_json(result)["error"]["message"]


def test_the_examples_of_the_package_run(work: Path) -> None:
    import self2self

    assert self2self.__doc__ is not None
    first, second = re.findall(r"::\n\n((?:    .*\n|\n)+)", self2self.__doc__)
    code = textwrap.dedent(first + second).replace("FitOptions()", "FitOptions(steps=2)").replace("50", "2")
    code = code.replace("noisy.tif", "noisy.png").replace("clean.tif", "clean.png")
    code = re.sub(r"runs/[\w-]+", next(work.glob("runs/*")).relative_to(work).as_posix(), code)
    exec(code, {})
    assert picture(work / "noisy.denoised.png").shape == picture(work / "clean.png").shape == (64, 70, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["infer", "--bogus", "--json"], "No such option: --bogus"), (["denoise", "-a.png", "--json"], "type ./-a.png")],
)
def test_wrong_usage_is_json_too_and_a_name_like_an_option_is_told(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_noisy(tmp_path / "-a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["self2self", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert json.loads(printed.out)["error"]["exit_code"] == 2


def test_one_pass_has_no_known_error(work: Path) -> None:
    assert "standard error unknown" in run_cli("infer", "--passes", "1").stdout
    assert parse_json(run_cli("infer", "--passes", "1", "--force", "--json"))["standard_error"] is None


def test_16_bit_grey_tiff_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    monkeypatch.chdir(tmp_path)
    counts = np.random.default_rng(0).poisson(300, (64, 64)).astype(np.uint16)
    tifffile.imwrite("cells.tif", counts)
    run_cli("denoise", "cells.tif", *FAST, "--passes", "2")
    clean = tifffile.imread("cells.denoised.tif")
    assert (clean.dtype, clean.shape) == (np.uint16, counts.shape)
    assert abs(float(clean.mean()) - 300) < 60


def test_version_and_help() -> None:
    from self2self import __version__

    assert run_cli("--version").stdout.strip() == __version__
    for command in ([], ["fit"], ["export"], ["infer"], ["denoise"], ["engines"]):
        assert "Usage:" in run_cli(*command, "--help").stdout
    assert "\n  self2self denoise *.jpg -o results\n" in run_cli("denoise", "--help").stdout


@pytest.mark.slow
def test_launcher_works_from_a_checkout_with_no_colour_and_no_bar(tmp_path: Path) -> None:
    write_noisy(tmp_path / "image.png")
    for arguments in (["fit", "image.png", *FAST], ["export"], ["infer", "--passes", "2"]):
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "\x1b" not in done.stdout
        # What was done, what is known of the noise, and whether the quality term was used.
        lines = {"fit": 3, "export": 1, "infer": 2}
        assert len(done.stdout.splitlines()) == lines[arguments[0]]


def test_a_fallback_happens_only_where_it_is_allowed(work: Path) -> None:
    from self2self.nvidia import NoGpu, find_gpu

    if not isinstance(find_gpu(), NoGpu):
        pytest.skip("this machine has a GPU, on which trt may work")
    refused = run_cli("infer", "--engine", "trt", "--passes", "2", expect=4)
    assert refused.stderr.startswith("error: engine trt: ")
    assert not Path("noisy.denoised.png").exists()
    result = run_cli("infer", "--engine", "trt", "--passes", "2", "--allow-fallback", "--json")
    values = parse_json(result)
    assert values["engine"] in ("mnn", "ort", "torch")
    assert values["mask_source"] == "host"
    assert values["fallback"].startswith("engine trt: ")
    assert "Falling back" in result.stderr
    wrong = run_cli("infer", "--mask-source", "device", "--engine", "ort", "--force", expect=2)
    assert "it runs on the CPU" in wrong.stderr


def test_half_precision_from_export_to_infer(work: Path) -> None:
    missing = run_cli("infer", "--precision", "fp16", expect=3)
    assert "has no model.fp16.onnx yet. Make it: self2self export" in missing.stderr
    run_cli("export", "--precision", "int8", expect=2)
    run_cli("export", "--reference", "noisy.png", expect=2)
    # Nothing but noise would be denoised so well that no loss is small beside what is left.
    with Image.open(ROOT / "examples" / "noisy.png") as photograph:
        photograph.crop((0, 0, 128, 128)).save("photograph.png")
    run_cli("fit", "photograph.png", *FAST)
    run_cli("export")
    result = run_cli("export", "--precision", "fp16", "--json")
    values = parse_json(result)
    assert values["output"].endswith("model.fp16.onnx")
    assert values["precision"] == "fp16"
    assert 0 < values["compared"]["rms_difference"] < 1
    assert values["compared"]["decibels"] <= 0.02
    assert values["compared"]["against"] == "estimate"
    run_cli("infer", "--precision", "fp16", "--engine", "ort", "--passes", "2", "--json")


def test_drop_rates_follow_the_noise_and_an_option_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    levels = 120 + 5 * np.random.default_rng(0).standard_normal((64, 64, 3))
    Image.fromarray(levels.round().astype(np.uint8)).save("weak.png")
    write_noisy(tmp_path / "strong.png")
    rates: dict[str, tuple[float, float]] = {}
    for name, *options in (["weak"], ["strong"], ["weak", "--drop-rate", "0.3"]):
        run = "-".join((name, *options))
        values = parse_json(run_cli("fit", f"{name}.png", "--steps", "1", "-o", run, "--json", *options))
        recipe = Run(tmp_path / run).config().recipe
        rates[run] = (values["drop_rate"], values["pass_drop_rate"])
        assert rates[run] == (recipe.input_drop_rate, recipe.rate_of_passes)
        hidden = 1 - load_weights(Run(tmp_path / run).model_path)[2].masks[0].keep_probability
        assert hidden == pytest.approx(recipe.rate_of_passes, abs=1 / 256)
    assert rates["weak"] < rates["strong"]
    assert rates["weak---drop-rate-0.3"] == (0.3, 0.3)
    run_cli("fit", "weak.png", "--steps", "1", "-o", "weak", "--resume")
    assert "p 0.3, 1 steps" in run_cli("fit", "weak.png", "--steps", "1", "--drop-rate", "0.3", "-o", "told").stdout
