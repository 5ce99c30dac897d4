"""Noise for the start weights."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

GREY_LEVELS = 255
CLEAN = np.random.default_rng(0).random((3, 64, 64), np.float32)
FLAT = np.full((3, 128, 128), 0.5, np.float32)


@pytest.fixture
def noise(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("prefit_noise")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_shares_add_up_to_one_and_name_kinds(noise: ModuleType) -> None:
    for shares in (noise.KIND_SHARES, noise.GREY_KIND_SHARES):
        assert sum(shares.values()) == pytest.approx(1)
        assert set(shares) - {noise.GREY, noise.DEVELOPED} <= set(noise.KINDS)


def test_pairs_of_every_kind_are_reproducible_images(noise: ModuleType) -> None:
    for kind in noise.KIND_SHARES:
        for seed in range(10):
            clean, noisy = noise.noisy_pair(CLEAN, kind, np.random.default_rng(seed))
            assert (clean.shape, noisy.shape) == (CLEAN.shape, CLEAN.shape)
            assert (clean.dtype, noisy.dtype) == (np.float32, np.float32)
            assert np.isfinite(noisy).all()
            assert np.array_equal([clean, noisy], noise.noisy_pair(CLEAN, kind, np.random.default_rng(seed)))


def test_some_crops_are_cut_off_and_most_have_8_bits(noise: ModuleType) -> None:
    cut = eight_bits = 0
    for seed in range(300):
        clean, noisy = noise.noisy_pair(CLEAN, "gaussian", np.random.default_rng(seed))
        cut += bool(np.mean((clean == 0) | (clean == 1)) > 0.01)
        levels = noisy.astype(np.float64) * GREY_LEVELS
        eight_bits += bool(np.abs(levels - np.round(levels)).max() < 1e-4)
    assert 15 < cut < 50
    assert 200 < eight_bits < 260


def test_the_clean_version_of_developed_noise_is_the_mean_of_the_noisy_ones(noise: ModuleType) -> None:
    """Behind a tone curve the mean is darker than the scene, so the clean version differs from what was there."""
    shade = np.full((3, 96, 96), 0.3, np.float32)
    pairs = [noise.developed(shade, 30.0, np.random.default_rng(seed)) for seed in range(60)]
    darkened = 0.3 - np.mean([pair.clean.mean() for pair in pairs])
    assert darkened > 0.01
    assert abs(np.mean([pair.noisy.mean() - pair.clean.mean() for pair in pairs])) < 0.25 * darkened


def test_developed_noise_has_the_level_that_is_asked_for_at_mid_grey(noise: ModuleType) -> None:
    deviations = [np.std(np.subtract(*noise.developed(FLAT, 20.0, np.random.default_rng(seed)))) for seed in range(40)]
    assert GREY_LEVELS * np.mean(deviations) == pytest.approx(20, rel=0.25)


def test_levels_go_down_to_none(noise: ModuleType) -> None:
    rng = np.random.default_rng(0)
    sigmas = np.array([noise.draw_sigma(70.0, rng) for _ in range(10_000)])
    assert sigmas.max() == pytest.approx(70, abs=1)
    assert np.mean(sigmas == 0) == pytest.approx(0.02, abs=0.005)
    # 70 u^2 is below 7 with a probability of sqrt(0.1), and 70 (u v)^2 with sqrt(0.1) (1 - ln sqrt(0.1)).
    root = np.sqrt(0.1)
    below = 0.02 + 0.98 * (0.7 * root + 0.3 * root * (1 - np.log(root)))
    assert np.mean(sigmas < 7) == pytest.approx(below, abs=0.02)


@pytest.mark.parametrize("kind", ["shared", "camera file"])
def test_standard_deviation_at_mid_grey_is_sigma(noise: ModuleType, kind: str) -> None:
    """On average: JPEG and unequal channels change it."""
    deviations = [(noise.KINDS[kind](FLAT, 20.0, np.random.default_rng(seed)) - FLAT).std() for seed in range(40)]
    assert GREY_LEVELS * np.mean(deviations) == pytest.approx(20, rel=0.2)


def test_channels_share_their_noise_up_to_a_factor(noise: ModuleType) -> None:
    unequal = 0
    for seed in range(40):
        taken = noise.KINDS["shared"](FLAT, 20.0, np.random.default_rng(seed)) - FLAT
        assert correlation(taken[0], taken[1]) == pytest.approx(1, abs=1e-4)
        unequal += not np.allclose(taken[0], taken[1], atol=1e-5)
    assert 5 < unequal < 20


def test_channels_of_grey_images_are_equal_up_to_brightness_and_contrast(noise: ModuleType) -> None:
    equal = 0
    for seed in range(60):
        clean, noisy = noise.noisy_pair(CLEAN, noise.GREY, np.random.default_rng(seed))
        assert correlation(clean[0], clean[2]) == pytest.approx(1, abs=1e-4)
        equal += bool(np.allclose(clean[0], clean[2], atol=1e-6) and np.allclose(noisy[0], noisy[2], atol=1e-6))
    assert 35 < equal < 60


def test_clean_and_noisy_are_cut_off_at_the_same_values(noise: ModuleType) -> None:
    noisy = CLEAN + np.random.default_rng(1).normal(0, 0.1, CLEAN.shape).astype(np.float32)
    pair = noise.cut_off(noise.Pair(CLEAN, noisy), np.random.default_rng(2))
    inside = [(pixels > 0) & (pixels < 1) for pixels in pair]
    gain = np.diff(pair.clean[inside[0]][:2])[0] / np.diff(CLEAN[inside[0]][:2])[0]
    assert 1 <= gain <= 1 / 0.4
    both = inside[0] & inside[1]
    assert 0.3 < both.mean() < 1
    np.testing.assert_allclose((pair.noisy - pair.clean)[both], gain * (noisy - CLEAN)[both], atol=1e-5)


def test_a_part_of_a_jpeg_file_lies_anywhere_in_its_blocks(noise: ModuleType) -> None:
    """At the lowest quality the edges of blocks are visible: where they are differs from crop to crop."""
    phases = set()
    for seed in range(12):
        part = noise.as_jpeg_part(CLEAN, 1, False, np.random.default_rng(seed)).mean(0)
        steps = np.abs(np.diff(part, axis=1)).mean(0)
        phases.add(int(np.argmax([steps[phase::8].mean() for phase in range(8)])))
    assert len(phases) > 3


def test_colours_of_half_the_resolution_lose_fine_colour_alone(noise: ModuleType) -> None:
    y, x = np.mgrid[:64, :64]
    checks = ((x + y) % 2).astype(np.float32)
    colour = np.stack([0.3 + 0.4 * checks, np.full_like(checks, 0.5), 0.7 - 0.4 * checks])
    grey = np.stack([0.3 + 0.4 * checks] * 3)

    def contrast(pixels: np.ndarray, halves: bool) -> float:
        return float(noise.as_jpeg_part(pixels, 97, halves, np.random.default_rng(0))[0].std() / pixels[0].std())

    assert contrast(colour, True) < 0.6 < 0.9 < contrast(colour, False)
    assert contrast(grey, True) > 0.9
