import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from self2self.imaging.noise import (
    CORRELATION_THRESHOLD,
    LARGEST_SIDE,
    Noise,
    NoiseKind,
    autocorrelation,
    center_crop,
    estimate_correlation,
    has_noise,
    independent_noise,
    measure_noise,
    measure_residual,
)
from self2self.train.synthetic_noise import add_noise


def photograph(name: str = "camera") -> np.ndarray:
    """float32 (C, 256, 256) in [0, 1]."""
    pixels = np.atleast_3d(getattr(data, name)())[:256, 100:356]
    return (pixels.transpose(2, 0, 1) / 255).astype(np.float32)


def white(shape: tuple[int, ...], sigma: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * sigma / 255


def spread(noise: np.ndarray, weight: float) -> np.ndarray:
    """Correlate neighbours of `noise` by 2w / (1 + 2w²), and keep its standard deviation."""
    wide = noise
    for axis in (-2, -1):
        wide = wide + weight * (np.roll(wide, 1, axis) + np.roll(wide, -1, axis))
    return wide * noise.std() / wide.std()


@pytest.mark.parametrize("sigma", [1, 2.5, 5, 15, 25, 50, 75])
@pytest.mark.parametrize("name", ["camera", "chelsea", "astronaut", "moon"])
def test_sigma_of_white_noise_on_photographs_is_found(name: str, sigma: float) -> None:
    clean = photograph(name)
    # The noise is not clipped, because clipping makes strong noise weaker.
    assert independent_noise(clean + white(clean.shape, sigma)).sigma == pytest.approx(sigma, rel=0.08, abs=0.8)


@pytest.mark.parametrize("sigma", [5, 25, 75])
def test_sigma_on_flat_and_sloping_ground_is_found_within_six_percent(sigma: float) -> None:
    slope = np.linspace(0, 2, 128)[None, None, :] + np.zeros((3, 128, 1))
    for clean in (np.zeros_like(slope), slope):
        assert independent_noise(clean + white(clean.shape, sigma)).sigma == pytest.approx(sigma, rel=0.06)


def test_noise_of_photons_counts_with_its_mean_variance() -> None:
    clean = photograph("camera") ** 2
    noisy = np.random.default_rng(0).poisson(60 * clean) / 60
    assert independent_noise(noisy).sigma == pytest.approx(255 * np.sqrt(clean.mean() / 60), rel=0.1)


def test_where_most_noise_is_counts_with_the_variance_there() -> None:
    clean = photograph("camera") ** 2
    noisy = np.random.default_rng(0).poisson(60 * clean) / 60
    expected = 255 * np.sqrt(np.square(clean).mean() / clean.mean() / 60)
    assert independent_noise(noisy).dominant == pytest.approx(expected, rel=0.1)
    even = independent_noise(photograph("chelsea") + white((3, 256, 256), 20))
    assert even.dominant == pytest.approx(even.sigma, rel=0.03)


def test_noise_of_earlier_versions_was_told_as_it_was_found() -> None:
    stored = Noise(8.0, 9.0, 2.0, 0.5, NoiseKind.CORRELATED).to_json()
    del stored["told"], stored["jpeg_step"]
    assert Noise.from_json(stored).told == 8.0
    assert Noise.from_json(stored).jpeg_step == 0


def test_a_quarter_of_the_patches_tells_the_noise_as_well() -> None:
    noisy = np.tile(photograph("chelsea"), (1, 2, 2)) + white((3, 512, 512), 15)
    residual = measure_residual(noisy, np.tile(photograph("chelsea"), (1, 2, 2)))
    assert residual.noise.sigma == pytest.approx(15, rel=0.03)
    assert independent_noise(noisy, 15_000).sigma == pytest.approx(independent_noise(noisy).sigma, rel=0.03)


def test_edges_are_no_noise() -> None:
    page = np.atleast_3d(data.page()).transpose(2, 0, 1)[:, :180, :256] / 255
    assert independent_noise(page + white(page.shape, 5)).sigma == pytest.approx(5, rel=0.15)


def test_noise_that_channels_or_neighbours_share_does_not_count() -> None:
    grey = np.repeat(white((1, 128, 128), 20), 3, axis=0)
    assert independent_noise(grey).sigma == pytest.approx(0, abs=1e-6)
    assert independent_noise(grey + white(grey.shape, 2, 1)).sigma == pytest.approx(2, rel=0.05)
    wide = sum(np.roll(white((1, 128, 128), 20), (y, x), (1, 2)) for y in range(4) for x in range(4)) / 4
    assert independent_noise(wide).sigma < 5


@pytest.mark.parametrize("sigma", [10, 25])
def test_photon_noise_at_mid_grey_and_eight_bits(sigma: float) -> None:
    noisy = add_noise(np.full((1, 128, 128), 0.5, np.float32), "poisson", sigma, np.random.default_rng(0))
    assert independent_noise(noisy).sigma == pytest.approx(sigma, rel=0.05)
    assert not measure_noise(noisy).correlated


def test_cut_off_highlights_do_not_hide_the_noise() -> None:
    clean = np.full((1, 128, 128), 0.5)
    clean[:, :, :80] = 1.3
    noisy = np.clip(clean + white(clean.shape, 20), 0, 1)
    assert independent_noise(noisy).sigma == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -7.0])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 31), (4, 64, 64)])
