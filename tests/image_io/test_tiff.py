"""Round trips of TIFF keep types, layouts, compressions and photometric interpretations."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from self2self.image_io import read_image, write_image
from tests.image_files import load, noise, round_trip, smooth


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, "cmyk"])
def test_tiff_types(tmp_path: Path, byteorder: str, dtype: str, channels: int | str) -> None:
    count = 4 if channels == "cmyk" else int(channels)
    samples = noise((33, 20, count), dtype) // (2**11 if dtype in ("u4", "i4") else 1)
    samples = samples.astype(dtype)
    photometric = {1: "minisblack", 2: "minisblack", "cmyk": "separated"}.get(channels, "rgb")
    options = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    path = tmp_path / "in.tif"
    data = samples[..., 0] if count == 1 else samples
    planar = "contig" if count > 1 else None
    tifffile.imwrite(path, data, photometric=photometric, planarconfig=planar, byteorder=byteorder, **options)
    out = round_trip(path)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        assert new.byteorder == byteorder
        for name in ("photometric", "extrasamples", "planarconfig", "compression", "dtype", "shape"):
            assert getattr(new.pages.first, name) == getattr(old.pages.first, name), name
        if dtype[0] == "f":
            np.testing.assert_allclose(new.asarray(), old.asarray(), rtol=1e-6, atol=1e-3 if dtype == "f2" else 1e-6)
        else:
            np.testing.assert_array_equal(new.asarray(), old.asarray())
        if channels in (2, 4):
            np.testing.assert_array_equal(new.asarray()[..., -1], samples[..., -1])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib"},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"tile": (16, 32), "compression": "zlib"},
        {"tile": (32, 16)},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "lzw"},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
        {"rowsperstrip": 7},
    ],
    ids=str,
)
def test_tiff_layouts(tmp_path: Path, options: dict[str, object]) -> None:
    samples = noise((45, 37, 3), np.uint16)
    separate = options.get("planarconfig") == "separate"
    path = tmp_path / "in.tif"
    data = np.moveaxis(samples, 2, 0) if separate else samples
    tifffile.imwrite(
        path, data, photometric="rgb", extratags=[(274, 3, 1, 6, True)], **({"planarconfig": "contig"} | options)
    )
    out = round_trip(path)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        np.testing.assert_array_equal(new.asarray(), old.asarray())
        first, second = old.pages.first, new.pages.first
        assert (first.planarconfig, first.is_tiled) == (second.planarconfig, second.is_tiled)
        assert (first.tilewidth, first.tilelength) == (second.tilewidth, second.tilelength)
        assert (old.is_bigtiff, old.byteorder) == (new.is_bigtiff, new.byteorder)
        assert (second.compression == 1) == (first.compression == 1)
        tags = [first.tags[274].value, second.tags[274].value]
        assert tags == [6, 6]
    if options != {"bigtiff": True, "byteorder": ">"}:  # Pillow cannot open a big-endian BigTIFF.
        with PillowImage.open(out) as picture:
            assert picture.size == (45, 37), "as turned by the orientation tag"


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_is_written_without_a_second_copy_of_its_samples(tmp_path: Path, compression: str | None) -> None:
    samples = np.random.default_rng(0).integers(0, 2**16, (768, 1024, 3), np.uint16)
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, samples, photometric="rgb", compression=compression, rowsperstrip=64)
    image = read_image(source)
    tracemalloc.start()
    try:
        write_image(tmp_path / "out.tif", image.pixels, image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), samples)
    # The peak includes the samples themselves and a few rows of them in float64.
    assert peak < 1.9 * samples.nbytes


def test_tiff_white_is_zero(tmp_path: Path) -> None:
    samples = noise((20, 20))
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, samples, photometric="miniswhite")
    image = read_image(path)
    np.testing.assert_allclose(image.pixels[0], 1 - samples / 255.0, atol=1e-6)
    write_image(tmp_path / "out.tif", image.pixels, image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), samples)
    with tifffile.TiffFile(tmp_path / "out.tif") as new:
        assert new.pages.first.photometric == 0
    write_image(tmp_path / "out.png", image.pixels, image)
    np.testing.assert_array_equal(load(tmp_path / "out.png"), 255 - samples)


def test_tiff_jpeg_compressed(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, smooth((64, 64, 3)), photometric="rgb", compression="jpeg")
    np.testing.assert_array_equal(load(round_trip(path)), load(path))


def test_tiff_12_bit_packed(tmp_path: Path) -> None:
    samples = (noise((16, 16), np.uint16) >> 4).astype(np.uint16)
    path = tmp_path / "in.tif"
    high_first = samples.astype(">u2").view(np.uint8).reshape(16, 16, 2)
    packed = np.packbits(np.unpackbits(high_first, axis=2)[..., 4:].reshape(16, -1), axis=1)
    tifffile.imwrite(path, packed, photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags[256].overwrite(16)
        file.pages.first.tags[258].overwrite(12)
    image = read_image(path)
    assert "12-bit" in image.notes[0]
    assert image.pixels.max() == pytest.approx((samples.max() - image.offset) / image.scale)
    np.testing.assert_array_equal(load(round_trip(path)), samples)


def test_reduced_copy_in_tiff_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise((32, 32)), photometric="minisblack", metadata=None)
        writer.write(noise((16, 16)), photometric="minisblack", metadata=None, subfiletype=1)
    image = read_image(path)
    assert image.pixels.shape == (1, 32, 32)
    assert "reduced" in image.notes[0]
