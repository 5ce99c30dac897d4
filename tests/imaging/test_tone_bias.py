"""Test that the brightness of noisy photographs is corrected where noise has passed a tone curve, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from self2self.imaging.tone_bias import ToneBias

FloatArray = np.ndarray


def corrected(
    noisy: FloatArray, prediction: FloatArray, lines: int | None = None, missing: np.ndarray | None = None
) -> FloatArray:
    """Return the prediction, corrected; both images are added `lines` lines at a time, last first."""
    bias = ToneBias(noisy.shape, missing)
    step = lines or noisy.shape[1]
    for top in reversed(range(0, noisy.shape[1], step)):
        bias.see(top, noisy[:, top : top + step], prediction[:, top : top + step])
    result = prediction.copy()
    bias.restore(result)
    return result


def scene() -> FloatArray:
    """A photograph in stored values, float64 (3, 128, 128) in [0, 1]."""
    return np.moveaxis(data.coffee()[100:228, 200:328], 2, 0) / 255


def of_linear_light(clean: FloatArray, level: float, seed: int) -> FloatArray:
    """`clean` with noise in linear light, stored by the tone curve of sRGB, which is no square root."""
    linear = np.where(clean <= 0.04045, clean / 12.92, ((clean + 0.055) / 1.055) ** 2.4)
    noise = np.random.default_rng(seed).normal(size=clean.shape) * np.sqrt(level * linear + level**2)
    noisy = np.clip(linear + noise, 0, 1)
    return np.where(noisy <= 0.0031308, 12.92 * noisy, 1.055 * np.maximum(noisy, 1e-9) ** (1 / 2.4) - 0.055)


def stored(clean: FloatArray, level: float, seed: int) -> FloatArray:
    """`clean` with noise that was added to stored values and cut off."""
    return np.clip(clean + np.random.default_rng(seed).normal(size=clean.shape) * level, 0, 1)


def photons(clean: FloatArray, level: float, seed: int) -> FloatArray:
    """`clean` as photons that were counted, stored without tone curve."""
    peak = 1 / level**2 / 4
    return np.clip(np.random.default_rng(seed).poisson(clean * peak) / peak, 0, 1)


def mean_of_shots(noise: object, clean: FloatArray, level: float) -> FloatArray:
    """What a network that predicts means of noisy values would predict."""
    return np.mean([noise(clean, level, seed) for seed in range(100, 150)], axis=0)  # type: ignore[operator]


@pytest.mark.parametrize("level", [0.02, 0.04, 0.06])
def test_noise_of_linear_light_darkens_no_longer(level: float) -> None:
    """Where noise is not cut off, most of the error goes."""
    clean = scene()
    prediction = mean_of_shots(of_linear_light, clean, level)
    result = corrected(np.float32(of_linear_light(clean, level, 0)), np.float32(prediction))
    lit = clean > 0.35
    before, after = np.mean((prediction - clean)[lit]), np.mean((result - clean)[lit])
    assert before < 0
    assert abs(after) < 0.5 * abs(before)
    assert np.mean((result - clean)[lit] ** 2) < 0.75 * np.mean((prediction - clean)[lit] ** 2)


def test_a_note_tells_what_was_added() -> None:
    clean = scene()
    for noise, expected in ((of_linear_light, "darkened"), (stored, "")):
        bias, prediction = ToneBias(clean.shape), np.float32(clean)
        bias.see(0, np.float32(noise(clean, 0.06, 0)), prediction)
        assert not bias.note
        bias.restore(prediction)
        assert expected in bias.note if expected else not bias.note


def test_near_black_nothing_is_added() -> None:
    clean = scene() * 0.05
    noisy = np.float32(of_linear_light(clean, 0.03, 0))
    prediction = np.float32(mean_of_shots(of_linear_light, clean, 0.03))
    np.testing.assert_array_equal(corrected(noisy, prediction), prediction)


@pytest.mark.parametrize("noise", [stored, photons])
@pytest.mark.parametrize("level", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_other_noise_is_left_alone(noise: object, level: float) -> None:
    clean = scene()
    if not level:
        image = np.float32(clean)
        np.testing.assert_array_equal(corrected(image, image), image)
        return
    noisy = np.float32(noise(clean, level, 0))  # type: ignore[operator]
    for prediction in (np.float32(clean), np.float32(mean_of_shots(noise, clean, level))):
        np.testing.assert_array_equal(corrected(noisy, prediction), prediction)


@settings(max_examples=20)
@given(lines=st.integers(1, 140), seed=st.integers(0, 3))
def test_lines_may_come_in_any_order_and_number(lines: int, seed: int) -> None:
    clean = scene()
    noisy, prediction = np.float32(of_linear_light(clean, 0.03, seed)), np.float32(clean)
    np.testing.assert_array_equal(corrected(noisy, prediction, lines), corrected(noisy, prediction))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (3, 8, 8), (4, 2, 70)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_small_and_even_images_do_not_change(shape: tuple[int, int, int], value: float) -> None:
    image = np.full(shape, value, np.float32)
    np.testing.assert_array_equal(corrected(image, image), image)


def test_values_outside_the_range_stay_and_others_stay_inside() -> None:
    clean = scene()
    prediction = np.float32(mean_of_shots(of_linear_light, clean, 0.06))
    prediction[:, :4], prediction[:, 4:8] = 1.5, -0.5
    result = corrected(np.float32(of_linear_light(clean, 0.06, 0)), prediction)
    np.testing.assert_array_equal(result[:, :8], prediction[:, :8])
    assert result[:, 8:].min() >= 0
    assert result[:, 8:].max() <= 1
    assert np.mean(result[:, 8:] > prediction[:, 8:]) > 0.9


def test_pixels_that_were_not_measured_neither_count_nor_change() -> None:
    clean = scene()
    noisy, prediction = np.float32(of_linear_light(clean, 0.03, 0)), np.float32(clean)
    missing = np.zeros(clean.shape[1:], bool)
    missing[:, 64:] = True
    spoilt, without = noisy.copy(), prediction.copy()
    spoilt[:, missing] = 1.0
    whole = corrected(spoilt, prediction, missing=missing)
    np.testing.assert_array_equal(whole[:, missing], without[:, missing])
    np.testing.assert_array_equal(whole[..., :64], corrected(noisy[..., :64], prediction[..., :64]))


def test_a_large_image_is_sampled() -> None:
    """The correction of an image repeated many times is that of the image, whichever lines are looked at."""
    clean = scene()
    noisy, prediction = np.float32(of_linear_light(clean, 0.03, 0)), np.float32(clean)
    tall = [np.tile(image, (1, 12, 12)) for image in (noisy, prediction)]
    np.testing.assert_allclose(corrected(*tall, 64)[:, :128, :128], corrected(noisy, prediction), atol=0.5 / 255)
