"""From options to the configuration of a fit."""

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
from self2self.jobs import fit_config
from self2self.jobs.fit import fit_job
from self2self.jobs.fit_config import FitOptions, configure, differences, suited
from self2self.jobs.observer import Observer, noise_of, tell_noise
from self2self.train import start_weights as start_weights_module
from self2self.train.checkpoint import save_model
from self2self.train.recipes import recipe_for
from self2self.train.run_folder import Run, RunConfig
from self2self.train.start_weights import pretrained_weights
from tests.commands import write_noisy
from tests.train.test_run_folder import config_of


def test_the_whole_range_is_for_the_papers_and_for_correlated_noise_or_as_was_decided(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    independent = rng.normal(40, 5, (96, 96))
    for name, values in (("own", independent), ("blotches", gaussian_filter(independent, 1) * 3 - 80)):
        Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).save(tmp_path / f"{name}.png")
    own, blotches = (read_image(tmp_path / f"{name}.png") for name in ("own", "blotches"))
    image, noise, whole = suited(own, FitOptions())
    assert (image, noise.correlated, whole) == (own, False, False)
    in_grey_levels = noise.sigma * own.scale / 255
    assert in_grey_levels == pytest.approx(5, rel=0.1)
    for given, options, decided in (
        (own, FitOptions(recipe="paper"), None),
        (own, FitOptions(), True),
        (blotches, FitOptions(), None),
    ):
        image, noise, whole = suited(given, options, decided)
        assert (image.range, whole) == ((0, 255), True)
    assert noise.correlated
    assert suited(blotches, FitOptions(), False)[0] is blotches
    assert suited(own, FitOptions(), True)[1].sigma == pytest.approx(in_grey_levels, rel=1e-3)


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
    image = read_image(write_noisy(tmp_path / "noisy.png"))
    noise = noise_of(image)
    start = earlier_run(tmp_path / "first", "natural")

    def configured(init: str) -> RunConfig:
        return configure(image, FitOptions(init=init), noise, Observer())

    from_run, natural = configured(start), configured("natural")
    assert configured(start).same_fit(from_run)
    assert configured("natural").same_fit(natural)
    write_weights(Run(Path(start)), 1.0)
    monkeypatch.setattr(start_weights_module, "pretrained_weights", lambda *_: {"head.bias": torch.ones(3)})
    for init, old in ((start, from_run), ("natural", natural)):
        now = configured(init)
        assert not now.same_fit(old)
        told = re.fullmatch(r"init (.+) \(([0-9a-f]{8})\), asked for \1 \(([0-9a-f]{8})\)", differences(old, now))
        assert told is not None
        assert told[2] != told[3]
        # What a version that noted no such hash has left is taken at its word.
        unknown = replace(old, start_sha256=None)
        assert now.same_fit(unknown)
        assert differences(unknown, replace(now, seed=5)) == "seed 0, asked for 5"
    assert configured("scratch").start_sha256 is None


@pytest.mark.parametrize("init", ["natural", "scratch"])
def test_going_on_from_a_run_takes_a_quarter_of_its_steps_and_says_so(tmp_path: Path, init: str) -> None:
    start = earlier_run(tmp_path / "first", init)
    notes: list[str] = []
    image = read_image(write_noisy(tmp_path / "noisy.png"))
    config = configure(image, FitOptions(init=start), noise_of(image), Observer(note=notes.append))
    alone = recipe_for("fast", init)
    assert config.recipe.steps == alone.steps // 4
    assert config.recipe.input_drop_rate == alone.input_drop_rate
    assert config.start == str((tmp_path / "first").resolve())
    assert notes == [f"going on from {start} takes {alone.steps // 4} steps; --steps changes that."]


def test_steps_and_drop_rate_of_the_user_win(tmp_path: Path) -> None:
    start = earlier_run(tmp_path / "first", "natural")
    notes: list[str] = []
    image = read_image(write_noisy(tmp_path / "noisy.png"))
    config = configure(
        image, FitOptions(init=start, steps=90, drop_rate=0.5), noise_of(image), Observer(note=notes.append)
    )
    assert (config.recipe.steps, config.recipe.input_drop_rate, notes) == (90, 0.5, [])


