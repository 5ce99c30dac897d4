"""The network without masks, for a single pass in place of the mean of passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from self2self.model.network import Self2SelfNet, initialise
from self2self.train.calibration import calibrate
from self2self.train.prediction import PlainPredictor, mirrored_passes, predict
from self2self.train.recipes import RECIPES, Recipe
from self2self.train.single_pass import Check, check_single_pass, squared_distance, transferred
from self2self.train.start_weights import pretrained_weights

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


@pytest.mark.parametrize("size", [(20, 33), (64, 64), (300, 70)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    image, weights = noisy_image(size), weights_of(RECIPE)
    plain = calibrate(weights, image, RECIPE, steps=1)
    assert PlainPredictor(plain, RECIPE)(image).shape == image.shape
    assert np.isfinite(check_single_pass(weights, PlainPredictor(plain, RECIPE), image, RECIPE).distance)


def test_a_predictor_serves_images_of_several_sizes() -> None:
    weights = weights_of(RECIPE)
    predictor = PlainPredictor(weights, RECIPE)
    for size in ((64, 96), (20, 33)):
        image = noisy_image(size)
        np.testing.assert_array_equal(predictor(image), PlainPredictor(weights, RECIPE)(image))


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
    check = check_single_pass(weights_of(RECIPE), PlainPredictor(weights_of(RECIPE, seed=1), RECIPE), image, RECIPE)
    assert not check.passed
    assert check.worth < 1


@pytest.mark.parametrize(
    ("check", "passed"),
    [
        (Check(1.0, 3.0, 20.0, transferred=False), True),
        (Check(2.0, 3.0, 20.0, transferred=False), False),
        (Check(0.2, 0.2, 20.0, transferred=False), True),
        (Check(0.0, 0.0, 0.0, transferred=False), True),
        (Check(2.5, 3.0, 20.0, transferred=True), True),
        (Check(6.0, 3.0, 20.0, transferred=True), False),
        (Check(1.5, 0.2, 2.0, transferred=True), True),
        (Check(2.5, 9.0, 2.0, transferred=True), False),
    ],
)
def test_what_passes_a_check(check: Check, passed: bool) -> None:
    assert check.passed is passed


def test_what_a_fit_adds_is_added_to_the_weights_of_the_single_pass() -> None:
    start, single = (pretrained_weights(1, 12.0, single_pass=flag) for flag in (False, True))
    change = {name: torch.randn(tensor.shape) for name, tensor in start.items()}
    moved = transferred({name: tensor + change[name] for name, tensor in start.items()}, start, single)
    for name, tensor in moved.items():
        torch.testing.assert_close(tensor, single[name] + change[name])


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_start_weights_for_a_single_pass_are_as_good_as_passes_and_better_than_dropout_left_out(channels: int) -> None:
    skimage_data = pytest.importorskip("skimage.data")
    clean = skimage_data.chelsea()[80:208, 100:228].transpose(2, 0, 1)[:channels].astype(np.float32) / 255
    noisy = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape).astype(np.float32)
    recipe = RECIPES["fast"]
    start, single = (pretrained_weights(channels, 25.0, single_pass=flag) for flag in (False, True))
    passes = rms(np.mean(mirrored_passes(start, noisy, recipe, 2), axis=0) - clean)
    assert rms(PlainPredictor(single, recipe)(noisy) - clean) < 1.01 * passes
    assert rms(PlainPredictor(start, recipe)(noisy) - clean) > 1.01 * passes


DB_LOST = 0.05
"""How much worse than the mean of passes the image may be that the check lets through."""


@pytest.mark.parametrize(
    ("size", "clean", "sigma"),
    [
        pytest.param((24, 40), "photograph", 25.0, id="smaller than the crops of the check"),
        pytest.param((72, 72), "even", 25.0, id="an even image"),
        pytest.param((96, 96), "photograph", 60.0, id="a page with far more noise than the fitted one"),
        pytest.param((96, 96), "photograph", 45.0, id="a page with more noise"),
        pytest.param((96, 96), "photograph", 8.0, id="a page with far less noise"),
        pytest.param((96, 96), "dots", 25.0, id="a page that shows something else"),
    ],
)
def test_no_image_that_the_check_lets_through_is_worse_than_the_mean_of_passes(
    size: tuple[int, int], clean: str, sigma: float
) -> None:
    rng = np.random.default_rng(0)
    if clean == "photograph":
        pixels = pytest.importorskip("skimage.data").camera()[100 : 100 + size[0], 200 : 200 + size[1]] / 255
    else:
        pixels = np.full(size, 0.5) if clean == "even" else (rng.random(size) > 0.97).astype(float)
    truth = pixels[None].astype(np.float32)
    noisy = truth + rng.normal(0, sigma / 255, truth.shape).astype(np.float32)
    recipe = RECIPES["fast"]
    # The fit was to an image with noise of 25 grey levels.
    start, single = (pretrained_weights(1, 25.0, single_pass=flag) for flag in (False, True))
    predictor = PlainPredictor(single, recipe)
    if check_single_pass(start, predictor, noisy, recipe, transferred=True).passed:
        passes = rms(np.mean(mirrored_passes(start, noisy, recipe, 4, seed=1), axis=0).clip(0, 1) - truth)
        assert rms(predictor(noisy).clip(0, 1) - truth) < passes * 10 ** (DB_LOST / 20)


def test_a_constant_image_needs_no_passes() -> None:
    image = np.full((1, 140, 64), 0.5, np.float32)
    weights = weights_of(RECIPE)
    for name in weights:
        weights[name] *= 0
    weights["head.bias"] += 0.5
    assert check_single_pass(weights, PlainPredictor(weights, RECIPE), image, RECIPE).passed
