"""The command `self2self fit`: resuming, start from an earlier run, scores against a reference, and drop rates."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from self2self.train import fit
from self2self.train.checkpoint import load_weights
from self2self.train.run_folder import Run
from tests.commands import FAST, parse_json, picture, run_cli, unfinish, write_noisy


def test_resume_of_a_finished_fit_keeps_it_and_of_other_settings_is_refused(work: Path) -> None:
    model = next(work.glob("runs/*/model.safetensors"))
    before = load_weights(model)[0]
    run_cli("fit", "noisy.png", *FAST, "--resume")
    after = load_weights(model)[0]
    assert all(np.array_equal(before[name], after[name]) for name in before)
    result = run_cli("fit", "noisy.png", "--steps", "5", "--resume", "-o", str(model.parent), expect=2)
    assert "was fitted with other settings" in result.stderr
    assert "give one of them" in run_cli("fit", "noisy.png", "--resume", "--force", expect=2).stderr


def test_a_fit_that_was_killed_before_its_first_checkpoint_is_begun_anew(work: Path) -> None:
    run = Run(unfinish(work))
    told = run_cli("fit", "noisy.png", "--steps", "5", "-o", str(run.folder), expect=2).stderr
    assert "holds an unfinished fit with other settings (steps 2, asked for 5)" in told
    run.state_path.unlink()
    told = run_cli("fit", "noisy.png", *FAST, "--resume", expect=3).stderr
    assert f"self2self fit IMAGE -o {run.folder.relative_to(work)} --force" in told
    run_cli("fit", "noisy.png", *FAST)
    assert run.is_fitted()
    run.model_path.unlink()
    # A run without checkpoint accepts other settings, too.
    run_cli("denoise", "noisy.png", "--steps", "1", "--passes", "1", "--run", str(run.folder))
    assert run.config().recipe.steps == 1


def test_a_finished_fit_keeps_no_state_and_says_what_differs(work: Path) -> None:
    run = Run(next(work.glob("runs/*")))
    assert not run.state_path.exists()
    # A process that was killed after it wrote the weights has left the state.
    run.state_path.write_bytes(b"state")
    assert "done already" in run_cli("fit", "noisy.png", *FAST, "--resume").stdout
    assert not run.state_path.exists()
    told = run_cli("fit", "noisy.png", "--steps", "9", "-o", str(run.folder), expect=2).stderr
    assert "holds a finished fit with other settings (steps 2, asked for 9)" in told


def test_an_export_without_its_fit_is_kept(work: Path) -> None:
    run = Run(next(work.glob("runs/*")))
    run.model_path.unlink()
    assert "holds an export without its fit; start anew" in run_cli("fit", "noisy.png", *FAST, expect=2).stderr
    assert run.onnx_path.is_file()


def test_fit_from_an_earlier_run_and_from_scratch(work: Path) -> None:
    run = str(next(work.glob("runs/*")))
    values = parse_json(run_cli("fit", "noisy.png", "--init", run, *FAST, "-o", "second", "--json"))
    assert Path(values["init"]).name == Path(run).name
    values = parse_json(run_cli("fit", "noisy.png", "--init", "scratch", *FAST, "-o", "third", "--json"))
    assert values["init"] == "scratch"


def test_a_dark_image_is_scored_by_the_white_of_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clean = np.tile(np.linspace(10, 40, 64), (64, 1))
    noisy = clean + np.random.default_rng(0).normal(0, 2, clean.shape)
    for name, values in (("clean", clean), ("noisy", noisy)):
        Image.fromarray(np.rint(values).astype(np.uint8)).save(f"{name}.png")
    options = ("--steps", "0", "--reference", "clean.png", "--json")
    found = parse_json(run_cli("fit", "noisy.png", *options))["psnr"]
    run_cli("export", str(next(Path("runs").iterdir())))
    run_cli("infer", str(next(Path("runs").iterdir())), "noisy.png", "-o", "out.png", "--passes", "4")
    error = np.asarray(Image.open("out.png"), float) - np.asarray(Image.open("clean.png"), float)
    # The file has other masks, is rounded, and has corrected local means.
    assert found == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)), abs=3)
    Image.fromarray(np.full((64, 64), 12, np.uint8)).save("blank.png")
    text = run_cli("fit", "blank.png", "--steps", "1", "--reference", "blank.png", "--json").stdout
    assert "NaN" not in text
    assert json.loads(text)["steps"] == 1


def test_reference_is_scored(work: Path) -> None:
    values = parse_json(run_cli("fit", "noisy.png", *FAST, "-o", "r", "--reference", "noisy.png", "--json"))
    assert values["psnr"] > 5
    assert -1 <= values["ssim"] <= 1


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
    assert (
        "p 0.3, 1 steps" in run_cli("fit", "weak.png", "--steps", "1", "--drop-rate", "0.3", "-o", "told", "-v").stdout
    )


def test_a_fit_that_diverges_is_told_and_gives_a_finite_image(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "learning_rate", lambda recipe, done: math.inf if done == 2 else recipe.learning_rate)
    result = run_cli("denoise", "noisy.png", "--steps", "4", "--passes", "2", "--run", "diverged")
    assert result.stderr.count("the fit diverged after step 3 of 4, so its weights are those of step 0.") == 1
    # Without a single step, the start weights are the fit.
    run_cli("denoise", "noisy.png", "--steps", "0", "--passes", "2", "--run", "none", "-o", "none.png")
    assert np.abs(picture(work / "noisy.denoised.png").astype(int) - picture(work / "none.png")).max() <= 2
