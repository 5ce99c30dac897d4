import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from self2self.imaging.noise import (
    CORRELATION_THRESHOLD,
    LARGEST_SIDE,
    autocorrelation,
    center_crop,
    estimate_correlation,
    estimate_sigma,
    has_noise,
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


@pytest.mark.parametrize("sigma", [5, 15, 25, 50, 75])
@pytest.mark.parametrize("name", ["camera", "chelsea", "astronaut", "moon"])
def test_sigma_of_white_noise_on_photographs_is_found(name: str, sigma: float) -> None:
    clean = photograph(name)
    # The noise is not clipped, because clipping makes strong noise weaker. Fur and cloth count as weak noise.
    overall, channels = estimate_sigma(clean + white(clean.shape, sigma))
    assert overall == pytest.approx(sigma, rel=0.1, abs=2)
    assert len(channels) == len(clean)
    assert overall == pytest.approx(np.sqrt(np.mean(np.square(channels))))


@pytest.mark.parametrize("sigma", [5, 25, 75])
def test_sigma_on_flat_and_sloping_ground_is_found_within_four_percent(sigma: float) -> None:
    slope = np.linspace(0, 2, 128)[None, None, :] + np.zeros((3, 128, 1))
    for clean in (np.zeros_like(slope), slope):
        assert estimate_sigma(clean + white(clean.shape, sigma))[0] == pytest.approx(sigma, rel=0.04)


def test_each_channel_has_its_own_sigma() -> None:
    noise = white((3, 128, 128), 1.0) * np.array([5, 10, 20]).reshape(3, 1, 1)
    assert estimate_sigma(noise)[1] == pytest.approx([5, 10, 20], rel=0.06)


@pytest.mark.parametrize("sigma", [10, 25])
def test_photon_noise_at_mid_grey_and_eight_bits(sigma: float) -> None:
    noisy = add_noise(np.full((1, 128, 128), 0.5, np.float32), "poisson", sigma, np.random.default_rng(0))
    assert estimate_sigma(noisy)[0] == pytest.approx(sigma, rel=0.05)
    assert not measure_noise(noisy).correlated


def test_cut_off_highlights_do_not_hide_the_noise() -> None:
    clean = np.full((1, 128, 128), 0.5)
    clean[:, :, :80] = 1.3
    noisy = np.clip(clean + white(clean.shape, 20), 0, 1)
    assert estimate_sigma(noisy)[0] == pytest.approx(20, rel=0.1)


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
    estimates = [estimate_sigma(white((3, 8, 8), 20, seed))[0] for seed in range(30)]
    assert np.mean(estimates) == pytest.approx(20, rel=0.15)
    assert 8 < min(estimates) < max(estimates) < 40


@pytest.mark.parametrize("weight", [0.2, 0.3, 0.5])
def test_correlation_is_found_where_it_is(weight: float) -> None:
    noise = spread(white((1, 256, 256), 20), weight)
    expected = 2 * weight / (1 + 2 * weight**2)
    measured = autocorrelation(noise)
    assert measured[0][1] == pytest.approx(expected, abs=0.03)
    assert measured[0][2] == pytest.approx(weight**2 / (1 + 2 * weight**2), abs=0.03)
    # Subtracting the surface also removes some of the correlation.
    for estimate in estimate_correlation(noise):
        assert CORRELATION_THRESHOLD < estimate < expected + 0.02


def test_correlation_tells_the_direction() -> None:
    noise = white((1, 256, 256), 20)
    horizontal, vertical = estimate_correlation(noise + 0.5 * np.roll(noise, 1, axis=2))
    assert horizontal > 0.3
    assert abs(vertical) < 0.1


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
    assert len(noise["sigma_by_channel"]) == 3
    assert noise["signal_dependent"] is False
    residual = json.loads(json.dumps(measure_residual(noisy, photograph("chelsea")).to_json()))
    assert [len(row) for row in residual["autocorrelation"]] == [4] * 4
    assert set(residual) == {"mean", "standard_deviation", "sigma", "autocorrelation", "correlated"}


def test_noise_of_photons_is_said_to_be_stronger_where_it_is_brighter() -> None:
    clean = photograph("camera") ** 2
    noisy = np.random.default_rng(0).poisson(60 * clean) / 60
    noise = measure_noise(noisy)
    assert noise.to_json()["signal_dependent"]
    assert noise.text == f"noise of about {noise.sigma:.1f} grey levels, stronger where it is brighter"
    assert not measure_residual(noisy, clean).noise.signal_dependent
    assert measure_noise(clean + white(clean.shape, 20)).text.endswith("grey levels")


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
    assert np.isfinite([noise.horizontal, noise.vertical]).all()


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
