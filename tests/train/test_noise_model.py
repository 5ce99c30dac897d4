"""The model of an image's noise, fitted by what a network removes from the image."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from self2self.train.noise_model import BLOCK_SIDE, NoiseModel, noise_model


def scene(height: int, width: int, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 40
    return np.stack([0.5 + 0.25 * np.sin(x + c) * np.cos(y) for c in range(channels)]).astype(np.float32)


def coarse(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of standard deviation 1 that is strongly correlated between neighbours and between channels."""
    noise = gaussian_filter(rng.standard_normal(shape), (0, 1.0, 1.0), mode="wrap")
    noise += 0.7 * noise.mean(0, keepdims=True)
    return noise / noise.std()


def shrink(pixels: np.ndarray, trial: int) -> np.ndarray:
    """A denoiser that mistakes coarse noise for the image: it keeps what a blur keeps, and a tenth of the rest."""
    smooth = gaussian_filter(pixels, (0, 2.5, 2.5))
    return (smooth + 0.1 * (pixels - smooth)).astype(np.float32)


def band_powers(noise: np.ndarray) -> np.ndarray:
    """Mean periodogram in four rings of frequencies; it omits the lowest, which no block can tell from a slope."""
    power = np.square(np.abs(np.fft.fft2(noise))).mean(0) / noise[0].size
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, noise.shape[1:]), indexing="ij"))
    edges = (0.06, 0.1, 0.15, 0.22, 0.32)
    return np.array([power[(frequency >= a) & (frequency < b)].mean() for a, b in pairwise(edges)])


def test_simulated_noise_has_spectrum_strength_and_colours_of_the_model() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    frequency = np.fft.fftfreq(8)
    shape = 1 / (1 + 20 * np.add.outer(frequency**2, frequency**2))
    spectrum = np.stack([4 * shape, shape, 0 * shape])
    brightness = np.tile([0.2, 0.8], (3, 1))
    deviation = np.tile([0.01, 0.03], (3, 1))
    model = NoiseModel(axes, spectrum, brightness, deviation)
    image = np.full((3, 96, 96), 0.2, np.float32)
    image[:, :, 48:] = 0.8
    drawn = np.stack([model.simulate(image, rng) - image for _ in range(60)])
    dark, bright = drawn[..., :48].std(), drawn[..., 48:].std()
    assert bright / dark == pytest.approx(3, rel=0.05)
    along = np.einsum("ab,naij->nbij", axes, drawn[..., :48] / 0.01)
    # Parseval: the mean of the spectrum is the variance.
    assert np.square(along).mean((0, 2, 3)) == pytest.approx(spectrum.mean((1, 2)), rel=0.05, abs=1e-3)
    neighbours = (along[:, 0, :, :-1] * along[:, 0, :, 1:]).mean() / np.square(along[:, 0]).mean()
    lag = np.fft.ifft2(shape).real
    assert neighbours == pytest.approx(lag[0, 1] / lag[0, 0], abs=0.03)


def test_noise_that_the_network_leaves_is_in_the_model() -> None:
    rng = np.random.default_rng(1)
    clean = scene(192, 192)
    true = 0.03 * coarse(clean.shape, rng)
    noisy = (clean + true).astype(np.float32)
    first = shrink(noisy, 0)
    model = noise_model([noisy], [first], shrink, seed=3)
    again = model.simulate(np.full_like(clean, 0.5), np.random.default_rng(2)) - 0.5
    removed = np.abs(np.log(band_powers(noisy - first) / band_powers(true)))
    off = np.abs(np.log(band_powers(again) / band_powers(true)))
    assert removed.max() > np.log(3), "or there would be nothing to find"
    assert off.max() < np.log(1.8)
    assert (off < removed / 2).all()
    corner = np.corrcoef(true.reshape(3, -1))
    assert np.corrcoef(again.reshape(3, -1)) == pytest.approx(corner, abs=0.15)


def test_strength_follows_the_brightness() -> None:
    rng = np.random.default_rng(4)
    clean = scene(160, 160)
    strength = 0.01 + 0.05 * clean
    noisy = (clean + strength * coarse(clean.shape, rng)).astype(np.float32)
    model = noise_model([noisy], [shrink(noisy, 0)], shrink, seed=0)
    flat = [np.full((3, 128, 128), level, np.float32) for level in (0.35, 0.65)]
    dark, bright = (float((model.simulate(image, rng) - image).std()) for image in flat)
    assert bright / dark == pytest.approx((0.01 + 0.05 * 0.65) / (0.01 + 0.05 * 0.35), rel=0.2)


def test_where_nothing_is_removed_nothing_is_simulated() -> None:
    image = scene(64, 64)
    model = noise_model([image], [image], lambda pixels, trial: pixels, seed=0)
    assert np.array_equal(model.simulate(image, np.random.default_rng(0)), image)


def test_the_ends_of_the_range_do_not_hide_the_noise() -> None:
    """Half of the image is cut off and has no noise left; the model comes from the other half."""
    rng = np.random.default_rng(5)
    clean = scene(192, 192)
    clean[:, :, 96:] = 1.2
    true = 0.03 * coarse(clean.shape, rng)
    noisy = np.clip(clean + true, 0, 1).astype(np.float32)
    model = noise_model([noisy], [shrink(noisy, 0)], shrink, seed=0)
    again = model.simulate(np.full_like(clean, 0.5), rng) - 0.5
    assert np.abs(np.log(band_powers(again) / band_powers(true))).max() < np.log(2)


@settings(max_examples=25)
@given(
    height=st.integers(8, 80),
    width=st.integers(8, 80),
    channels=st.integers(1, 4),
    kind=st.sampled_from(["noise", "constant", "ends"]),
)
def test_any_size_gives_a_model_that_stays_in_the_range(height: int, width: int, channels: int, kind: str) -> None:
    rng = np.random.default_rng(height)
    image = {
        "noise": rng.random((channels, height, width)),
        "constant": np.full((channels, height, width), 0.5),
        "ends": (rng.random((channels, height, width)) < 0.5).astype(float),
    }[kind].astype(np.float32)
    model = noise_model([image], [shrink(image, 0)], shrink, seed=0)
    drawn = model.simulate(np.full((channels, BLOCK_SIDE, BLOCK_SIDE + 3), 0.5, np.float32), rng)
    assert drawn.shape == (channels, BLOCK_SIDE, BLOCK_SIDE + 3)
    assert drawn.dtype == np.float32
    assert np.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
