"""The noise that start weights find: its level, its kind, and how much of what they remove is noise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.transform import resize

from self2self.imaging.metrics import psnr
from self2self.imaging.noise import Noise, NoiseKind
from self2self.train.noise_assessment import TAKEN_SHARE, assess_noise, find_level, smooth_step
from self2self.train.prediction import PlainPredictor
from self2self.train.recipes import RECIPES
from self2self.train.start_weights import LARGEST_TOLD, pretrained_weights
from self2self.train.synthetic_noise import add_noise, as_jpeg

FloatArray = NDArray[np.float32]
FAST = RECIPES["fast"]


def photograph(name: str, channels: int = 3, size: int = 128) -> FloatArray:
    pixels = np.atleast_3d(getattr(data, name)())[100 : 100 + size, 150 : 150 + size, :channels]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255


def noise_of(noisy: FloatArray, sigma: float | None = None) -> Noise:
    return assess_noise(noisy, partial(pretrained_weights, len(noisy)), FAST, sigma)


def true_sigma(noisy: FloatArray, clean: FloatArray) -> float:
    return 255 * float(np.std(noisy - clean))


@pytest.mark.parametrize(("kind", "sigma"), [("gaussian", 5), ("gaussian", 40), ("poisson", 15)])
@pytest.mark.parametrize(("name", "channels"), [("coffee", 3), ("astronaut", 3), ("camera", 1)])
def test_independent_noise_is_found(name: str, channels: int, kind: str, sigma: float) -> None:
    clean = photograph(name, channels)
    noisy = add_noise(clean, kind, sigma, np.random.default_rng(0))
    noise = noise_of(noisy)
    assert noise.kind == NoiseKind.INDEPENDENT
    assert not noise.impulses
    assert noise.sigma == pytest.approx(true_sigma(noisy, clean), rel=0.2, abs=0.5)


@pytest.mark.parametrize(("name", "channels"), [("coffee", 3), ("astronaut", 3), ("camera", 1)])
def test_impulses_are_told_apart_from_what_is_left_without_them(name: str, channels: int) -> None:
    noisy = add_noise(photograph(name, channels), "impulse", 25, np.random.default_rng(0))
    noise = noise_of(noisy)
    assert noise.impulses
    assert noise.sigma < 10


def test_impulses_of_one_sign_are_a_kind_of_their_own_as_they_may_be_stars() -> None:
    sky = np.full((1, 128, 128), 0.2, np.float32) + np.random.default_rng(0).normal(0, 0.01, (1, 128, 128))
    sky[np.random.default_rng(1).random(sky.shape) < 0.01] = 0.9
    assert not noise_of(sky.astype(np.float32)).impulses


@pytest.mark.parametrize("sigma", [10, 25])
@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_noise_that_channels_share_is_found(name: str, sigma: float) -> None:
    rng = np.random.default_rng(0)
    colours = photograph(name)
    grey = np.repeat(colours.mean(0, keepdims=True), 3, 0)
    for clean in (grey, colours):
        noisy = np.clip(clean + rng.normal(0, sigma / 255, (1, 128, 128)), 0, 1).astype(np.float32)
        noise = noise_of(noisy)
        assert noise.kind == NoiseKind.SHARED
        assert noise.independent < 0.4 * noise.sigma
        assert noise.sigma == pytest.approx(true_sigma(noisy, clean), rel=0.2)
        assert noise.removed_share == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_of_a_camera_is_correlated(channels: int) -> None:
    clean = photograph("coffee", channels)
    noisy = add_noise(clean, "camera", 15, np.random.default_rng(0))
    noise = noise_of(noisy)
    assert noise.kind == NoiseKind.CORRELATED
    assert noise.removed_share == 1
    assert 0.7 < noise.sigma / true_sigma(noisy, clean) < 2.5


@pytest.mark.parametrize("sigma", [0, 1, 2.5])
@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_of_an_image_with_hardly_any_noise_little_is_removed(name: str, sigma: float) -> None:
    clean = photograph(name)
    noise = noise_of((clean + np.random.default_rng(0).normal(0, sigma / 255, clean.shape)).astype(np.float32))
    assert noise.removed_share < 0.25 + 0.2 * sigma


@pytest.mark.parametrize("name", ["gravel", "grass", "brick", "camera"])
@pytest.mark.parametrize("sigma", [12, 25])
def test_coarse_noise_is_not_mistaken_for_more_by_the_texture_beside_it(name: str, sigma: float) -> None:
    clean = photograph(name, 1, 192) * np.array([0.5, 0.42, 0.45], np.float32)[:, None, None]
    noise = gaussian_filter(np.random.default_rng(0).normal(size=clean.shape), (0, 0.9, 0.9))
    noisy = np.clip(clean + noise * sigma / 255 / noise.std(), 0, 1).astype(np.float32)
    found = noise_of(noisy)
    assert found.kind == NoiseKind.CORRELATED
    assert found.sigma == pytest.approx(true_sigma(noisy, clean), rel=0.35)
    told = PlainPredictor(pretrained_weights(3, found.told, single_pass=True), FAST.for_noise(found))
    assert true_sigma(told(noisy), clean) < 0.8 * true_sigma(noisy, clean)


def test_an_even_image_has_no_noise() -> None:
    for value in (0.0, 0.4, 1.0):
        noise = noise_of(np.full((3, 64, 64), value, np.float32))
        assert noise.independent == 0
        assert noise.sigma < 10


def test_hot_pixels_do_not_change_what_is_found() -> None:
    """Ten hot pixels in a dark image: they are removed for the fit and the passes, so they must not count here."""
    rng = np.random.default_rng(3)
    dark = (0.05 * photograph("camera", 1, 256) + rng.normal(0.1, 0.02, (1, 256, 256))).astype(np.float32)
    hot = dark.copy()
    hot[0, rng.integers(20, 236, 10), rng.integers(20, 236, 10)] = 40
    before, after = noise_of(dark), noise_of(hot)
    assert after.kind == before.kind
    assert after.sigma == pytest.approx(before.sigma, rel=0.02)
    assert after.removed_share == pytest.approx(before.removed_share, abs=0.02)


def test_a_known_level_is_taken_as_it_is() -> None:
    noisy = add_noise(photograph("coffee"), "gaussian", 5, np.random.default_rng(0))
    noise = noise_of(noisy, sigma=20)
    assert (noise.sigma, noise.kind) == (20, NoiseKind.INDEPENDENT)
    assert noise.removed_share > 0.95


def test_of_a_known_weak_level_no_more_is_removed_than_there_is() -> None:
    assert noise_of(photograph("coffee"), sigma=1).removed_share < 0.3


@pytest.mark.parametrize("sigma", [0.5, 5, 60])
def test_the_largest_level_that_agrees_is_found(sigma: float) -> None:
    """A network that removes all of the noise if it is told enough of it, and of texture a part of what it is told."""

    def removed(level: float) -> float:
        return float(np.hypot(min(level, sigma), 0.1 * level))

    level = find_level(removed)
    assert removed(level) == pytest.approx(TAKEN_SHARE * level, rel=0.1)
    assert all(removed(higher) < TAKEN_SHARE * higher for higher in np.linspace(1.1 * level, LARGEST_TOLD, 50))


def test_a_network_that_removes_everything_is_told_the_largest_level() -> None:
    assert find_level(lambda level: level) == LARGEST_TOLD


def test_a_smooth_step_rises_from_its_low_end_to_its_high_end() -> None:
    assert [smooth_step(value, 2, 4) for value in (-1, 2, 3, 4, 9)] == [0, 0, 0.5, 1, 1]
    rise = [smooth_step(value, 2, 4) for value in np.linspace(2, 4, 20)]
    assert rise == sorted(rise)


def what_is_left(noisy: FloatArray, noise: Noise) -> FloatArray:
    """The prediction of the start weights, as far as it is taken."""
    prediction = PlainPredictor(pretrained_weights(len(noisy), noise.told, single_pass=True), FAST)(noisy)
    return np.clip(noisy + noise.removed_share * (prediction - noisy), 0, 1)


@pytest.mark.parametrize("name", ["grass", "gravel"])
def test_texture_in_colours_stays(name: str) -> None:
    grey = resize(getattr(data, name)() / 255, (128, 128), anti_aliasing=True)
    grey = np.clip(0.5 + 0.22 * (grey - grey.mean()) / grey.std(), 0, 1)
    image = np.stack([0.1 + 0.8 * grey, 0.05 + 0.9 * grey**1.2, 0.7 * grey**1.5]).astype(np.float32)
    assert psnr(what_is_left(image, noise_of(image)), image) > 45
    noisy = image + np.random.default_rng(0).normal(0, 5 / 255, image.shape).astype(np.float32)
    assert psnr(what_is_left(noisy, noise_of(noisy)), image) > psnr(noisy, image)


@pytest.mark.parametrize("sigma", [0, 10])
def test_what_jpeg_changed_counts_as_noise(sigma: float) -> None:
    clean = photograph("astronaut", size=192)
    noisy = clean + np.random.default_rng(0).normal(0, sigma / 255, clean.shape)
    stored = as_jpeg(noisy, 60)
    noise = noise_of(stored)
    assert noise.removed_share == 1
    assert FAST.for_noise(noise).steps == 0, "a fit to simulated noise would end below the start weights"
    assert psnr(what_is_left(stored, noise), clean) > psnr(stored, clean) + 0.4
