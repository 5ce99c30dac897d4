import numpy as np
import pytest

from self2self.train.synthetic_noise import (
    NOISES,
    add_noise,
    as_jpeg,
    blended,
    demosaiced,
    smoothed_colour,
    tone_profile,
)

TOLERANCES = {"impulse": 0.35, "camera": 0.35}
"""Relative tolerances of sigma; the default is 0.1. JPEG removes some of the noise."""


@pytest.mark.parametrize("kind", NOISES)
def test_standard_deviation_at_mid_grey_is_sigma(kind: str) -> None:
    clean = np.full((3, 256, 256), 0.5, np.float32)
    noisy = add_noise(clean, kind, 20, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert noisy.shape == clean.shape
    assert 255 * float((noisy - clean).std()) == pytest.approx(20, rel=TOLERANCES.get(kind, 0.1))
    assert abs(float((noisy - clean).mean())) < 0.005


@pytest.mark.parametrize("kind", NOISES)
def test_result_is_an_8_bit_image_and_reproducible(kind: str) -> None:
    clean = np.random.default_rng(1).random((1, 16, 16), np.float32)
    noisy = add_noise(clean, kind, 60, np.random.default_rng(2))
    levels = noisy * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-4
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert np.array_equal(noisy, add_noise(clean, kind, 60, np.random.default_rng(2)))


def test_only_interpolated_noise_is_correlated() -> None:
    clean = np.full((1, 256, 256), 0.5, np.float32)

    def neighbours(kind: str) -> float:
        residual = (add_noise(clean, kind, 20, np.random.default_rng(0)) - clean)[0]
        return float(np.corrcoef(residual[:, 1:].ravel(), residual[:, :-1].ravel())[0, 1])

    correlated = {"correlated", "camera"}
    assert all(neighbours(kind) > 0.15 for kind in correlated)
    assert all(abs(neighbours(kind)) < 0.02 for kind in NOISES.keys() - correlated)


@pytest.mark.parametrize("seed", range(4))
def test_interpolation_keeps_a_bayer_pattern_and_takes_means_of_the_nearest(seed: int) -> None:
    noise = np.random.default_rng(9).standard_normal((3, 8, 10), np.float32)
    result = demosaiced(noise, np.random.default_rng(seed))
    kept = result == noise
    assert [int(plane.sum()) for plane in kept] == [20, 40, 20]
    # Every pixel has one colour, and the pattern repeats after two rows and columns.
    assert (kept.sum(0) == 1).all()
    assert (kept == np.roll(kept, (2, 2), (1, 2))).all()
    for colour, row, column in np.ndindex(noise.shape):
        around = np.ix_(np.arange(row - 1, row + 2) % 8, np.arange(column - 1, column + 2) % 10)
        known = noise[colour][around][kept[colour][around]]
        if not kept[colour, row, column]:
            assert result[colour, row, column] == pytest.approx(known.mean(), abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_two_noises_blend_by_their_variance(share: float) -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 3, 128, 128), np.float32) * np.float32(7)
    noise = blended(first, 3 * second, share)
    assert float(noise.var()) == pytest.approx(1, abs=0.02)
    assert float(np.corrcoef(noise.ravel(), second.ravel())[0, 1]) ** 2 == pytest.approx(share, abs=0.02)


def test_colour_noise_is_smooth_up_to_blotches() -> None:
    colour = np.random.default_rng(0).standard_normal((3, 128, 128), np.float32)

    def at_distance(noise: np.ndarray, pixels: int) -> float:
        return float(np.corrcoef(noise[..., pixels:].ravel(), noise[..., :-pixels].ravel())[0, 1])

    smoothed = [smoothed_colour(colour, np.random.default_rng(seed)) for seed in range(40)]
    near, far = ([at_distance(noise, pixels) for noise in smoothed] for pixels in (1, 5))
    assert min(near) < 0.3, "some noise stays as fine as it was"
    assert max(near) > 0.85
    assert max(far) > 0.3


def test_the_level_depends_on_the_brightness_as_behind_a_tone_curve() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)
    profiles = [tone_profile(values, np.random.default_rng(seed)) for seed in range(60)]
    for profile in profiles:
        assert profile.dtype == np.float32
        assert profile[50] == pytest.approx(1, abs=1e-5), "sigma is that of mid-grey"
        assert (profile >= 0).all()
        assert profile.max() < 4
    strongest = [int(profile.argmax()) for profile in profiles]
    assert {0, 100} <= set(strongest), "photon and read noise"
    between = [index for index in strongest if 0 < index < 100]
    assert len(between) > 15
    assert all(15 <= index <= 60 for index in between)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [80, 95])
def test_jpeg_keeps_form_and_colours(channels: int, quality: int) -> None:
    ramp = np.linspace(0, 1, 48, dtype=np.float32)
    pixels = np.stack([np.add.outer(ramp, ramp[:40] * shade) / 2 for shade in (1.0, 0.5, 0.2)[:channels]])
    stored = as_jpeg(pixels, quality)
    assert stored.shape == pixels.shape
    assert stored.dtype == np.float32
    assert np.abs(stored - pixels).max() < 0.04


@pytest.mark.parametrize(("quality", "default"), [(85, True), (95, False)])
def test_colours_may_have_half_the_resolution(quality: int, default: bool) -> None:
    checks = np.indices((48, 48)).sum(0) % 2
    colour = np.stack([0.3 + 0.4 * checks, np.full(checks.shape, 0.5), 0.7 - 0.4 * checks])
    contrasts = {halves: float(np.ptp(as_jpeg(colour, quality, halves)[0, 8:-8, 8:-8])) for halves in (True, False)}
    assert contrasts[True] < 0.3 < contrasts[False]
    assert np.array_equal(as_jpeg(colour, quality), as_jpeg(colour, quality, default))
