"""Noise that is cut off at the ends of the range: its mean, its strength there, and fits that correct for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs import load_pairs
from self2self.imaging.clipped_noise import Clipping
from self2self.imaging.metrics import psnr
from self2self.train import fit as fit_module
from self2self.train.clipping import expected as expected_mean
from self2self.train.fit import fit, new_state
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES, recipe_for
from self2self.train.steps import StepRunner
from tests.train.test_fit import CPU, TINY, fitted, image_of, same_weights


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.2])
def test_the_expected_values_are_the_means_of_many_clipped_ones(sigma: float) -> None:
    values = np.linspace(0, 1, 33)
    noise = np.random.default_rng(0).normal(0, sigma, (200_000, 1))
    drawn = np.clip(values + noise, 0, 1).mean(axis=0)
    # The first channel is cut off at both ends, the second at one, the third at none.
    image = torch.from_numpy(np.broadcast_to(values, (1, 3, 1, len(values))).astype(np.float32))
    both, low, none = expected_mean(Clipping((sigma, sigma, 0.0), (sigma, 0.0, 0.0)), image)[0, :, 0].numpy()
    np.testing.assert_allclose(both, drawn, rtol=0, atol=4 * sigma / np.sqrt(len(noise)) + 1e-4)
    np.testing.assert_allclose(low, np.maximum(values + noise, 0).mean(axis=0), rtol=0, atol=0.01 * sigma)
    assert np.array_equal(none, image[0, 0, 0].numpy())


def test_outside_the_range_the_mean_continues_as_a_line() -> None:
    values = torch.tensor([-50.0, -1.0, -1e-4, 1 + 1e-4, 2.0, 50.0]).view(1, 1, 1, 6).requires_grad_()
    expected = expected_mean(Clipping((0.1,), (0.1,)), values)
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
    expected_mean(Clipping((0.1,), (0.1,)), values).sum().backward()
    assert values.grad is not None
    expected = [0.5, 0.8413, 1.0, 0.5]
    np.testing.assert_allclose(values.grad.flatten().numpy(), expected, rtol=0, atol=1e-3)


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
