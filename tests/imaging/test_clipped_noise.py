"""Noise that is cut off at the ends of the range: its strength there, and the image that its mean stands for."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.imaging.clipped_noise import Clipping, certain_clipping, measure_clipping
from tests.imaging.test_noise_curve import ramp


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_the_means_of_many_clipped_values_become_the_image(sigma: float) -> None:
    values = np.linspace(0, 1, 33)
    noise = np.random.default_rng(0).normal(0, sigma, (200_000, 1))
    both = np.clip(values + noise, 0, 1).mean(axis=0)
    low = np.maximum(values + noise, 0).mean(axis=0)
    means = np.stack([both, low, values])[:, None].astype(np.float32)
    found = Clipping((sigma, sigma, 0.0), (sigma, 0.0, 0.0)).undone(means)[:, 0]
    np.testing.assert_allclose(found[0], values, rtol=0, atol=0.02 * sigma)
    np.testing.assert_allclose(found[1, :-1], values[:-1], rtol=0, atol=0.02 * sigma)
    np.testing.assert_array_equal(found[2], means[2, 0])


def test_empty_pixels_of_a_photon_counter_are_not_cut_off() -> None:
    rng = np.random.default_rng(0)
    dark = np.broadcast_to(np.clip(np.linspace(-0.5, 1, 128), 0, 1), (1, 128, 128))
    noisy = np.clip(dark + rng.normal(0, 0.1, dark.shape), 0, 1).astype(np.float32)
    assert certain_clipping(noisy) is not None
    assert certain_clipping(noisy) == measure_clipping(noisy)
    photons = rng.poisson(4 * dark).astype(np.float32)
    assert certain_clipping(photons / photons.max()) is None


def test_what_lies_outside_the_range_keeps_its_distance() -> None:
    given = np.array([[[-0.5, 0.0, 1.0, 3.0]]], np.float32)
    np.testing.assert_allclose(Clipping((0.1,), (0.1,)).undone(given), given, rtol=0, atol=1e-6)


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
