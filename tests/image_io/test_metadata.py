"""ICC profile, EXIF, orientation, resolution and tags survive within a format and from one format to another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from self2self.errors import OutputError
from self2self.image_io import check_output, read_image
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
        if target == ".tif":  # Pillow rotates a TIFF on opening.
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


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>\xc3\xa4 ' + b"5 stars " * 99 + b"</rdf:RDF></x:xmpmeta>"


@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".tif"])
def test_xmp_survives_every_pair_of_formats(tmp_path: Path, source: str, target: str) -> None:
    path = tmp_path / f"in{source}"
    if source == ".tif":
        tifffile.imwrite(path, smooth((32, 48, 3)), photometric="rgb", extratags=[(700, 1, len(XMP), XMP, True)])
    elif source == ".png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        save(path, smooth((32, 48, 3)), pnginfo=info)
    else:
        save(path, smooth((32, 48, 3)), xmp=XMP)
    out = round_trip(path, target)
    with PillowImage.open(out) as written:
        assert written.info["xmp"] == XMP
    if target == ".tif":
        with tifffile.TiffFile(out) as file:
            assert [tag.code for tag in file.pages.first.tags].count(700) == 1


def test_comments_and_captions_of_a_jpeg_survive(tmp_path: Path) -> None:
    caption = b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x78\0\x03cat\0"
    segment = b"\xff\xed" + (len(caption) + 2).to_bytes(2, "big") + caption
    path = save(tmp_path / "in.jpg", smooth((32, 48, 3)), comment=b"my cat", extra=segment)
    with PillowImage.open(round_trip(path)) as written:
        assert written.info["comment"] == b"my cat"
        assert written.info["photoshop"] == {0x0404: b"\x1c\x02\x78\0\x03cat"}
    with PillowImage.open(round_trip(path, ".png")) as written:
        assert "xmp" not in written.info


def test_xmp_that_points_to_dropped_parts_is_dropped_with_a_note(tmp_path: Path) -> None:
    xmp = XMP.replace(b"rdf:RDF", b'rdf:RDF xmlns:Container="http://ns.google.com/photos/1.0/container/"', 1)
    path = save(tmp_path / "in.jpg", smooth((32, 48, 3)), xmp=xmp)
    assert ["its XMP describes a gain map" in note for note in read_image(path).notes] == [True]
    with PillowImage.open(round_trip(path)) as written:
        assert "xmp" not in written.info


def test_xmp_too_long_for_a_jpeg_is_refused_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    long = b"<x>" + b" " * 66000 + b"</x>"
    tifffile.imwrite(path, smooth((32, 48, 3)), photometric="rgb", extratags=[(700, 1, len(long), long, True)])
    with pytest.raises(OutputError, match="JPEG cannot hold that much XMP data"):
        check_output(tmp_path / "out.jpg", force=False, like=read_image(path))
    round_trip(path, ".png")


def test_damaged_xmp_of_a_png_counts_as_none(tmp_path: Path) -> None:
    info = PngInfo()
    info.add(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not deflated")
    path = save(tmp_path / "in.png", smooth((32, 48, 3)), pnginfo=info)
    assert read_image(path).metadata.xmp is None
    round_trip(path, ".jpg")
