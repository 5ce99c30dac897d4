"""ICC profile, EXIF, orientation, resolution and tags, within a format and from one to another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from tests import image_files
from tests.image_files import ICC, exif_block, load, noise, round_trip, save, smooth


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".tif"])
def test_metadata_survives_every_pair_of_formats(tmp_path: Path, source: str, target: str, orientation: int) -> None:
    exif = exif_block(orientation)
    options = {"exif": b"Exif\0\0" + exif if source == ".jpg" else exif, "icc_profile": ICC}
    dpi = {} if source == ".webp" else {"dpi": (300, 150)}
    path = save(tmp_path / f"in{source}", smooth((32, 48, 3)), **options, **dpi)
    out = round_trip(path, target)
    with PillowImage.open(out) as written:
        if target == ".tif":  # which Pillow turns on opening
            assert tifffile.imread(out).shape == (32, 48, 3)
        else:
            assert written.size == (48, 32), "pixels are not rotated"
        assert written.info["icc_profile"] == ICC
        block = written.getexif()
        assert block[274] == orientation
        assert block[271] == "Camera maker"
        assert block.get_ifd(34665)[33434] == 0.25
        assert block.get_ifd(34665)[34855] == 1600
        assert block.get_ifd(34853)[1] == "N"
        if dpi and target != ".webp":
            assert [float(side) for side in written.info["dpi"]] == pytest.approx([300, 150], abs=0.02)


def test_tiff_tags_survive(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    geo = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    tifffile.imwrite(
        path,
        noise((20, 20), np.uint16),
        photometric="minisblack",
        resolution=((1234, 7), (999, 8)),
        resolutionunit="CENTIMETER",
        description="exposure 3 µm".encode(),
        software="Scope 2",
        datetime="2024:05:06 07:08:09",
        metadata=None,
        iccprofile=ICC,
        extratags=[(274, 3, 1, 5, True), (700, 1, 6, b"<xmp/>", True), (33922, 12, 6, geo, True)],
    )
    out = round_trip(path)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        for code in (270, 274, 282, 283, 296, 305, 306, 700, 33922, 34675):
            assert new.pages.first.tags[code].value == old.pages.first.tags[code].value, code


def test_imagej_description_survives(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, noise((20, 20), np.uint16), imagej=True, metadata={"unit": "um"}, resolution=(2.0, 2.0))
    out = round_trip(path)
    with tifffile.TiffFile(out) as new:
        assert new.is_imagej
        assert new.imagej_metadata["unit"] == "um"


def test_png_chunks_survive(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Author", "Ada")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    path = save(tmp_path / "in.png", noise((16, 16, 3)), pnginfo=info, dpi=(72, 72), icc_profile=ICC)
    old, new = image_files.png_chunks(path.read_bytes()), image_files.png_chunks(round_trip(path).read_bytes())
    assert {kind: new[kind] for kind in (b"tEXt", b"gAMA", b"pHYs", b"iCCP")} == {
        kind: old[kind] for kind in (b"tEXt", b"gAMA", b"pHYs", b"iCCP")
    }


def test_metadata_of_16_bit_png(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    tags = [(274, 3, 1, 6, True)]
    samples = noise((20, 20, 3), np.uint16)
    tifffile.imwrite(path, samples, photometric="rgb", iccprofile=ICC, resolution=(300, 300), extratags=tags)
    out = round_trip(path, ".png")
    np.testing.assert_array_equal(load(out), samples)
    with PillowImage.open(out) as written:
        written.load()
        assert written.info["icc_profile"] == ICC
        assert written.getexif()[274] == 6
        assert written.info["dpi"] == pytest.approx((300, 300), abs=0.02)
