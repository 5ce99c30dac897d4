"""Channels: together where they share their noise, apart where it differs."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

import self2self
from tests.arrays.arrays import CLEAN, QUICK, as_bytes, noisy, rms

COLOURS = data.astronaut()[100:164, 180:244].astype(np.float64)
NOISY_COLOURS = as_bytes(COLOURS + np.random.default_rng(0).normal(0, 20, COLOURS.shape))


def test_three_channels_of_one_noise_are_colours() -> None:
    colours = self2self.denoise(NOISY_COLOURS, **QUICK)
    channels = self2self.denoise(NOISY_COLOURS, channel_axis=-1, **QUICK)
    np.testing.assert_array_equal(channels.image, colours.image)
    planes = self2self.denoise(np.moveaxis(NOISY_COLOURS, 2, 0), axes="CYX", **QUICK)
    np.testing.assert_array_equal(np.moveaxis(planes.image, 0, 2), colours.image)
    assert len(channels.sigmas) == 1


def test_channels_whose_noise_differs_are_each_denoised_as_alone() -> None:
    units = [(1, 0), (0.01, 3), (50, 1000)]
    given = np.stack([noisy(seed=seed, scale=scale, offset=offset) for seed, (scale, offset) in enumerate(units)])
    result = self2self.denoise(given, channel_axis=0, uncertainty=True, **QUICK)
    assert len(result.sigmas) == 3
    assert result.sigma == max(result.sigmas)
    for channel, image, sigma, (scale, offset) in zip(given, result.image, result.sigmas, units, strict=True):
        np.testing.assert_array_equal(image, self2self.denoise(channel, **QUICK, uncertainty=True).image)
        assert rms(image - (CLEAN * scale + offset)) < 0.6 * 20 * scale
        assert 10 * scale < sigma < 30 * scale


@pytest.mark.parametrize("count", [2, 4])
def test_other_numbers_of_channels_are_fitted_apart(count: int) -> None:
    given = np.stack([noisy(seed=seed) for seed in range(2 * count)]).reshape(2, count, *CLEAN.shape)
    result = self2self.denoise(given, axes="TCYX", **QUICK)
    assert len(result.sigmas) == count
    assert result.image.shape == given.shape
    np.testing.assert_array_equal(result.image[:, 1], self2self.denoise(given[:, 1], **QUICK).image)


def test_channels_keep_their_fits_in_folders_of_their_own(tmp_path: object) -> None:
    given = np.stack([noisy(seed=seed) for seed in range(2)])
    first = self2self.denoise(given, channel_axis=0, run=str(tmp_path), **QUICK)
    again = self2self.denoise(given, channel_axis=0, run=str(tmp_path), **QUICK)
    assert sum("using the finished fit" in note for note in again.notes) == 2
    np.testing.assert_array_equal(first.image, again.image)
