"""What AVIF, HEIC, JPEG XL, OpenEXR and Netpbm keep beside the values."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PillowImage

from self2self.errors import OutputError
from self2self.image_io import check_output, exif, read_image, write_image
from self2self.image_io.formats import iso_media
from self2self.image_io.formats.jpeg_xl_header import read_colours
from self2self.image_io.image import Header
from tests.image_files import ICC, exif_block, noise, save
from tests.image_io.format_cases import (
    assert_same,
    read_avif,
    read_jpeg_xl,
    round_trip,
    rounded,
    squeezed,
    write_jpeg_xl,
)


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_keeps_its_bits(tmp_path: Path, bits: int) -> None:
    samples = noise((20, 30, 3), np.uint16) % np.uint16(2**bits)
    (tmp_path / "in.avif").write_bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    assert f"its {bits}-bit values" in read_image(tmp_path / "in.avif").notes[0]
    np.testing.assert_array_equal(read_avif(round_trip(tmp_path / "in.avif")), samples)


@pytest.mark.parametrize(
    ("orientation", "bits", "channels"),
    [(1, 8, 1), (2, 10, 3), (3, 12, 4), (4, 8, 3), (5, 10, 4), (6, 12, 1), (7, 8, 4), (8, 10, 1), (1, 12, 3)],
)
def test_metadata_survive_in_avif_of_any_depth(tmp_path: Path, bits: int, orientation: int, channels: int) -> None:
    samples = noise((20, 30, channels), np.uint16) % np.uint16(2**bits)
    samples = squeezed(samples).astype(np.uint8 if bits == 8 else np.uint16)
    encoded = bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    # Not every version of imagecodecs has arguments for the colours.
    wide = re.sub(rb"colrnclx....", b"colrnclx\0\x09\0\x10", encoded, flags=re.DOTALL)
    (tmp_path / "in.avif").write_bytes(wide)
    image = read_image(tmp_path / "in.avif")
    metadata = replace(image.metadata, icc=ICC, exif=exif_block(orientation), xmp=b"<x/>")
    write_image(tmp_path / "out.avif", image.pixels, replace(image, metadata=metadata))
    data = (tmp_path / "out.avif").read_bytes()
    np.testing.assert_array_equal(imagecodecs.avif_decode(data), samples)
    assert b"colrnclx\0\x09\0\x10" in data
    with PillowImage.open(tmp_path / "out.avif") as written:
        written.load()
        assert written.info["icc_profile"] == ICC
        assert written.info["xmp"] == b"<x/>"
        assert written.getexif()[271] == "Camera maker"
        assert written.getexif()[274] == orientation
    again = read_image(round_trip(tmp_path / "out.avif", ".again.avif"))
    assert (again.metadata.icc, again.metadata.xmp) == (ICC, b"<x/>")
    assert exif.orientation(again.metadata.exif) == orientation


def test_exr_keeps_its_header_and_other_channels(tmp_path: Path) -> None:
    import OpenEXR

    colours, depth = noise((20, 30, 3), np.float16), noise((20, 30), np.float32, 1)
    channels = {f"beauty.{name}": np.ascontiguousarray(colours[..., k]) for k, name in enumerate("RGB")}
    header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage, "owner": "the owner"}
    OpenEXR.File(header, {**channels, "Z": depth}).write(str(tmp_path / "in.exr"))
    image = read_image(tmp_path / "in.exr")
    assert image.notes == ("its other channels are copied as they are: Z",)
    out = OpenEXR.File(str(round_trip(tmp_path / "in.exr")), separate_channels=True)
    assert out.header()["owner"] == "the owner"
    assert out.header()["compression"] == OpenEXR.PIZ_COMPRESSION
    np.testing.assert_array_equal(out.channels()["Z"].pixels, depth)
    for name, values in channels.items():
        np.testing.assert_allclose(out.channels()[name].pixels, values, atol=1e-3)


@pytest.mark.parametrize("extension", [".avif", ".heic"])
def test_metadata_of_photographs_survives(tmp_path: Path, extension: str) -> None:
    if extension == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    exif = exif_block(1)
    picture = PillowImage.fromarray(np.full((32, 48, 3), 90, np.uint8))
    picture.save(tmp_path / f"in{extension}", exif=b"Exif\0\0" + exif, icc_profile=ICC, xmp=b"<x/>")
    with PillowImage.open(round_trip(tmp_path / f"in{extension}")) as written:
        assert written.info["icc_profile"] == ICC
        assert written.info["xmp"] == b"<x/>"
        assert written.getexif()[271] == "Camera maker"
        np.testing.assert_allclose(np.asarray(written), 90, atol=3)


def test_exif_and_xmp_survive_in_jpeg_xl(tmp_path: Path) -> None:
    path = save(tmp_path / "in.png", noise((20, 30, 3)), exif=exif_block(1))
    image = read_image(path)
    write_image(tmp_path / "a.jxl", image.pixels, image)
    (tmp_path / "a.jxl").write_bytes((tmp_path / "a.jxl").read_bytes() + b"\0\0\0\x0cxml <x/>")
    again = read_image(round_trip(tmp_path / "a.jxl"))
    assert again.metadata.exif == image.metadata.exif
    assert again.metadata.xmp == b"<x/>"


DISPLAY_P3 = bytes.fromhex("ff0a40201090c98d080401003c004b188b15801de0ff000050e7d96800")
"""A JPEG XL of 10x9 pixels whose header names Display P3, as libjxl reads it."""
WITH_PROFILE = base64.b64decode(
    "AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAERanhsY/8KQCAQwlvDgIR5ANRUEnYkgvM65tvvtcyHmGGhRVyxJRZ4yTz1EfY8GVQQ"
    "0EgIO1fcuXYuidHaCRmNRksnHEDW0dYZAb7iuWpmrDNkjzQAA/4vLK34msNQ14lVlp2VPBQCFK1NZaXTTHX5Le8vOT+iA1nW8Q1w9BU2Vzb1FJUO"
    "C7B2tgzQVLa0lDWH2mvlfKI6TeMMFeCp3v777zzlbb0TaL+Q/vvvvqH++2+/IrjLhQJfa9+CILh1uAuBkH5gXgLU1iEo9gK99QCLzXK/OpemJlTe"
    "E0zNYKdQGLk5iirb8uEG6KhXkHIHmTahmWogRvN1kQMIBAEAPABLGIsVgB3g/wAAUOfZaAA="
)
"""The same pixels with an ICC profile, as libjxl writes them."""
WIDE_COLOURS = read_colours(DISPLAY_P3)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_colours_of_a_jpeg_xl_are_kept(tmp_path: Path, dtype: type, channels: int) -> None:
    samples = noise((20, 31, channels), dtype)
    write_jpeg_xl(tmp_path / "in.jxl", samples)
    image = read_image(tmp_path / "in.jxl")
    assert image.metadata.header is not None
    wide = replace(image.metadata, header=Header("jpegxl", WIDE_COLOURS))
    write_image(tmp_path / "wide.jxl", image.pixels, replace(image, metadata=wide))
    again = round_trip(tmp_path / "wide.jxl")
    assert_same(read_jpeg_xl(again), samples)
    (codestream,) = (part for kind, part in iso_media.boxes(again.read_bytes()) if kind == b"jxlc")
    found = read_colours(codestream)
    assert (found.bits, found.size) == (WIDE_COLOURS.bits, WIDE_COLOURS.size)


def test_a_jpeg_xl_of_wide_colours_is_written_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "in.jxl").write_bytes(DISPLAY_P3)
    assert DISPLAY_P3[:16] in round_trip(tmp_path / "in.jxl").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_integers_of_other_formats_are_srgb_in_a_jpeg_xl(tmp_path: Path, channels: int) -> None:
    samples = squeezed(noise((20, 31, channels), np.uint16))
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(samples))
    headers = []
    for path in (round_trip(tmp_path / "in.png", ".jxl"), tmp_path / "bytes.jxl"):
        if not path.exists():
            path.write_bytes(imagecodecs.jpegxl_encode(samples.astype(np.uint8), lossless=True, usecontainer=True))
        headers.append(read_colours(dict(iso_media.boxes(path.read_bytes()))[b"jxlc"]))
    assert headers[0][:2] == headers[1][:2]


def test_a_profile_of_a_jpeg_xl_is_lost_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "in.jxl").write_bytes(WITH_PROFILE)
    assert "its colour profile cannot be kept" in read_image(tmp_path / "in.jxl").notes[0]
    wide = ICC.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB", b"wide")
    image = read_image(save(tmp_path / "in.png", noise((20, 30, 3)), icc_profile=wide))
    with pytest.raises(OutputError, match=r"JPEG XL cannot hold the colour profile\. Use the extension \.png"):
        check_output(tmp_path / "out.jxl", force=False, like=image)
    check_output(
        tmp_path / "out.jxl",
        force=False,
        like=read_image(save(tmp_path / "srgb.png", noise((20, 30, 3)), icc_profile=ICC)),
    )


@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("greatest", [255, 1000, 65535])
def test_netpbm_keeps_its_kind_and_white(tmp_path: Path, magic: str, greatest: int) -> None:
    import netpbmfile

    samples = noise((9, 10, 3 if magic in ("P3", "P6") else 1), np.uint16).astype(int) % (greatest + 1)
    samples = squeezed(samples).astype(np.uint8 if greatest == 255 else np.uint16)
    samples.flat[0] = greatest
    netpbmfile.imwrite(tmp_path / "in.pnm", samples, magicnumber=magic, maxval=greatest)
    image = read_image(tmp_path / "in.pnm")
    write_image(tmp_path / "out.pnm", image.pixels * np.float32(2), image)
    with netpbmfile.NetpbmFile(tmp_path / "out.pnm") as file:
        assert (file.magicnumber, file.maxval) == (magic, greatest)
        doubled = rounded(image.pixels * np.float32(2), image).reshape(samples.shape)
        np.testing.assert_array_equal(file.asarray(), np.clip(doubled, 0, greatest))


def test_bitmaps_become_grey(tmp_path: Path) -> None:
    bits = noise((16, 16)) > 127
    (tmp_path / "in.pbm").write_bytes(b"P4\n16 16\n" + np.packbits(~bits, axis=1).tobytes())
    image = read_image(tmp_path / "in.pbm")
    np.testing.assert_array_equal(rounded(image.pixels, image)[..., 0], bits * 255)
