"""Window means and bands, compared with loops and with the variance of white noise."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.imaging.smoothing import BAND_SHARES, bands, box_mean, spline_smoothed


@pytest.mark.parametrize("shape", [(8, 11), (2, 13, 9)])
@pytest.mark.parametrize("radius", [1, 4, 20])
def test_a_window_mean_is_the_mean_of_the_pixels_that_exist(shape: tuple[int, ...], radius: int) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = box_mean(values, radius)
    assert (found.shape, found.dtype) == (shape, np.float32)
    for y, x in np.ndindex(shape[-2:]):
        window = values[..., max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        np.testing.assert_allclose(found[..., y, x], window.mean(axis=(-2, -1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [8, 100])
def test_bands_add_up_to_the_image(side: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, side, side + 3)).astype(np.float32)
    found, rest = bands(values, len(BAND_SHARES))
    np.testing.assert_allclose(np.sum(found, axis=0) + rest, values, atol=1e-5)


def test_the_noise_of_each_band_is_known() -> None:
    # The variance of filtered white noise is the sum of the squares of the filter, which is what one pixel becomes.
    pixel = np.zeros((129, 129), np.float32)
    pixel[64, 64] = 1
    found, _ = bands(pixel, len(BAND_SHARES))
    np.testing.assert_allclose([np.square(band).sum() for band in found], BAND_SHARES, rtol=0.01)


def test_smoothing_keeps_a_constant_and_a_ramp_inside() -> None:
    ramp = np.tile(np.arange(64, dtype=np.float32), (64, 1))
    np.testing.assert_allclose(spline_smoothed(np.full((9, 9), 3, np.float32), 3), 3, rtol=1e-6)
    np.testing.assert_allclose(spline_smoothed(ramp, 2)[:, 8:-8], ramp[:, 8:-8], rtol=1e-5)