def test_an_even_image_has_no_noise(shape: tuple[int, ...], value: float) -> None:
    noise = measure_noise(np.full(shape, value, np.float32))
    assert (noise.sigma, noise.correlation, noise.correlated) == (0, 0, False)
    residual = measure_residual(np.full(shape, value, np.float32), np.full(shape, 0.1, np.float32))
    assert residual.mean == pytest.approx(255 * (value - 0.1), abs=1e-4)
    assert (residual.standard_deviation, residual.noise.sigma) == pytest.approx((0, 0), abs=1e-9)
    assert not residual.correlated
    assert np.allclose(residual.autocorrelation, 0)


def test_the_smallest_images_get_an_estimate_of_the_right_size() -> None:
    estimates = [independent_noise(white((3, 8, 8), 20, seed)).sigma for seed in range(30)]
    assert np.mean(estimates) == pytest.approx(20, rel=0.3)
    assert 8 < min(estimates) < max(estimates) < 40


@pytest.mark.parametrize("weight", [0.2, 0.3, 0.5])
def test_correlation_is_found_where_it_is(weight: float) -> None:
    noise = spread(white((1, 256, 256), 20), weight)
    expected = 2 * weight / (1 + 2 * weight**2)
    measured = autocorrelation(noise)
    assert measured[0][1] == pytest.approx(expected, abs=0.03)
    assert measured[0][2] == pytest.approx(weight**2 / (1 + 2 * weight**2), abs=0.03)
    # Subtracting the surface also removes some of the correlation.
    assert CORRELATION_THRESHOLD < estimate_correlation(noise) < expected + 0.02


def test_correlation_is_the_mean_of_both_directions() -> None:
    noise = white((1, 256, 256), 20)
    one_way = estimate_correlation(noise + 0.5 * np.roll(noise, 1, axis=2))
    assert one_way == pytest.approx(estimate_correlation(noise + 0.5 * np.roll(noise, 1, axis=1)), abs=0.03)
    assert 0.1 < one_way < 0.25


@pytest.mark.parametrize("name", ["camera", "chelsea", "astronaut", "moon"])
def test_photographs_with_white_noise_raise_no_alarm_and_with_correlated_noise_they_do(name: str) -> None:
    clean = photograph(name)
    for sigma in (5, 25, 50):
        noise = white(clean.shape, sigma)
        assert not measure_noise(np.clip(clean + noise, 0, 1)).correlated
        assert measure_noise(np.clip(clean + spread(noise, 0.3), 0, 1)).correlated


def test_autocorrelation_of_white_noise_is_one_and_then_nothing() -> None:
    measured = np.array(autocorrelation(white((3, 200, 200), 20) + 5))
    assert measured.shape == (4, 4)
    assert measured[0, 0] == 1
    measured[0, 0] = 0
    assert np.abs(measured).max() < 0.02


