"""Test the strength of noise at the ends of the range, and whether noise grows with the signal."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from self2self.imaging.noise_curve import BLOCK_SIDE, deviations_at_range_ends, is_signal_dependent, to_blocks


def ramp(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Make a smooth image from black to white."""
    return np.repeat(np.linspace(0, 1, height * width).reshape(1, height, width), channels, 0)


def photographed(clean: np.ndarray, photons: float, seed: int) -> np.ndarray:
    """Add photon noise, with `photons` photons at white."""
    return np.clip(np.random.default_rng(seed).poisson(photons * clean) / photons, 0, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_of_photons_is_none_at_black(seed: int) -> None:
    rng = np.random.default_rng(seed)
    peak = 40.0
    noisy = np.clip(rng.poisson(peak * ramp(128, 128)) / peak, 0, 1)
    for low, high in deviations_at_range_ends(noisy):
        assert low < 0.3 * high
        assert high == pytest.approx(peak**-0.5, rel=0.2)


def test_incomplete_squares_are_left_out() -> None:
    plane = np.arange(19.0 * 26).reshape(19, 26)
    squares = to_blocks(plane)
    assert squares.shape == (6, BLOCK_SIDE, BLOCK_SIDE)
    np.testing.assert_array_equal(squares[4], plane[8:16, 8:16])


def test_a_flat_image_has_no_noise_at_its_ends() -> None:
    assert deviations_at_range_ends(np.zeros((2, BLOCK_SIDE, BLOCK_SIDE))) == [(0, 0), (0, 0)]
    assert deviations_at_range_ends(np.full((1, 64, 64), 0.4)) == [(0, 0)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["camera", "coins"])
def test_noise_of_photons_is_told_from_noise_that_is_the_same_everywhere(name: str, seed: int) -> None:
    clean = getattr(data, name)()[None, :256, :256] / 255
    assert is_signal_dependent(photographed(clean**2, 60, seed))
    for sigma in (0, 3, 10, 25):
        noise = np.random.default_rng(seed).normal(0, sigma / 255, clean.shape)
        assert not is_signal_dependent(np.round(np.clip(clean + noise, 0, 1) * 255) / 255)


def test_all_channels_have_to_agree() -> None:
    noisy = photographed(0.7 * ramp(128, 128), 40, 0)
    assert is_signal_dependent(noisy)
    noisy[2] = 0.5 + np.random.default_rng(1).normal(0, 0.05, noisy[2].shape)
    assert not is_signal_dependent(noisy)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(8, 8), (17, 70), (64, 64)])
def test_small_and_flat_images_and_other_ranges_say_no(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    flat = [np.full((2, *size), value) for value in (0.0, 0.5, 1.0)]
    for image in (
        *flat,
        rng.normal(0.5, 0.1, (1, *size)),
        255 * rng.random((1, *size)),
        rng.random((1, *size)).round(),
    ):
        assert not is_signal_dependent(image)
