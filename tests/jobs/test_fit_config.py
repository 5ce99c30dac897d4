"""The configuration of a fit, made from options and image."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from self2self.errors import UsageError
from self2self.image_io import read_image
from self2self.imaging.noise import Noise, NoiseKind
from self2self.jobs import fit_config
from self2self.jobs.fit_config import FitOptions, configure, differences
from self2self.jobs.noise_notes import note_noise
from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage, prepare
from self2self.train import noise_assessment, session
from self2self.train.checkpoint import save_model
from self2self.train.recipes import recipe_for
from self2self.train.run_folder import Run, RunConfig
from self2self.train.start_weights import pretrained_weights
from tests.commands import write_noisy
from tests.train.test_run_folder import config_of


def test_paper_recipes_and_correlated_noise_use_the_whole_range_unless_it_was_decided_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    independent = rng.normal(40, 5, (96, 96))
    for name, values in (("own", independent), ("blotches", gaussian_filter(independent, 1) * 3 - 80)):
        Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).save(tmp_path / f"{name}.png")
    own, blotches = (read_image(tmp_path / f"{name}.png") for name in ("own", "blotches"))
    prepared = prepare(own, "fast")
    assert (prepared.image, prepared.measured_noise.correlated, prepared.whole_range) == (own, False, False)
    sigma_in_grey_levels = prepared.measured_noise.sigma * own.scale / 255
    assert sigma_in_grey_levels == pytest.approx(5, rel=0.1)
    for given, recipe, decided in ((own, "paper", None), (own, "fast", True), (blotches, "fast", None)):
        prepared = prepare(given, recipe, whole_range=decided)
        assert (prepared.image.range, prepared.whole_range) == ((0, 255), True)
    assert prepared.measured_noise.correlated
    assert prepare(blotches, "fast", whole_range=False).image is blotches
    assert prepare(own, "fast", whole_range=True).measured_noise.sigma == pytest.approx(sigma_in_grey_levels, rel=1e-3)


def prepared_in_own_range(path: Path) -> PreparedImage:
    image = read_image(path)
    return PreparedImage(image, None, whole_range=False)


def earlier_run(folder: Path, init: str, channels: int = 3) -> str:
    run = Run(folder)
    run.create(config_of(recipe=recipe_for("fast", init), channels=channels))
    write_weights(run, 0.0)
    return str(folder)


def write_weights(run: Run, value: float) -> None:
    config = run.config()
    weights = {"head.bias": torch.full((config.channels,), value)}
    save_model(run.model_path, weights, config.recipe, config.contract(1))


def test_a_fit_from_other_start_weights_is_another_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    start = earlier_run(tmp_path / "first", "natural")

    def configured(init: str) -> RunConfig:
        return configure(prepared, FitOptions(init=init), Observer())

    from_run, natural = configured(start), configured("natural")
    assert configured(start).same_fit(from_run)
    assert configured("natural").same_fit(natural)
    write_weights(Run(Path(start)), 1.0)
    monkeypatch.setattr(session, "pretrained_weights", lambda *_, **__: {"head.bias": torch.ones(3)})
    for init, old in ((start, from_run), ("natural", natural)):
        now = configured(init)
        assert not now.same_fit(old)
        hashes = re.fullmatch(r"init (.+) \(([0-9a-f]{8})\), asked for \1 \(([0-9a-f]{8})\)", differences(old, now))
        assert hashes is not None
        assert hashes[2] != hashes[3]
        # A fit by a version that stored no hash counts as the same fit.
        unknown = replace(old, start_sha256=None)
        assert now.same_fit(unknown)
        assert differences(unknown, replace(now, seed=5)) == "seed 0, asked for 5"
    assert configured("scratch").start_sha256 is None


@pytest.mark.parametrize("init", ["natural", "scratch"])
def test_a_fit_from_a_run_makes_a_quarter_of_the_steps_and_notes_it(tmp_path: Path, init: str) -> None:
    start = earlier_run(tmp_path / "first", init)
    notes: list[str] = []
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    config = configure(prepared, FitOptions(init=start), Observer(note=notes.append))
    without_run = recipe_for("fast", init)
    assert config.recipe.steps == without_run.steps // 4
    assert config.recipe.input_drop_rate == without_run.input_drop_rate
    assert config.start == str((tmp_path / "first").resolve())
    assert notes == [f"going on from {start} takes {without_run.steps // 4} steps; --steps changes that."]


def test_steps_and_drop_rate_of_the_user_override_the_recipe(tmp_path: Path) -> None:
    start = earlier_run(tmp_path / "first", "natural")
    notes: list[str] = []
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    config = configure(prepared, FitOptions(init=start, steps=90, drop_rate=0.5), Observer(note=notes.append))
    assert (config.recipe.steps, config.recipe.input_drop_rate, notes) == (90, 0.5, [])


def test_start_weights_that_predict_no_image_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wild(channels: int, sigma: float) -> dict[str, torch.Tensor]:
        weights = pretrained_weights(channels, sigma)
        return weights | {"head.weight": 40 * weights["head.weight"]}

    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    notes: list[str] = []
    observer = Observer(note=notes.append)
    assert configure(prepared, FitOptions(), observer).start == "natural"
    assert not notes
    monkeypatch.setattr(fit_config, "pretrained_weights", wild)
    config = configure(prepared, FitOptions(), observer)
    assert (config.start, config.recipe) == ("scratch", recipe_for("fast", "scratch"))
    assert len(notes) == 1
    assert "make no image of this one" in notes[0]
    assert configure(prepared, FitOptions(init="natural"), observer).start == "natural"
    assert len(notes) == 1


def weak_noise(tmp_path: Path) -> PreparedImage:
    """Much fine detail and next to no noise."""
    from skimage import data

    Image.fromarray(data.astronaut()[192:320, 192:320]).save(tmp_path / "detail.png")
    return prepared_in_own_range(tmp_path / "detail.png")


def test_the_share_of_lost_detail_stays_in_the_result_and_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    observer = Observer(note=notes.append)
    prepared = weak_noise(tmp_path)
    config = configure(prepared, FitOptions(), observer)
    assert config.noise is not None
    assert config.noise.removed_share < 0.5
    assert config.contract(steps=1).noisy_share == 1 - config.noise.removed_share
    note_noise(prepared, config, observer)
    assert len(notes) == 1
    assert f"so {100 * (1 - config.noise.removed_share):.0f} % of it stays in the result" in notes[0]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_strength_returns_a_part_or_tells_the_weights_more_noise(tmp_path: Path, strength: float) -> None:
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    found = configure(prepared, FitOptions(), Observer())
    config = configure(prepared, FitOptions(strength=strength), Observer())
    assert found.noise is not None
    assert config.noise is not None
    assert config.noise.told == pytest.approx(max(1.0, strength) * found.noise.told)
    assert config.noise.sigma == found.noise.sigma
    kept = 1 - found.noise.removed_share
    assert config.noisy_share == pytest.approx(1 - min(1.0, strength) * (1 - kept))
    assert config.same_fit(found) == (strength <= 1)


def test_sigma_of_the_user_is_the_level(tmp_path: Path) -> None:
    prepared = weak_noise(tmp_path)
    config = configure(prepared, FitOptions(sigma=10.0), Observer())
    assert config.noise is not None
    assert config.noise.sigma == config.noise.told == 10
    assert config.noise.removed_share > 0.95
    notes: list[str] = []
    assert configure(prepared, FitOptions(sigma=10.0, recipe="paper"), Observer(note=notes.append)).noise is None
    assert "--sigma changes nothing" in notes[0]


@pytest.mark.parametrize(("option", "value"), [("sigma", 0.0), ("sigma", 500.0), ("strength", -0.1), ("strength", 3.0)])
def test_levels_and_strengths_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{option} is {value:g}; expected "):
        FitOptions(**{option: value}).check()  # type: ignore[arg-type]


def test_the_noise_of_a_fit_in_the_run_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FitOptions(run=tmp_path / "run")
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    config = configure(prepared, options, Observer())
    assert config.noise is not None
    stored = replace(config, noise=replace(config.noise, sigma=config.noise.sigma + 0.01))
    Run(tmp_path / "run").create(stored)
    assert configure(prepared, options, Observer()).noise == stored.noise
    assert configure(prepared, replace(options, sigma=3.0), Observer()).noise != stored.noise


def test_a_run_of_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    start = earlier_run(tmp_path / "grey", "natural", channels=1)
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    with pytest.raises(UsageError, match="was fitted on 1 channels; the image has 3"):
        configure(prepared, FitOptions(init=start), Observer())


def test_correlated_noise_is_simulated_except_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = earlier_run(tmp_path / "first", "natural")
    notes: list[str] = []
    prepared = prepared_in_own_range(write_noisy(tmp_path / "noisy.png"))
    correlated = Noise(10.0, 10.0, 2.0, 0.5, NoiseKind.CORRELATED)
    monkeypatch.setattr(noise_assessment, "assess_noise", lambda *_: correlated)
    without_run = configure(prepared, FitOptions(), Observer()).recipe
    assert (without_run.target, without_run.steps) == ("simulated", recipe_for("fast").steps)
    next_one = configure(prepared, FitOptions(init=start), Observer(note=notes.append)).recipe
    assert (next_one.target, next_one.steps) == ("simulated", without_run.steps // 4)
    assert notes == [f"going on from {start} takes {next_one.steps} steps; --steps changes that."]
    assert configure(prepared, FitOptions(init="scratch"), Observer()).recipe == recipe_for("fast", "scratch")
    assert configure(prepared, FitOptions(recipe="paper"), Observer()).recipe == recipe_for("paper")
    monkeypatch.setattr(fit_config, "iqa_weights", lambda *_: None)
    assert configure(prepared, FitOptions(iqa=True), Observer()).recipe.steps == recipe_for("fast").steps


def test_pretrained_is_another_name_for_natural_and_files_may_be_strings() -> None:
    assert FitOptions(init="pretrained") == FitOptions(init="natural")
    assert FitOptions(run="runs/a", iqa_weights="w.pth") == FitOptions(run=Path("runs/a"), iqa_weights=Path("w.pth"))  # type: ignore[arg-type]
