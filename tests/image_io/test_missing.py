"""Pixels that hold no measurement: found by what tells of them, without part in the range, and back bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from PIL import ImageDraw

from self2self.image_io import read_image, write_float_map, write_image
from self2self.image_io.image import StoredImage
from self2self.image_io.missing import Nodata, find_missing
from tests.image_files import load, save
from tests.image_io.format_cases import dicom

ROWS, COLUMNS = np.mgrid[:60, :70]
CORNER = ROWS + COLUMNS > 100


def scene(low: float, high: float, sigma: float, dtype: Any, seed: int = 0) -> np.ndarray:
    """Smooth hills with noise."""
    hills = 0.5 + 0.5 * np.sin(ROWS / 9) * np.cos(COLUMNS / 11)
    noisy = low + (high - low) * hills + np.random.default_rng(seed).normal(0, sigma, hills.shape)
    return (noisy if np.dtype(dtype).kind == "f" else np.rint(noisy)).astype(dtype)


def tag(value: str) -> dict[str, Any]:
    return {"extratags": [(42113, 2, 0, value.encode(), True)]}


CASES: dict[str, tuple[np.ndarray, float, dict[str, Any], Nodata]] = {
    "GDAL's tag": (scene(300, 340, 0.5, np.float32), -9999, tag("-9999"), None),
    "GDAL's tag, near the others": (scene(300, 340, 0.5, np.float32), 320, tag("320"), None),
    "the least float": (scene(300, 340, 0.5, np.float32), -3.4028234663852886e38, tag("-3.4028234663852886e+38"), None),
    "GDAL's tag, rounded": (scene(300, 340, 0.5, np.float64), -3.4028234663852886e38, tag("-3.4e+38"), None),
    "GDAL's tag, which the type cannot hold": (scene(50, 90, 3, np.uint8), 255, tag("-9999"), None),
    "NaN": (scene(300, 340, 0.5, np.float32), np.nan, {}, None),
    "infinity": (scene(0, 1, 0.02, np.float64), -np.inf, {}, None),
    "CT, -3024": (scene(-1000, 1500, 30, np.int16), -3024, {}, None),
    "CT, -2000": (scene(-1000, 1500, 30, np.int16), -2000, {}, None),
    "outside of a field of view": (scene(90, 200, 6, np.uint8), 0, {}, None),
    "saturated mask": (scene(1000, 9000, 100, np.uint16), 65535, {}, None),
    "named by the user": (scene(0, 200, 9, np.uint8).clip(1, 255), 0, {}, 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_missing_pixels_come_back_and_count_for_nothing(name: str, tmp_path: Path) -> None:
    measured, value, options, nodata = CASES[name]
    missing = CORNER | (measured == value)
    stored = np.where(missing, np.asarray(value, measured.dtype), measured)
    tifffile.imwrite(tmp_path / "x.tif", stored, metadata=None, **options)
    image = read_image(tmp_path / "x.tif", nodata=nodata)
    assert image.missing is not None
    assert np.array_equal(image.missing, missing)
    assert image.unmeasured is not None
    assert f"{np.count_nonzero(missing)} of its {missing.size} pixels" in image.unmeasured.note
    # The range is that of an image of the measured pixels alone, and what is filled fits in.
    tifffile.imwrite(tmp_path / "all.tif", measured[:30, :70], metadata=None)
    assert image.offset >= measured[~missing].min()
    assert image.offset + image.scale <= measured[~missing].max()
    assert image.pixels.min() >= min(0, image.pixels[:, ~missing].min())
    assert image.pixels.max() <= max(1, image.pixels[:, ~missing].max())
    write_image(tmp_path / "out.tif", np.full_like(image.pixels, 0.3), image)
    out = load(tmp_path / "out.tif")
    assert out[missing].tobytes() == stored[missing].tobytes()
    assert len(np.unique(out[~missing])) == 1
    write_float_map(tmp_path / "map.tif", np.full_like(image.pixels, 0.3), image)
    deviations = load(tmp_path / "map.tif")
    assert not deviations[missing].any()
    assert deviations[~missing].all()


def write_fits(path: Path, stored: np.ndarray, value: int) -> None:
    from astropy.io import fits

    image = fits.PrimaryHDU(stored)
    if stored.dtype.kind != "f":
        # The header has the value before the shift that makes integers unsigned.
        image.header["BLANK"] = value - (2**15 if stored.dtype == np.uint16 else 0)
    image.writeto(path)


def write_dicom(path: Path, stored: np.ndarray, value: int) -> None:
    dataset = dicom(stored[..., None])
    dataset.add_new(0x00280120, "SS" if stored.dtype == np.int16 else "US", value)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
@pytest.mark.parametrize(("name", "write"), [("x.fits", write_fits), ("x.dcm", write_dicom)])
def test_the_value_that_a_header_declares_counts(name: str, write: Any, dtype: type, tmp_path: Path) -> None:
    stored = np.where(CORNER, 3000, scene(1000, 5000, 100, dtype)).astype(dtype)
    write(tmp_path / name, stored, 3000)
    image = read_image(tmp_path / name)
    assert image.missing is not None
    assert np.array_equal(image.missing, stored == 3000)
    write_image(tmp_path / f"out.{name}", np.full_like(image.pixels, 0.3), image)
    again = read_image(tmp_path / f"out.{name}", nodata="none")
    out = np.rint(again.pixels[0] * again.scale + again.offset)
    assert np.array_equal(out == 3000, image.missing)
    # The user's word wins.
    assert read_image(tmp_path / name, nodata="none").missing is None
    named = read_image(tmp_path / name, nodata=float(stored[0, 0])).missing
    assert named is not None
    assert np.array_equal(named, stored == stored[0, 0])


@pytest.mark.parametrize("name", ["x.fits", "x.npy"])
def test_nan_in_formats_without_a_declared_value(name: str, tmp_path: Path) -> None:
    stored = np.where(CORNER, np.nan, scene(300, 340, 0.5, np.float32)).astype(np.float32)
    if name == "x.npy":
        np.save(tmp_path / name, stored)
    else:
        write_fits(tmp_path / name, stored, 0)
    image = read_image(tmp_path / name)
    assert image.missing is not None
    assert np.array_equal(image.missing, CORNER)


def test_the_tag_of_a_tiff_whose_white_is_0(tmp_path: Path) -> None:
    stored = np.where(CORNER, 120, scene(60, 180, 8, np.uint8)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite", metadata=None, **tag("120"))
    image = read_image(tmp_path / "x.tif")
    assert image.missing is not None
    assert np.array_equal(image.missing, stored == 120)


def test_another_value_or_map_is_another_image(tmp_path: Path) -> None:
    stored = np.where(CORNER, -9999, scene(300, 340, 0.5, np.float32)).astype(np.float32)
    tifffile.imwrite(tmp_path / "x.tif", stored, metadata=None)
    found, named, none = (read_image(tmp_path / "x.tif", nodata=nodata) for nodata in (None, -9999.0, "none"))
    assert none.missing is None
    assert found.sha256 == named.sha256 != none.sha256
    assert none.offset == -9999


def test_colours_under_alpha_0_count_for_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = np.stack([scene(60, 180, 8, np.uint8, seed) for seed in range(3)], axis=2)
    colours[CORNER] = rng.integers(0, 256, (np.count_nonzero(CORNER), 3))
    alpha = np.where(CORNER, 0, 255).astype(np.uint8)
    path = save(tmp_path / "x.png", np.dstack([colours, alpha]))
    image = read_image(path)
    assert image.missing is not None
    assert np.array_equal(image.missing, CORNER)
    assert image.range == (colours[~CORNER].min(), colours[~CORNER].max())
    write_image(tmp_path / "out.png", np.zeros_like(image.pixels), image)
    out = load(tmp_path / "out.png")
    assert np.array_equal(out[CORNER], np.dstack([colours, alpha])[CORNER])
    # An alpha of 0 everywhere, as some programs write it, hides nothing.
    assert read_image(save(tmp_path / "y.png", np.dstack([colours, 0 * alpha]))).missing is None


def clean_and_noisy() -> dict[str, np.ndarray]:
    """Images whose every pixel is measured, and noisy ones that have areas of one value or a constant far away."""
    rng = np.random.default_rng(3)
    photo = scene(40, 210, 8, np.uint8)
    impulses = np.where(rng.random(photo.shape) < 0.1, 255, scene(50, 120, 6, np.uint8)).astype(np.uint8)
    column = scene(1000, 1400, 20, np.uint16)
    column[:, 30] = 0
    letters = np.where(np.kron(rng.random((6, 7)) < 0.4, np.ones((10, 10))), 0, 255)
    return {
        "photograph": photo,
        "clipped at white": np.clip(photo.astype(int) + 90, 0, 255).astype(np.uint8),
        "impulses": impulses,
        "dead column": column,
        "few photons": rng.poisson(0.05, photo.shape).astype(np.uint8),
        "hardly any photon": rng.poisson(0.005, photo.shape).astype(np.uint8),
        "photons with gain": (10 * rng.poisson(1.5, photo.shape)).astype(np.uint16),
        "dark": np.clip(rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8),
        "noisy letters": np.clip(letters + rng.normal(0, 20, photo.shape), 0, 255).astype(np.uint8),
        "binarised noise": np.where(photo > 128, 255, 0).astype(np.uint8),
        "hot pixel on an empty page": np.where((ROWS == 9) & (COLUMNS == 7), 4000, 100).astype(np.uint16),
        "photograph on a white page": np.where(COLUMNS < 30, 255, photo).astype(np.uint8),
    }


@pytest.mark.parametrize("name", clean_and_noisy())
def test_noise_is_not_taken_for_missing_pixels(name: str) -> None:
    assert find_missing(StoredImage(clean_and_noisy()[name][..., None])) is None


def without_noise() -> dict[str, np.ndarray]:
    text = PillowImage.new("L", (200, 60), 255)
    ImageDraw.Draw(text).multiline_text((4, 4), "The quick brown fox\njumps over 13 lazy dogs.\nNoise: none", fill=0)
    bars = np.where((ROWS // 10 + COLUMNS // 10) % 2, 200, 30)
    return {
        "rendered text": np.asarray(text),
        "line art": np.where(np.asarray(text) > 128, 255, 0).astype(np.uint8),
        "bars of 16 bits": (bars * 200).astype(np.uint16),
        "an empty page": np.full((60, 70), 7, np.uint8),
    }


@pytest.mark.parametrize("name", without_noise())
def test_an_image_without_noise_comes_back_as_it_is(name: str, tmp_path: Path) -> None:
    samples = without_noise()[name]
    image = read_image(save(tmp_path / "x.png", samples))
    assert image.unmeasured is not None
    assert "has no noise" in image.unmeasured.note
    # The network sees the image itself, so a report shows it.
    assert np.allclose(image.pixels[0] * image.scale + image.offset, samples, atol=1e-3)
    write_image(tmp_path / "out.png", np.full_like(image.pixels, 0.5), image)
    assert np.array_equal(load(tmp_path / "out.png"), samples)
