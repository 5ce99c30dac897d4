"""Filling pixels that were not measured, and the part of an image that tells of its noise."""

import numpy as np

from self2self.imaging.missing import LARGEST_MISSING_SHARE, constant_around, fill, measured_window, smooth_fill
from self2self.imaging.noise import measure_noise


def test_a_smooth_fill_keeps_measured_pixels_and_stays_between_them() -> None:
    rng = np.random.default_rng(0)
    for shape, share in (((30, 41), 0.9), ((8, 8), 0.5), ((1, 17), 0.3), ((64, 33), 0.99)):
        plane, missing = rng.normal(0, 1, shape), rng.random(shape) < share
        missing.flat[0] = False
        filled = smooth_fill(np.where(missing, 1e9, plane), missing)
        assert np.array_equal(filled[~missing], plane[~missing])
        assert plane[~missing].min() <= filled.min() <= filled.max() <= plane[~missing].max()
    assert not smooth_fill(np.ones((9, 9)), np.ones((9, 9), bool)).any()


def test_a_smooth_fill_bridges_a_gap_without_steps() -> None:
    rows, columns = np.mgrid[:64, :64] / 64
    plane = rows + 0.5 * columns
    missing = np.zeros((64, 64), bool)
    missing[20:44, 24:40] = True
    filled = smooth_fill(np.where(missing, -9999, plane), missing)
    assert np.abs(filled - plane).max() < 0.15
    assert max(np.abs(np.diff(filled, axis=axis)).max() for axis in (0, 1)) < 0.1


def test_a_filled_area_is_as_noisy_as_the_rest() -> None:
    plane = np.random.default_rng(1).normal(0.5, 0.05, (96, 96))
    missing = np.zeros((96, 96), bool)
    missing[:, 48:] = True
    filled = fill(np.where(missing, 0, plane), missing)
    assert np.array_equal(filled[~missing], plane[~missing])
    left, right = (measure_noise(half[None]) for half in (filled[:, :48], filled[:, 48:]))
    assert 0.8 < right.sigma / left.sigma < 1.25
    assert abs(right.correlation) < 0.15


def test_the_measured_part_is_large_and_misses_next_to_nothing() -> None:
    rows, columns = np.mgrid[:128, :128]
    circle = (rows - 63.5) ** 2 + (columns - 63.5) ** 2 > 60**2
    maps = {"corner": rows + columns > 170, "circle": circle, "strip": rows < 100, "hole": ~circle}
    for name, missing in maps.items():
        window = measured_window(missing, missing.shape)
        part = missing[window]
        assert part.mean() <= LARGEST_MISSING_SHARE, name
        assert min(part.shape) >= 20, name
    assert measured_window(None, (128, 90), 64) == (slice(32, 96), slice(13, 77))
    everywhere = np.ones((40, 40), bool)
    assert everywhere[measured_window(everywhere, (40, 40))].size


def test_constant_around_equals_a_plain_loop() -> None:
    values = np.random.default_rng(2).integers(0, 2, (20, 23, 2))
    values[4:12, 3:15] = 1
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    expected = [
        [(padded[row : row + 3, column : column + 3] == values[row, column]).all() for column in range(23)]
        for row in range(20)
    ]
    assert np.array_equal(constant_around(values), expected)
    assert np.count_nonzero(expected) > 50
