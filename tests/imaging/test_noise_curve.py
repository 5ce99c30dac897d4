"""Test the strength of noise at the ends of the range."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.imaging.noise_curve import BLOCK_SIDE, deviations_at_range_ends, to_blocks


def ramp(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Make a smooth image from black to white."""
    return np.repeat(np.linspace(0, 1, height * width).reshape(1, height, width), channels, 0)


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
