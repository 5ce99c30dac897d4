"""The pictures that the page shows."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from self2self.gui import pictures
from self2self.gui.pictures import middle, orientation_of, pair, png


def shown(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as file:
        return np.asarray(file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright(orientation: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path, exif=exif)
    assert orientation_of(path) == orientation
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    np.testing.assert_array_equal(shown(png(pixels.transpose(2, 0, 1) / 255, orientation)), expected)


def test_a_file_that_pillow_does_not_read_counts_as_upright(tmp_path: Path) -> None:
    (tmp_path / "x.fits").write_bytes(b"SIMPLE  =")
    assert orientation_of(tmp_path / "x.fits") == 1


def test_both_pictures_are_in_the_range_of_the_noisy_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = rng.integers(200, 4000, (2, 50, 60)).astype(np.uint16)
    # The result has a smaller range of its own; the same value has to be the same grey on both sides.
    clean = (1000 + noisy // 4).astype(np.uint16)
    for name, pages in (("noisy.tif", noisy), ("clean.tif", clean)):
        tifffile.imwrite(tmp_path / name, pages, photometric="minisblack")
    for page in (0, 1):
        before, after = (shown(content) for content in pair(tmp_path / "noisy.tif", tmp_path / "clean.tif", page, 1))
        slope, offset = np.polyfit(noisy[page].ravel(), before.ravel().astype(float), 1)
        assert np.abs(before - (slope * noisy[page] + offset)).max() <= 1
        assert np.abs(after - (slope * clean[page] + offset)).max() <= 1


def test_a_huge_picture_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_SHOWN_PIXELS", 500)
    assert shown(png(np.zeros((1, 60, 80), np.float32))).shape == (15, 20)


def test_the_middle_is_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PREVIEW_SIDE", 40)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    pixels[0, :2] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(shown(middle(tmp_path / "x.png", 1)), pixels[10:50, 20:60])