def test_residual_has_the_figures_of_what_was_removed() -> None:
    clean = photograph()
    noise = white(clean.shape, 20) + 3 / 255
    residual = measure_residual((clean + noise).astype(np.float32), clean)
    assert residual.mean == pytest.approx(3, abs=0.3)
    assert residual.standard_deviation == pytest.approx(20, rel=0.02)
    assert residual.noise.sigma == pytest.approx(20, rel=0.03)
    assert not residual.correlated
    assert measure_residual(clean + spread(noise, 0.3), clean).correlated


def test_json_holds_plain_numbers() -> None:
    noisy = photograph("chelsea") + white((3, 256, 256), 20)
    noise = json.loads(json.dumps(measure_noise(noisy).to_json()))
    assert noise["sigma"] == pytest.approx(20, rel=0.1)
    assert noise["kind"] == "independent"
    residual = json.loads(json.dumps(measure_residual(noisy, photograph("chelsea")).to_json()))
    assert [len(row) for row in residual["autocorrelation"]] == [4] * 4
    assert set(residual) == {"mean", "standard_deviation", "sigma", "autocorrelation", "correlated"}


@pytest.mark.parametrize("kind", NoiseKind)
def test_noise_survives_json(kind: NoiseKind) -> None:
    noise = Noise(12.5, 14.0, 3.25, 0.41, kind, 0.75, True, 6.25)
    assert Noise.from_json(json.loads(json.dumps(noise.to_json()))) == noise


@pytest.mark.parametrize(
    "change",
    [
        {"sigma": -1},
        {"sigma": "NaN"},
        {"removed_share": 1.5},
        {"kind": "loud"},
        {"independent": None},
        {"jpeg_step": -1},
    ],
)
def test_damaged_noise_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Noise.from_json(Noise(1.0, 1.0, 1.0, 0.0).to_json() | change)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(8, 70), st.integers(8, 70)),
    scale=st.floats(0.01, 1000),
    offset=st.floats(-10, 10),
    seed=st.integers(0, 1000),
)
def test_scale_scales_sigma_and_offset_changes_nothing(
    shape: tuple[int, int, int], scale: float, offset: float, seed: int
) -> None:
    noisy = white(shape, 20, seed) + np.linspace(0, 1, shape[2])
    plain, moved = measure_noise(noisy), measure_noise(noisy * scale + offset)
    assert moved.sigma == pytest.approx(scale * plain.sigma, rel=1e-6)
    assert moved.correlation == pytest.approx(plain.correlation, abs=1e-6)
    np.testing.assert_allclose(autocorrelation(noisy * scale + offset), autocorrelation(noisy), rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(shape=st.tuples(st.sampled_from([1, 3, 4]), st.integers(8, 40), st.integers(8, 40)), dtype=st.sampled_from("fd"))
def test_any_size_has_finite_figures(shape: tuple[int, int, int], dtype: str) -> None:
    noise = measure_noise(white(shape, 20).astype(dtype))
    assert noise.sigma > 0
    assert np.isfinite(noise.correlation)


@pytest.mark.parametrize("shape", [(3, 20, 5000), (1, 1537, 1536), (3, 64, 64)])
def test_noise_of_large_images_is_measured_in_their_middle(shape: tuple[int, int, int]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    part = center_crop(pixels)
    assert np.shares_memory(part, pixels)
    assert part.shape == (shape[0], *(min(size, LARGEST_SIDE) for size in shape[1:]))
    before, after = (np.argwhere(pixels[0] == part[0][corner])[0] for corner in ((0, 0), (-1, -1)))
    assert np.abs(before - (np.array(shape[1:]) - 1 - after)).max() <= 1


def test_an_empty_page_has_no_noise_even_with_a_speck_on_it() -> None:
    page = np.full((1, 64, 64), 0.25, np.float32)
    assert not has_noise(page)
    page[0, 3:5, 9:12] = 1
    assert not has_noise(page)
    assert has_noise(page + np.random.default_rng(0).normal(0, 1e-4, page.shape))
