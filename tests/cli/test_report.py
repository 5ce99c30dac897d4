"""The commands' output about noise and residual, and `--report`."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from self2self.errors import OutputError
from self2self.train.checkpoint import load_weights
from self2self.train.start_weights import pretrained_weights
from tests.commands import FAST, parse_json, picture, run_cli, write_noisy


def write_correlated(path: Path) -> Path:
    noise = np.random.default_rng(0).standard_normal((64, 70, 3))
    for axis in (0, 1):
        noise = noise + 0.5 * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    Image.fromarray(np.clip(120 + 20 * noise / noise.std(), 0, 255).astype(np.uint8)).save(path)
    return path


def test_denoise_tells_noise_and_residual_and_a_report_changes_no_pixel(work: Path) -> None:
    plain = run_cli("denoise", "noisy.png", *FAST, "--passes", "2", "-o", "plain.png", "-v")
    assert re.search(r"noise of about (3[6-9]|4[0-3])\.\d grey levels: p 0\.2, 2 steps; removed: mean", plain.stdout)
    line = r"plain\.png: written; noise found: sigma (3[6-9]|4[0-4]); removed: \d\d; \d+(\.\d)? s\n"
    assert re.match(line, plain.stdout)
    assert "share their noise" not in plain.stderr
    arguments = ("denoise", "noisy.png", *FAST, "--passes", "2", "-o", "again.png", "--report", "page.html", "--json")
    values = parse_json(run_cli(*arguments))
    assert values["report"] == "page.html"
    assert (work / "again.png").read_bytes() == (work / "plain.png").read_bytes()
    assert values["noise"]["sigma"] == pytest.approx(40, rel=0.12)
    assert values["noise"]["correlated"] is False
    difference = picture(work / "noisy.png").astype(float) - picture(work / "plain.png")
    residual = values["residual"]
    # The file is rounded, and the residual is measured without rounding.
    assert residual["mean"] == pytest.approx(difference.mean(), abs=0.1)
    assert residual["standard_deviation"] == pytest.approx(difference.std(), rel=0.01)
    assert residual["autocorrelation"][0][0] == 1
    page = (work / "page.html").read_text(encoding="utf-8")
    assert f"{values['noise']['sigma']:.1f}" in page
    assert "<svg" in page
    assert "<th>flips</th><td>yes</td>" in page
    assert re.search(r"<th>peak memory</th><td>[\d,]+ MB</td>", page)


def test_infer_makes_a_report_too_and_says_how_sixteen_bits_are_shown(work: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (64, 64, 3), dtype=np.uint16)
    tifffile.imwrite(work / "deep.tif", deep, photometric="rgb")
    values = parse_json(run_cli("infer", "deep.tif", "--passes", "2", "--report", "page.html", "--json"))
    assert "noise" not in values
    assert values["residual"]["standard_deviation"] > 0
    page = (work / "page.html").read_text(encoding="utf-8")
    assert "The file holds uint16 values; shown are 8 bits" in page
    # The fit belongs to another image, so the page does not show its curve.
    assert "<svg" not in page
    run_cli("infer", "--passes", "2", "--report", "own.html")
    assert "<svg" in (work / "own.html").read_text(encoding="utf-8")


def test_correlated_noise_is_told_before_the_fit_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_correlated(tmp_path / "image.png")
    result = run_cli("fit", "image.png", *FAST, "--json")
    assert result.stderr.count("neighbouring pixels share their noise") == 1
    assert "raw file" in result.stderr
    assert "(--steps 0)" not in result.stderr
    assert parse_json(result)["noise"]["correlated"] is True
    result = run_cli("denoise", "image.png", *FAST, "--passes", "1", "--report", "page.html")
    assert result.stderr.count("neighbouring pixels share their noise") == 1
    assert result.stderr.index("share their noise") < result.stderr.index("using the finished fit")
    assert 'class="warning"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_correlated_noise_is_simulated_unless_the_start_weights_are_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_correlated(tmp_path / "image.png")
    unfitted = ("--steps", "0", "--passes", "1")
    result = run_cli("denoise", "image.png", *unfitted, "--report", "page.html", "--json")
    assert "which the start weights know" in result.stderr
    values = parse_json(result)
    assert values["steps"] == 0
    assert values["loss"] is None
    assert (tmp_path / "image.denoised.png").is_file()
    weights, _, _ = load_weights(Path(values["run"]) / "model.safetensors")
    start = pretrained_weights(3, values["noise"]["told"], single_pass=True)
    assert all(torch.equal(tensor, start[name].float()) for name, tensor in weights.items())
    run_cli("denoise", "image.png", *unfitted, "--force")
    assert "fitted in 0 steps and" in run_cli("fit", "image.png", "-o", "again", "--steps", "0").stdout
    assert "again: done already" in run_cli("fit", "image.png", "-o", "again", "--steps", "0").stdout
    result = run_cli("fit", "image.png", "-o", "one", "--steps", "1")
    assert "the fit learns from noise simulated like it" in result.stderr
    assert "fitted in 1 steps" in result.stdout
    _, recipe, _ = load_weights(tmp_path / "one" / "model.safetensors")
    assert recipe.target == "simulated"
    assert "learns such noise" in run_cli("fit", "image.png", "-o", "paper", "--recipe", "paper", *FAST).stderr


def test_what_a_report_needs_is_refused_before_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "a.png")
    write_noisy(tmp_path / "b.png")
    (tmp_path / "there.html").write_text("mine")
    several = ("denoise", "a.png", "b.png", *FAST, "--report")
    assert "exists already" in run_cli(*several, "there.html", expect=2).stderr
    assert ".html" in run_cli(*several, "page.pdf", expect=2).stderr
    assert "exists already" in run_cli("denoise", "a.png", *FAST, "--report", "there.html", expect=2).stderr
    assert ".html" in run_cli("denoise", "a.png", *FAST, "--report", "page.pdf", expect=2).stderr
    monkeypatch.setitem(sys.modules, "jinja2", None)
    error = run_cli("denoise", "a.png", *FAST, "--report", "page.html", expect=4).stderr
    assert "jinja2 is not installed" in error
    assert len(error.splitlines()) == 1
    assert "jinja2 is not installed" in run_cli(*several, "page.html", expect=4).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_a_report_that_fails_leaves_the_image(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("page.html: cannot be written (for this test).")

    monkeypatch.setattr("self2self.jobs.report.write_report", refuse)
    assert "for this test" in run_cli("infer", "--passes", "1", "--report", "page.html", expect=2).stderr
    assert (work / "noisy.denoised.png").is_file()
    assert not (work / "page.html").exists()
