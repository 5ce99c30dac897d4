"""Test that a result gets the local means of the noisy image, and nothing else of it."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.imaging.local_means import BLOCK_SIDE, LARGEST_SIGMA, MINIMUM_RADIUS, RADIUS_PER_LEVEL, LocalMeans

FloatArray = np.ndarray


def restored(noisy: FloatArray, prediction: FloatArray, lines: int | None = None) -> FloatArray:
    """Return the clamped prediction with the means of `noisy`, which is added `lines` lines at a time, last first."""
    means = LocalMeans(noisy.shape)
    step = lines or noisy.shape[1]
    for top in reversed(range(0, noisy.shape[1], step)):
        means.see(top, noisy[:, top : top + step], prediction[:, top : top + step])
    result = np.clip(prediction, 0, 1)
    means.restore(result)
    return result


def noise(shape: tuple[int, ...], sigma: float, seed: int = 0) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal(shape) * sigma / 255).astype(np.float32)


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    channels=st.sampled_from([1, 3, 4]),
    shift=st.floats(-0.03125, 0.03125, width=32),
    lines=st.sampled_from([None, 7, 64, 100]),
)
def test_a_shift_of_the_whole_image_is_undone(
    height: int, width: int, channels: int, shift: float, lines: int | None
) -> None:
    noisy = np.full((channels, height, width), 0.5, np.float32)
    np.testing.assert_allclose(restored(noisy, noisy + np.float32(shift), lines), noisy, atol=1e-6)


def test_each_channel_and_place_has_its_own_shift() -> None:
    """The local mean equals a mean over a Gaussian window of single values instead of blocks."""
    from scipy.ndimage import gaussian_filter

    rows, columns = np.mgrid[:150, :201]
    shift = np.stack([np.sin(rows / 40), np.cos(columns / 50), np.sin((rows + columns) / 60)]).astype(np.float32) / 100
    noisy = 0.5 + shift
    window = MINIMUM_RADIUS
    share = gaussian_filter(np.ones(shift.shape[1:]), window, mode="constant", truncate=8)
    expected = np.stack([gaussian_filter(plane, window, mode="constant", truncate=8) for plane in shift]) / share
    result = restored(noisy, np.full_like(noisy, 0.5)) - 0.5
    np.testing.assert_allclose(result, expected, atol=0.05 * np.abs(shift).max())


@pytest.mark.parametrize("amplitude", [0.01, 0.07])
@pytest.mark.parametrize("size", [(1, 1501), (1201, 17), (333, 777)])
def test_equals_means_over_all_blocks(size: tuple[int, int], amplitude: float) -> None:
    """The noise is uniform, so it has no outliers; with the stronger noise, means are over more pixels."""
    noisy = (0.5 + np.random.default_rng(0).uniform(-amplitude, amplitude, (3, *size))).astype(np.float32)
    flat = np.full_like(noisy, 0.5)
    means = LocalMeans(noisy.shape)
    means.see(0, noisy, flat)
    window = max(MINIMUM_RADIUS, RADIUS_PER_LEVEL * means.sigma)
    assert (window > MINIMUM_RADIUS) == (amplitude > 0.01)
    expected = noisy.astype(np.float64) - 0.5
    for axis, side in enumerate(size, start=1):
        starts = np.arange(0, side, BLOCK_SIDE)
        counts = np.minimum(BLOCK_SIDE, side - starts)
        distances = np.arange(side)[:, None] - (starts + (counts - 1) / 2)
        weights = np.exp(-0.5 * np.square(distances / window))
        weights /= (weights * counts).sum(1, keepdims=True)
        blocks = np.add.reduceat(expected, starts, axis=axis)
        expected = np.moveaxis(np.tensordot(weights, blocks, (1, axis)), 0, axis)
    means.restore(flat)
    np.testing.assert_allclose(flat - 0.5, expected, atol=5e-7)


def test_a_wide_image_takes_little_memory() -> None:
    noisy = 0.5 + noise((1, 16, 10_000), 5)
    means = LocalMeans(noisy.shape)
    means.see(0, noisy, np.full_like(noisy, 0.5))
    tracemalloc.start()
    means.restore(noisy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * noisy.nbytes


def test_detail_of_the_prediction_stays() -> None:
    prediction = 0.5 + 0.2 * np.sign(noise((1, 128, 128), 255))
    result = restored(0.5 + noise((1, 128, 128), 5, seed=1), prediction)
    np.testing.assert_allclose(result - result.mean(), prediction - prediction.mean(), atol=0.02)


def test_weak_noise_moves_nothing() -> None:
    clean = np.full((3, 128, 128), 0.4, np.float32)
    result = restored(clean + noise(clean.shape, 5), clean)
    assert np.abs(result - clean).max() * 255 < 0.5


def test_strong_noise_is_left_to_the_network() -> None:
    clean = np.full((3, 64, 64), 0.4, np.float32)
    prediction = clean + np.float32(0.01)
    np.testing.assert_array_equal(restored(clean + noise(clean.shape, 1.5 * LARGEST_SIGMA), prediction), prediction)
    assert np.abs(restored(clean + noise(clean.shape, 0.7 * LARGEST_SIGMA), prediction) - clean).max() < 0.006


def test_impulses_have_no_part_in_the_mean() -> None:
    clean = np.full((1, 128, 128), 0.2, np.float32)
    noisy = clean + noise(clean.shape, 3)
    hit = np.random.default_rng(1).random(clean.shape) < 0.1
    noisy[hit] = np.random.default_rng(2).random(hit.sum())
    assert noisy.mean() > 0.22
    result = restored(noisy, clean + np.float32(0.02))
    assert abs(float(result.mean()) - 0.2) < 0.01


def test_a_hot_pixel_has_no_halo() -> None:
    clean = np.full((1, 64, 64), 0.2, np.float32)
    noisy = clean + noise(clean.shape, 3)
    without = restored(noisy, clean)
    noisy[0, 30, 30] = 50
    np.testing.assert_allclose(restored(noisy, clean), without, atol=1e-4)


def test_noise_that_was_cut_off_lifts_no_black() -> None:
    black = np.zeros((1, 64, 64), np.float32)
    noisy = np.maximum(0, noise(black.shape, 10))
    assert noisy.mean() > 0.01
    np.testing.assert_array_equal(restored(noisy, black), black)


def test_a_dark_sky_that_is_not_cut_off_counts() -> None:
    sky = np.full((1, 64, 64), 0.004, np.float32)
    noisy = sky + noise(sky.shape, 1)
    assert (noisy < 0).mean() > 0.1
    np.testing.assert_allclose(restored(noisy, sky + np.float32(0.01)), sky, atol=0.001)


def test_results_stay_in_the_range_and_stars_as_they_are() -> None:
    noisy = np.full((1, 64, 64), 0.99, np.float32)
    prediction = np.linspace(0.9, 1, noisy.size, dtype=np.float32).reshape(noisy.shape)
    means = LocalMeans(noisy.shape)
    means.see(0, noisy, prediction)
    result = prediction.copy()
    result[0, 10, 10], result[0, 20, 20] = 20, -3
    means.restore(result)
    assert (result[0, 10, 10], result[0, 20, 20]) == (20, -3)
    assert np.sort(result.ravel())[1:-1].max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_image_without_noise_stays(value: float) -> None:
    image = np.full((1, 40, 40), value, np.float32)
    np.testing.assert_array_equal(restored(image, image), image)


def test_missing_pixels_do_not_count() -> None:
    """Beside them the correction is that of the measured pixels alone, whatever the image has in their place."""
    missing = np.zeros((150, 200), bool)
    missing[:, 120:] = True
    noisy = np.full((1, 150, 200), 0.5, np.float32) + noise((1, 150, 200), 2)
    prediction = np.full_like(noisy, 0.51)
    results = []
    for other in (0.2, 0.9):
        means = LocalMeans(noisy.shape, missing)
        changed = np.where(missing, np.float32(other), noisy)
        for top in range(0, 150, 40):
            means.see(top, changed[:, top : top + 40], prediction[:, top : top + 40])
        result = prediction.copy()
        means.restore(result)
        results.append(result)
    assert np.array_equal(results[0][:, ~missing], results[1][:, ~missing])
    assert np.abs(results[0][0, :, :120] - 0.5).max() < 1 / 255
    assert 1 < means.sigma < 4
