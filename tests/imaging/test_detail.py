"""Test that `restore_detail` returns lost detail to a result, and almost none of the noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from self2self.imaging import detail
from self2self.imaging.detail import SQUARE_SIDE, restore_detail
from self2self.imaging.noise import measure_noise

FloatArray = np.ndarray
HEIGHT, WIDTH = 136, 120
LATTICE = slice(48, 72)


def white(shape: tuple[int, ...], sigma: float | FloatArray, seed: int = 0) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal(shape) * sigma / 255).astype(np.float32)


def restored(result: FloatArray, noisy: FloatArray) -> FloatArray:
    changed = result.copy()
    restore_detail(changed, noisy)
    return changed


def rms(values: FloatArray) -> float:
    """In 8-bit grey levels."""
    return 255 * float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def with_lattice(channels: int, strength: float = 12) -> tuple[FloatArray, FloatArray]:
    """Make a smooth image, and the same image with a lattice of single pixels over some columns.

    The lattice is `strength` grey levels high. The brightness grows along its columns, so that each brightness also
    occurs in calm squares; otherwise the lattice could be noise.
    """
    levels = np.linspace(0.3, 0.6, HEIGHT, dtype=np.float32)[:, None]
    smooth = np.broadcast_to(levels, (channels, HEIGHT, WIDTH)).copy()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    detailed = smooth.copy()
    detailed[..., LATTICE] += (strength / 255 * (-1.0) ** (rows + columns))[:, LATTICE]
    return smooth, detailed


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_a_lattice_that_was_lost_comes_back_where_it_was(channels: int, sigma: float) -> None:
    smooth, detailed = with_lattice(channels)
    noisy = detailed + white(detailed.shape, sigma)
    result = restored(smooth, noisy)
    inside, outside = (..., slice(52, 68)), (..., slice(96, None))
    assert rms((result - detailed)[inside]) < 0.35 * rms((smooth - detailed)[inside])
    # These columns are farther away than a Gaussian of three pixels reaches.
    assert rms((result - smooth)[outside]) < 0.05 * sigma


@pytest.mark.parametrize("channels", [1, 3])
def test_a_share_comes_back_of_a_lattice_as_weak_as_the_noise(channels: int) -> None:
    """If the energy is twice that of the noise, a Wiener filter keeps half, less the margin."""
    smooth, detailed = with_lattice(channels, strength=4)
    result = restored(smooth, detailed + white(detailed.shape, 4))
    inside = (..., slice(52, 68))
    lattice = detailed - smooth
    share = float(np.sum((result - smooth)[inside] * lattice[inside]) / np.sum(np.square(lattice[inside])))
    assert 0.25 < share < 0.5


@settings(max_examples=40)
@given(
    height=st.integers(64, 200),
    width=st.integers(64, 200),
    channels=st.sampled_from([1, 3]),
    sigma=st.sampled_from([0.5, 2.0, 10.0, 40.0]),
    seed=st.integers(0, 1000),
)
def test_white_noise_stays_away(height: int, width: int, channels: int, sigma: float, seed: int) -> None:
    clean = np.full((channels, height, width), 0.5, np.float32)
    noisy = clean + white(clean.shape, sigma, seed)
    assert rms(restored(clean, noisy) - clean) < 0.1 * sigma


def noise_of(kind: str, clean: FloatArray) -> FloatArray:
    rng = np.random.default_rng(1)
    if kind.startswith("photons"):
        return (rng.poisson(clean * 60) / 60).astype(np.float32)
    if kind == "stronger from left to right":
        return clean + white(clean.shape, np.linspace(2, 12, clean.shape[-1]))
    if kind == "stronger in a corner":
        deviations = np.full(clean.shape[-2:], 2.0)
        deviations[100:, 90:] = 12
        return clean + white(clean.shape, deviations)
    if kind == "single photons":
        return (rng.poisson(clean * 0.5) / 2).astype(np.float32)
    if kind == "little stronger on spots":
        return clean + white(clean.shape, np.where(clean > 0.4, 4.1, 3))
    if kind == "impulses":
        hit = rng.random(clean.shape) < 0.05
        return np.where(hit, rng.random(clean.shape), clean + white(clean.shape, 3)).astype(np.float32)
    if kind == "shared by neighbours":
        coarse = gaussian_filter(white(clean.shape, 30), (0, 1, 1))
        return clean + coarse
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "photons",
        "photons of spots",
        "single photons",
        "little stronger on spots",
        "stronger from left to right",
        "stronger in a corner",
        "impulses",
        "shared by neighbours",
    ],
)
def test_other_noise_stays_away(kind: str) -> None:
    """The image grows brighter from row to row, or has spots in the dark, so that signal-dependent noise varies."""
    levels = np.linspace(0.1, 0.8, 256, dtype=np.float32)[:, None]
    clean = np.broadcast_to(levels, (1, 256, 192)).copy()
    if "spots" in kind:
        rows, columns = np.mgrid[:256, :192]
        clean[:] = 0.05 + 0.7 * ((rows % 64 < 24) & (columns % 64 < 24))
    noise = np.clip(noise_of(kind, clean), 0, 1) - clean
    back = restored(clean, clean + noise) - clean
    assert rms(noise) > 3
    if kind in ("photons", "photons of spots", "single photons", "impulses", "shared by neighbours"):
        assert not back.any()
    assert rms(back) < 0.03 * rms(noise)
    blocks = (np.square(values).reshape(16, 16, 12, 16).mean((1, 3)) for values in (back, noise))
    assert np.sqrt(np.divide(*blocks)).max() < 0.15


def test_texture_of_bright_parts_comes_back_where_noise_is_known_to_be_even() -> None:
    """Such texture makes noise look as if it depended on the signal."""
    rows, columns = np.mgrid[:256, :192]
    smooth = (0.1 + 0.6 * (columns % 64 >= 40))[None].astype(np.float32)
    lattice = (8 / 255 * (-1.0) ** (rows + columns) * (smooth > 0.5)).astype(np.float32)
    lost = (rows % 128 < 48) & (columns >= 64) & (columns < 128)
    clean, result = smooth + lattice, smooth + lattice * ~lost
    noisy = clean + white(clean.shape, 1)
    assert measure_noise(noisy).signal_dependent
    np.testing.assert_array_equal(restored(result, noisy), result)
    changed = result.copy()
    restore_detail(changed, noisy, even_noise=True)
    assert rms(changed - clean) < 0.4 * rms(result - clean)


def test_a_hot_pixel_stays_removed() -> None:
    clean = np.full((3, 96, 96), 0.2, np.float32)
    noisy = clean + white(clean.shape, 2)
    noisy[:, 40, 50] = 1
    result = restored(clean, noisy)
    assert np.abs(result - clean)[:, 40, 50].max() * 255 < 4


def test_a_result_that_lacks_nothing_stays() -> None:
    image = np.random.default_rng(0).random((3, 70, 90), dtype=np.float32)
    np.testing.assert_array_equal(restored(image, image), image)


@pytest.mark.parametrize("sigma", [0, 2])
def test_what_is_too_light_everywhere_is_no_detail(sigma: float) -> None:
    clean = np.full((3, 96, 96), 0.5, np.float32)
    too_light = clean + np.float32(5 / 255)
    assert rms(restored(too_light, clean + white(clean.shape, sigma)) - too_light) < 0.1 * sigma + 1e-6


@pytest.mark.parametrize("size", [(1, 1), (SQUARE_SIDE - 1, 100), (SQUARE_SIDE, SQUARE_SIDE), (9, 33)])
def test_small_images(size: tuple[int, int]) -> None:
    clean = np.full((1, *size), 0.5, np.float32)
    result = restored(clean, clean + white(clean.shape, 5))
    assert np.isfinite(result).all()
    if min(size) < SQUARE_SIDE:
        np.testing.assert_array_equal(result, clean)


def test_results_stay_in_the_range_and_stars_as_they_are() -> None:
    smooth, detailed = with_lattice(1)
    result, noisy = smooth + 0.65, detailed + 0.65 + white(detailed.shape, 1)
    result[result > 1] = 1
    result[0, 10, 60], noisy[0, 10, 60] = 20, 20
    result[0, 20, 60], noisy[0, 20, 60] = -3, -3
    changed = restored(result, noisy)
    assert (changed[0, 10, 60], changed[0, 20, 60]) == (20, -3)
    others = np.delete(changed.ravel(), [10 * WIDTH + 60, 20 * WIDTH + 60])
    assert others.min() >= 0
    assert others.max() == 1


def test_it_does_not_depend_on_how_many_lines_are_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth, detailed = with_lattice(3)
    noisy = detailed + white(detailed.shape, 2)
    at_once = restored(smooth, noisy)
    monkeypatch.setattr(detail, "LINES_PER_STRIP", 16)
    np.testing.assert_allclose(restored(smooth, noisy), at_once, atol=1e-6)


def test_the_noise_is_that_of_calm_squares_as_bright_or_near() -> None:
    """Both estimates equal a plain formulation, one square at a time."""
    rng = np.random.default_rng(3)
    variances, brightness = rng.random((1, 9, 12), dtype=np.float32), rng.random((1, 9, 12), dtype=np.float32)
    padded = np.pad(variances[0], 3, mode="symmetric")
    around = np.array([[np.sort(padded[i : i + 7, j : j + 7], axis=None)[12] for j in range(12)] for i in range(9)])
    rows, columns = np.arange(9), np.arange(12)
    corners = [
        around[np.clip(rows + down, 0, 8)][:, np.clip(columns + right, 0, 11)] for down in (-3, 3) for right in (-3, 3)
    ]
    near = np.max([around, *corners], axis=0)
    np.testing.assert_allclose(detail._noise_nearby(variances)[0], near / 0.86, rtol=1e-6)
    order = np.argsort(brightness, axis=None)
    groups = np.array_split(order, 6)
    calm = [np.quantile(variances.ravel()[group], 0.25) for group in groups]
    at = [brightness.ravel()[group].mean() for group in groups]
    expected = np.interp(brightness[0], at, calm) / 0.86
    np.testing.assert_allclose(detail._noise_by_brightness(variances, brightness)[0], expected, rtol=1e-5)


def test_missing_pixels_are_no_calm_part() -> None:
    """Where half of an image is filled without noise, the other half gets no noise back as if it were detail."""
    noise = np.random.default_rng(0).normal(0, 4 / 255, (1, 128, 128)).astype(np.float32)
    missing = np.zeros((128, 128), bool)
    missing[:, 64:] = True
    noisy = np.float32(0.5) + np.where(missing, np.float32(0), noise)
    with_map = np.full_like(noisy, 0.5)
    without_map = with_map.copy()
    restore_detail(with_map, noisy, missing=missing)
    restore_detail(without_map, noisy)
    measured = np.s_[0, :, :64]
    assert with_map[measured].std() < 0.4 / 255
    assert with_map[measured].std() < without_map[measured].std()