def test_start_weights_that_make_no_image_are_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wild(channels: int, camera: bool = False) -> dict[str, torch.Tensor]:
        weights = pretrained_weights(channels, camera)
        return weights | {"head.weight": 40 * weights["head.weight"]}

    image = read_image(write_noisy(tmp_path / "noisy.png"))
    noise = noise_of(image)
    notes: list[str] = []
    observer = Observer(note=notes.append)
    assert configure(image, FitOptions(), noise, observer).start == "natural"
    assert not notes
    monkeypatch.setattr(fit_config, "pretrained_weights", wild)
    config = configure(image, FitOptions(), noise, observer)
    assert (config.start, config.recipe) == ("scratch", recipe_for("fast", "scratch"))
    assert len(notes) == 1
    assert "make no image of this one" in notes[0]
    assert configure(image, FitOptions(init="natural"), noise, observer).start == "natural"
    assert len(notes) == 1


def test_texture_is_told_unless_the_user_has_chosen(tmp_path: Path) -> None:
    from PIL import Image as Picture
    from skimage import data

    Picture.fromarray(data.grass()[100:228, 100:228]).save(tmp_path / "grass.png")
    image = read_image(tmp_path / "grass.png")
    noise = noise_of(image)
    notes: list[str] = []
    observer = Observer(note=notes.append)
    config = configure(image, FitOptions(), noise, observer)
    by_noise = recipe_for("fast").for_noise(noise)
    share = config.recipe.noisy_share
    assert share > 0
    assert config.recipe == by_noise.for_little_correlation(noisy_share=share)
    assert config.contract(steps=1).noisy_share == share
    tell_noise(image, noise, config.recipe, observer)
    assert len(notes) == 1
    assert (
        f"so {100 * share:.0f} % of what was taken for noise comes back in the result (--drop-rate 0.4 keeps"
        in notes[0]
    )

    chosen = configure(image, FitOptions(drop_rate=0.4), noise, observer).recipe
    assert (chosen.input_drop_rate, chosen.noisy_share) == (0.4, 0)
    tell_noise(image, noise, chosen, observer)
    assert "the fit learns from noise simulated like it" in notes[1]


def test_texture_of_bright_parts_is_even_noise_in_the_model_and_for_the_user(tmp_path: Path) -> None:
    from skimage import data

    rocket = data.rocket()[149:277, 256:384, 0] + np.random.default_rng(0).normal(0, 1, (128, 128))
    Image.fromarray(rocket.round().clip(0, 255).astype(np.uint8)).save(tmp_path / "rocket.png")
    options = FitOptions(steps=1)
    image, noise, _ = suited(read_image(tmp_path / "rocket.png"), options)
    assert noise.signal_dependent
    config = configure(image, options, noise, Observer())
    assert config.recipe.even_noise
    assert config.contract(steps=1).even_noise
    fitted = fit_job(tmp_path / "rocket.png", replace(options, run=tmp_path / "run"), observer=Observer())
    assert fitted.to_json()["noise"]["signal_dependent"] is False


def test_a_run_of_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    start = earlier_run(tmp_path / "grey", "natural", channels=1)
    image = read_image(write_noisy(tmp_path / "noisy.png"))
    with pytest.raises(UsageError, match="was fitted on 1 channels; the image has 3"):
        configure(image, FitOptions(init=start), noise_of(image), Observer())


def test_correlated_noise_is_simulated_but_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = earlier_run(tmp_path / "first", "natural")
    notes: list[str] = []
    image = read_image(write_noisy(tmp_path / "noisy.png"))
    noise = replace(noise_of(image), correlation=0.5)
    alone = configure(image, FitOptions(), noise, Observer()).recipe
    assert (alone.target, alone.camera, alone.steps) == ("simulated", True, recipe_for("fast").steps)
    next_one = configure(image, FitOptions(init=start), noise, Observer(note=notes.append)).recipe
    assert (next_one.target, next_one.steps) == ("simulated", alone.steps // 4)
    assert notes == [f"going on from {start} takes {next_one.steps} steps; --steps changes that."]
    assert configure(image, FitOptions(init="scratch"), noise, Observer()).recipe == recipe_for("fast", "scratch")
    assert configure(image, FitOptions(recipe="paper"), noise, Observer()).recipe == recipe_for("paper")
    monkeypatch.setattr(fit_config, "iqa_weights", lambda *_: None)
    assert configure(image, FitOptions(iqa=True), noise, Observer()).recipe.steps == recipe_for("fast").steps
