"""The network without masks, calibrated to predict the mean of passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from self2self.model.network import Self2SelfNet, initialise
from self2self.train import single_pass
from self2self.train.prediction import mirrored_passes, predict, predict_plain
from self2self.train.recipes import RECIPES, Recipe
from self2self.train.single_pass import CROP, Check, calibrate, check_single_pass, crops_of, squared_distance

RECIPE = replace(RECIPES["fast"], encoder_width=6, decoder_widths=(8, 8, 8, 8, 6), decoder_drop_rate=0.2)
Weights = dict[str, torch.Tensor]
FloatArray = NDArray[np.float32]


def noisy_image(size: tuple[int, int], seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = 0.5 + 0.3 * np.sin(rows / 9) * np.cos(columns / 7)
    noisy: FloatArray = np.clip(waves[None] + 0.1 * rng.standard_normal((1, *size)), 0, 1).astype(np.float32)
    return noisy


def weights_of(recipe: Recipe, seed: int = 0) -> Weights:
    network = Self2SelfNet(1, recipe.encoder_width, recipe.decoder_widths, 1.0)
    initialise(network, "kaiming", torch.Generator().manual_seed(seed))
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def test_a_calibrated_network_is_nearer_to_the_mean_of_passes() -> None:
    image, weights = noisy_image((96, 80)), weights_of(RECIPE)
    mean = np.mean(mirrored_passes(weights, image, RECIPE, 10, seed=5), axis=0)
    before = rms(predict_plain(weights, image, RECIPE) - mean)
    after = rms(predict_plain(calibrate(weights, image, RECIPE, steps=20), image, RECIPE) - mean)
    assert after < 0.7 * before


def test_calibration_is_a_function_of_its_arguments() -> None:
    image, weights = noisy_image((64, 64)), weights_of(RECIPE)
    first, again, other = (calibrate(weights, image, RECIPE, steps=2, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("size", [(20, 33), (64, 64), (300, 70)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    image, weights = noisy_image(size), weights_of(RECIPE)
    plain = calibrate(weights, image, RECIPE, steps=1)
    assert predict_plain(plain, image, RECIPE).shape == image.shape
    assert np.isfinite(check_single_pass(weights, plain, image, RECIPE).distance)


def test_mirrored_passes_are_passes_over_mirrored_images() -> None:
    image, weights = noisy_image((64, 96)), weights_of(RECIPE)
    passes = mirrored_passes(weights, image, RECIPE, 2, seed=3)
    turned = predict(weights, np.ascontiguousarray(image[:, ::-1, ::-1]), RECIPE, passes=1, seed=3, skip=7)
    np.testing.assert_allclose(passes[7], turned[:, ::-1, ::-1], atol=1e-5)


def test_the_distance_does_not_count_the_noise_of_the_passes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((1, 128, 128)).astype(np.float32)
    passes = truth + 0.1 * rng.standard_normal((8, 1, 128, 128)).astype(np.float32)
    assert squared_distance(truth + np.float32(0.05), passes) == pytest.approx(0.05**2, rel=0.1)
    assert abs(squared_distance(truth, passes)) < 1e-4


def test_a_network_that_predicts_something_else_fails_the_check() -> None:
    image = noisy_image((200, 200))
    check = check_single_pass(weights_of(RECIPE), weights_of(RECIPE, seed=1), image, RECIPE)
    assert not check.passed
    assert check.worth < 1


def test_a_wrong_brightness_shows_at_hidden_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_pass, "mirrored_passes", lambda weights, crop, recipe, rounds, seed: [crop] * 4 * rounds)
    for error, excess in ((0.05, 3.0), (0.0, 0.0)):
        monkeypatch.setattr(single_pass, "predict_plain", lambda weights, crop, recipe, by=error: crop + np.float32(by))
        check = check_single_pass({}, {}, noisy_image((256, 256)), RECIPE)
        assert check.excess >= excess
        assert check.passed is (error == 0)


@pytest.mark.parametrize(
    ("distance", "deviation", "excess", "passed"),
    [
        (1.0, 3.0, 0.0, True),
        (2.0, 3.0, 0.0, False),
        (0.2, 0.2, 0.0, True),
        (0.0, 0.0, 0.0, True),
        (0.5, 3.0, 9.0, False),
    ],
)
def test_what_passes_a_check(distance: float, deviation: float, excess: float, passed: bool) -> None:
    assert Check(distance, deviation, excess).passed is passed


def test_crops_lie_inside_the_image_and_are_clipped() -> None:
    image = noisy_image((300, 400))
    image[0, 100, 100] = 9
    crops = crops_of(image, 0, range(20))
    assert len(crops) == 8
    assert all(crop.shape == (1, CROP, CROP) and crop.max() <= 1 for crop in crops)
    assert len({crop.tobytes() for crop in crops}) == len(crops)
    assert len(crops_of(noisy_image((100, 100)), 0, range(20))) == 1


def test_a_constant_image_needs_no_passes() -> None:
    image = np.full((1, 140, 64), 0.5, np.float32)
    weights = weights_of(RECIPE)
    for name in weights:
        weights[name] *= 0
    weights["head.bias"] += 0.5
    assert check_single_pass(weights, weights, image, RECIPE).passed
