"""Noise that is cut off at the ends of the range: its mean, its strength there, and fits that correct for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs import load_pairs
from self2self.imaging.metrics import psnr
from self2self.train import fit as fit_module
from self2self.train.clipping import Clipping, measure_clipping
from self2self.train.fit import fit, new_state
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES, recipe_for
from self2self.train.steps import StepRunner
from tests.imaging.test_noise_curve import ramp
from tests.train.test_fit import CPU, TINY, fitted, image_of, same_weights


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.2])
def test_the_expected_values_are_the_means_of_many_clipped_ones(sigma: float) -> None:
    values = np.linspace(0, 1, 33)
    noise = np.random.default_rng(0).normal(0, sigma, (200_000, 1))
    drawn = np.clip(values + noise, 0, 1).mean(axis=0)
    # The first channel is cut off at both ends, the second at one, the third at none.
    image = torch.from_numpy(np.broadcast_to(values, (1, 3, 1, len(values))).astype(np.float32))
    both, low, none = Clipping((sigma, sigma, 0.0), (sigma, 0.0, 0.0)).expected(image)[0, :, 0].numpy()
    np.testing.assert_allclose(both, drawn, rtol=0, atol=4 * sigma / np.sqrt(len(noise)) + 1e-4)
    np.testing.assert_allclose(low, np.maximum(values + noise, 0).mean(axis=0), rtol=0, atol=0.01 * sigma)
    assert np.array_equal(none, image[0, 0, 0].numpy())


def test_outside_the_range_the_mean_continues_as_a_line() -> None:
    values = torch.tensor([-50.0, -1.0, -1e-4, 1 + 1e-4, 2.0, 50.0]).view(1, 1, 1, 6).requires_grad_()
    expected = Clipping((0.1,), (0.1,)).expected(values)
    expected.sum().backward()
    assert values.grad is not None
    np.testing.assert_allclose(values.grad.flatten().numpy(), 0.5, rtol=0, atol=2e-3)
    at_black = 0.1 / np.sqrt(2 * np.pi)
    line = [-25 + at_black, -0.5 + at_black, at_black, 1 - at_black, 1.5 - at_black, 25.5 - at_black]
    np.testing.assert_allclose(expected.detach().flatten().numpy(), line, rtol=0, atol=1e-3)


def test_a_fit_from_scratch_returns_from_far_outside_the_range() -> None:
    """Its first predictions are far above white; with a mean that is constant there, it would stay at 5.7 dB."""
    (pair,) = load_pairs(Path("benchmarks/lists/unlike.json"), "cell gaussian 25")
    recipe = replace(recipe_for("fast", "scratch"), steps=40)
    state = fit(pair.noisy, recipe, new_state(recipe, 1, 0, CPU))
    result = predict(state.weights(), pair.noisy, recipe, passes=2)
    assert psnr(np.clip(result, 0, 1), pair.clean) > 12


def test_the_gradient_is_the_share_that_is_not_cut_off() -> None:
    values = torch.tensor([0.0, 0.1, 0.5, 1.0]).view(1, 1, 1, 4).requires_grad_()
    Clipping((0.1,), (0.1,)).expected(values).sum().backward()
    assert values.grad is not None
    expected = [0.5, 0.8413, 1.0, 0.5]
    np.testing.assert_allclose(values.grad.flatten().numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.05, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_that_is_the_same_everywhere_is_the_same_at_the_ends(sigma: float, seed: int) -> None:
    noisy = np.clip(ramp(128, 128) + np.random.default_rng(seed).normal(0, sigma, (3, 128, 128)), 0, 1)
    clipping = measure_clipping(noisy.astype(np.float32))
    assert clipping is not None
    np.testing.assert_allclose([*clipping.low, *clipping.high], sigma, rtol=0.15)


def test_only_an_end_that_cuts_off_counts() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (3, 96, 96))
    dark = np.clip(0.6 * ramp(96, 96) + noise, 0, 1).astype(np.float32)
    clipping = measure_clipping(dark)
    assert clipping is not None
    assert min(clipping.low) > 0.03
    assert clipping.high == (0.0, 0.0, 0.0)
    assert measure_clipping((0.3 + 0.4 * ramp(96, 96) + noise).astype(np.float32)) is None


@pytest.mark.parametrize("size", [(8, 8), (17, 70), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_small_and_flat_images_are_measured_or_not_but_never_fail(size: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(0)
    for image in (np.zeros((channels, *size)), np.ones((channels, *size)), rng.random((channels, *size)).round()):
        clipping = measure_clipping(image.astype(np.float32))
        if clipping is not None:
            assert np.isfinite([*clipping.low, *clipping.high]).all()
            assert len(clipping.low) == len(clipping.high) == channels
    noisy = np.clip(rng.normal(0, 0.2, (channels, *size)), 0, 1).astype(np.float32)
    found = measure_clipping(noisy)
    assert found is None or max(found.low) < 0.5


def dark_image() -> tuple[np.ndarray, np.ndarray]:
    clean = 0.4 * image_of(96, 96) ** 3
    noise = np.random.default_rng(2).normal(0, 0.1, clean.shape)
    return clean, np.clip(clean + noise, 0, 1).astype(np.float32)


def test_a_fit_that_expects_clipping_is_not_too_bright() -> None:
    clean, noisy = dark_image()
    assert noisy.mean() > clean.mean() + 0.01
    recipe = replace(TINY, steps=150, learning_rate=1e-2)
    means = []
    for expects in (False, True):
        chosen = replace(recipe, expects_clipping=expects)
        result = predict(fitted(chosen, noisy).weights(), noisy, chosen, passes=8)
        means.append(float(result.mean()) - float(clean.mean()))
    # The rest of the bias stays because the network learns too little in so few steps.
    assert means[0] > 0.01
    assert abs(means[1]) < 0.4 * means[0]


def test_only_fits_to_clipped_noise_change() -> None:
    recipe = replace(TINY, steps=4)
    clean = image_of(64, 64)
    assert same_weights(fitted(recipe, clean), fitted(replace(recipe, expects_clipping=True), clean))
    _, noisy = dark_image()
    assert not same_weights(fitted(recipe, noisy), fitted(replace(recipe, expects_clipping=True), noisy))


def test_the_papers_recipes_compare_with_the_noisy_values_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_for("fast").expects_clipping
    assert recipe_for("fast", "scratch").expects_clipping
    assert not any(recipe.expects_clipping for name, recipe in RECIPES.items() if name.startswith("paper"))
    clippings: list[object] = []

    def recorded(*arguments: object) -> StepRunner:
        clippings.append(arguments[-1])
        return StepRunner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_module, "step_runner_for", recorded)
    _, noisy = dark_image()
    for expects in (False, True):
        recipe = replace(TINY, steps=1, expects_clipping=expects)
        fit(noisy, recipe, new_state(recipe, 3, 0, CPU))
    assert clippings[0] is None
    assert isinstance(clippings[1], Clipping)
