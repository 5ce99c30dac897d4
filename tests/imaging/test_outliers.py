"""Test values outside [0, 1]: which value the network gets instead, and when they return to the result."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from self2self.imaging.metrics import psnr
from self2self.imaging.outliers import (
    LARGEST_NEIGHBOUR_SHARE,
    LINES_PER_STRIP,
    clip_to_range,
    has_impulses,
    remove_hot_pixels,
    remove_impulses,
    restore_outliers,
)


def result(prediction: float, noisy: float) -> float:
    """Return the result of an image of one pixel."""
    out = np.empty((1, 1, 1), np.float32)
    restore_outliers(np.full((1, 1, 1), prediction, np.float32), np.full((1, 1, 1), noisy, np.float32), out)
    return float(out[0, 0, 0])


def test_an_image_in_the_range_is_passed_on_without_a_copy() -> None:
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    assert clip_to_range(pixels) is pixels
    np.testing.assert_array_equal(clip_to_range(pixels * 3 - 1), np.clip(pixels * 3 - 1, 0, 1))


@given(noisy=st.floats(-100, 100, width=32), prediction=st.floats(-3, 4, width=32))
def test_results_lie_between_the_prediction_and_the_noisy_value(noisy: float, prediction: float) -> None:
    clamped = min(max(prediction, 0.0), 1.0)
    if 0 <= noisy <= 1:
        assert result(prediction, noisy) == clamped
    else:
        assert min(clamped, noisy) - 1e-5 <= result(prediction, noisy) <= max(clamped, noisy) + 1e-5


@pytest.mark.parametrize(
    ("prediction", "noisy", "expected"),
    [
        (1.0, 20.0, 20.0),  # a star
        (0.8, 20.0, 19.8),
        (0.3, 20.0, 0.3),  # a hot pixel
        (0.625, 3.0, 0.625 + 2.0 / 2),  # half way
        (0.0, -7.0, -7.0),
        (0.7, -7.0, 0.7),  # a dead pixel
    ],
)
def test_an_extreme_comes_back_where_the_prediction_supports_it(
    prediction: float, noisy: float, expected: float
) -> None:
    assert result(prediction, noisy) == pytest.approx(expected, rel=1e-6)


def test_the_result_may_overwrite_the_image() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 2, (3, 2 * LINES_PER_STRIP + 5, 9)).astype(np.float32)
    prediction = rng.uniform(-0.2, 1.2, pixels.shape).astype(np.float32)
    apart = np.empty_like(pixels)
    restore_outliers(prediction, pixels.copy(), apart)
    restore_outliers(prediction, pixels, pixels)
    np.testing.assert_array_equal(pixels, apart)


def plainly_cleaned(pixels: np.ndarray) -> np.ndarray:
    """Remove hot pixels one pixel at a time."""
    cleaned = pixels.copy()
    for channel, row, column in zip(*np.nonzero((pixels < -1) | (pixels > 2)), strict=True):
        around = np.pad(pixels[channel], 1, mode="reflect")[row : row + 3, column : column + 3].ravel()
        others = np.sort(np.delete(around, 4).astype(float))
        value = float(pixels[channel, row, column])
        spread = others[-2] - others[1]
        if spread < LARGEST_NEIGHBOUR_SHARE * max(value - others[1], others[-2] - value):
            cleaned[channel, row, column] = np.clip(np.median(others), 0, 1)
    return cleaned


@given(
    height=st.integers(2, LINES_PER_STRIP + 9),
    width=st.integers(2, 40),
    channels=st.sampled_from([1, 3]),
    share=st.floats(0, 0.2),
    seed=st.integers(0, 99),
)
def test_hot_pixels_are_found_as_one_by_one(height: int, width: int, channels: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-0.05, 1.05, (channels, height, width)).astype(np.float32)
    hit = rng.random(pixels.shape) < share
    pixels[hit] = rng.uniform(-20, 20, int(hit.sum()))
    before = pixels.copy()
    cleaned = remove_hot_pixels(pixels)
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_allclose(cleaned, plainly_cleaned(pixels), rtol=1e-6)
    assert remove_hot_pixels(pixels, in_place=True) is pixels
    np.testing.assert_array_equal(pixels, cleaned)


@pytest.mark.parametrize("shape", [(1, 1, 50), (3, 50, 1), (1, 8, 8)])
def test_without_one_nothing_is_copied(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert remove_hot_pixels(pixels) is pixels


@pytest.mark.parametrize("width", [1.4, 2.0, 4.0])
@pytest.mark.parametrize("height", [2.2, 5.0, 50.0])
@pytest.mark.parametrize("centre", [(8.0, 8.0), (8.5, 8.0), (8.5, 8.5), (8.3, 7.8)])
def test_stars_are_no_hot_pixels(width: float, height: float, centre: tuple[float, float]) -> None:
    """`width` is the full width at half maximum, in pixels; the noise has a standard deviation of 0.01."""
    rows, columns = np.mgrid[:17, :17]
    distance = np.square(rows - centre[0]) + np.square(columns - centre[1])
    star = height * np.exp(-4 * np.log(2) * distance / width**2)
    sky = np.random.default_rng(0).normal(0.2, 0.01, star.shape)
    pixels = (sky + star)[None].astype(np.float32)
    assert remove_hot_pixels(pixels) is pixels


def test_two_hot_pixels_side_by_side_go() -> None:
    pixels = np.random.default_rng(0).uniform(0.5, 0.6, (1, 9, 9)).astype(np.float32)
    pixels[0, 4, 4:6] = 9, 12
    assert remove_hot_pixels(pixels).max() < 0.6


@pytest.mark.parametrize("name", ["camera", "chelsea", "coins", "astronaut"])
def test_impulses_are_replaced_and_next_to_nothing_else(name: str) -> None:
    clean = np.atleast_3d(getattr(data, name)())[60:188, 100:228].transpose(2, 0, 1).astype(np.float32) / 255
    rng = np.random.default_rng(0)
    hit = rng.random(clean.shape) < 0.06
    noisy = np.where(hit, rng.random(clean.shape, np.float32), clean)
    result = remove_impulses(noisy)
    assert has_impulses(noisy, result)
    assert psnr(result, clean) > psnr(noisy, clean) + 9
    assert np.mean(remove_impulses(clean) != clean) < 0.03


def test_strips_and_borders_of_a_tall_image_are_treated_alike() -> None:
    image = np.full((1, 200, 9), 0.5, np.float32)
    places = [(0, 0), (63, 4), (64, 8), (128, 2), (199, 8)]
    for row, column in places:
        image[0, row, column] = 0.9
    assert np.array_equal(remove_impulses(image), np.full_like(image, 0.5))
    assert image[0, 0, 0] == np.float32(0.9)


def test_stars_are_no_impulses() -> None:
    rows, columns = np.mgrid[:64, :64]
    stars = sum(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 0.8) for y, x in ((9, 9), (30, 41), (50, 20)))
    image = (0.1 + 0.8 * stars).astype(np.float32)[None]
    assert not has_impulses(image, remove_impulses(image))
