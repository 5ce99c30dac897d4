"""Stored values of any type and range map their bulk to [0, 1], and every value returns unchanged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from self2self.image_io import read_image, write_image
from self2self.image_io.value_range import to_whole_range
from self2self.imaging.outliers import remove_hot_pixels
from tests.image_files import load, noise, round_trip, save

COMMON = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@COMMON
@given(
    dtype=st.sampled_from(["u1", "u2", "i1", "i2", "u4", "i4"]),
    size=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    channels=st.sampled_from([1, 3]),
    span=st.integers(0, 2**22 - 1),
    place=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_unchanged_integers_are_bit_identical(
    tmp_path: Path, dtype: str, size: tuple[int, int], channels: int, span: int, place: float, seed: int
) -> None:
    limits = np.iinfo(dtype)
    span = min(span, int(limits.max) - int(limits.min))
    low = int(limits.min) + int(place * (int(limits.max) - int(limits.min) - span))
    rng = np.random.default_rng(seed)
    samples = rng.integers(low, low + span, (*size, channels), dtype, endpoint=True)
    path = tmp_path / "in.tif"
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(path, samples.squeeze(2) if channels == 1 else samples, photometric=photometric)
    image = read_image(path)
    write_image(tmp_path / "out.tif", image.pixels, image, force=True)
    written = load(tmp_path / "out.tif")
    assert written.dtype == samples.dtype
    np.testing.assert_array_equal(written.reshape(samples.shape), samples)


@COMMON
@given(
    dtype=st.sampled_from(["f4", "f8"]),
    exponent=st.integers(-30, 30),
    offset=st.floats(-100, 100),
    hot=st.integers(0, 3),
    size=st.tuples(st.integers(8, 60), st.integers(8, 60)),
)
def test_floats_of_any_range(
    tmp_path: Path, dtype: str, exponent: int, offset: float, hot: int, size: tuple[int, int]
) -> None:
    bulk = 10.0**exponent
    rng = np.random.default_rng(1)
    samples = ((rng.random(size) + offset) * bulk).astype(dtype)
    spread = float(samples.max()) - float(samples.min())
    samples.flat[:hot] = 1e6 * bulk
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, samples, photometric="minisblack")
    image = read_image(path)
    usual = np.sort(image.pixels.ravel())[: samples.size - hot]
    if hot <= samples.size // 1000 + 1:
        assert usual.min() > -0.5
        assert usual.max() < 1.5
    write_image(tmp_path / "out.tif", image.pixels, image, force=True)
    written = load(tmp_path / "out.tif")
    assert written.dtype == samples.dtype
    coarse = np.finfo(np.float32).eps if dtype == "f4" else 0.0
    tolerance = 1e-6 * spread + (np.abs(samples).astype(float) + abs(offset) * bulk) * coarse
    tolerance = tolerance + np.where(samples == samples.max(), 1e-6 * 1e6 * bulk if hot else 0, 0)
    assert (np.abs(written.astype(float) - samples.astype(float)) <= tolerance).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 3e38, 1e-40])
def test_constant_float(tmp_path: Path, value: float) -> None:
    path = tmp_path / "in.tif"
    samples = np.full((16, 16), value, np.float32)
    tifffile.imwrite(path, samples, photometric="minisblack")
    image = read_image(path)
    assert np.isfinite(image.pixels).all()
    assert set(image.pixels.ravel()) == {0.0}
    np.testing.assert_array_equal(load(round_trip(path)), samples)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("value", [0.0, 1e-6, -3.5])
def test_a_constant_image_stays_constant_whatever_is_predicted(tmp_path: Path, value: float, dtype: str) -> None:
    path = tmp_path / "in.tif"
    samples = np.full((16, 16), value, dtype)
    tifffile.imwrite(path, samples, photometric="minisblack")
    image = read_image(path)
    wrong = 0.4 * np.random.default_rng(0).random(image.pixels.shape, np.float32)
    write_image(tmp_path / "out.tif", wrong, image)
    np.testing.assert_array_equal(load(tmp_path / "out.tif"), samples)


def dark(channels: int = 1) -> np.ndarray:
    """A dark 16-bit image: photon counts of 0 to 60 with their noise, on an offset of 1000."""
    rng = np.random.default_rng(0)
    levels = np.broadcast_to(np.linspace(0, 60, 96)[:, None, None], (96, 128, channels))
    return (rng.poisson(levels) + 1000).astype(np.uint16)


def range_of(tmp_path: Path, samples: np.ndarray) -> tuple[float, float]:
    """The stored values that map to 0 and 1; also checks a round trip of `samples`, (H, W, C)."""
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "in.tif"
    tifffile.imwrite(path, samples.squeeze(), photometric="rgb" if samples.shape[2] == 3 else "minisblack")
    image = read_image(path)
    np.testing.assert_array_equal(load(round_trip(path)), samples.squeeze())
    return image.offset, image.offset + image.scale


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("what", ["hot pixels", "dead and hot pixels", "saturated"])
def test_hot_and_saturated_values_do_not_extend_the_range(tmp_path: Path, what: str, channels: int) -> None:
    samples = dark(channels)
    low, high = range_of(tmp_path, samples)
    spoilt = samples.copy()
    if what == "saturated":
        spoilt[40:48, 60:68] = 65535
    else:
        hot = np.random.default_rng(1).choice(samples.size, samples.size // 100, replace=False)
        spoilt.flat[hot] = np.random.default_rng(2).integers(3000, 65535, len(hot))
        if "dead" in what:
            spoilt.flat[hot[::2]] = 0
    first, last = range_of(tmp_path, spoilt)
    # The range is the bulk and headroom of half of it, on the sides that have values there.
    assert low - (high - low) < first <= low + 5
    assert high - 5 < last < high + 0.75 * (high - low)


def test_small_bright_spots_extend_the_range(tmp_path: Path) -> None:
    """Spots 3 pixels wide on a dark background are in the range; they have 1.2 % of the values."""
    samples = dark()
    rng = np.random.default_rng(1)
    for row, column in rng.integers(4, 90, (16, 2)):
        samples[row : row + 3, column : column + 3, 0] += rng.poisson(4000, (3, 3)).astype(np.uint16)
    assert range_of(tmp_path, samples)[1] > 4900


@pytest.mark.parametrize("photons", [0.01, 0.03, 0.1, 0.5, 3])
def test_single_photons_are_not_hot_pixels(tmp_path: Path, photons: float) -> None:
    samples = np.random.default_rng(0).poisson(photons, (96, 96, 1)).astype(np.uint16)
    low, high = range_of(tmp_path, samples)
    # Headroom is up to half of the bulk, and values of single photons may lie slightly beyond.
    assert (low, high) == (0, pytest.approx(samples.max(), rel=0.4))
    pixels = read_image(save(tmp_path / "in.png", samples.squeeze())).pixels
    assert remove_hot_pixels(pixels) is pixels


def test_sparse_float_keeps_its_few_values(tmp_path: Path) -> None:
    samples = np.zeros((64, 64), np.float32)
    samples[5, 5], samples[9, 9] = 1000.0, -3e30
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, samples, photometric="minisblack")
    np.testing.assert_allclose(load(round_trip(path))[9, 9], -3e30, rtol=1e-6)


def test_12_bit_data_in_16_bits_fill_the_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = rng.poisson(300, (64, 64)).astype(np.uint16)
    samples[0, 0] = 4095
    path = save(tmp_path / "in.png", samples)
    image = read_image(path)
    usual = np.sort(image.pixels.ravel())[:-1]
    assert (usual.min(), usual.max()) == (pytest.approx(0, abs=0.05), pytest.approx(0.9, abs=0.1))
    assert image.pixels.max() > 10
    np.testing.assert_array_equal(load(round_trip(path)), samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_that_use_the_range_of_their_type_have_all_values_in_the_range(tmp_path: Path, dtype: type) -> None:
    samples = noise((64, 64, 1), dtype)
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    samples[0, 0], samples[5, 5] = 0, white
    # The bulk lies at 40 to 60 % of the range, in the upper half of the image at 60 to 90 %.
    samples[1:] = (0.4 * white + 0.2 * samples[1:]).astype(dtype)
    samples[1:32] = (1.5 * samples[1:32].astype(float)).astype(dtype)
    tifffile.imwrite(tmp_path / "in.tif", samples.squeeze(2), photometric="minisblack")
    image = read_image(tmp_path / "in.tif")
    assert image.range == pytest.approx((samples.min(), samples.max()), rel=1e-6)
    assert (image.pixels.min(), image.pixels.max()) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_with_whole_range_white_is_one(tmp_path: Path, dtype: type) -> None:
    samples = noise((32, 32), dtype)
    samples[samples > 0.7 * samples.max()] = 0
    tifffile.imwrite(tmp_path / "in.tif", samples, photometric="minisblack")
    image = read_image(tmp_path / "in.tif", whole_range=True)
    assert image.range == (0, {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype])
    assert image.range == (0, image.white)


@COMMON
@given(
    dtype=st.sampled_from(["u1", "u2", "f4", "f8"]),
    low=st.floats(0, 0.9),
    high=st.floats(0, 1),
    size=st.tuples(st.integers(8, 90), st.integers(8, 90)),
)
def test_to_whole_range_equals_reading_with_whole_range(
    tmp_path: Path, dtype: str, low: float, high: float, size: tuple[int, int]
) -> None:
    white = {"u1": 255, "u2": 65535}.get(dtype, 1)
    values = white * (low + (max(low, high) - low) * np.random.default_rng(0).random(size))
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, values.astype(dtype), photometric="minisblack")
    own = read_image(path)
    before = own.pixels.copy()
    changed, expected = to_whole_range(own), read_image(path, whole_range=True)
    assert (changed.range, changed.white) == (expected.range, expected.white)
    if dtype.startswith("u"):
        np.testing.assert_array_equal(changed.pixels, expected.pixels)
    np.testing.assert_allclose(changed.pixels, expected.pixels, atol=2e-7)
    np.testing.assert_array_equal(own.pixels, before)


def test_bright_objects_in_a_dark_8_bit_image_are_in_the_range(tmp_path: Path) -> None:
    """The range includes a bright cell of 30 pixels, whose noise also has to be removed, but not a hot pixel."""
    rng = np.random.default_rng(0)
    samples = rng.normal(11, 1.5, (128, 128, 1))
    samples[60:65, 70:76] = rng.normal(180, 15, (5, 6, 1))
    cell = samples[60:65, 70:76].round().max()
    samples[20, 20] = 240
    low, high = range_of(tmp_path, samples.clip(0, 255).round().astype(np.uint8))
    assert low < 10
    assert high == cell


def test_few_bright_pixels_of_a_large_8_bit_image_extend_the_range(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(8, 13, (2100, 2100, 1), np.uint8)
    # The sample for the bulk has only every fifth value, so it misses most of these pixels.
    samples[1000:1002, 1006:1009] = [[[180], [190], [185]], [[170], [200], [175]]]
    samples[300, 302] = 255
    assert range_of(tmp_path, samples) == (8, 200)


def test_constant_8_bits_have_the_range_of_their_type(tmp_path: Path) -> None:
    assert range_of(tmp_path, np.full((16, 16, 1), 10, np.uint8)) == (0, 255)
    samples = np.full((64, 64, 1), 10, np.uint8)
    samples[5, 5] = 200
    assert range_of(tmp_path, samples) == (10, 200)


def test_with_whole_range_dark_8_bit_images_stay_dark(tmp_path: Path) -> None:
    samples = (noise((32, 32)) // 20).astype(np.uint8)
    path = save(tmp_path / "in.png", samples)
    assert read_image(path, whole_range=True).range == (0, 255)
    assert read_image(path).range == (0, samples.max())
    # Such a 16-bit image would be entirely black in the range of its type, so it keeps its own range.
    path = save(tmp_path / "wide.png", samples.astype(np.uint16))
    assert read_image(path, whole_range=True).range == (0, samples.max())


def test_the_range_follows_the_brightness_smoothly(tmp_path: Path) -> None:
    """Pages of a fading stack, with highlights and noise, have about the same range, so that one fit suits all."""
    rng = np.random.default_rng(0)
    scene = rng.gamma(1.2, 20, (96, 128, 1))
    scene[40:43, 50:53] = 255
    ranges = []
    for brightness in np.geomspace(2.5, 0.2, 40):
        samples = np.clip(brightness * scene + rng.normal(0, 2, scene.shape), 0, 255).round().astype(np.uint8)
        low, high = range_of(tmp_path, samples)
        ranges.append(high - low)
    steps = np.array(ranges[1:]) / ranges[:-1]
    # The brightness changes by 6.3 % from step to step.
    assert (steps > 0.8).all()
    assert (steps < 1.1).all()
    assert ranges[0] == 255
    assert ranges[-1] < 80


def test_predictions_are_rounded_and_clipped(tmp_path: Path) -> None:
    samples = noise((8, 8))
    samples[7] = (0, 255, 255, 255, 255, 255, 255, 255)
    image = read_image(save(tmp_path / "in.png", samples))
    pixels = np.full_like(image.pixels, 100.6 / 255)
    pixels[0, 0, :2] = (-3, 7)
    write_image(tmp_path / "out.png", pixels, image)
    written = load(tmp_path / "out.png")
    assert written[0, :3].tolist() == [0, 255, 101]
