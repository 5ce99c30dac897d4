"""A single pass without dropout in the commands: where it is taken, where passes are run, and plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tifffile

from self2self.jobs import single_pass as job
from self2self.runtime.ensemble import pass_plan
from self2self.train import single_pass
from self2self.train.single_pass import Check
from tests.commands import FAST, parse_json, picture, run_cli, write_noisy

GOOD, BAD = Check(0.5, 3.0, 9.0, transferred=True), Check(2.5, 3.0, 9.0, transferred=True)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of any size are worth a single pass, which is good, and there are no steps to wait for."""
    monkeypatch.setattr(job, "WORTHWHILE_PIXELS", 1)
    monkeypatch.setattr(single_pass, "calibrate", lambda weights, *rest, **options: weights)
    monkeypatch.setattr(single_pass, "check_single_pass", lambda *arguments, **options: GOOD)


@pytest.fixture
def plain_run(work: Path) -> Path:
    """The run folder of `work`, with its plain model."""
    result = parse_json(run_cli("export", "--plain", "--json"))
    assert result["max_difference"] < 1e-4
    return Path(result["output"]).parent


def denoise(*options: str) -> Any:
    return parse_json(run_cli("denoise", "noisy.png", *FAST, "--json", "--force", *options))


def test_denoise_takes_the_single_pass_and_says_so(work: Path) -> None:
    values = denoise("--engine", "ort")
    assert values["plain"]
    assert values["passes"] == 4
    assert values["standard_error"] is None
    assert values["masks"] is None
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)
    again = run_cli("denoise", "noisy.png", *FAST, "--engine", "ort", "--force", "--verbose")
    assert "a single pass without dropout, over 4 mirrored views, with CPUExecutionProvider" in again.stdout


@pytest.mark.parametrize(
    "options",
    [("--passes", "2"), ("--passes", "2", "--uncertainty", "std.tif"), ("--tolerance", "99"), ("--masks", "balanced")],
)
def test_options_about_passes_get_passes(work: Path, options: tuple[str, ...]) -> None:
    assert not denoise("--engine", "ort", *options)["plain"]
    assert not list(work.glob("runs/*/plain.safetensors"))


def test_passes_are_run_where_the_single_pass_falls_short(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_pass, "check_single_pass", lambda *arguments, **options: BAD)
    result = run_cli("denoise", "noisy.png", *FAST, "--engine", "ort", "--json", "--force")
    assert not parse_json(result)["plain"]
    assert "a single pass would be 2.50 grey levels from the mean of passes" in result.stderr
    assert "running real passes" in result.stderr


def test_a_fit_from_scratch_is_calibrated_for_large_images_alone(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated = []
    monkeypatch.setattr(single_pass, "calibrate", lambda weights, *rest, **options: calibrated.append(1) or weights)
    monkeypatch.setattr(job, "WORTHWHILE_PIXELS", 64 * 70 + 1)
    # After two steps from scratch, passes differ so much that `auto` would take hundreds.
    monkeypatch.setattr(pass_plan, "MAXIMUM_PASSES", 8)
    scratch = ("--engine", "ort", "--init", "scratch", "--run", "scratch")
    assert not denoise(*scratch)["plain"]
    assert denoise("--engine", "ort")["plain"]
    assert not calibrated
    monkeypatch.setattr(job, "WORTHWHILE_PIXELS", 64 * 70)
    assert denoise(*scratch)["plain"]
    assert calibrated


def test_infer_uses_the_single_pass_of_a_run(plain_run: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_noisy(work / "other.png", seed=1)
    command = ("infer", str(plain_run), "other.png", "--engine", "ort", "--json", "--force")
    assert parse_json(run_cli(*command))["plain"]
    monkeypatch.setattr(single_pass, "check_single_pass", lambda *arguments, **options: BAD)
    assert not parse_json(run_cli(*command))["plain"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_infer_and_onnxruntime_agree_on_a_plain_file(work: Path, precision: str) -> None:
    path = Path(parse_json(run_cli("export", "--plain", "--precision", precision, "--json"))["output"])
    assert path.name == {"fp32": "model.plain.onnx", "fp16": "model.plain.fp16.onnx"}[precision]
    values = parse_json(run_cli("infer", str(path), "noisy.png", "--no-flips", "--engine", "ort", "--json"))
    assert values["plain"]
    low, high = values["range"]
    noisy = picture(work / "noisy.png").astype(np.float32).transpose(2, 0, 1)[None]
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (denoised,) = session.run(["denoised"], {"image": ((noisy - low) / (high - low)).clip(0, 1)})
    expected = low + denoised[0].transpose(1, 2, 0) * (high - low)
    # `infer` corrects local means, which the graph does not.
    assert np.abs(picture(work / "noisy.denoised.png") - expected).mean() < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--uncertainty", "std.tif"), "--uncertainty needs passes with masks"),
        (("--masks", "balanced"), "--masks is about passes with masks"),
        (("--passes", "5"), "--passes 5 is about passes with masks"),
        (("--tolerance", "1"), "--tolerance is about passes with masks"),
    ],
)
def test_options_about_passes_are_refused_with_a_plain_file(
    plain_run: Path, options: tuple[str, ...], message: str
) -> None:
    wrong = run_cli("infer", str(plain_run / "model.plain.onnx"), "noisy.png", "--engine", "ort", *options, expect=2)
    assert message in wrong.stderr
    assert "self2self infer RUN IMAGE" in wrong.stderr


def test_export_refuses_what_plain_files_do_not_have(work: Path) -> None:
    assert "plain models have fp32 or fp16" in run_cli("export", "--plain", "--precision", "bf16", expect=2).stderr
    assert "--plain exports one ONNX file" in run_cli("export", "--plain", "--engine", "trt", expect=2).stderr


def test_a_new_fit_removes_the_old_single_pass(plain_run: Path) -> None:
    run_cli("fit", "noisy.png", "--steps", "1", "--force", "-o", str(plain_run))
    assert not list(plain_run.glob("*plain*"))


def test_only_pages_that_differ_have_passes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pages = np.clip(120 + 40 * rng.standard_normal((3, 64, 70, 3)), 0, 255).astype(np.uint8)
    pages[1] = 255 - pages[1] // 8
    tifffile.imwrite(work / "stack.tif", pages, photometric="rgb")

    def check(weights: Any, plain_weights: Any, pixels: Any, recipe: Any, **options: Any) -> Check:
        return BAD if np.allclose(pixels, second) else GOOD

    from self2self.image_io import open_stack
    from self2self.jobs.prepared_image import prepare_for_model

    with open_stack(work / "stack.tif") as stack:
        second = prepare_for_model(stack.read_page(1), whole_range=False).pixels
    monkeypatch.setattr(single_pass, "check_single_pass", check)
    apart = (*FAST, "--neighbours", "0")
    result = run_cli("denoise", "stack.tif", *apart, "--engine", "ort", "--json")
    assert [page["passes"] > 4 for page in parse_json(result)["pages"]] == [False, True, False]
    assert "page 2: a single pass would be" in result.stderr
    text = run_cli("denoise", "stack.tif", *apart, "--engine", "ort", "-o", "again.tif", "-v").stdout
    assert "written; 3 pages" in text
    assert "a single pass without dropout over 2 of them and " in text
