"""The calibration of a fitted network to predict, without masks, the mean of passes."""

from __future__ import annotations

import numpy as np
import torch

from self2self.train.calibration import CROP, calibrate, crops_of
from self2self.train.prediction import PlainPredictor, mirrored_passes
from tests.train.test_single_pass import RECIPE, noisy_image, rms, weights_of


def test_a_calibrated_network_is_nearer_to_the_mean_of_passes() -> None:
    image, weights = noisy_image((96, 80)), weights_of(RECIPE)
    mean = np.mean(mirrored_passes(weights, image, RECIPE, 10, seed=5), axis=0)
    before = rms(PlainPredictor(weights, RECIPE)(image) - mean)
    after = rms(PlainPredictor(calibrate(weights, image, RECIPE, steps=20), RECIPE)(image) - mean)
    assert after < 0.7 * before


def test_calibration_is_a_function_of_its_arguments() -> None:
    image, weights = noisy_image((64, 64)), weights_of(RECIPE)
    first, again, other = (calibrate(weights, image, RECIPE, steps=2, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_crops_lie_inside_the_image_and_are_clipped() -> None:
    image = noisy_image((300, 400))
    image[0, 100, 100] = 9
    crops = crops_of(image, 0, range(20))
    assert len(crops) == 8
    assert all(crop.shape == (1, CROP, CROP) and crop.max() <= 1 for crop in crops)
    assert len({crop.tobytes() for crop in crops}) == len(crops)
    assert len(crops_of(noisy_image((100, 100)), 0, range(20))) == 1
